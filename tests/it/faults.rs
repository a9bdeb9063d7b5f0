//! Faults that need real files; the others are in `tests/sim`. Named after their rows in docs/DURABILITY.md.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use treering::catalog::Filter;
use treering::format::manifest::{Root, Stored};
use treering::gc::GcOptions;
use treering::restore::RestoreOptions;
use treering::save::{Inputs, SaveOptions};
use treering::store::{Durability, Options, Store};
use treering::verify::Depth;
use treering::{Error, ErrorKind};

use crate::helpers::{Place, Tensor, at, file_bytes, files_below, floats, options};

/// Runs a script beside the store; `$treering` is the command.
fn sh(place: &Place, script: &str) -> Output {
    let mut sh = Command::new("sh");
    sh.args(["-c", script]).current_dir(place.folder.path()).env("treering", env!("CARGO_BIN_EXE_treering"));
    sh.env("TREERING_STORE", place.store.root()).env("NO_COLOR", "1").output().unwrap()
}

/// A clear end: an exit code of its own, and no panic.
#[track_caller]
fn typed(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    let told = said.lines().any(|line| line.starts_with("error: "));
    assert!(code.is_some_and(|code| (1..=6).contains(&code)) && told, "{code:?}: {said}");
    said
}

/// Two checkpoints, and a third that is not saved yet.
fn two_of_three() -> (Place, [PathBuf; 3]) {
    let place = Place::new();
    let files = [1, 2, 3].map(|seed| {
        place.file(&format!("{seed}.safetensors"), &[floats("model.a", 60_000, 1), floats("model.b", 60_000, seed)])
    });
    place.save("r", 1, &files[0]);
    place.save("r", 2, &files[1]);
    (place, files)
}

/// Both checkpoints are there, the third can be saved, and nothing is left of what went wrong.
#[track_caller]
fn is_as_it_was(place: &Place, files: &[PathBuf; 3]) {
    place.save("r", 3, &files[2]);
    for (step, file) in (1..).zip(files) {
        place.assert_restores(&format!("r@{step}"), file);
    }
    place.gc();
    let report = place.reopened().verify(Depth::Deep).unwrap();
    assert!(report.is_sound() && report.foreign.is_empty(), "{report:?}");
    let left = files_below(&place.store.root().join("tmp"));
    assert!(left.iter().all(|path| path.ends_with("reserve")), "{left:?}");
}

#[test]
fn f004_a_file_that_may_not_grow_is_typed_and_nothing_torn_is_linked() {
    // In blocks of 512 bytes: nothing fits, a part of a pack, the pack but for its end.
    for blocks in [0, 1, 20, 100, 300] {
        let (place, files) = two_of_three();
        let before = place.packs();
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; $treering save 3.safetensors --run r --step 3");
        let output = sh(&place, &script);
        assert!(typed(&output).contains("cannot write") && output.status.code() == Some(6), "{blocks}: {output:?}");
        assert_eq!(place.packs(), before);
        is_as_it_was(&place, &files);
    }
}

#[test]
fn f005_calls_that_are_interrupted_are_made_again() {
    let (place, files) = two_of_three();
    let interrupted = |calls: &str, of: &[PathBuf], command: &str| {
        let paths: String = of.iter().map(|path| format!("-P {} ", path.display())).collect();
        let inject = format!("{paths} -e trace={calls} -e inject={calls}:error=EINTR:when=1+2");
        let output = sh(&place, &format!("strace -f -qq -o trace {inject} $treering {command} --quiet"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(std::fs::read_to_string(place.path("trace")).unwrap().contains("INJECTED"), "{command}");
    };
    if !sh(&place, "strace -qq -o trace -e inject=getcwd:error=EINTR true").status.success() {
        println!("f005 skipped: strace cannot be used here");
        return;
    }
    interrupted("pread64", &files[2..], "save 3.safetensors --run r --step 3");
    let again = [floats("model.c", 60_000, 4)];
    let _ = place.file("4.safetensors", &again);
    interrupted("write,pwrite64", &[], "save 4.safetensors --run r --step 4");
    interrupted("pread64", &place.packs(), "restore r@3 -o out.safetensors");
    interrupted("write,pwrite64", &[], "restore r@4 -o out-4.safetensors");
    assert!(std::fs::read(place.path("out-4.safetensors")).unwrap() == file_bytes(&again));
    assert!(std::fs::read(place.path("out.safetensors")).unwrap() == std::fs::read(&files[2]).unwrap());
}

#[test]
fn f018_a_store_in_memory_says_so() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        println!("f018 skipped: there is no /dev/shm");
        return;
    };
    let store = Store::create(folder.path().join("store"), None, Options::default()).unwrap();
    assert_eq!(store.durability(), Durability::Process);
}

