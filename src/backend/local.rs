//! Objects in a folder of a local, or mounted, file system.
//!
//! An object is written under a temporary name, synced, and then linked to its key: a link fails where a rename would
//! overwrite. The folder is synced before anyone is told. Temporary files lie in `tmp/SAVEID/`, whose lock a living
//! saver holds: one that died is known by its lock being free, whatever its age.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Backend, LyingPack, Object, Sink, Staging};
use crate::disk::{Disk, DiskFile, FileSystem, Lock, Name};
use crate::env::{Env, Time};
use crate::error::{Context, Error, Result};
use crate::format::keys::{self, Key};
use crate::id::{PackId, SaveId};

const LOCK: &str = "lock";
/// Times that a save tries to get a folder of its own.
const BEGIN_TRIES: u32 = 100;
/// Times that an entry's file is written, if it vanishes before it has its name.
const ENTRY_TRIES: u32 = 3;
const ENTRY_PREFIX: &str = "entry-";
/// Temporary files of entries that are older than this belong to nobody.
const STALE_SECS: u64 = 3600;
/// On a network file system the lock of a saver on another machine may not be seen: what changed within so long is its own.
const ABANDONED_SECS: u64 = 24 * 3600;
/// What a machine knows of a folder it may believe for so long: a minute, where NFS is mounted without further words.
const NETWORK_LAG: Duration = Duration::from_secs(65);
/// Readers on other machines may go on with what was forgotten for so long, where a file that is removed is gone for who
/// has opened it.
const NETWORK_GRACE: Duration = Duration::from_secs(15 * 60);
/// Files are compared in pieces of this size.
const COMPARE_BYTES: usize = 1 << 20;
/// Room for the largest entry and what surrounds it.
const RESERVE_BYTES: usize = 2 << 20;

/// A store's folder.
#[derive(Clone, Debug)]
pub struct LocalBackend {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    env: Env,
}

impl LocalBackend {
    /// The folder at `root`, through `disk`.
    pub fn new(disk: Arc<dyn Disk>, root: &Path, env: Env) -> LocalBackend {
        LocalBackend { disk, root: root.to_path_buf(), env }
    }

    /// Makes the folders of a new store and writes its description last: without that it is no store.
    pub fn create_store(&self, config: &[u8]) -> Result<()> {
        if self.disk.open(&self.path(&Key::config())).is_ok() {
            return Err(Error::StoreExists { path: self.root.clone() });
        }
        self.make_folder(&self.root)?;
        for folder in keys::folders() {
            self.make_folder(&self.root.join(folder))?;
        }
        self.sync_folder(&self.root.join(keys::PACKS))?;
        self.make_reserve();
        // A description that a crash keeps without the folders would be a store that its next user has to mend.
        self.sync_folder(&self.root)?;
        self.check_exclusive()?;
        let temporary = self.temporary_name();
        self.write_new(&temporary, config)?;
        let linked = self.link_own(&temporary, &Key::config());
        self.discard(&temporary);
        linked.map_err(|e| match e {
            Error::ObjectExists { .. } => Error::StoreExists { path: self.root.clone() },
            other => other,
        })?;
        self.sync_folder(&self.root)?;
        // The store's own name is as durable as its content only once its parent is synced.
        match self.root.canonicalize().unwrap_or_else(|_| self.root.clone()).parent() {
            Some(parent) => self.sync_folder(parent),
            None => Ok(()),
        }
    }

    /// Other machines use the same files.
    fn is_network(&self) -> bool {
        self.disk.kind(&self.root) == FileSystem::Network
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary_name(&self) -> PathBuf {
        self.root.join(keys::TMP).join(format!("{ENTRY_PREFIX}{}", SaveId(self.env.random())))
    }

    fn make_folder(&self, path: &Path) -> Result<()> {
        match self.disk.make_folder(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.context("create folder", path),
        }
    }

    fn sync_folder(&self, path: &Path) -> Result<()> {
        self.disk.sync_folder(path).context("sync folder", path)
    }

    /// Does what needs the folder of this path, which a copy of a store may lack if it was empty: then it is made.
    fn in_folder<T>(&self, path: &Path, act: &dyn Fn() -> io::Result<T>) -> io::Result<T> {
        match (act(), path.parent()) {
            (Err(e), Some(folder)) if e.kind() == io::ErrorKind::NotFound && folder != self.root => {
                match self.in_folder(folder, &|| self.disk.make_folder(folder)) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                    _ => folder.parent().map_or(Ok(()), |above| self.disk.sync_folder(above))?,
                }
                act()
            }
            (done, _) => done,
        }
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let created = self.in_folder(path, &|| self.disk.create(path)).context("create", path);
        let written = created.and_then(|mut file| {
            file.append(bytes).context("write", path)?;
            file.sync().context("sync", path)
        });
        if written.is_err() {
            self.discard(path);
        }
        written
    }

