//! A disk in memory that forgets what was not synced: for tests of what a crash leaves, and of damage.
//!
//! Every operation that changes something is numbered and kept in a journal. The states in which a crash after any of
//! them may leave the disk are made from the journal, so what led there has to run only once.
//!
//! # What a crash may leave
//! * Of a file: what was synced, and behind that nothing, a part of what was written, zeros, old blocks, or all of it.
//! * Of a name: what its folder's last sync made durable, or what any operation since then made of it; each name on its
//!   own, in every combination.
//! * A folder whose own name is lost takes along all that is in it, synced or not.
//!
//! That is less than any file system in use keeps. A store that survives this survives those.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, FileSystem, Lock, Name};
use crate::env::Time;

/// A disk in memory, as one process sees it. Clones are the same process.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
    process: Arc<Process>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// What the file system's clock says.
    now: AtomicI64,
}

#[derive(Debug)]
struct Inner {
    /// The state before the first operation of the journal.
    origin: State,
    journal: Vec<Operation>,
    state: State,
    locked: BTreeSet<FileId>,
    /// The operation of this number fails, once.
    fault: Option<(usize, io::ErrorKind)>,
}

/// Someone who uses the disk, and who may die.
#[derive(Debug)]
struct Process {
    left: AtomicU64,
    dead: AtomicBool,
}

type FileId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    File(FileId),
    Folder,
}

#[derive(Clone, Debug)]
enum Operation {
    Create(PathBuf, i64),
    Append(FileId, Arc<[u8]>, i64),
    Sync(FileId),
    /// The pages were dropped, and no later sync will tell.
    SyncFailed(FileId),
    Link(FileId, PathBuf),
    Unlink(PathBuf),
    MakeFolder(PathBuf),
    RemoveFolder(PathBuf),
    SyncFolder(PathBuf),
}

#[derive(Clone, Debug)]
struct State {
    files: BTreeMap<FileId, File>,
    /// The names in each folder, as programs see them.
    folders: BTreeMap<String, Arc<BTreeMap<String, Node>>>,
    /// For each name that changed since its folder was synced: all that it was since then, what is durable first.
    unsynced: BTreeMap<Place, Vec<Option<Node>>>,
}

/// A folder's path, and a name in it.
type Place = (String, String);

#[derive(Clone, Debug, Default)]
struct File {
    /// What programs read.
    bytes: Arc<Vec<u8>>,
    /// What a crash leaves at least.
    durable: Arc<Vec<u8>>,
    modified: i64,
}

/// What becomes of the part of a file that was not synced.
const TAILS: [Tail; 5] = [Tail::Lost, Tail::Part, Tail::Zeros, Tail::Old, Tail::Whole];

#[derive(Clone, Copy, Debug)]
enum Tail {
    Lost,
    Part,
    Zeros,
    Old,
    Whole,
}

