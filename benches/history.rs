//! What a long history costs: many checkpoints of 300 tensors, each with one small change, written without syncs. In the
//! end the same where another tensor changes each time, so that a checkpoint needs as many packs as it has tensors.
//!
//! `cargo bench --bench history` makes 5,000 of them; `-- 100000` as many as are said, which takes minutes. Questions are
//! measured twice: in a store that is open, and as a whole process of the command line.

mod kit;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kit::{BenchDisk, median, seconds};
use treering::Store;
use treering::catalog::Filter;
use treering::format::entry::Number;
use treering::format::policy::Mode;
use treering::gc::GcOptions;
use treering::save::{Inputs, MemoryTensor, SaveOptions};
use treering::store::{Address, Options};

const TENSORS: usize = 300;
const BYTES: usize = 64;
const ROUNDS: usize = 9;
const FORGOTTEN: usize = 100;

fn main() {
    let arguments = kit::arguments();
    match &arguments[..] {
        [count] => measure(count.parse().expect("a number of checkpoints")),
        _ => measure(5000),
    }
}

fn open(root: &Path) -> Store {
    let disk = Arc::new(BenchDisk::without_syncs());
    Store::open(root, Options { disk: Some(disk), ..Options::default() }).expect("a store")
}

fn measure(count: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (small, large) = (folder.path().join("small"), folder.path().join("large"));
    let small_store = make(&small, 200);
    let made = seconds(|| drop(make(&large, count)));
    println!("{count} checkpoints of {TENSORS} tensors: made in {made:.0} s, {:.2} ms each", made * 1e3 / count as f64);

    let store = open(&large);
    let questions =
        ["log --limit 50", "best --run run --metric loss --mode min", "show run@latest", "show run@latest --tensors"];
    for question in questions {
        let inside = rounds(|| ask(&store, question));
        let process = rounds(|| {
            let mut program = Command::new(env!("CARGO_BIN_EXE_treering"));
            let asked = program.arg("--store").arg(&large).args(question.split(' ')).output().expect("a process");
            assert!(asked.status.success() && !asked.stdout.is_empty(), "{question} failed");
        });
        let question = question.split(" --run").next().unwrap_or_default();
        println!("{question:<26} {:>8.2} ms, as a process {:>8.2} ms (below 50)", inside * 1e3, process * 1e3);
    }

    // One more save, beside one in a store that is new.
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        first.push(seconds(|| save(&small_store, 200 + round, Change::Same)));
        last.push(seconds(|| save(&store, count + round, Change::Same)));
    }
    let (first, last) = (median(&first), median(&last));
    let ratio = last / first;
    println!("one more save {:.2} ms | after 200 {:.2} ms | ratio {ratio:.2} (at most 2)", last * 1e3, first * 1e3);

    // A collection that has looked into all folders of packs once looks only into those that changed since, once they have
    // come to rest.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let first_gc = |store: &Store| seconds(|| drop(store.gc(&GcOptions::default()).expect("a collection")));
    println!("the first gc {:.3} s | among 200: {:.3} s", first_gc(&store), first_gc(&small_store));
    let of_small = collect(&small_store);
    let of_large = collect(&store);
    println!("gc of {FORGOTTEN}: {of_large:.3} s | of {FORGOTTEN} among 200: {of_small:.3} s");

    let before = store.log(&Filter::default()).expect("a log").len();
    let rebuild = seconds(|| store.rebuild().expect("a rebuild"));
    assert_eq!(store.log(&Filter::default()).expect("a log").len(), before, "a rebuild changed the history");
    println!("rebuild {rebuild:.2} s (below 20 for 100,000)");
    measure_scattered(&folder.path().join("scattered"));
}