#[test]
fn f021_a_pack_that_is_cut_while_it_is_read_is_an_error() {
    let place = Place::new();
    let tensors = [floats("model.a", 300_000, 1), floats("model.b", 300_000, 2)];
    place.save("r", 1, &place.file("1.safetensors", &tensors));
    let checkpoint = place.store.checkpoint(&at("r@1")).unwrap();
    checkpoint.read_tensor("model.a", &mut Vec::new()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&place.packs()[0]).unwrap();
    file.set_len(1000).unwrap();
    let error = checkpoint.read_tensor("model.b", &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
}

#[test]
fn f022_without_descriptors_the_error_is_typed() {
    let (place, files) = two_of_three();
    let (mut failed, mut saved) = (0, 0);
    for limit in (4..40).step_by(2) {
        let output = sh(&place, &format!("ulimit -n {limit}; $treering save 3.safetensors --run r --step 3"));
        match output.status.success() {
            true => saved += 1,
            // With three descriptors for itself not even the library that prints can be loaded.
            false if limit > 4 => drop(typed(&output)),
            false => {}
        }
        failed += usize::from(!output.status.success());
    }
    assert!(failed > 2 && saved > 2, "{failed} failed, {saved} saved");
    is_as_it_was(&place, &files);
    // That it cannot look is no finding: nothing is said to be damaged, and least of all marked.
    let entries = place.store.stats().unwrap().entries;
    let mut sound = 0;
    for limit in 6..40 {
        for command in ["verify --deep", "repair"] {
            let output = sh(&place, &format!("ulimit -n {limit}; $treering {command}"));
            match output.status.success() {
                true => sound += 1,
                false => drop(typed(&output)),
            }
        }
    }
    assert!(sound > 20, "{sound}");
    assert_eq!(place.reopened().stats().unwrap().entries, entries);
}

/// Nothing is allocated because a file is large: each of these would take all memory, and then some.
#[test]
fn f029_no_object_is_read_beyond_its_limit() {
    const LONG: u64 = 1 << 42;
    let grown = |path: &Path| match std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(LONG) {
        Ok(()) => true,
        Err(_) => {
            println!("f029 skipped: no file of this length can be made here");
            false
        }
    };
    let (place, _) = two_of_three();
    place.delete_catalog();
    let (config, entry, pack) = (place.store.root().join("treering.json"), place.entry(1), place.packs()[0].clone());
    for path in [&config, &entry, &pack] {
        let before = std::fs::metadata(path).unwrap().len();
        if !grown(path) {
            return;
        }
        let opened = Store::open(place.store.root(), Options::default());
        match opened {
            Ok(store) => assert!(!store.verify(Depth::Deep).unwrap().is_sound(), "{path:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{path:?}: {error}"),
        }
        place.delete_catalog();
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(before).unwrap();
    }
    assert!(place.reopened().verify(Depth::Deep).unwrap().is_sound());

    let claims = place.path("claims.safetensors");
    std::fs::write(&claims, (LONG - 8).to_le_bytes()).unwrap();
    if grown(&claims) {
        let refused = Inputs::paths(&[(None, claims)], false).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    }
}

#[test]
fn f042_threads_share_a_store() {
    let place = Place::new();
    let tensors = |run: u64, step: u64| [floats("model.a", 3000, 1), floats("model.b", 500, 100 * run + step)];
    std::thread::scope(|scope| {
        for run in 0..4 {
            let (store, place) = (place.store.clone(), &place);
            scope.spawn(move || {
                for step in 0..8 {
                    let file = place.file(&format!("{run}-{step}.safetensors"), &tensors(run, step));
                    let inputs = Inputs::paths(&[(None, file)], false).unwrap();
                    store.save(&inputs, &options(&format!("r{run}"), step)).unwrap();
                    let mut bytes = Vec::new();
                    let checkpoint = store.checkpoint(&at(&format!("r{run}@{step}"))).unwrap();
                    checkpoint.read_tensor("model.b", &mut bytes).unwrap();
                    assert!(bytes == tensors(run, step)[1].bytes);
                    if step == 5 {
                        store.forget(&[store.find(&at(&format!("r{run}@2"))).unwrap().slot]).unwrap();
                    }
                }
            });
        }
        let store = place.store.clone();
        scope.spawn(move || {
            for _ in 0..6 {
                store.gc(&GcOptions::default()).unwrap();
                assert!(store.verify(Depth::Stored).unwrap().affected.is_empty());
            }
        });
    });
    assert_eq!(place.store.log(&Filter::default()).unwrap().len(), 4 * 7);
    assert!(place.store.verify(Depth::Deep).unwrap().is_sound());
}

/// Machines may have one name and one numbering of processes. So nobody asks for them: who holds a lock is known by the
/// lock, and who wrote an entry by chance bits.
#[test]
fn f043_nothing_rests_on_the_name_of_a_machine_or_a_process() {
    let src = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let library = files_below(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")));
    for path in library {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["process::id", "getpid", "gethostname", "uname", "machine-id", "boot_id"] {
            assert!(!text.contains(word), "{} asks for {word}", path.display());
        }
    }
}

#[test]
fn f093_a_store_with_a_feature_of_a_later_version_is_refused() {
    let place = Place::new();
    let config = place.store.root().join("treering.json");
    let mut facts: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    facts["features"] = serde_json::json!(["time-travel"]);
    std::fs::write(&config, facts.to_string()).unwrap();
    let error = Store::open(place.store.root(), Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("time-travel"), "{error}");
}

/// Both use one catalog: what the newer one folded, the older one does not see in the log again.
#[test]
fn f093_what_a_newer_version_folded_stops_an_older_one_all_the_same() {
    let place = Place::new();
    let older = place.reopened();
    let catalog = rusqlite::Connection::open(place.store.root().join("catalog.sqlite")).unwrap();
    let body = r#"{"format":1,"readers":["time-travel"]}"#;
    catalog.execute("INSERT INTO upgrades VALUES (0, ?)", [body]).unwrap();
    let refused =
        [older.refresh().unwrap_err(), Store::open(place.store.root(), Options::default()).map(drop).unwrap_err()];
    for error in refused {
        assert!(matches!(&error, Error::FeatureUnknown { feature, .. } if feature == "time-travel"), "{error}");
    }
}

#[test]
fn f104_a_store_that_is_copied_while_it_is_in_use() {
    let place = Place::new();
    let tensors = |step: u64| [floats("model.a", 500, step)];
    for round in 0..4 {
        let copy = place.path(&format!("copy-{round}"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for step in round * 10..round * 10 + 10 {
                    place.save("r", step, &place.file(&format!("{step}.safetensors"), &tensors(step)));
                }
            });
            copy_folder(place.store.root(), &copy);
        });
        let store = match Store::open(&copy, Options::default()) {
            Ok(store) => store,
            // A catalog that was copied later than the log knows more than that.
            Err(Error::Diverged { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        for row in store.log(&Filter::default()).unwrap() {
            let out = place.path(&format!("out-{round}-{}", row.step));
            match store.restore(&at(&row.address()), &out, &Default::default()) {
                Ok(_) => assert!(std::fs::read(out).unwrap() == file_bytes(&tensors(row.step))),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}"),
            }
        }
    }
}

/// As `cp -r` does it: what vanishes meanwhile is passed.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_folder(&entry.path(), &target),
            _ => drop(std::fs::copy(entry.path(), target)),
        }
    }
}

