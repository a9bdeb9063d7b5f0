//! How much space a run takes that forgets: beside a store that only ever held what is kept.
//!
//! `cargo bench --bench retention`. Sizes are packs and log, and are asserted; nothing here depends on the machine.
//!
//! `-- FOLDER` takes the steps of a real run instead, `*STEP.safetensors` and `metrics.jsonl` beside them, and reports:
//! space, bytes written, and what the processor does for it.

mod kit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kit::BenchDisk;
use treering::Store;
use treering::catalog::Filter;
use treering::format::entry::Number;
use treering::format::policy::{Keep, Mode, Policy};
use treering::gc::GcOptions;
use treering::save::{Inputs, MemoryTensor, SaveOptions};

const TENSORS: usize = 12;
const TENSOR_BYTES: usize = 512 << 10;
/// The first so many tensors are frozen, the next change every fourth step, the others at every step.
const FROZEN: usize = 4;
const SLOW: usize = 3;

fn main() {
    match &kit::arguments()[..] {
        [run] => real_run(Path::new(run)),
        _ => {
            last_two_of_twenty();
            two_hundred_saves();
        }
    }
}

/// Saves every step, and collects after each, under keep-last 3 and keep-best 2.
fn real_run(run: &Path) {
    let (steps, losses) = (kit::steps_of(run), losses_of(run));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = Arc::new(BenchDisk::without_syncs());
    let store = kit::create(&folder.path().join("store"), Some(disk.clone()));
    store.set_mode("run", "loss", Mode::Min).expect("a direction");
    keep(&store, vec![Keep::Last(3), Keep::Best { metric: "loss".into(), n: 2 }]);
    let save = |store: &Store, step: u64| {
        let metrics = losses.get(&step).map(|loss| ("loss".to_string(), Number(*loss)));
        let options =
            SaveOptions { run: "run".into(), step, metrics: metrics.into_iter().collect(), ..SaveOptions::default() };
        let inputs = Inputs::paths(&[(None, steps[&step].clone())], false).expect("a safetensors file");
        store.save(&inputs, &options).expect("a save").new_bytes
    };
    let (mut ledgers, mut saving, mut collecting, mut ratios, mut before) = (0, 0.0, 0.0, Vec::new(), 0.0);
    for &step in steps.keys() {
        saving += processor_seconds(|| ledgers += save(&store, step));
        let full = kit::stored_bytes(&store);
        collecting += processor_seconds(|| drop(store.gc(&GcOptions::default()).expect("a collection")));
        let fresh_root = folder.path().join("fresh");
        let fresh = new_store(&fresh_root);
        for kept in kept(&store) {
            save(&fresh, kept);
        }
        let fresh_bytes = kit::stored_bytes(&fresh) as f64;
        std::fs::remove_dir_all(&fresh_root).expect("the fresh store");
        ratios.push(kit::stored_bytes(&store) as f64 / fresh_bytes);
        before = f64::max(before, full as f64 / fresh_bytes);
    }
    let (mean, most) = (ratios.iter().sum::<f64>() / ratios.len() as f64, ratios.iter().copied().fold(0.0, f64::max));
    println!("{} saves of {}, last 3 and best 2, a collection after each", steps.len(), run.display());
    println!("  beside a fresh store of what is kept: mean {mean:.3}, most {most:.3}; before collections {before:.3}");
    let written = disk.written();
    println!(
        "  written: {written} bytes | ledgers of saves {ledgers} | ratio {:.3} (at most 1.3)",
        written as f64 / ledgers as f64
    );
    println!(
        "  processor: collections {collecting:.2} s | saves {saving:.2} s | ratio {:.3} (at most 0.25)",
        collecting / saving
    );
}

fn losses_of(run: &Path) -> BTreeMap<u64, f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["val_loss"].as_f64()?))).collect()
}

/// Of all threads, in seconds.
fn processor_seconds(work: impl FnOnce()) -> f64 {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let begin = now();
    work();
    now() - begin
}

fn last_two_of_twenty() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    (0..20).for_each(|step| save(&store, step));
    let before = kit::stored_bytes(&store);
    keep(&store, vec![Keep::Last(2)]);
    store.gc(&GcOptions::default()).expect("a collection");
    let (left, fresh) = (kit::stored_bytes(&store), fresh(&folder.path().join("fresh"), &kept(&store)));
    let ratio = left as f64 / fresh as f64;
    println!("last 2 of 20: {left} bytes, of {before} | fresh {fresh} | ratio {ratio:.3} (at most 1.05)");
    assert_eq!(kept(&store), [18, 19]);
    assert!(ratio <= 1.05);
}

fn two_hundred_saves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = new_store(&folder.path().join("store"));
    store.set_mode("run", "loss", Mode::Min).expect("a direction");
    keep(&store, vec![Keep::Last(3), Keep::Best { metric: "loss".into(), n: 2 }]);
    let (mut worst, mut peak) = (0.0, 0);
    for step in 0..200 {
        save(&store, step);
        store.gc(&GcOptions::default()).expect("a collection");
        let size = kit::stored_bytes(&store);
        // Building the store to compare with is dear: only where the size is a new peak, or now and then.
        if step >= 5 && (size > peak || step % 10 == 9) {
            peak = peak.max(size);
            let fresh_root = folder.path().join("fresh");
            let fresh = fresh(&fresh_root, &kept(&store));
            std::fs::remove_dir_all(&fresh_root).expect("the fresh store");
            worst = f64::max(worst, size as f64 / fresh as f64);
        }
    }
    println!(
        "200 saves, last 3 and best 2: peak {peak} bytes | worst ratio to a fresh store {worst:.3} (at most 1.15)"
    );
    assert!((3..=5).contains(&kept(&store).len()));
    assert!(worst <= 1.15);
}

fn new_store(root: &Path) -> Store {
    kit::create(root, Some(Arc::new(BenchDisk::without_syncs())))
}

fn keep(store: &Store, keeps: Vec<Keep>) {
    store.set_policy("run", &Policy { keeps, thins: Vec::new() }).expect("a policy");
}

fn kept(store: &Store) -> Vec<u64> {
    let mut steps: Vec<u64> = store.log(&Filter::default()).expect("a log").iter().map(|row| row.step).collect();
    steps.sort_unstable();
    steps
}

fn fresh(root: &Path, steps: &[u64]) -> u64 {
    let store = new_store(root);
    steps.iter().for_each(|&step| save(&store, step));
    kit::stored_bytes(&store)
}

fn save(store: &Store, step: u64) {
    let version = |n: usize| match n {
        _ if n < FROZEN => 0,
        _ if n < FROZEN + SLOW => step / 4,
        _ => step,
    };
    let metas: Vec<_> = (0..TENSORS).map(|n| kit::meta(format!("layer.{n:02}"), TENSOR_BYTES)).collect();
    let bytes: Vec<Vec<u8>> = (0..TENSORS).map(|n| kit::weights(version(n) * 100 + n as u64, TENSOR_BYTES)).collect();
    let tensors = metas.into_iter().zip(&bytes).map(|(meta, bytes)| (None, MemoryTensor { meta, bytes })).collect();
    // A loss that falls, with bumps.
    let loss = 1.0 / (1.0 + step as f64) + (step % 7) as f64 / 50.0;
    let options = SaveOptions {
        run: "run".into(),
        step,
        metrics: BTreeMap::from([("loss".to_string(), Number(loss))]),
        ..SaveOptions::default()
    };
    store.save(&Inputs::tensors(tensors).expect("tensors"), &options).expect("a save");
}
