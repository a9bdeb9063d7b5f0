//! Real processes on real files, which end in the middle of what they do: at each operation on the store, at each call
//! to the operating system, and at any moment. Named after their rows in docs/DURABILITY.md.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use treering::catalog::Filter;
use treering::disk::RealDisk;
use treering::gc::GcOptions;
use treering::save::{Inputs, OnConflict, SaveOptions};
use treering::store::{Options, Store};
use treering::verify::Depth;

use crate::faulty::{self, FaultyDisk, Say};
use crate::helpers::{Place, at, file_bytes, files_below, floats, options, trained};

/// What a child process does to the store in a folder.
type Act = fn(&Path, Options) -> treering::Result<()>;

const ACTS: &[(&str, Act)] = &[
    ("init", |folder, options| Store::create(folder.join("new"), None, options).map(drop)),
    ("save", |folder, options| save(&open(folder, options)?, "r", 3, folder)),
    ("first_save", |folder, options| save(&open(folder, options)?, "other", 3, folder)),
    ("forget", |folder, options| {
        let store = open(folder, options)?;
        match store.find(&at("r@0")) {
            Ok(row) => store.forget(&[row.slot]).map(drop),
            Err(_) => Ok(()),
        }
    }),
    ("gc", |folder, options| {
        let store = open(folder, options)?;
        if let Ok(row) = store.find(&at("r@0")) {
            store.forget(&[row.slot])?;
        }
        store.gc(&GcOptions { repack_above: Some(0.0), ..GcOptions::default() }).map(drop)
    }),
    ("thin", |folder, options| {
        let store = open(folder, options)?;
        store.set_policy("r", &["thin optimizer:1".parse().unwrap()].into_iter().collect())?;
        store.gc(&GcOptions::default()).map(drop)
    }),
    ("repair", |folder, options| open(folder, options)?.repair(false).map(drop)),
];

/// How a child is told what it is to do, where, and after how many operations it is to die.
const ACT: &str = "TREERING_TEST_ACT";
const FOLDER: &str = "TREERING_TEST_FOLDER";
const DIES_AFTER: &str = "TREERING_TEST_DIES_AFTER";

fn open(folder: &Path, options: Options) -> treering::Result<Store> {
    Store::open(folder.join("store"), options)
}

fn save(store: &Store, run: &str, step: u64, folder: &Path) -> treering::Result<()> {
    let inputs = Inputs::paths(&[(None, folder.join("new.safetensors"))], false)?;
    let options = SaveOptions { on_conflict: OnConflict::Skip, ..options(run, step) };
    store.save(&inputs, &options).map(drop)
}

/// Not a test of its own: what the others run in another process, which ends itself where it was told to.
#[test]
fn as_a_child() {
    let Ok(asked) = std::env::var(ACT) else { return };
    let folder = std::env::var_os(FOLDER).unwrap();
    let left: u64 = std::env::var(DIES_AFTER).unwrap().parse().unwrap();
    let left = AtomicU64::new(left);
    let dying = FaultyDisk::new(RealDisk::new(None), move |act, _| {
        let changes = !matches!(act, faulty::Act::Open | faulty::Act::Read | faulty::Act::List);
        if changes && left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        Say::Go
    });
    let options = Options { threads: 1, pack_bytes: 1 << 10, disk: Some(Arc::new(dying)), ..Options::default() };
    let (_, act) = ACTS.iter().find(|(name, _)| *name == asked).unwrap();
    act(Path::new(&folder), options).unwrap();
}

/// True if the child did all it had to, false if it was killed.
#[track_caller]
fn child(act: &str, place: &Place, dies_after: u64) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "killed::as_a_child"]).env(ACT, act).env(FOLDER, place.folder.path());
    let output = child.env(DIES_AFTER, dies_after.to_string()).output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{act}: {}", String::from_utf8_lossy(&output.stdout));
    !killed
}

/// Three steps of a training, and a fourth that lies beside the store: copied from one that is made once, without its
/// empty folders, which a store makes as it needs them.
fn three() -> Place {
    static MADE: OnceLock<Place> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let place = Place::new();
        for step in 0..3 {
            place.save("r", step, &place.file(&format!("{step}.safetensors"), &trained(step)));
        }
        let _ = place.file("new.safetensors", &trained(3));
        place.delete_catalog();
        place
    });
    // In memory: what a process leaves is the same on any file system.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for path in files_below(made.folder.path()) {
        let to = folder.path().join(path.strip_prefix(made.folder.path()).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
    Place { store: Store::open(folder.path().join("store"), Options::default()).unwrap(), folder }
}

