//! A store on a simulated disk, with a clock and a chance of its own: the same seed, the same store, bit for bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use treering::catalog::Filter;
use treering::disk::{Disk, SimulatedDisk};
use treering::env::{Env, Source, Time};
use treering::format::entry::{Body, Decoded, Entry};
use treering::format::keys::Key;
use treering::format::pack::{self, Footer, Row, TRAILER_BYTES};
use treering::id::{PackId, StoreId};
use treering::save::{BoxOf, Inputs, JointPart, MemoryTensor, SaveOptions};
use treering::store::{CatalogPlace, Options};
use treering::tensor::TensorMeta;
use treering::{ErrorKind, Store};

use crate::helpers::Tensor;

/// Where every simulated store lies.
pub(crate) const ROOT: &str = "/store";

/// No clock goes beyond this, however far it jumps: the year 2239.
const LAST: i64 = 8_500_000_000_000_000_000;

/// Chance that repeats, and a clock that only a test moves.
#[derive(Clone, Debug)]
pub(crate) struct Fate(Arc<(Mutex<u64>, AtomicI64)>);

impl Source for Fate {
    fn now(&self) -> Time {
        Time(self.0.1.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) {
        self.0.1.fetch_add(time.as_nanos() as i64, Ordering::Relaxed);
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
        let later = self.now().0.saturating_add(secs * 1_000_000_000);
        self.be(later.min(LAST), disk);
    }

    /// It is later than it ever was.
    pub(crate) fn pass_all(&self, disk: &SimulatedDisk) {
        self.be(LAST + LAST / 64, disk);
    }

    fn be(&self, nanos: i64, disk: &SimulatedDisk) {
        self.0.1.store(nanos, Ordering::Relaxed);
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

pub(crate) fn store_id(disk: &SimulatedDisk) -> StoreId {
    open(disk, &Fate::new(1)).unwrap().config().store
}

/// Opens the store as a process would that has no catalog.
pub(crate) fn open(disk: &SimulatedDisk, fate: &Fate) -> treering::Result<Store> {
    open_on(disk.clone(), disk, fate)
}

/// The same through another disk in front of that one.
pub(crate) fn open_on(disk: impl Disk + 'static, base: &SimulatedDisk, fate: &Fate) -> treering::Result<Store> {
    Store::open(ROOT, Options { disk: Some(Arc::new(disk)), ..options_on(base, fate) })
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

/// The same by two processes, of which so many store their parts. Each has half of the columns of a tensor that has a
/// middle; the others belong to the first.
pub(crate) fn save_together(
    store: &Store,
    tensors: &[Tensor],
    options: &SaveOptions,
    parts: u32,
) -> treering::Result<()> {
    save_from([store, store], tensors, options, parts)
}

/// The same, where the processes have opened the store each for itself.
pub(crate) fn save_from(
    stores: [&Store; 2],
    tensors: &[Tensor],
    options: &SaveOptions,
    parts: u32,
) -> treering::Result<()> {
    let mut joint = stores[0].begin_joint()?;
    for rank in 0..parts {
        let mut halves = Vec::new();
        for tensor in tensors {
            let elements: u64 = tensor.shape.iter().product();
            let width = tensor.bytes.len() / elements as usize;
            if elements.is_multiple_of(2) {
                let half = tensor.bytes.chunks_exact(width).skip(rank as usize).step_by(2).flatten().copied().collect();
                let of = BoxOf { shape: vec![elements / 2, 2], offsets: vec![0, rank.into()] };
                halves.push((tensor, vec![elements / 2, 1], half, Some(of)));
            } else if rank == 0 {
                halves.push((tensor, tensor.shape.clone(), tensor.bytes.clone(), None));
            }
        }
        let given = halves.iter().map(|(tensor, shape, bytes, of)| {
            let (name, dtype) = (tensor.name.clone(), treering::tensor::DType::new(tensor.dtype));
            let meta = TensorMeta { name, dtype, shape: shape.clone(), bytes: bytes.len() as u64 };
            (None, MemoryTensor { meta, bytes }, of.clone())
        });
        let part = JointPart { save: joint.id(), rank, ranks: 2 };
        stores[rank as usize].save_part(&part, &Inputs::shares(given.collect())?, options, "")?;
    }
    joint.wait(2, Duration::ZERO)?;
    joint.commit(options).map(drop)
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
    let mut seen = observe_all(store, &Filter { superseded: true, ..Filter::default() })?;
    for run in store.runs()? {
        if !run.run.policy.keeps.is_empty() || !run.run.policy.thins.is_empty() {
            seen.insert(format!("policy of {}", run.run.name), serde_json::to_string(&run.run.policy).unwrap());
        }
    }
    Ok(seen)
}

/// The checkpoints of one run, and what is said of them.
pub(crate) fn observe_run(store: &Store, run: &str) -> treering::Result<BTreeMap<String, String>> {
    observe_all(store, &Filter { run: Some(run.into()), superseded: true, ..Filter::default() })
}

fn observe_all(store: &Store, filter: &Filter) -> treering::Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    for row in store.log(filter)? {
        let address = row.address();
        let checkpoint = store.checkpoint(&address.parse()?)?;
        let mut tensors = Vec::new();
        for tensor in checkpoint.tensors()?.into_iter().filter(|tensor| tensor.id.is_some()) {
            let mut bytes = Vec::new();
            match checkpoint.read_tensor(&tensor.meta.name, &mut bytes) {
                Err(error) if error.kind() == ErrorKind::Damaged => bytes = b"damaged".to_vec(),
                read => drop(read?),
            }
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

/// Frames of a pack, taken apart: what a row says, and the body.
pub(crate) type Frames = Vec<(Row, Vec<u8>)>;

/// Writes the newest checkpoint's only pack anew, with other frames and every sum and hash made to fit: what somebody
/// could do who may write to the store.
pub(crate) fn forge(disk: &SimulatedDisk, change: impl FnOnce(&mut Frames)) {
    let store = store_id(disk);
    let slot = *slots(disk).last().unwrap();
    let path = Path::new(ROOT).join(Key::entry(slot).as_str());
    let Ok(Decoded::Entry(mut entry, _)) = Entry::decode(&disk.content(&path).unwrap(), store, slot) else { panic!() };
    let save = entry.save;
    let Body::Commit(commit) = &mut entry.body else { panic!("the newest entry is no commit") };
    let [new] = &mut commit.packs[..] else { panic!("{} packs", commit.packs.len()) };
    let id = PackId { save, index: new.index };
    let at = Path::new(ROOT).join(Key::pack(id).as_str());
    let old = disk.content(&at).unwrap();

    let trailer = old[old.len() - TRAILER_BYTES as usize..].try_into().unwrap();
    let (length, _) = pack::decode_trailer(&trailer, id, old.len() as u64).unwrap();
    let end = old.len() - TRAILER_BYTES as usize;
    let mut footer = Footer::decode(&old[end - length as usize..end], id, store, old.len() as u64).unwrap();
    let frame = |row: &Row| &old[row.offset as usize..][..row.frame_bytes as usize];
    let rows = std::mem::take(&mut footer.rows);
    let apart = |row: Row| (row.clone(), pack::frame_body(frame(&row), &row).unwrap().to_vec());
    let mut frames: Frames = rows.into_iter().map(apart).collect();
    change(&mut frames);

    let mut bytes = pack::header(store, id);
    for (mut row, body) in frames {
        row.offset = bytes.len() as u64;
        let mut frame = vec![row.codec.0, row.depth, row.bases.len() as u8];
        row.bases.iter().for_each(|base| frame.extend(base.0));
        frame.extend(body);
        (row.frame_bytes, row.crc) = (frame.len() as u32, crc32fast::hash(&frame));
        bytes.extend(frame);
        footer.rows.push(row);
    }
    let (end, hash) = footer.encode();
    bytes.extend(end);
    (new.bytes, new.footer) = (bytes.len() as u64, hash);
    disk.damage(&at, Some(bytes));
    disk.damage(&path, Some(entry.encode(store).unwrap().0));
}