    fn link_entry(&self, slot: u64, bytes: &[u8]) -> Result<()> {
        let temporary = self.temporary_name();
        self.write_new(&temporary, bytes)?;
        let linked = self.link_new(&temporary, &Key::entry(slot));
        self.discard(&temporary);
        linked
    }

    fn link_new(&self, from: &Path, key: &Key) -> Result<()> {
        let to = self.path(key);
        self.in_folder(&to, &|| self.disk.link(from, &to)).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::ObjectExists { object: key.to_string() },
            io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied if !self.may_link() => Error::Unsupported {
                what: format!("the file system at {} has no hard links, which a store needs", self.root.display()),
            },
            _ => Error::Io { op: "link", path: to.clone(), source },
        })
    }

    /// The same for what nobody else can make: where the answer to a link was lost and it was sent again, its own name is
    /// in the way.
    fn link_own(&self, from: &Path, key: &Key) -> Result<()> {
        match self.link_new(from, key) {
            Err(Error::ObjectExists { .. }) if self.is_same(from, &self.path(key)).unwrap_or(false) => Ok(()),
            linked => linked,
        }
    }

    fn is_same(&self, a: &Path, b: &Path) -> io::Result<bool> {
        let (a, b) = (self.disk.open(a)?, self.disk.open(b)?);
        let bytes = a.bytes()?;
        if bytes != b.bytes()? {
            return Ok(false);
        }
        let mut buffers = [vec![0; COMPARE_BYTES.min(bytes as usize)], vec![0; COMPARE_BYTES.min(bytes as usize)]];
        for offset in (0..bytes).step_by(COMPARE_BYTES) {
            let length = COMPARE_BYTES.min((bytes - offset) as usize);
            a.read_exact_at(&mut buffers[0][..length], offset)?;
            b.read_exact_at(&mut buffers[1][..length], offset)?;
            if buffers[0][..length] != buffers[1][..length] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells a file system without links from a folder that may not be written.
    fn may_link(&self) -> bool {
        let (a, b) = (self.temporary_name(), self.temporary_name());
        let works = self.disk.create(&a).is_err() || self.disk.link(&a, &b).is_ok();
        self.discard(&a);
        self.discard(&b);
        works
    }

    /// Slots of the log are taken by links: a name must not be given twice. Where there are no links at all, that is for
    /// the first one that counts to say.
    fn check_exclusive(&self) -> Result<()> {
        let (a, b) = (self.temporary_name(), self.temporary_name());
        self.write_new(&a, b"")?;
        let twice = [(); 2].map(|()| self.disk.link(&a, &b).map_err(|e| e.kind()));
        self.discard(&a);
        self.discard(&b);
        match twice {
            [Err(_), _] | [_, Err(io::ErrorKind::AlreadyExists)] => Ok(()),
            _ => Err(Error::Unsupported {
                what: format!(
                    "the file system at {} gives a name twice, so writers cannot share a store",
                    self.root.display()
                ),
            }),
        }
    }

    /// Removes a file. That it is gone already may be the answer to the same, sent twice.
    fn remove(&self, path: &Path) -> Result<()> {
        match self.disk.unlink(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("remove", path),
        }
    }

    /// A temporary file that is not removed is found by the next collection.
    fn discard(&self, path: &Path) {
        let _ = self.disk.unlink(path);
    }

    fn list(&self, folder: &str) -> Result<Vec<Name>> {
        let path = self.root.join(folder);
        match self.disk.list(&path) {
            // Copies of a store may lack its empty folders.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.context("list", &path),
        }
    }

    /// The packs in a folder. A foreign file is left alone.
    fn packs_below(&self, folder: &str) -> Result<impl Iterator<Item = LyingPack> + use<>> {
        let lying =
            |name: Name| Some(LyingPack { pack: name.name.parse().ok()?, bytes: name.bytes, since: name.modified });
        Ok(self.list(folder)?.into_iter().filter_map(lying))
    }

    /// Removes a save's place, whose lock the caller holds: alone, but over a network.
    fn remove_staging(&self, folder: &Path) -> Result<()> {
        let inside = match self.disk.list(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.context("list", folder)?,
        };
        for name in inside {
            if name.name != LOCK {
                self.remove(&folder.join(&name.name))?;
            }
        }
        // The lock goes last: until then a second reaper keeps away.
        self.remove(&folder.join(LOCK))?;
        self.remove_emptied(folder)
    }

    /// Removes a folder whose files are gone. Somebody else may have done so by now; or a process of a joint save that
    /// woke late has brought something, which goes with the next collection.
    fn remove_emptied(&self, folder: &Path) -> Result<()> {
        match self.disk.remove_folder(folder) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
            removed => removed.context("remove", folder),
        }
    }
}

