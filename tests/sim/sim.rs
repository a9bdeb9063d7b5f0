//! A store on a simulated disk, with a clock and a chance of its own: the same seed, the same store, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use treering::Store;
use treering::catalog::Filter;
use treering::disk::SimulatedDisk;
use treering::env::{Env, Source, Time};
use treering::save::{Inputs, MemoryTensor, SaveOptions};
use treering::store::{CatalogPlace, Options};
use treering::tensor::TensorMeta;

use crate::helpers::Tensor;

/// Where every simulated store lies.
pub(crate) const ROOT: &str = "/store";

/// Chance that repeats, and a clock that only a test moves.
#[derive(Clone, Debug)]
pub(crate) struct Fate(Arc<(Mutex<u64>, AtomicI64)>);

impl Source for Fate {
    fn now(&self) -> Time {
        Time(self.0.1.load(Ordering::Relaxed))
    }

    fn fill(&self, out: &mut [u8]) {
        out.iter_mut().for_each(|byte| *byte = self.below(256) as u8);
    }
}

impl Fate {
    pub(crate) fn new(seed: u64) -> Fate {
        Fate(Arc::new((Mutex::new(seed), AtomicI64::new(1_700_000_000_000_000_000))))
    }

    /// A number below `n`.
    pub(crate) fn below(&self, n: u64) -> u64 {
        let mut state = self.0.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    pub(crate) fn pass(&self, secs: i64, disk: &SimulatedDisk) {
        self.0.1.fetch_add(secs * 1_000_000_000, Ordering::Relaxed);
        disk.set_now(self.now());
    }
}

pub(crate) fn options_on(disk: &SimulatedDisk, fate: &Fate) -> Options {
    Options {
        threads: 1,
        pack_bytes: 4 << 10,
        env: Env::new(fate.clone()),
        disk: Some(Arc::new(disk.clone())),
        catalog: CatalogPlace::Memory,
        ..Options::default()
    }
}

pub(crate) fn create(disk: &SimulatedDisk, fate: &Fate) -> treering::Result<Store> {
    Store::create(ROOT, None, options_on(disk, fate))
}

/// Opens the store as a process would that has no catalog.
pub(crate) fn open(disk: &SimulatedDisk, fate: &Fate) -> treering::Result<Store> {
    Store::open(ROOT, options_on(disk, fate))
}

pub(crate) fn inputs(tensors: &[Tensor]) -> Inputs<'_> {
    let tensors = tensors.iter().map(|tensor| {
        let meta = TensorMeta {
            name: tensor.name.clone(),
            dtype: treering::tensor::DType::new(tensor.dtype),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes.len() as u64,
        };
        (None, MemoryTensor { meta, bytes: &tensor.bytes })
    });
    Inputs::tensors(tensors.collect()).unwrap()
}

pub(crate) fn save(store: &Store, tensors: &[Tensor], options: &SaveOptions) -> treering::Result<()> {
    store.save(&inputs(tensors), options).map(|_| ())
}

/// What a checkpoint of these tensors is restored to.
pub(crate) fn content_of(tensors: &[Tensor]) -> String {
    let mut sorted: Vec<&Tensor> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.name.split('.').next().unwrap().to_string());
    content(sorted.into_iter().map(|tensor| (tensor.name.clone(), tensor.bytes.clone())))
}

fn content(tensors: impl Iterator<Item = (String, Vec<u8>)>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in tensors {
        hasher.update(name.as_bytes()).update(&[0]).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    hasher.finalize().to_hex()[..16].to_string()
}

/// All that a store says of itself, in words: each kept checkpoint with its content, tags and metrics, each policy.
pub(crate) fn observe(store: &Store) -> treering::Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for row in store.log(&Filter { superseded: true, ..Filter::default() })? {
        let address = row.address();
        let checkpoint = store.checkpoint(&address.parse()?)?;
        let mut tensors = Vec::new();
        for tensor in checkpoint.tensors()?.into_iter().filter(|tensor| tensor.id.is_some()) {
            let mut bytes = Vec::new();
            checkpoint.read_tensor(&tensor.meta.name, &mut bytes)?;
            tensors.push((tensor.meta.name, bytes));
        }
        seen.insert(address.clone(), content(tensors.into_iter()));
        for tag in row.tags {
            seen.insert(format!("tag {}:{tag}", row.run), address.clone());
        }
        for (name, value) in row.metrics {
            seen.insert(format!("metric {name} of {address}"), value.0.to_string());
        }
    }
    for run in store.runs()? {
        if !run.run.policy.keeps.is_empty() || !run.run.policy.thins.is_empty() {
            seen.insert(format!("policy of {}", run.run.name), serde_json::to_string(&run.run.policy).unwrap());
        }
    }
    Ok(seen)
}

/// The slots of the log's folder, sorted.
pub(crate) fn slots(disk: &SimulatedDisk) -> Vec<u64> {
    let log = Path::new(ROOT).join("log");
    disk.files()
        .iter()
        .filter_map(|path| treering::format::keys::slot_of(path.strip_prefix(&log).ok()?.to_str()?))
        .collect()
}
