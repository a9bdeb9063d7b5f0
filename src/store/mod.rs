//! The opened store: what every journey meets in.
//!
//! A [`Store`] is a backend, the description in `treering.json`, and a catalog that has folded the log up to somewhere.
//! Reading from it needs no lock and writes nothing but the catalog.

mod address;
mod frame;
mod heal;
mod log;
mod lookup;
mod manifest;
mod pack_reader;
mod pack_writer;
mod place;
mod remake;
mod upgrade;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, LocalBackend};
use crate::catalog::{Catalog, Lease};
use crate::disk::{Disk, RealDisk};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::format::config::{self, Config, Shared};
use crate::format::keys::Key;
use crate::format::pack::TARGET_BYTES;
use crate::id::{Hash, StoreId};
use crate::monitor::{Monitor, Silent};

pub use address::{Address, Point};
pub(crate) use frame::{FrameBase, encode_frame};
pub(crate) use log::Voids;
pub(crate) use lookup::Lookup;
pub(crate) use manifest::{Manifest, needs_from, put_bytes, stored_as};
pub(crate) use pack_reader::{ChunkTool, HowStored, PackSet, WHOLE};
pub(crate) use pack_writer::{FrameInfo, PackWriter, Published};
pub use place::Durability;
pub(crate) use place::is_network;

/// Threads of one journey, at most.
const THREADS_MAX: usize = 256;

/// A store of checkpoints. Cheap to clone; all clones share one catalog.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    monitor: Arc<dyn Monitor>,
    threads: usize,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    backend: Arc<dyn Backend>,
    config: Config,
    /// The hash of `treering.json`: what the log's first entry follows.
    origin: Hash,
    options: Options,
    catalog: Mutex<Catalog>,
    /// Entries of others were folded and could not be made durable.
    unsure: AtomicBool,
    durability: Durability,
}

/// How a store is used in this process.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that hash, encode and decode. By default `TREERING_THREADS`, else the cores that this process may use.
    pub threads: usize,
    /// Bytes in flight between input and packs, at most.
    pub memory_bytes: usize,
    /// A pack is closed once its frames pass this many bytes; in a save that has 64 already, once they pass more.
    pub pack_bytes: u64,
    /// The clock and the chance.
    pub env: Env,
    /// The file system; by default the operating system's.
    pub disk: Option<Arc<dyn Disk>>,
    /// Where the catalog lies; by default beside the log, where that is a local file system.
    pub catalog: CatalogPlace,
}

/// Where the catalog lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CatalogPlace {
    /// In the store if it is on a local file system, else in `TREERING_CACHE`, else in a folder of this machine for
    /// temporary files, else in memory.
    #[default]
    Auto,
    /// In memory alone.
    Memory,
}

impl Default for Options {
    fn default() -> Options {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let asked =
            std::env::var("TREERING_THREADS").ok().and_then(|text| text.parse().ok()).filter(|&n: &usize| n > 0);
        Options {
            threads: asked.unwrap_or_else(cores).min(THREADS_MAX),
            memory_bytes: 192 << 20,
            pack_bytes: TARGET_BYTES,
            env: Env::system(),
            disk: None,
            catalog: CatalogPlace::Auto,
        }
    }
}

impl Store {
    /// Makes a store in the folder `root`, which may exist as long as it holds no store, and opens it.
    pub fn create(root: impl AsRef<Path>, shared: Option<Shared>, options: Options) -> Result<Store> {
        let root = root.as_ref();
        let config = Config::new(StoreId(options.env.random()), options.env.now(), shared);
        Store::backend_at(root, shared, &options).create_store(&config.encode())?;
        Store::open(root, options)
    }