impl SimulatedDisk {
    /// An empty disk; its root `/` is there.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::with(State::empty(), 0)
    }

    fn with(state: State, now: i64) -> SimulatedDisk {
        let inner = Inner { origin: state.clone(), journal: Vec::new(), state, locked: BTreeSet::new(), fault: None };
        let shared = Shared { inner: Mutex::new(inner), now: AtomicI64::new(now) };
        SimulatedDisk { shared: Arc::new(shared), process: Process::new(u64::MAX) }
    }

    /// The same disk for another process, which dies after so many operations: from then on it sees nothing but
    /// errors.
    #[must_use]
    pub fn process(&self, operations: u64) -> SimulatedDisk {
        SimulatedDisk { shared: self.shared.clone(), process: Process::new(operations) }
    }

    /// Ends this process.
    pub fn kill(&self) {
        self.process.dead.store(true, Ordering::Relaxed);
    }

    /// True once this process has died.
    pub fn is_dead(&self) -> bool {
        self.process.dead.load(Ordering::Relaxed)
    }

    /// A copy with a journal of its own, in which all that was written is durable.
    #[must_use]
    pub fn settled(&self) -> SimulatedDisk {
        let mut state = self.inner().state.clone();
        state.settle();
        SimulatedDisk::with(state, self.shared.now.load(Ordering::Relaxed))
    }

    /// How many operations there were.
    pub fn operations(&self) -> usize {
        self.inner().journal.len()
    }

    /// Sets the clock of the file system.
    pub fn set_now(&self, now: Time) {
        self.shared.now.store(now.0, Ordering::Relaxed);
    }

    /// Lets the operation of this number, counted as [`SimulatedDisk::operations`] does, fail like this, once. A sync
    /// that fails loses what it should have kept, and the next one does not tell.
    pub fn fail_at(&self, operation: usize, how: io::ErrorKind) {
        self.inner().fault = Some((operation, how));
    }

    /// What a crash of the machine may leave of this disk: all combinations if there are no more than `max`, else the
    /// corners (everything, nothing, each alone, all but each) and others chosen by `seed`.
    pub fn crashes(&self, max: usize, seed: u64) -> Vec<SimulatedDisk> {
        self.inner().state.crashes(max, seed, self.shared.now.load(Ordering::Relaxed))
    }

    /// The same for a crash after each operation so far, in turn: calls `see` with the number of operations before it.
    pub fn crashes_everywhere(&self, max: usize, seed: u64, see: &mut dyn FnMut(usize, Vec<SimulatedDisk>)) {
        let (origin, journal) = {
            let inner = self.inner();
            (inner.origin.clone(), inner.journal.clone())
        };
        let now = self.shared.now.load(Ordering::Relaxed);
        let mut state = origin;
        for n in 0..=journal.len() {
            see(n, state.crashes(max, seed.wrapping_add(n as u64), now));
            if let Some(operation) = journal.get(n) {
                state.apply(operation);
            }
        }
    }

    /// All files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let inner = self.inner();
        let mut files = Vec::new();
        for (folder, names) in &inner.state.folders {
            let named = names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
            files.extend(named.map(|(name, _)| Path::new(folder).join(name)));
        }
        files.sort();
        files
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.state.file(path).map(|file| file.bytes.to_vec())
    }

    /// Gives a file another content, or removes its name, behind everybody's back. It is durable at once.
    pub fn damage(&self, path: &Path, content: Option<Vec<u8>>) {
        let mut inner = self.inner();
        inner.state.unsynced.remove(&place(path));
        let node = content.map(|content| {
            let id = inner.state.free_id();
            let content = Arc::new(content);
            inner.state.files.insert(id, File { bytes: content.clone(), durable: content, modified: 0 });
            Node::File(id)
        });
        inner.state.set(&place(path), node);
        inner.origin = inner.state.clone();
        inner.journal.clear();
    }

    /// A word that is the same for the same content under the same names, as long as this disk lives.
    pub fn fingerprint(&self) -> blake3::Hash {
        let inner = self.inner();
        let mut hasher = blake3::Hasher::new();
        for (folder, names) in &inner.state.folders {
            hasher.update(folder.as_bytes()).update(&[0, 0]);
            for (name, node) in names.iter() {
                hasher.update(name.as_bytes()).update(&[0]);
                match node {
                    Node::Folder => drop(hasher.update(b"/")),
                    Node::File(id) => {
                        let bytes = inner.state.files.get(id).map_or(&[][..], |file| &file.bytes);
                        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
                    }
                }
            }
        }
        hasher.finalize()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> io::Result<MutexGuard<'_, Inner>> {
        if self.is_dead() { Err(dead()) } else { Ok(self.inner()) }
    }

    /// Does what `plan` says, if this process lives and the operation is not one that fails.
    fn change<T>(&self, plan: impl FnOnce(&State, i64) -> io::Result<(Operation, T)>) -> io::Result<T> {
        let mut inner = self.look()?;
        let (operation, value) = plan(&inner.state, self.shared.now.load(Ordering::Relaxed))?;
        if self.process.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            self.kill();
            return Err(dead());
        }
        let failure = inner.fault.filter(|&(number, _)| number == inner.journal.len()).map(|(_, how)| how);
        if let Some(how) = failure {
            inner.fault = None;
            if let Operation::Sync(file) = operation {
                inner.push(Operation::SyncFailed(file));
            }
            return Err(how.into());
        }
        inner.push(operation);
        Ok(value)
    }
}

