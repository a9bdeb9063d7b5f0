//! Memory that has what the parent was: a save reads no bases then, stores the same, and believes none of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use treering::disk::SimulatedDisk;
use treering::save::{Inputs, MemoryTensor, SaveReport};
use treering::store::Options;
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;
use treering::{Result, Store};

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{Tensor, at, options, trained};
use crate::sim::{self, Fate, ROOT};

/// Steps before the one that is looked at: chains of some links.
const STEPS: u64 = 4;

/// A store with some steps of a training, the same each time, and a count of what is read from its packs.
struct Trained {
    disk: SimulatedDisk,
    store: Store,
    reads: Arc<AtomicUsize>,
}

impl Trained {
    fn new() -> Trained {
        let (disk, fate) = (SimulatedDisk::new(), Fate::new(7));
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let counting = FaultyDisk::new(disk.clone(), move |act, path| {
            let in_pack = act == Act::Read && path.starts_with(PathBuf::from(ROOT).join("packs"));
            counted.fetch_add(usize::from(in_pack), Ordering::Relaxed);
            Say::Go
        });
        let store = Options { disk: Some(Arc::new(counting)), ..sim::options_on(&disk, &fate) };
        let store = Store::create(ROOT, None, store).unwrap();
        for step in 1..=STEPS {
            sim::save(&store, &trained(step), &options("r", step)).unwrap();
        }
        Trained { disk, store, reads }
    }

    /// Saves the next step. Returns what was read from packs meanwhile.
    fn save(&self, tensors: &[Tensor], before: &[Tensor]) -> Result<(SaveReport, usize)> {
        let inputs = inputs(tensors).with_before(before.iter().map(memory).collect());
        self.reads.store(0, Ordering::Relaxed);
        let report = self.store.save(&inputs, &options("r", STEPS + 1))?;
        let reads = self.reads.load(Ordering::Relaxed);
        let checkpoint = self.store.checkpoint(&at(&format!("r@{}", STEPS + 1)))?;
        for tensor in tensors {
            let mut bytes = Vec::new();
            checkpoint.read_tensor(&tensor.name, &mut bytes)?;
            assert!(bytes == tensor.bytes, "{}", tensor.name);
        }
        assert!(self.store.verify(Depth::Deep)?.is_sound());
        Ok((report, reads))
    }

    fn packs(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let packs = self.disk.files().into_iter().filter(|path| path.starts_with(PathBuf::from(ROOT).join("packs")));
        packs.map(|path| (path.clone(), self.disk.content(&path))).collect()
    }
}

fn inputs(tensors: &[Tensor]) -> Inputs<'_> {
    Inputs::tensors(tensors.iter().map(memory).collect()).unwrap()
}

fn memory(tensor: &Tensor) -> (Option<String>, MemoryTensor<'_>) {
    let (dtype, bytes) = (DType::new(tensor.dtype), tensor.bytes.len() as u64);
    let meta = TensorMeta { name: tensor.name.clone(), dtype, shape: tensor.shape.clone(), bytes };
    (None, MemoryTensor { meta, bytes: &tensor.bytes })
}

#[test]
fn bases_in_memory_are_not_read_and_nothing_else_is_stored() {
    let without = Trained::new();
    let (report, reads) = without.save(&trained(STEPS + 1), &[]).unwrap();
    assert_eq!(report.bases_in_memory, 0);
    let unchanged = Trained::new();
    let (_, reads_of_unchanged) = unchanged.save(&trained(STEPS), &[]).unwrap();
    assert!(reads > reads_of_unchanged, "a save that has bases reads {reads} times");

    let with = Trained::new();
    let (report, reads) = with.save(&trained(STEPS + 1), &trained(STEPS)).unwrap();
    assert!(report.bases_in_memory > 0);
    assert_eq!(reads, reads_of_unchanged);
    assert!(with.packs() == without.packs(), "other bytes were stored");
}

#[test]
fn memory_that_is_not_what_the_parent_was_is_not_believed() {
    let sound = Trained::new();
    let all = sound.save(&trained(STEPS + 1), &trained(STEPS)).unwrap().0.bases_in_memory;
    // The one in 16 bits is the cast of another, and has no base.
    for n in (0..trained(0).len()).filter(|&n| trained(0)[n].dtype == "F32") {
        for at in [0, trained(0)[n].bytes.len() / 2, trained(0)[n].bytes.len() - 1] {
            let mut before = trained(STEPS);
            before[n].bytes[at] ^= 1;
            let damaged = Trained::new();
            let (report, _) = damaged.save(&trained(STEPS + 1), &before).unwrap();
            assert!(report.bases_in_memory < all, "{} at {at}", before[n].name);
            assert!(damaged.packs() == sound.packs(), "{} at {at}: other bytes were stored", before[n].name);
        }
    }
}

#[test]
fn memory_of_another_step_type_or_shape_is_of_no_use_and_no_harm() {
    let sound = Trained::new();
    sound.save(&trained(STEPS + 1), &[]).unwrap();
    let like = |change: &dyn Fn(&mut Tensor)| {
        let mut tensors = trained(STEPS);
        tensors.iter_mut().for_each(change);
        tensors
    };
    let others = [
        trained(STEPS - 1),
        trained(STEPS + 1),
        like(&|tensor| tensor.dtype = if tensor.dtype == "F32" { "I32" } else { tensor.dtype }),
        like(&|tensor| tensor.shape.insert(0, 1)),
        like(&|tensor| tensor.name += ".other"),
        like(&|tensor| tensor.bytes.clear()),
        like(&|tensor| tensor.bytes.truncate(tensor.bytes.len() / 2)),
    ];
    for (n, before) in others.iter().enumerate() {
        let other = Trained::new();
        let (report, _) = other.save(&trained(STEPS + 1), before).unwrap();
        assert_eq!(report.bases_in_memory, 0, "{n}");
        assert!(other.packs() == sound.packs(), "{n}: other bytes were stored");
    }
}