/// Each tensor in a pack of its own.
fn measure_scattered(root: &Path) {
    let store = kit::create(root, Some(Arc::new(BenchDisk::without_syncs())));
    let count = 4 * TENSORS as u64;
    let times: Vec<f64> = (0..count).map(|number| seconds(|| save(&store, number, Change::Next))).collect();
    let (first, last) = (median(&times[1..=ROUNDS]), median(&times[times.len() - ROUNDS..]));
    let packs = store.why(&"run@latest".parse::<Address>().expect("an address")).expect("what it needs").packs.len();
    assert!(packs >= TENSORS, "{packs} packs for {TENSORS} tensors");
    println!("a save that needs {packs} packs {:.2} ms | few {:.2} ms", last * 1e3, first * 1e3);
    println!("rebuild of {count} such {:.2} s", seconds(|| store.rebuild().expect("a rebuild")));
}

fn make(root: &Path, count: u64) -> Store {
    let store = kit::create(root, Some(Arc::new(BenchDisk::without_syncs())));
    (0..count).for_each(|number| save(&store, number, Change::Same));
    store
}

/// Which tensor changes with a save.
#[derive(Clone, Copy)]
enum Change {
    /// Always the same.
    Same,
    /// One after the other.
    Next,
}

/// A checkpoint whose tensors are all as they were but one.
fn save(store: &Store, number: u64, change: Change) {
    let metas: Vec<_> = (0..TENSORS).map(|n| kit::meta(format!("layer.{n:03}"), BYTES)).collect();
    // The save at which a tensor changed last; none if it is as in the beginning.
    let changed = |n: usize| match change {
        Change::Same => (n == 7).then_some(number),
        Change::Next => number.checked_sub((number + TENSORS as u64 - n as u64) % TENSORS as u64),
    };
    let bytes: Vec<Vec<u8>> =
        (0..TENSORS).map(|n| changed(n).map_or(vec![n as u8; BYTES], |at| kit::noise(at, BYTES))).collect();
    let tensors = metas.into_iter().zip(&bytes).map(|(meta, bytes)| (None, MemoryTensor { meta, bytes })).collect();
    let loss = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64;
    let options = SaveOptions {
        run: "run".into(),
        step: number,
        metrics: [("loss".to_string(), Number(loss))].into(),
        ..SaveOptions::default()
    };
    let report = store.save(&Inputs::tensors(tensors).expect("tensors"), &options).expect("a save");
    assert!(number == 0 || report.new_bytes < 64 << 10, "{} bytes for one tensor", report.new_bytes);
}

fn ask(store: &Store, question: &str) {
    let rows = match question.split(' ').next() {
        Some("log") => store.log(&Filter { newest: Some(50), ..Filter::default() }).expect("a log"),
        Some("best") => store.best("run", "loss", Some(Mode::Min), 1).expect("the best"),
        _ => {
            let checkpoint = store.checkpoint(&"run@latest".parse::<Address>().expect("an address"));
            let checkpoint = checkpoint.expect("a checkpoint");
            if question.ends_with("--tensors") {
                assert_eq!(checkpoint.tensors().expect("tensors").len(), TENSORS);
            }
            vec![checkpoint.info().clone()]
        }
    };
    assert_eq!(rows.len(), if question.starts_with("log") { 50 } else { 1 });
}

fn collect(store: &Store) -> f64 {
    let rows = store.log(&Filter::default()).expect("a log");
    let slots: Vec<u64> = rows[50..50 + FORGOTTEN].iter().map(|row| row.slot).collect();
    store.forget(&slots).expect("checkpoints");
    let time = seconds(|| {
        let report = store.gc(&GcOptions::default()).expect("a collection");
        assert!(report.packs_deleted > 0, "nothing was freed");
    });
    assert_eq!(store.log(&Filter::default()).expect("a log").len(), rows.len() - FORGOTTEN);
    time
}

fn rounds(mut work: impl FnMut()) -> f64 {
    work();
    median(&(0..ROUNDS).map(|_| seconds(&mut work)).collect::<Vec<_>>())
}