/// What was there is there, byte for byte; what was under way is there whole, or not at all.
#[track_caller]
fn is_sound(what: &str, act: &str, place: &Place) {
    let store = Store::open(place.store.root(), Options::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut there = BTreeMap::new();
    for row in store.log(&Filter::default()).unwrap() {
        let checkpoint = store.checkpoint(&at(&row.address())).unwrap();
        for tensor in trained(row.step) {
            if !row.dropped.iter().any(|component| tensor.name.starts_with(component.as_str())) {
                let mut bytes = Vec::new();
                checkpoint.read_tensor(&tensor.name, &mut bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(bytes == tensor.bytes, "{what}: {} of {}", tensor.name, row.address());
            }
        }
        there.insert(row.address(), row.dropped);
    }
    let may_be = |address: &str| match act {
        "save" => address == "r@3",
        "first_save" => address == "other@3",
        _ => false,
    };
    let may_go = |address: &str| address == "r@0" && matches!(act, "forget" | "gc");
    for step in 0..3 {
        let address = format!("r@{step}");
        assert!(there.remove(&address).is_some() || may_go(&address), "{what}: {address} is gone");
    }
    assert!(there.keys().all(|address| may_be(address)), "{what}: {there:?}");
}

/// Each operation of an act is the last one of a process; somewhere in doing the same again the next one dies, and a
/// third one. The fourth completes it.
fn killed_at_each_operation_of(act: &str) -> u64 {
    let mut operations = 0;
    while !child(act, &three(), operations) {
        operations += 1;
    }
    assert!(operations > 3, "{operations}");
    for first in 0..operations {
        let (second, third) = ((7 * first + 3) % operations, (5 * first + 1) % operations);
        let place = three();
        child(act, &place, first);
        is_sound(&format!("{act}, killed at {first}"), act, &place);
        child(act, &place, second);
        child(act, &place, third);
        let what = format!("{act}, killed at {first}, {second} and {third}");
        is_sound(&what, act, &place);
        assert!(child(act, &place, u64::MAX), "{what}");
        is_sound(&what, act, &place);
        let store = place.reopened();
        store.gc(&GcOptions::default()).unwrap();
        let report = store.verify(Depth::Deep).unwrap();
        assert!(report.is_sound() && report.foreign.is_empty(), "{what}: {report:?}");
        if act == "save" {
            assert_eq!(store.find(&at("r@latest")).unwrap().step, 3, "{what}");
        }
    }
    operations
}

macro_rules! killed_at_each_operation {
    ($($name:ident: $act:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                println!("{}: {} operations", $act, killed_at_each_operation_of($act));
            }
        )*
    };
}

killed_at_each_operation! {
    f024_a_process_is_killed_at_each_operation_of_a_save: "save",
    f024_a_process_is_killed_at_each_operation_of_a_first_save: "first_save",
    f025_a_process_is_killed_at_each_operation_of_forget: "forget",
    f025_a_process_is_killed_at_each_operation_of_a_collection_that_rewrites: "gc",
    f025_a_process_is_killed_at_each_operation_of_thinning: "thin",
    f025_a_process_is_killed_at_each_operation_of_repair: "repair",
}

/// A store whose making was cut short is none, or is made by the next who asks.
#[test]
fn f025_a_process_is_killed_at_each_operation_of_init() {
    let mut operations = 0;
    loop {
        let place = three();
        let done = child("init", &place, operations);
        let made = Store::open(place.path("new"), Options::default());
        if !done {
            assert!(
                made.is_ok() || matches!(made, Err(treering::Error::StoreMissing { .. })),
                "{operations}: {made:?}"
            );
        }
        let made = made.or_else(|_| Store::create(place.path("new"), None, Options::default())).unwrap();
        save(&made, "r", 3, place.folder.path()).unwrap();
        assert!(made.verify(Depth::Deep).unwrap().is_sound());
        if done {
            break;
        }
        // Most of it is the making of 256 folders.
        operations += if (8..220).contains(&operations) { 35 } else { 1 };
    }
    assert!(operations > 256);
}

/// Each second write is interrupted by a signal that nobody minds.
#[test]
fn what_is_interrupted_is_written_once() {
    let place = three();
    let log = |before: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("exec {before} $treering log")]).env("treering", env!("CARGO_BIN_EXE_treering"));
        // Were it written again and again, it would be for ever.
        let mut child = sh.env("TREERING_STORE", place.store.root()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = Vec::new();
        child.stdout.take().unwrap().take(1 << 20).read_to_end(&mut output).unwrap();
        child.wait().unwrap();
        String::from_utf8(output).unwrap()
    };
    let expected = log("");
    assert!(expected.contains("r@2"), "{expected}");
    for when in ["1+2", "2+2"] {
        let found = log(&format!("strace -f -qq -o /dev/null -e inject=write:error=EINTR:when={when}"));
        if found.is_empty() {
            println!("nothing was interrupted: strace cannot be used here");
            return;
        }
        assert_eq!(found, expected, "{when}");
    }
}