impl Default for SimulatedDisk {
    fn default() -> SimulatedDisk {
        SimulatedDisk::new()
    }
}

impl Process {
    fn new(operations: u64) -> Arc<Process> {
        Arc::new(Process { left: AtomicU64::new(operations), dead: AtomicBool::new(false) })
    }
}

impl Inner {
    fn push(&mut self, operation: Operation) {
        self.state.apply(&operation);
        self.journal.push(operation);
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id = self.change(|state, now| {
            state.free(path)?;
            Ok((Operation::Create(path.to_path_buf(), now), state.free_id()))
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let id = self.look()?.state.file_id(path)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), id }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state, _| {
            let id = state.file_id(from)?;
            state.free(to)?;
            Ok((Operation::Link(id, to.to_path_buf()), ()))
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.change(|state, _| {
            state.file_id(path)?;
            Ok((Operation::Unlink(path.to_path_buf()), ()))
        })
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|state, _| {
            state.free(path)?;
            Ok((Operation::MakeFolder(path.to_path_buf()), ()))
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|state, _| match state.folder(path)?.is_empty() {
            false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            true => Ok((Operation::RemoveFolder(path.to_path_buf()), ())),
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|state, _| {
            state.folder(path)?;
            Ok((Operation::SyncFolder(path.to_path_buf()), ()))
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        let inner = self.look()?;
        let names = inner.state.folder(path)?.iter().map(|(name, node)| {
            let file = match node {
                Node::Folder => None,
                Node::File(id) => inner.state.files.get(id),
            };
            Name {
                name: name.clone(),
                folder: *node == Node::Folder,
                bytes: file.map_or(0, |file| file.bytes.len() as u64),
                modified: Time(file.map_or(0, |file| file.modified)),
            }
        });
        Ok(names.collect())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let there = self.look()?.state.file_id(path);
        let id = match there {
            Ok(id) => id,
            Err(_) => self.change(|state, now| {
                state.free(path)?;
                Ok((Operation::Create(path.to_path_buf(), now), state.free_id()))
            })?,
        };
        let free = self.look()?.locked.insert(id);
        Ok(free.then(|| Box::new(SimulatedLock { disk: self.clone(), id }) as Box<dyn Lock>))
    }

    fn kind(&self, _: &Path) -> FileSystem {
        FileSystem::Local
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    id: FileId,
}

impl DiskFile for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.change(|_, now| Ok((Operation::Append(self.id, bytes.into(), now), ())))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.change(|_, _| Ok((Operation::Sync(self.id), ())))
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.disk.look()?;
        let bytes = inner.state.files.get(&self.id).map_or(&[][..], |file| &file.bytes);
        let range = usize::try_from(offset).ok().and_then(|from| bytes.get(from..from.checked_add(out.len())?));
        out.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.look()?.state.files.get(&self.id).map_or(0, |file| file.bytes.len() as u64))
    }
}

#[derive(Debug)]
struct SimulatedLock {
    disk: SimulatedDisk,
    id: FileId,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.inner().locked.remove(&self.id);
    }
}

impl State {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(path, now) => {
                let id = self.free_id();
                self.files.insert(id, File { modified: *now, ..File::default() });
                self.rename(path, Some(Node::File(id)));
            }
            Operation::Append(id, bytes, now) => {
                let file = self.files.entry(*id).or_default();
                Arc::make_mut(&mut file.bytes).extend_from_slice(bytes);
                file.modified = *now;
            }
            Operation::Sync(id) => {
                let file = self.files.entry(*id).or_default();
                if file.durable.is_empty() {
                    file.durable = file.bytes.clone();
                } else {
                    let tail = file.bytes.get(file.durable.len()..).unwrap_or_default();
                    Arc::make_mut(&mut file.durable).extend_from_slice(tail);
                }
            }
            Operation::SyncFailed(id) => {
                let file = self.files.entry(*id).or_default();
                let length = file.bytes.len();
                Arc::make_mut(&mut file.durable).resize(length, 0);
            }
            Operation::Link(id, path) => self.rename(path, Some(Node::File(*id))),
            Operation::Unlink(path) | Operation::RemoveFolder(path) => self.rename(path, None),
            Operation::MakeFolder(path) => self.rename(path, Some(Node::Folder)),
            Operation::SyncFolder(folder) => {
                let folder = text(folder);
                self.unsynced.retain(|(inside, _), _| *inside != folder);
            }
        }
    }

    fn empty() -> State {
        let root = BTreeMap::from([("/".to_string(), Arc::default())]);
        State { files: BTreeMap::new(), folders: root, unsynced: BTreeMap::new() }
    }

    fn rename(&mut self, path: &Path, node: Option<Node>) {
        let place = place(path);
        let before = self.set(&place, node);
        self.unsynced.entry(place).or_insert_with(|| vec![before]).push(node);
    }

    /// Gives a name another meaning; returns what it was. A folder that goes takes along all that is in it.
    fn set(&mut self, place: &Place, node: Option<Node>) -> Option<Node> {
        let (folder, name) = place;
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        let before = self.folders.get(folder).and_then(|names| names.get(name)).copied();
        if before == node {
            return before;
        }
        if before == Some(Node::Folder) {
            let below = format!("{path}/");
            self.folders.retain(|folder, _| *folder != path && !folder.starts_with(&below));
        }
        if node == Some(Node::Folder) {
            self.folders.insert(path, Arc::default());
        }
        if let Some(names) = self.folders.get_mut(folder) {
            match node {
                Some(node) => Arc::make_mut(names).insert(name.clone(), node),
                None => Arc::make_mut(names).remove(name),
            };
        }
        before
    }

    fn settle(&mut self) {
        self.unsynced.clear();
        let named: BTreeSet<FileId> = self.folders.values().flat_map(|names| file_ids(names.values())).collect();
        self.files.retain(|id, _| named.contains(id));
        self.files.values_mut().for_each(|file| file.durable = file.bytes.clone());
    }

    fn crashes(&self, max: usize, seed: u64, now: i64) -> Vec<SimulatedDisk> {
        let choices = self.choices();
        let sizes: Vec<usize> = choices.iter().map(Choice::ways).collect();
        let picks = combinations(&sizes, max, seed);
        picks.iter().map(|pick| SimulatedDisk::with(self.crashed(&choices, pick), now)).collect()
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for (place, nodes) in &self.unsynced {
            let mut ways: Vec<Option<Node>> = Vec::new();
            nodes.iter().for_each(|node| {
                if !ways.contains(node) {
                    ways.push(*node);
                }
            });
            if ways.len() > 1 {
                choices.push(Choice::Name(place.clone(), ways));
            }
        }
        let named = self.folders.values().flat_map(|names| names.values());
        let named: BTreeSet<FileId> = file_ids(named.chain(self.unsynced.values().flatten().flatten())).collect();
        let torn = named.into_iter().filter(|id| self.files.get(id).is_some_and(|f| f.durable.len() < f.bytes.len()));
        choices.extend(torn.map(Choice::Tail));
        choices
    }

    /// The state that these ways lead to, all of it durable.
    fn crashed(&self, choices: &[Choice], pick: &[usize]) -> State {
        let mut state = self.clone();
        // Files that nothing happens to are as they were synced.
        state.files.values_mut().for_each(|file| file.bytes = file.durable.clone());
        for (choice, &way) in choices.iter().zip(pick) {
            match choice {
                // Sorted, so that a folder comes before what is in it, and its loss takes that along.
                Choice::Name(place, ways) => match ways[way] {
                    Some(Node::Folder) if state.folder(Path::new(&place.0)).is_ok_and(|n| n.contains_key(&place.1)) => {
                    }
                    node if state.folders.contains_key(&place.0) => drop(state.set(place, node)),
                    _ => {}
                },
                Choice::Tail(id) => {
                    if let (Some(old), Some(new)) = (self.files.get(id), state.files.get_mut(id)) {
                        new.bytes = Arc::new(with_tail(&old.durable, &old.bytes, TAILS[way]));
                    }
                }
            }
        }
        state.settle();
        state
    }

    fn free_id(&self) -> FileId {
        self.files.keys().next_back().map_or(0, |id| id + 1)
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let (folder, name) = place(path);
        self.folders.get(&folder)?.get(&name).copied()
    }

    fn file_id(&self, path: &Path) -> io::Result<FileId> {
        match self.node(path) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&self, path: &Path) -> Option<&File> {
        self.files.get(&self.file_id(path).ok()?)
    }

    fn folder(&self, path: &Path) -> io::Result<&BTreeMap<String, Node>> {
        let names = self.folders.get(&text(path)).ok_or(io::ErrorKind::NotFound)?;
        Ok(names)
    }

    /// A name that nothing has, in a folder that is there.
    fn free(&self, path: &Path) -> io::Result<()> {
        self.folder(path.parent().ok_or(io::ErrorKind::AlreadyExists)?)?;
        if self.node(path).is_some() { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn place(path: &Path) -> Place {
    (path.parent().map(text).unwrap_or_default(), path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn file_ids<'a>(nodes: impl Iterator<Item = &'a Node>) -> impl Iterator<Item = FileId> {
    nodes.filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None })
}

/// Something that a crash decides.
#[derive(Debug)]
enum Choice {
    Name(Place, Vec<Option<Node>>),
    Tail(FileId),
}

impl Choice {
    /// The first way is that all is lost, the last that all is kept.
    fn ways(&self) -> usize {
        match self {
            Choice::Name(_, ways) => ways.len(),
            Choice::Tail(_) => TAILS.len(),
        }
    }
}

fn with_tail(durable: &[u8], bytes: &[u8], tail: Tail) -> Vec<u8> {
    let from = durable.len();
    let mut out = durable.to_vec();
    match tail {
        Tail::Lost => {}
        Tail::Part => out.extend_from_slice(&bytes[from..from + (bytes.len() - from) / 2]),
        Tail::Zeros => out.resize(bytes.len(), 0),
        // What another file left in these blocks: it even looks like something of a store.
        Tail::Old => out.extend(b"TRPK\0\0\x01\0TRLG\0\0\x01\0".iter().cycle().take(bytes.len() - from)),
        Tail::Whole => out.extend_from_slice(&bytes[from..]),
    }
    out
}

/// One number below each size, for all combinations or for as many as `max`.
fn combinations(sizes: &[usize], max: usize, seed: u64) -> Vec<Vec<usize>> {
    let all = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if let Some(all) = all.filter(|&all| all <= max) {
        return (0..all).map(|n| digits(n, sizes)).collect();
    }
    let (lost, kept): (Vec<usize>, Vec<usize>) = (vec![0; sizes.len()], sizes.iter().map(|size| size - 1).collect());
    let mut picks = BTreeSet::from([lost.clone(), kept.clone()]);
    for at in 0..sizes.len() {
        for way in 0..sizes[at] {
            for base in [&lost, &kept] {
                let mut pick = base.clone();
                pick[at] = way;
                picks.insert(pick);
            }
        }
    }
    let mut picks: Vec<Vec<usize>> = picks.into_iter().collect();
    let mut chance = seed | 1;
    let mut below = |size: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) as usize % size.max(1)
    };
    if picks.len() > max {
        // Even the corners are too many: everything and nothing stay, and some of the others.
        while picks.len() > max.max(2) {
            picks.swap_remove(below(picks.len()));
        }
        picks.extend([lost, kept]);
        picks.sort_unstable();
        picks.dedup();
        return picks;
    }
    for _ in picks.len()..max {
        picks.push(sizes.iter().map(|&size| below(size)).collect());
    }
    picks.sort_unstable();
    picks.dedup();
    picks
}

