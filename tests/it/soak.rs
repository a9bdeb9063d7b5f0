//! A process that saves, forgets, collects and reads for a long time while its disk fails now and then: what it takes
//! stays flat, and nothing that it acknowledged is lost. `TREERING_SOAK` says for how many seconds.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use treering::Store;
use treering::catalog::Filter;
use treering::disk::RealDisk;
use treering::gc::GcOptions;
use treering::save::{Inputs, MemoryTensor};
use treering::store::Options;
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{Tensor, at, files_below, floats, hours_later, options};

const SECONDS: &str = "TREERING_SOAK";
const IN_CHILD: &str = "TREERING_TEST_SOAK";
/// Checkpoints that are kept.
const KEPT: usize = 12;
/// How much more memory may be taken in the end than after a quarter of the time.
const MEMORY_GROWTH: u64 = 24 << 20;

/// Memory and descriptors are counted for a whole process, so it has one of its own.
#[test]
fn what_a_store_in_use_takes_stays_flat_while_its_disk_fails() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "soak::as_a_child", "--nocapture"]).env(IN_CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("flat"), "{said}");
    said.lines().filter(|line| line.contains("flat")).for_each(|line| println!("{line}"));
}

/// Not a test of its own: what the one above runs.
#[test]
fn as_a_child() {
    if std::env::var_os(IN_CHILD).is_none() {
        return;
    }
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    soak(Duration::from_secs(seconds));
}

/// What the process and its store take.
#[derive(Clone, Copy, Debug)]
struct Taken {
    memory: u64,
    descriptors: usize,
    temporary: usize,
    /// Bytes of packs for each byte that is kept.
    packs: f64,
}

fn taken(store: &Store, kept: usize) -> Taken {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let bytes: u64 = files_below(&store.root().join("packs")).iter().map(|p| std::fs::metadata(p).unwrap().len()).sum();
    Taken {
        memory: pages * 4096,
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        temporary: files_below(&store.root().join("tmp")).len(),
        packs: bytes as f64 / (kept.max(1) * 4 * (ELEMENTS + 300)) as f64,
    }
}

const ELEMENTS: usize = 4000;

/// Steps after which the tensors begin again.
const ROUND: u64 = 40;

/// A part that drifts, and one that is new each time.
fn tensors(step: u64) -> [Tensor; 2] {
    let mut slow = floats("model.slow", ELEMENTS, 1);
    (0..(step % ROUND) as usize).for_each(|n| slow.bytes[n * 64] ^= step as u8);
    [slow, floats("model.fast", 300, step)]
}

fn save(store: &Store, step: u64) -> treering::Result<()> {
    let tensors = tensors(step);
    let memory = tensors.iter().map(|tensor| {
        let (name, bytes) = (tensor.name.clone(), tensor.bytes.len() as u64);
        let meta = TensorMeta { name, dtype: DType::new("F32"), shape: tensor.shape.clone(), bytes };
        (None, MemoryTensor { meta, bytes: &tensor.bytes })
    });
    store.save(&Inputs::tensors(memory.collect())?, &options("r", step)).map(drop)
}