/// A day's work is gone: the folder was replaced by what it was before, and this machine's catalog knows better.
#[test]
fn f105_an_old_copy_in_the_place_of_the_store_is_told() {
    let (place, files) = two_of_three();
    let copy = place.path("copy");
    copy_folder(place.store.root(), &copy);
    place.save("r", 3, &files[2]);
    let catalog = place.store.root().join("catalog.sqlite");
    for name in ["log", "packs"] {
        std::fs::remove_dir_all(place.store.root().join(name)).unwrap();
        copy_folder(&copy.join(name), &place.store.root().join(name));
    }
    assert!(catalog.exists());
    let diverged = |error: Error| assert!(matches!(error, Error::Diverged { slot: 2 }), "{error:?}");
    diverged(Store::open(place.store.root(), Options::default()).map(|_| ()).unwrap_err());
    diverged(place.save_with(&files[2], &options("r", 3)).map(|_| ()).unwrap_err());
    diverged(place.store.gc(&GcOptions::default()).map(|_| ()).unwrap_err());
    diverged(place.store.verify(Depth::Structure).map(|_| ()).unwrap_err());
    assert!(typed(&sh(&place, "$treering log")).contains("--accept-shorter-log"));
    // Whoever says that it was meant goes on from there.
    Store::forget_catalog(place.store.root()).unwrap();
    is_as_it_was(&Place { store: place.reopened(), folder: place.folder }, &files);
}