impl Backend for LocalBackend {
    fn begin(&self, save: SaveId) -> Result<Box<dyn Staging>> {
        let folder = self.root.join(keys::tmp_folder(save));
        for _ in 0..BEGIN_TRIES {
            match self.in_folder(&folder, &|| self.disk.make_folder(&folder)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.context("create folder", &folder)?,
            }
            // A collection that looks at just this moment may take the lock, or the folder, for that of a dead save.
            match self.disk.lock(&folder.join(LOCK)) {
                Ok(Some(lock)) => {
                    let published = AtomicBool::new(false);
                    return Ok(Box::new(LocalStaging { backend: self.clone(), folder, published, lock: Some(lock) }));
                }
                Ok(None) => std::thread::yield_now(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context("lock", &folder),
            }
        }
        Err(Error::Stale { what: format!("the folder {}", folder.display()) })
    }

    fn join(&self, save: SaveId) -> Result<Box<dyn Staging>> {
        if !self.is_staged(save)? {
            return Err(Error::Stale { what: format!("save {save}") });
        }
        let folder = self.root.join(keys::tmp_folder(save));
        Ok(Box::new(LocalStaging { backend: self.clone(), folder, published: AtomicBool::new(false), lock: None }))
    }

    fn put_receipt(&self, save: SaveId, rank: u32, bytes: &[u8]) -> Result<()> {
        // It need not outlive a power loss: the save that waits for it would not either.
        let temporary = self.root.join(keys::tmp_folder(save)).join(format!("receipt-{rank}"));
        let mut file = staged(self.disk.create(&temporary), "create", &temporary)?;
        staged(file.append(bytes), "write", &temporary)?;
        drop(file);
        self.link_own(&temporary, &Key::receipt(save, rank)).map_err(|e| unless_gone(e, &temporary))
    }

    fn remove_receipts(&self, save: SaveId) -> Result<()> {
        let folder = self.root.join(keys::PARTS).join(save.to_string());
        let inside = match self.disk.list(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.context("list", &folder)?,
        };
        for name in inside {
            self.discard(&folder.join(name.name));
        }
        self.remove_emptied(&folder)
    }

    fn put_entry(&self, slot: u64, bytes: &[u8]) -> Result<()> {
        let mut linked = self.link_entry(slot, bytes);
        // Whoever sleeps long enough finds that a collection has taken the file for one of a dead process.
        for _ in 1..ENTRY_TRIES {
            match &linked {
                Err(Error::Io { source, .. }) if is_gone(source) => linked = self.link_entry(slot, bytes),
                _ => break,
            }
        }
        linked?;
        // The name is there, but may not be durable: nobody knows.
        self.sync_log().map_err(|e| Error::Unknown { slot, source: Box::new(e) })
    }

    fn sync_log(&self) -> Result<()> {
        self.sync_folder(&self.root.join(keys::LOG))
    }

    fn read(&self, key: &Key, bytes_max: usize) -> Result<Vec<u8>> {
        let object = self.open(key)?;
        let length = usize::try_from(object.bytes()).ok().filter(|&n| n <= bytes_max);
        let length =
            length.ok_or_else(|| Error::damaged(key.as_str(), format!("it is {} bytes long", object.bytes())))?;
        let mut bytes = vec![0; length];
        object.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn Object>> {
        let path = self.path(key);
        let opened = self.disk.open(&path).and_then(|file| Ok((file.bytes()?, file)));
        let (bytes, file) = opened.map_err(|source| match is_gone(&source) {
            true => Error::ObjectMissing { object: key.to_string() },
            false => Error::Io { op: "open", path: path.clone(), source },
        })?;
        Ok(Arc::new(LocalObject { file, bytes, path, key: key.clone() }))
    }

    fn slots(&self) -> Result<Vec<u64>> {
        let mut slots: Vec<u64> = self.list(keys::LOG)?.iter().filter_map(|name| keys::slot_of(&name.name)).collect();
        slots.sort_unstable();
        Ok(slots)
    }

    fn log_bytes(&self) -> Result<u64> {
        Ok(self.list(keys::LOG)?.iter().map(|name| name.bytes).sum())
    }

    fn packs(&self) -> Result<Vec<LyingPack>> {
        let mut packs = Vec::new();
        for folder in self.list(keys::PACKS)?.into_iter().filter(|name| name.folder) {
            packs.extend(self.packs_below(&format!("{}/{}", keys::PACKS, folder.name))?);
        }
        packs.sort_unstable_by_key(|lying| lying.pack);
        Ok(packs)
    }

    fn delete_pack(&self, pack: PackId) -> Result<()> {
        self.remove(&self.path(&Key::pack(pack)))
    }

    fn sync_deletions(&self, packs: &[PackId]) -> Result<()> {
        folders_of(packs).iter().try_for_each(|folder| self.sync_folder(&self.root.join(folder)))
    }

    fn packs_of(&self, save: SaveId) -> Result<Vec<(PackId, u64)>> {
        let key = Key::pack(PackId { save, index: 0 });
        let folder = key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        Ok(self
            .packs_below(folder)?
            .map(|lying| (lying.pack, lying.bytes))
            .filter(|(pack, _)| pack.save == save)
            .collect())
    }

    fn reap(&self, now: Time, bury: &mut dyn FnMut(SaveId) -> Result<()>) -> Result<()> {
        let stale = now.minus_secs(STALE_SECS);
        // Where locks say all, age says nothing.
        let abandoned = if self.is_network() { now.minus_secs(ABANDONED_SECS) } else { Time(i64::MAX) };
        for name in self.list(keys::TMP)? {
            let Ok(save) = name.name.parse::<SaveId>() else {
                if !name.folder && name.modified < stale && name.name.starts_with(ENTRY_PREFIX) {
                    self.discard(&self.root.join(keys::TMP).join(&name.name));
                }
                continue;
            };
            let folder = self.root.join(keys::tmp_folder(save));
            // Without a lock file it is being made right now, or was left by a crash long ago.
            let inside = self.disk.list(&folder).unwrap_or_default();
            if name.modified >= stale && inside.iter().all(|file| file.name != LOCK) {
                continue;
            }
            if newest(&name, &inside) >= abandoned {
                continue;
            }
            // Taking the lock proves that its owner is gone, or was on another machine a day ago. It is held until the
            // folder is empty.
            match self.disk.lock(&folder.join(LOCK)) {
                Ok(Some(_lock)) => {
                    bury(save)?;
                    self.remove_receipts(save)?;
                    self.remove_staging(&folder)?;
                }
                Ok(None) => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e).context("lock", &folder),
            }
        }
        // Receipts whose save has no place any more: a power loss may keep the one and take the other.
        for name in self.list(keys::PARTS)? {
            let Ok(save) = name.name.parse::<SaveId>() else { continue };
            let inside = self.disk.list(&self.root.join(keys::PARTS).join(&name.name)).unwrap_or_default();
            if newest(&name, &inside) < abandoned && !self.is_staged(save)? {
                self.remove_receipts(save)?;
            }
        }
        Ok(())
    }

    fn is_staged(&self, save: SaveId) -> Result<bool> {
        let folder = self.root.join(keys::tmp_folder(save));
        match self.disk.list(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            listed => listed.map(|_| true).context("list", &folder),
        }
    }

    fn temporary(&self) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for name in self.list(keys::TMP)? {
            let inside = if name.folder { self.list(&format!("{}/{}", keys::TMP, name.name))? } else { vec![name] };
            for file in inside.iter().filter(|file| !["reserve", LOCK].contains(&file.name.as_str())) {
                files += 1;
                bytes += file.bytes;
            }
        }
        Ok((files, bytes))
    }