fn soak(time: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    drop(Store::create(&root, None, Options::default()).unwrap());
    let (chance, quiet) = (Arc::new(AtomicU64::new(9)), Arc::new(AtomicBool::new(false)));
    let (dice, calm) = (chance.clone(), quiet.clone());
    let below = move |n: u64| {
        let next = |old: u64| old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (next(dice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(next(old))).unwrap()) >> 33) % n
    };
    let roll = below.clone();
    let disk = FaultyDisk::new(RealDisk::new(None), move |act, _| {
        if calm.load(Ordering::Relaxed) || matches!(act, Act::Open | Act::List) || roll(150) > 0 {
            return Say::Go;
        }
        match roll(3) {
            0 => Say::Fail(io::ErrorKind::StorageFull),
            1 => Say::Fail(io::ErrorKind::Other),
            _ => Say::Lie(io::ErrorKind::TimedOut),
        }
    });
    let store = Store::open(&root, Options { disk: Some(Arc::new(disk)), ..Options::default() }).unwrap();

    let started = Instant::now();
    // Of each step: true if its save was acknowledged, false if it failed and may be there all the same.
    let mut saved: BTreeMap<u64, bool> = BTreeMap::new();
    let (mut early, mut failures) = (None, 0u64);
    for step in 1.. {
        match save(&store, step) {
            Ok(()) => drop(saved.insert(step, true)),
            Err(_) => {
                failures += 1;
                saved.insert(step, false);
            }
        }
        while saved.len() > KEPT {
            let (oldest, _) = saved.pop_first().unwrap();
            let address = at(&format!("r@{oldest}"));
            for _ in 0..20 {
                match store.find(&address) {
                    Ok(row) => failures += u64::from(store.forget(&[row.slot]).is_err()),
                    Err(treering::Error::CheckpointUnknown { .. } | treering::Error::Forgotten { .. }) => break,
                    Err(_) => failures += 1,
                }
            }
        }
        if step % 10 == 0 {
            failures += u64::from(store.gc(&GcOptions::default()).is_err());
        }
        let (looked, sure) = saved.iter().nth(below(saved.len() as u64) as usize).map(|(a, b)| (*a, *b)).unwrap();
        let mut bytes = Vec::new();
        match store
            .checkpoint(&at(&format!("r@{looked}")))
            .and_then(|c| c.read_tensor("model.slow", &mut bytes).map(drop))
        {
            Ok(()) => assert!(bytes == tensors(looked)[0].bytes, "step {looked}"),
            Err(treering::Error::CheckpointUnknown { .. }) => assert!(!sure, "step {looked} is gone"),
            Err(_) => failures += 1,
        }
        // What differences take depends on the place in a round: the same place is compared.
        if step % ROUND != ROUND / 2 {
            continue;
        }
        if started.elapsed() >= time {
            finish(&store, &quiet, &saved, early.unwrap(), failures, step);
            return;
        }
        if started.elapsed() >= time / 4 && early.is_none() {
            early = Some(settled(&store, &quiet, saved.len()));
        }
    }
}

/// What is taken once a collection could do its work. It lets files whose removal failed lie for an hour, since they might
/// be somebody's: so it is done later.
fn settled(store: &Store, quiet: &AtomicBool, kept: usize) -> Taken {
    quiet.store(true, Ordering::Relaxed);
    let later = Options { env: hours_later(25), ..Options::default() };
    Store::open(store.root(), later).unwrap().gc(&GcOptions::default()).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    let taken = taken(store, kept);
    quiet.store(false, Ordering::Relaxed);
    taken
}

fn finish(store: &Store, quiet: &AtomicBool, saved: &BTreeMap<u64, bool>, early: Taken, failures: u64, steps: u64) {
    let late = settled(store, quiet, saved.len());
    quiet.store(true, Ordering::Relaxed);
    println!("flat: {steps} saves, {failures} failures, {early:?} then {late:?}");
    assert!(failures > 5, "{failures}");
    assert!(late.memory < early.memory + MEMORY_GROWTH, "{early:?} then {late:?}");
    assert!(late.descriptors <= early.descriptors + 4, "{early:?} then {late:?}");
    assert!(late.temporary <= early.temporary, "{early:?} then {late:?}");
    assert!(late.packs < 1.5 * early.packs.max(0.3), "{early:?} then {late:?}");
    let listed: Vec<u64> = store.log(&Filter::default()).unwrap().iter().map(|row| row.step).collect();
    assert!(listed.iter().all(|step| saved.contains_key(step)), "{listed:?} were to be forgotten, but for {saved:?}");
    for (step, _) in saved.iter().filter(|(_, sure)| **sure) {
        assert!(listed.contains(step), "step {step} was acknowledged");
        for tensor in tensors(*step) {
            let mut bytes = Vec::new();
            store.checkpoint(&at(&format!("r@{step}"))).unwrap().read_tensor(&tensor.name, &mut bytes).unwrap();
            assert!(bytes == tensor.bytes, "step {step}");
        }
    }
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound(), "{report:?}");
}