#[test]
fn f111_what_root_has_made_is_told_to_others_with_its_path() {
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let (place, files) = two_of_three();
    if !sh(&place, &format!("{as_nobody} true")).status.success() {
        println!("f111 skipped: this user cannot become another one");
        return;
    }
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    set(place.folder.path(), 0o755);
    // Where everybody may reach it.
    std::fs::copy(env!("CARGO_BIN_EXE_treering"), place.path("treering")).unwrap();
    set(&place.path("treering"), 0o755);
    let nobody = |command: &str| sh(&place, &format!("{as_nobody} ./treering {command}"));
    let listed = nobody("log");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let said = typed(&nobody("save 3.safetensors --run r --step 3"));
    assert!(said.contains("ermission denied") && said.contains("/store/tmp"), "{said}");
    set(&place.entry(1), 0o600);
    let said = typed(&nobody("log"));
    assert!(said.contains("ermission denied") && said.contains("log/00000000000000000001"), "{said}");
    set(&place.entry(1), 0o644);
    is_as_it_was(&place, &files);
}

#[test]
fn f112_names_that_leave_their_folder_are_refused() {
    let root = |file: &str, side: &str| Root {
        folder: true,
        schema: Stored::empty(),
        components: vec![],
        files: vec![treering::format::manifest::File { name: file.into(), header: None }],
        side_files: vec![(side.into(), Stored::empty())],
        state: None,
    };
    assert!(Root::decode(&root("a/b.safetensors", "c").encode()).is_ok());
    for name in ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a\0b", "a\nb", ".."] {
        assert!(Root::decode(&root(name, "c").encode()).is_err(), "{name:?}");
        assert!(Root::decode(&root("a", name).encode()).is_err(), "{name:?}");
        assert!(treering::format::names::check_output_name(name).is_err(), "{name:?}");
    }
    // A run may be called like a path; its files still go below the folder of an export.
    let (place, files) = two_of_three();
    for run in ["../up", "/abs", "a/../b", "..", "a\0b"] {
        assert!(matches!(place.save_with(&files[2], &options(run, 1)), Err(Error::Invalid { .. })), "{run:?}");
    }
}

#[test]
fn f113_links_in_the_way_are_not_followed() {
    let (place, files) = two_of_three();
    let treasure = place.path("treasure");
    let touched = || std::fs::read(&treasure).unwrap() != b"mine";
    let plant = |at: &Path| {
        std::fs::write(&treasure, "mine").unwrap();
        let _ = std::fs::remove_file(at);
        symlink(&treasure, at).unwrap();
    };
    // Where an output is to go: refused, and with force the link is replaced, not what it names.
    let output = place.path("out.safetensors");
    plant(&output);
    let restore = |force| place.store.restore(&at("r@1"), &output, &RestoreOptions { force, ..Default::default() });
    assert!(matches!(restore(false), Err(Error::OutputExists { .. })));
    restore(true).unwrap();
    assert!(!touched() && !output.is_symlink() && std::fs::read(&output).unwrap() == std::fs::read(&files[0]).unwrap());
    // In the place of an object: not read through.
    let pack = place.packs()[0].clone();
    let moved = place.path("moved");
    std::fs::rename(&pack, &moved).unwrap();
    symlink(&moved, &pack).unwrap();
    let report = place.reopened().verify(Depth::Deep).unwrap();
    assert!(!report.is_sound() && !report.affected.is_empty());
    std::fs::remove_file(&pack).unwrap();
    std::fs::rename(&moved, &pack).unwrap();
    // In the place of the next entry, of the reserve, of the catalog: not written through.
    plant(&place.entry(2));
    assert!(place.save_with(&files[2], &options("r", 3)).is_err());
    std::fs::remove_file(place.entry(2)).unwrap();
    plant(&place.store.root().join("tmp/reserve"));
    place.delete_catalog();
    plant(&place.store.root().join("catalog.sqlite"));
    let opened = place.reopened();
    assert_eq!(opened.log(&Filter::default()).unwrap().len(), 2);
    opened.gc(&GcOptions::default()).unwrap();
    assert!(!touched());
    std::fs::remove_file(place.store.root().join("catalog.sqlite")).unwrap();
    is_as_it_was(&Place { store: place.reopened(), folder: place.folder }, &files);
}