    fn release_reserve(&self) -> bool {
        self.disk.unlink(&self.root.join(keys::RESERVE)).is_ok()
    }

    fn make_reserve(&self) {
        let path = self.root.join(keys::RESERVE);
        let there = self.disk.open(&path).and_then(|file| file.bytes());
        if there.is_ok_and(|bytes| bytes >= RESERVE_BYTES as u64) {
            return;
        }
        // Whole or not at all: half a reserve, as a crash may leave it, might not be enough for an entry.
        self.discard(&path);
        let Ok(mut file) = self.disk.create(&path) else { return };
        if file.append(&vec![0; RESERVE_BYTES]).and_then(|()| file.sync()).is_err() {
            self.discard(&path);
        }
    }

    fn lag(&self) -> Duration {
        if self.is_network() { NETWORK_LAG } else { Duration::ZERO }
    }

    fn grace(&self) -> Duration {
        if self.is_network() { NETWORK_GRACE } else { Duration::ZERO }
    }

    fn space_left(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// When a folder, or a file in it, changed last.
fn newest(folder: &Name, inside: &[Name]) -> Time {
    inside.iter().map(|file| file.modified).fold(folder.modified, Time::max)
}

fn folders_of(packs: &[PackId]) -> Vec<String> {
    let folder = |pack: &PackId| Key::pack(*pack).as_str().rsplit_once('/').map(|(folder, _)| folder.to_string());
    let mut folders: Vec<String> = packs.iter().filter_map(folder).collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

/// On a network file system a file that another machine removed is gone for whoever has it open, too.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

/// What was done with a file of a save's place. If it is gone, somebody took the save for dead.
fn staged<T>(done: io::Result<T>, op: &'static str, path: &Path) -> Result<T> {
    done.context(op, path).map_err(|e| unless_gone(e, path))
}

fn unless_gone(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { source, .. } if is_gone(&source) => {
            Error::Stale { what: format!("the folder {}", path.parent().unwrap_or(path).display()) }
        }
        other => other,
    }
}

#[derive(Debug)]
struct LocalObject {
    file: Box<dyn DiskFile>,
    bytes: u64,
    path: PathBuf,
    key: Key,
}

impl Object for LocalObject {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(self.key.as_str(), "it is too short"),
            _ if is_gone(&source) => Error::ObjectMissing { object: self.key.to_string() },
            _ => Error::Io { op: "read", path: self.path.clone(), source },
        })
    }
}

