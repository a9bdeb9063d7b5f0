//! Machines that use one file system over a network. What another machine did is seen late, its locks not at all; a file
//! that it removed is gone for whoever has it open; and an answer that was lost is asked for again, so that what was done
//! looks as if it had been done before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use treering::disk::{Disk, DiskFile, FileSystem, Lock, Name, SimulatedDisk};
use treering::env::Source;
use treering::gc::{GcOptions, GcReport};
use treering::restore::Checkpoint;
use treering::verify::Depth;
use treering::{Error, Store};

use crate::faulty::FaultyDisk;
use crate::helpers::{Tensor, at, floats, options};
use crate::sim::{self, Fate};

/// What a machine has seen, it believes for at most so long.
pub(crate) const BELIEVED_SECS: u64 = 60;
/// And for at most so many more looks, since the clock of a test may stand still.
const LOOKS_MAX: u64 = 4;
/// One answer of so many is lost.
const LOST_ONE_IN: u64 = 8;

/// One of the machines, and a process on it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    number: usize,
    server: SimulatedDisk,
    fate: Fate,
    seen: Arc<Mutex<Seen>>,
    locks: Arc<Mutex<BTreeMap<PathBuf, usize>>>,
}

/// What one machine believes.
#[derive(Debug, Default)]
struct Seen {
    absent: BTreeMap<PathBuf, Belief<()>>,
    listings: BTreeMap<PathBuf, Belief<Vec<Name>>>,
    /// What it has removed itself, it keeps for those of its processes that have it open.
    removed: BTreeSet<PathBuf>,
    /// How often each path was used: chance goes by that, not by which thread was first.
    uses: BTreeMap<PathBuf, u64>,
}

#[derive(Debug)]
struct Belief<T> {
    what: T,
    since: treering::env::Time,
    looks: u64,
}

impl Machine {
    pub(crate) fn several(count: usize, server: &SimulatedDisk, fate: &Fate) -> Vec<Machine> {
        let locks = Arc::default();
        let machine = |number| Machine {
            number,
            server: server.clone(),
            fate: fate.clone(),
            seen: Arc::default(),
            locks: Arc::clone(&locks),
        };
        (0..count).map(machine).collect()
    }

    /// Another process on this machine.
    pub(crate) fn process(&self, server: SimulatedDisk) -> Machine {
        Machine { server, ..self.clone() }
    }

    /// A number below `n`, the same for the same use of the same path.
    fn chance(&self, path: &Path, n: u64) -> u64 {
        let mut seen = self.seen.lock().unwrap();
        let uses = seen.uses.entry(path.to_path_buf()).or_default();
        *uses += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.number as u8]).update(&uses.to_le_bytes()).update(path.as_os_str().as_encoded_bytes());
        u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap()) % n
    }

    fn believe<T>(&self, path: &Path, what: T) -> Belief<T> {
        Belief { what, since: self.fate.now(), looks: self.chance(path, LOOKS_MAX) }
    }

    /// What is believed of a path, one look less from now on.
    fn believed<T: Clone>(&self, beliefs: &mut BTreeMap<PathBuf, Belief<T>>, path: &Path) -> Option<T> {
        let belief = beliefs.get_mut(path)?;
        if belief.looks == 0 || belief.since.distance(self.fate.now()).as_secs() > BELIEVED_SECS {
            beliefs.remove(path);
            return None;
        }
        belief.looks -= 1;
        Some(belief.what.clone())
    }

    fn look<T>(&self, path: &Path, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut seen = self.seen.lock().unwrap();
        if self.believed(&mut seen.absent, path).is_some() {
            return Err(io::ErrorKind::NotFound.into());
        }
        drop(seen);
        let found = look();
        if matches!(&found, Err(e) if e.kind() == io::ErrorKind::NotFound) {
            let belief = self.believe(path, ());
            self.seen.lock().unwrap().absent.insert(path.to_path_buf(), belief);
        }
        found
    }

    /// Changes a name. The machine knows what it did itself.
    fn change<T>(&self, path: &Path, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let done = change()?;
        let mut seen = self.seen.lock().unwrap();
        seen.absent.remove(path);
        path.parent().and_then(|folder| seen.listings.remove(folder));
        Ok(done)
    }

    /// The same, where the answer may be lost, and another one comes to the second question.
    fn ask(&self, path: &Path, second: io::ErrorKind, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.change(path, change)?;
        if self.chance(path, LOST_ONE_IN) == 0 { Err(second.into()) } else { Ok(()) }
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(RemoteFile { machine: self.clone(), path: path.to_path_buf(), file })
    }
}