#[test]
fn f114_modes_are_those_of_the_umask_or_as_asked_for() {
    let modes = |root: &Path| {
        let mut modes = std::collections::BTreeSet::new();
        let mut todo = vec![root.to_path_buf()];
        while let Some(path) = todo.pop() {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            // The catalog is each machine's own.
            if !path.to_string_lossy().contains("catalog.sqlite") {
                modes.insert((meta.is_dir(), meta.mode() & 0o7777));
            }
            if meta.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        modes
    };
    for (umask, shared, file, folder) in [
        ("022", "", 0o644, 0o755),
        ("027", "", 0o640, 0o750),
        ("077", "", 0o600, 0o700),
        ("077", "--shared group", 0o660, 0o2770),
        ("000", "--shared private", 0o600, 0o700),
    ] {
        let (place, files) = two_of_three();
        let script = format!(
            "umask {umask}; export TREERING_STORE=new; $treering init new {shared} && \
             $treering save 1.safetensors --run r --step 1 && $treering save 2.safetensors --run r --step 2 && \
             $treering forget r@1 && $treering gc && $treering restore r@2 -o back"
        );
        let output = sh(&place, &script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let expected = [(false, file), (true, folder)].into();
        let root = place.path("new");
        assert_eq!(modes(&root), expected, "umask {umask} {shared}");
        let umask = u32::from_str_radix(umask, 8).unwrap();
        assert_eq!(std::fs::metadata(place.path("back")).unwrap().mode() & 0o777, 0o666 & !umask);
        assert!(std::fs::read(place.path("back")).unwrap() == std::fs::read(&files[1]).unwrap());
    }
}

/// What is in the environment, and in the address of a repository, goes into no file and no message.
#[test]
fn f115_secrets_of_the_environment_are_written_nowhere() {
    let (place, _) = two_of_three();
    let canary = "canary-3f9c27";
    let script = format!(
        "export AWS_SECRET_ACCESS_KEY={canary} WANDB_API_KEY={canary} TREERING_TOKEN={canary}
         git init -q . && git remote add origin https://me:{canary}@example.com/x.git && \
         git -c user.name=n -c user.email=e commit -q --allow-empty -m x
         $treering save 3.safetensors --run r --step 3 --json; $treering save 3.safetensors --run r --step 1
         $treering show r@3 --json; $treering doctor; $treering restore nothing@1 -o x; $treering stats"
    );
    let output = sh(&place, &script);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("\"outcome\"") && said.contains("error: ") && !said.contains(canary), "{said}");
    assert!(String::from_utf8_lossy(&std::fs::read(place.entry(2)).unwrap()).contains("git_commit"));
    for path in files_below(place.store.root()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()), "{path:?}");
    }
}

/// Tensors, notes and states come from outside: what would move the cursor or change a colour is spelled out.
#[test]
fn f116_control_characters_never_reach_a_terminal() {
    let place = Place::new();
    let evil = "w\u{202e}\u{200b}evil";
    let named = [Tensor { name: format!("model.{evil}"), ..floats("", 100, 1) }];
    let file = place.file("1.safetensors", &named);
    let note = "\u{1b}]0;title\u{7}\u{1b}[2J\r";
    place.save_with(&file, &SaveOptions { note: Some(note.into()), ..options("r", 1) }).unwrap();
    std::fs::write(place.path("bad\u{1b}[2J.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    let shown = sh(
        &place,
        "$treering log; $treering show r@1 --tensors; $treering cat r@1 \"$(printf 'a\\033[2J')\"; \
         $treering restore \"$(printf 'r@\\033[2J')\" -o x; $treering save bad*.safetensors --run r --step 2; \
         $treering save 1.safetensors --run \"$(printf '\\033[2J')\" --step 2; $treering verify --deep; \
         $treering why r@1; $treering stats --encodings; $treering runs",
    );
    for text in [shown.stdout, shown.stderr] {
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("r@") || text.contains("error"), "{text}");
        let escapes = |c: char| c.is_control() && c != '\n' || c == '\u{202e}' || c == '\u{200b}';
        assert!(!text.contains(escapes), "{text:?}");
    }
    // A tensor whose name holds a control character is refused.
    let refused = place.file("2.safetensors", &[Tensor { name: "model.\u{1b}[2J".into(), ..floats("", 100, 1) }]);
    let said = place.save_with(&refused, &options("r", 2)).unwrap_err().to_string();
    assert!(!said.contains('\u{1b}') && said.contains("\\u{1b}"), "{said}");
}