    /// Opens the store in the folder `root`.
    pub fn open(root: impl AsRef<Path>, options: Options) -> Result<Store> {
        let root = root.as_ref();
        let missing = |_| Error::StoreMissing { path: root.to_path_buf() };
        let bytes = Store::backend_at(root, None, &options).read(&Key::config(), config::BYTES_MAX);
        let bytes = bytes.map_err(|e| if matches!(e, Error::ObjectMissing { .. }) { missing(e) } else { e })?;
        let config = Config::decode(&bytes, root)?;
        let backend = Arc::new(Store::backend_at(root, config.shared, &options));
        let origin = Hash::of(&bytes);
        let catalog = place::open_catalog(root, config.store, origin, &options)?;
        let durability = place::durability(root);
        let threads = options.threads;
        let inner = Inner {
            root: root.to_path_buf(),
            backend,
            config,
            origin,
            options,
            catalog: Mutex::new(catalog),
            unsure: AtomicBool::new(false),
            durability,
        };
        let store = Store { inner: Arc::new(inner), monitor: Arc::new(Silent), threads };
        store.refresh()?;
        Ok(store)
    }

    /// Removes the catalog of the store at `root`: the next opening reads the whole log, and believes it even if it is
    /// shorter than it was.
    pub fn forget_catalog(root: impl AsRef<Path>) -> Result<()> {
        let options = Options { catalog: CatalogPlace::Memory, ..Options::default() };
        let store = Store::open(root, options)?;
        place::places(store.root(), store.id()).iter().for_each(|path| Catalog::remove(path));
        Ok(())
    }

    /// The same store seen by a reader that knows nothing but the log and the packs.
    pub(crate) fn cold(&self) -> Result<Store> {
        let Inner { root, backend, config, origin, options, durability, .. } = &*self.inner;
        let inner = Inner {
            root: root.clone(),
            backend: backend.clone(),
            config: config.clone(),
            origin: *origin,
            options: options.clone(),
            catalog: Mutex::new(Catalog::in_memory(config.store, *origin)?),
            unsure: AtomicBool::new(false),
            durability: *durability,
        };
        let cold = Store { inner: Arc::new(inner), ..self.clone() };
        cold.refresh()?;
        Ok(cold)
    }

    /// The same store, with someone who hears how far its journeys are and may stop them.
    #[must_use]
    pub fn with_monitor(&self, monitor: Arc<dyn Monitor>) -> Store {
        Store { monitor, ..self.clone() }
    }

    /// The same store, whose journeys use so many threads. These take over the priority of the thread that begins the
    /// journey, so that work in the background can be made to give way.
    #[must_use]
    pub fn with_threads(&self, threads: usize) -> Store {
        Store { threads: threads.clamp(1, THREADS_MAX), ..self.clone() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What an acknowledged save survives on this file system.
    pub fn durability(&self) -> Durability {
        self.inner.durability
    }

    /// Bytes left on its device.
    pub fn space_left(&self) -> Option<u64> {
        self.inner.backend.space_left()
    }

    /// How this process uses it.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    pub(crate) fn id(&self) -> StoreId {
        self.inner.config.store
    }

    /// What the first entry of the log follows.
    pub(crate) fn origin(&self) -> Option<Hash> {
        Some(self.inner.origin)
    }

    pub(crate) fn env(&self) -> &Env {
        &self.inner.options.env
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.inner.backend
    }

    pub(crate) fn monitor(&self) -> &dyn Monitor {
        &*self.monitor
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Fails once somebody asked to stop.
    pub(crate) fn check_stop(&self) -> Result<()> {
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Fails if one of these checkpoints has a lease that did not end.
    pub(crate) fn check_unleased(&self, catalog: &Catalog, slots: &[u64]) -> Result<()> {
        let now = self.env().now();
        let asked: HashSet<u64> = slots.iter().copied().collect();
        let held = |lease: &Lease| lease.until > now && asked.contains(&lease.slot);
        let Some(lease) = catalog.leases()?.into_iter().filter(held).max_by_key(|lease| lease.until) else {
            return Ok(());
        };
        Err(Error::Leased {
            checkpoint: catalog.checkpoint(lease.slot)?.map_or(String::new(), |row| row.address()),
            until: lease.until.to_rfc3339(),
            purpose: lease.purpose,
        })
    }

    /// The catalog. Held for a question or for the fold of an entry, never while data is read or written.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.inner.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backend_at(root: &Path, shared: Option<Shared>, options: &Options) -> LocalBackend {
        let disk = options.disk.clone().unwrap_or_else(|| Arc::new(RealDisk::new(shared)));
        LocalBackend::new(disk, root, options.env.clone())
    }
}