/// The command itself, whose every call that changes a file is its last: those of the catalog among them.
#[test]
fn f024_f025_the_command_is_killed_at_each_call() {
    const CALLS: &str =
        "write,pwrite64,fsync,fdatasync,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,ftruncate,rename";
    // strace counts no further.
    const NEVER: u32 = 60_000;
    let traced = |place: &Place, number: u32, command: &str| {
        let inject = format!("-e trace={CALLS} -e inject={CALLS}:signal=KILL:when={number}");
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("exec strace -f -qq -o /dev/null {inject} $treering {command}")]);
        sh.env("treering", env!("CARGO_BIN_EXE_treering")).env("TREERING_STORE", place.store.root());
        sh.env("TREERING_THREADS", "1").current_dir(place.folder.path()).output().unwrap()
    };
    if !traced(&three(), NEVER, "log").status.success() {
        println!("the command was not killed: strace cannot be used here");
        return;
    }
    let mut killed = 0;
    let acts = [("save", "save new.safetensors --run r --step 3"), ("gc", "gc"), ("rebuild", "rebuild")];
    for (act, command) in acts {
        for number in 1.. {
            let place = three();
            if act == "gc" {
                place.store.forget(&[0]).unwrap();
            }
            let output = traced(&place, number, command);
            let what = format!("{command}, killed at call {number}");
            is_sound(&what, act, &place);
            let again = traced(&place, NEVER, &format!("{command} --quiet"));
            assert!(again.status.success(), "{what}: {}", String::from_utf8_lossy(&again.stderr));
            is_sound(&what, act, &place);
            assert!(place.reopened().verify(Depth::Deep).unwrap().is_sound(), "{what}");
            if output.status.success() {
                break;
            }
            killed += 1;
        }
    }
    println!("{killed} calls were the last");
    assert!(killed > 40, "{killed}");
}

/// Saves and collections that are killed at any moment, while somebody outside writes down what was acknowledged.
/// `TREERING_KILLS` says how many.
#[test]
fn f024_f070_what_was_acknowledged_before_kills_at_random_is_there() {
    let kills: u64 = std::env::var("TREERING_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let place = Place::new();
    let tensors = |step: u64| [floats("model.a", 20_000, 1), floats("model.b", 9_000, step / 3)];
    let treering = |command: &str| {
        let mut treering = Command::new(env!("CARGO_BIN_EXE_treering"));
        treering.args(command.split_whitespace()).current_dir(place.folder.path());
        treering.env("TREERING_STORE", place.store.root()).stdout(Stdio::null()).stderr(Stdio::null());
        treering.spawn().unwrap()
    };
    // Half of them end before they are killed.
    let started = Instant::now();
    let _ = place.file("new.safetensors", &tensors(0));
    assert!(treering("save new.safetensors --run r --step 0").wait().unwrap().success());
    let usual = started.elapsed().as_micros() as u64;
    let (mut acknowledged, mut forgotten, mut died, mut chance) = (vec![0], Vec::new(), 0, 7u64);
    for step in 1.. {
        let _ = place.file("new.safetensors", &tensors(step));
        let victim = match step % 5 {
            0 => "gc".to_string(),
            4 if acknowledged.len() > 6 => {
                // Whether it was forgotten is known only if that, too, was acknowledged.
                forgotten.push(acknowledged.remove(0));
                format!("forget r@{}", forgotten[forgotten.len() - 1])
            }
            _ => format!("save new.safetensors --run r --step {step}"),
        };
        let mut victim_process = treering(&victim);
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros((chance >> 33) % (2 * usual)));
        let _ = victim_process.kill();
        let status: ExitStatus = victim_process.wait().unwrap();
        died += u64::from(!status.success());
        if status.success() && victim.starts_with("save") {
            acknowledged.push(step);
        }
        if step % 50 == 0 || died >= kills {
            let listed: Vec<u64> =
                place.reopened().log(&Filter::default()).unwrap().iter().map(|row| row.step).collect();
            assert!(acknowledged.iter().all(|step| listed.contains(step)), "{acknowledged:?}, listed {listed:?}");
        }
        if died >= kills {
            break;
        }
    }
    let store = place.reopened();
    for step in &acknowledged {
        let output = place.path("back");
        let force = treering::restore::RestoreOptions { force: true, ..Default::default() };
        store.restore(&at(&format!("r@{step}")), &output, &force).unwrap();
        assert!(std::fs::read(output).unwrap() == file_bytes(&tensors(*step)), "step {step}");
    }
    store.gc(&GcOptions::default()).unwrap();
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound() && report.foreign.is_empty(), "{report:?}");
    println!("{died} processes killed, {} checkpoints acknowledged, none lost", acknowledged.len() + forgotten.len());
    assert!(acknowledged.len() + forgotten.len() > 5);
}