impl Disk for Machine {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change(path, || self.server.create(path)).map(|file| self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.look(path, || self.server.open(path)).map(|file| self.file(path, file))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.look(path, || self.server.open_append(path)).map(|file| self.file(path, file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(to, io::ErrorKind::AlreadyExists, || self.server.link(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.ask(path, io::ErrorKind::NotFound, || {
            self.server.unlink(path)?;
            self.seen.lock().unwrap().removed.insert(path.to_path_buf());
            Ok(())
        })
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(path, io::ErrorKind::AlreadyExists, || self.server.make_folder(path))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.ask(path, io::ErrorKind::NotFound, || self.server.remove_folder(path))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.server.sync_folder(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        if let Some(names) = self.believed(&mut self.seen.lock().unwrap().listings, path) {
            return Ok(names);
        }
        let names = self.look(path, || self.server.list(path))?;
        let belief = self.believe(path, names.clone());
        self.seen.lock().unwrap().listings.insert(path.to_path_buf(), belief);
        Ok(names)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let found = self.change(path, || self.server.lock(path))?;
        let mut locks = self.locks.lock().unwrap();
        Ok(match found {
            Some(lock) => {
                locks.insert(path.to_path_buf(), self.number);
                Some(Box::new(RemoteLock { _lock: Some(lock) }))
            }
            None if locks.get(path) != Some(&self.number) => Some(Box::new(RemoteLock { _lock: None })),
            None => None,
        })
    }

    fn kind(&self, _: &Path) -> FileSystem {
        FileSystem::Network
    }
}

#[derive(Debug)]
struct RemoteLock {
    /// None: another machine holds it.
    _lock: Option<Box<dyn Lock>>,
}

impl Lock for RemoteLock {}

#[derive(Debug)]
struct RemoteFile {
    machine: Machine,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl RemoteFile {
    fn check(&self) -> io::Result<()> {
        let gone = matches!(self.machine.server.open(&self.path), Err(e) if e.kind() == io::ErrorKind::NotFound);
        if gone && !self.machine.seen.lock().unwrap().removed.contains(&self.path) {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        Ok(())
    }
}

impl DiskFile for RemoteFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        self.file.sync()
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.check()?;
        self.file.read_exact_at(out, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.check()?;
        self.file.bytes()
    }
}

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 3600;

/// What is saved: the first half of it is the same in every step.
fn part(step: u64) -> Vec<Tensor> {
    vec![floats("model.base", 300, 7), floats("model.a", 300, step)]
}

/// A store with two checkpoints, and two machines that use it.
fn two() -> (SimulatedDisk, Fate, [Machine; 2]) {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in [1, 2] {
        sim::save(&store, &part(step), &options("r", step)).unwrap();
    }
    drop(store);
    let disk = disk.settled();
    fate.pass(0, &disk);
    let machines = Machine::several(2, &disk, &fate).try_into().unwrap();
    (disk, fate, machines)
}

fn gc(store: &Store) -> GcReport {
    store.gc(&GcOptions::default()).unwrap()
}

/// All of a checkpoint, or how that ended.
fn read(checkpoint: &Checkpoint, step: u64) -> treering::Result<()> {
    for tensor in part(step) {
        let mut bytes = Vec::new();
        checkpoint.read_tensor(&tensor.name, &mut bytes)?;
        assert!(bytes == tensor.bytes, "{step} {}", tensor.name);
    }
    Ok(())
}

/// A machine has seen that a slot is free, and still believes it when two more were taken.
#[test]
fn f020_an_entry_that_is_not_seen_yet_is_not_taken_for_lost() {
    let (disk, fate, machines) = two();
    let [here, there] = machines.map(|machine| sim::open_on(machine, &disk, &fate).unwrap());
    for step in 0..40 {
        here.refresh().unwrap();
        for more in [0, 1] {
            sim::save(&there, &[floats("model.a", 30, step)], &options("s", 2 * step + more)).unwrap();
        }
        sim::save(&here, &[floats("model.a", 30, step)], &options("t", step)).unwrap();
    }
    assert_eq!(sim::slots(&disk).len(), 2 + 40 * 3);
    assert!(sim::open(&disk, &fate).unwrap().verify(Depth::Deep).unwrap().is_sound());
}

/// A machine has listed the packs, and still believes that when an entry names one more.
#[test]
fn f020_a_pack_that_a_late_listing_lacks_is_not_taken_for_lost() {
    let (disk, fate, machines) = two();
    let [here, there] = machines.map(|machine| sim::open_on(machine, &disk, &fate).unwrap());
    for step in 0..40 {
        let report = here.verify(Depth::Structure).unwrap();
        assert!(report.is_sound(), "{step}: {report:?}");
        sim::save(&there, &[floats("model.a", 30, step)], &options("s", step)).unwrap();
    }
}

#[test]
fn f068_a_save_on_another_machine_is_not_taken_for_dead_for_a_day() {
    for after in 0..40 {
        let (disk, fate, [here, there]) = two();
        let collected = Arc::new(Mutex::new(None));
        let (told, server, time) = (collected.clone(), disk.clone(), fate.clone());
        let saving = FaultyDisk::meanwhile(here, after, move || {
            time.pass(DAY - MINUTE, &server);
            *told.lock().unwrap() = Some(gc(&sim::open_on(there, &server, &time).unwrap()));
        });
        let store = sim::open_on(saving, &disk, &fate).unwrap();
        sim::save(&store, &part(3), &options("r", 3)).unwrap();
        if let Some(report) = collected.lock().unwrap().take() {
            assert_eq!((report.dead_saves, report.packs_deleted), (0, 0), "{after}");
        }
    }
}

#[test]
fn f031_what_a_dead_save_left_on_another_machine_goes_after_a_day() {
    let (mut found, mut operations) = (0, 0);
    loop {
        let (disk, fate, [here, there]) = two();
        let dying = disk.process(operations);
        let saved = sim::open_on(here.process(dying.clone()), &disk, &fate)
            .and_then(|store| sim::save(&store, &part(3), &options("r", 3)));
        if saved.is_ok() && !dying.is_dead() {
            break;
        }
        let collector = sim::open_on(there, &disk, &fate).unwrap();
        assert_eq!(gc(&collector).dead_saves, 0);
        fate.pass(DAY + MINUTE, &disk);
        found += gc(&collector).dead_saves;
        // What a machine believes may be in the way of one collection, not of the next.
        fate.pass(DAY + MINUTE, &disk);
        found += gc(&collector).dead_saves;
        let store = sim::open(&disk, &fate).unwrap();
        let report = store.verify(Depth::Deep).unwrap();
        assert!(report.is_sound() && report.foreign.is_empty(), "{operations}: {report:?}");
        let left = disk.files().into_iter().filter(|path| path.starts_with("/store/tmp") && !path.ends_with("reserve"));
        let left: Vec<PathBuf> = left.collect();
        assert!(left.is_empty(), "{operations}: {left:?}");
        operations += 1;
    }
    assert!(found > 0 && operations > 10, "{found} of {operations}");
}

#[test]
fn f076_a_reader_on_another_machine_has_a_quarter_of_an_hour() {
    let (disk, fate, [here, there]) = two();
    let reader = sim::open_on(here, &disk, &fate).unwrap();
    let [going, kept] = ["r@1", "r@2"].map(|address| reader.checkpoint(&at(address)).unwrap());
    let collector = sim::open_on(there, &disk, &fate).unwrap();
    collector.forget(&[0]).unwrap();
    for minutes in [0, 7, 7] {
        fate.pass(minutes * MINUTE, &disk);
        let report = gc(&collector);
        assert_eq!((report.packs_deleted, report.packs_waiting), (0, 1), "{report:?}");
        assert!(report.bytes_waiting > 0 && report.bytes_freed <= 0, "{report:?}");
        read(&going, 1).unwrap();
    }
    fate.pass(2 * MINUTE, &disk);
    let report = gc(&collector);
    assert_eq!((report.packs_deleted, report.packs_waiting), (1, 0));
    // What both had in common lies elsewhere by now.
    read(&kept, 2).unwrap();
    let error = read(&going, 1).unwrap_err();
    assert!(matches!(error, Error::Forgotten { .. }), "{error:?}");
    // Whoever is alone need not wait.
    collector.forget(&[1]).unwrap();
    let report = collector.gc(&GcOptions { grace: Some(std::time::Duration::ZERO), ..GcOptions::default() }).unwrap();
    assert!(report.packs_deleted > 0 && report.packs_waiting == 0, "{report:?}");
}

/// A clock that was far ahead when a pack was condemned does not keep it for as long.
#[test]
fn f102_a_grace_is_over_by_either_clock() {
    let (disk, fate, [here, _]) = two();
    let store = sim::open_on(here, &disk, &fate).unwrap();
    fate.pass(1000 * DAY, &disk);
    store.forget(&[0]).unwrap();
    assert_eq!(gc(&store).packs_waiting, 1);
    fate.pass(-1000 * DAY - 16 * MINUTE, &disk);
    assert_eq!(gc(&store).packs_deleted, 1);
}