fn digits(mut n: usize, sizes: &[usize]) -> Vec<usize> {
    sizes
        .iter()
        .map(|&size| {
            let digit = n % size;
            n /= size;
            digit
        })
        .collect()
}

fn dead() -> io::Error {
    io::Error::other("this process was ended by the test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimulatedDisk, path: &str, bytes: &[u8], sync: bool) {
        let mut file = disk.create(Path::new(path)).unwrap();
        file.append(bytes).unwrap();
        if sync {
            file.sync().unwrap();
        }
    }

    /// What each crash leaves: names with their content.
    fn left(disk: &SimulatedDisk) -> BTreeSet<Vec<(String, Vec<u8>)>> {
        let of = |disk: &SimulatedDisk| {
            let files = disk.files().into_iter();
            files.map(|path| (path.display().to_string(), disk.content(&path).unwrap())).collect()
        };
        disk.crashes(10_000, 1).iter().map(of).collect()
    }

    #[test]
    fn what_was_synced_survives_and_nothing_else_is_sure() {
        let disk = SimulatedDisk::new();
        write(&disk, "/a", b"abcd", true);
        assert_eq!(left(&disk).len(), 2, "the name is not durable");
        disk.sync_folder(Path::new("/")).unwrap();
        assert_eq!(left(&disk), [vec![("/a".to_string(), b"abcd".to_vec())]].into());
        disk.open_append(Path::new("/a")).unwrap().append(b"ef").unwrap();
        let contents: BTreeSet<Vec<u8>> = left(&disk).into_iter().map(|files| files[0].1.clone()).collect();
        let expected = [&b"abcd"[..], b"abcde", b"abcd\0\0", b"abcdTR", b"abcdef"];
        assert_eq!(contents, expected.into_iter().map(Vec::from).collect());
    }

    #[test]
    fn names_are_lost_in_every_combination() {
        let disk = SimulatedDisk::new();
        for name in ["/a", "/b", "/c"] {
            write(&disk, name, b"x", true);
        }
        assert_eq!(left(&disk).len(), 8);
        disk.sync_folder(Path::new("/")).unwrap();
        disk.unlink(Path::new("/a")).unwrap();
        disk.link(Path::new("/b"), Path::new("/d")).unwrap();
        assert_eq!(left(&disk).len(), 4);
    }

    #[test]
    fn a_lost_folder_takes_along_what_is_in_it() {
        let disk = SimulatedDisk::new();
        disk.make_folder(Path::new("/f")).unwrap();
        write(&disk, "/f/a", b"x", true);
        disk.sync_folder(Path::new("/f")).unwrap();
        assert_eq!(left(&disk), [vec![], vec![("/f/a".to_string(), b"x".to_vec())]].into());
    }

    #[test]
    fn a_sync_that_failed_has_lost_what_it_should_keep() {
        let disk = SimulatedDisk::new();
        let mut file = disk.create(Path::new("/a")).unwrap();
        file.append(b"ab").unwrap();
        disk.sync_folder(Path::new("/")).unwrap();
        disk.fail_at(disk.operations(), io::ErrorKind::Other);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.content(Path::new("/a")).unwrap(), b"ab");
        assert_eq!(left(&disk), [vec![("/a".to_string(), b"\0\0".to_vec())]].into());
    }

    #[test]
    fn the_journal_gives_back_every_point() {
        let disk = SimulatedDisk::new();
        write(&disk, "/a", b"x", true);
        let mut counts = Vec::new();
        disk.crashes_everywhere(100, 1, &mut |n, states| counts.push((n, states.len())));
        // Created: name or not. Written: and five contents. Synced: name or not.
        assert_eq!(counts, [(0, 1), (1, 2), (2, 10), (3, 2)]);
    }

    #[test]
    fn a_process_dies_after_its_last_operation() {
        let disk = SimulatedDisk::new();
        let process = disk.process(1);
        write(&disk, "/a", b"x", true);
        process.link(Path::new("/a"), Path::new("/b")).unwrap();
        assert!(!process.is_dead());
        assert!(process.unlink(Path::new("/a")).is_err() && process.is_dead());
        assert!(process.open(Path::new("/a")).is_err() && process.list(Path::new("/")).is_err());
        assert_eq!(disk.files().len(), 2);
    }
}