#[derive(Debug)]
struct LocalStaging {
    backend: LocalBackend,
    folder: PathBuf,
    published: AtomicBool,
    /// Held by whoever began the save; the place is theirs.
    lock: Option<Box<dyn Lock>>,
}

impl LocalStaging {
    fn temporary(&self, pack: PackId) -> PathBuf {
        self.folder.join(pack.index.to_string())
    }
}

impl Staging for LocalStaging {
    fn create(&self, pack: PackId) -> Result<Box<dyn Sink>> {
        let path = self.temporary(pack);
        let file = staged(self.backend.disk.create(&path), "create", &path)?;
        Ok(Box::new(LocalSink { disk: self.backend.disk.clone(), file: Some(file), path }))
    }

    fn publish(&self, packs: &[PackId]) -> Result<()> {
        self.published.store(true, Ordering::Relaxed);
        for &pack in packs {
            let from = self.temporary(pack);
            self.backend.link_own(&from, &Key::pack(pack)).map_err(|e| unless_gone(e, &from))?;
        }
        folders_of(packs).iter().try_for_each(|folder| self.backend.sync_folder(&self.backend.root.join(folder)))
    }

    fn clear(self: Box<Self>) {
        self.published.store(false, Ordering::Relaxed);
    }
}

impl Drop for LocalStaging {
    fn drop(&mut self) {
        // What stays behind is reaped by a collection, once the lock is free.
        if self.lock.is_some() && !self.published.load(Ordering::Relaxed) {
            let _ = self.backend.remove_staging(&self.folder);
        }
    }
}

/// Between flush and finish no descriptor is held: a save has as many packs as it likes.
#[derive(Debug)]
struct LocalSink {
    disk: Arc<dyn Disk>,
    file: Option<Box<dyn DiskFile>>,
    path: PathBuf,
}

impl LocalSink {
    fn file(&mut self) -> Result<&mut Box<dyn DiskFile>> {
        if self.file.is_none() {
            self.file = Some(staged(self.disk.open_append(&self.path), "open", &self.path)?);
        }
        Ok(self.file.as_mut().expect("it was just opened"))
    }
}

impl Sink for LocalSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file()?.append(bytes);
        staged(written, "write", &self.path)
    }

    fn flush(&mut self) -> Result<()> {
        let synced = self.file()?.sync();
        self.file = None;
        staged(synced, "sync", &self.path)
    }

    fn finish(mut self: Box<Self>, end: &[u8]) -> Result<()> {
        self.append(end)?;
        self.flush()
    }
}
