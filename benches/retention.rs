//! How much space a run takes that forgets: beside a store that only ever held what is kept.
//!
//! `cargo bench --bench retention`. Sizes are packs and log, and are asserted; nothing here depends on the machine.

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
    last_two_of_twenty();
    two_hundred_saves();
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
