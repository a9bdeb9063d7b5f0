//! Faults of a disk, one by one; each test is named after its row in docs/DURABILITY.md.

use std::collections::BTreeMap;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use treering::disk::{Disk, SimulatedDisk};
use treering::gc::GcOptions;
use treering::monitor::{Monitor, Unit};
use treering::store::Options;
use treering::verify::Depth;
use treering::{Error, ErrorKind, Store};

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{Tensor, at, floats, options, trained};
use crate::sim::{self, Fate, ROOT, open_on};

fn part(seed: u64) -> Vec<Tensor> {
    vec![floats("model.base", 300, 1), floats("model.head", 40, seed)]
}

/// A store with two checkpoints of `r`, long ago.
fn two() -> SimulatedDisk {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in [1, 2] {
        sim::save(&store, &part(step), &options("r", step)).unwrap();
    }
    drop(store);
    disk.settled()
}

fn save(store: &Store, step: u64) -> treering::Result<()> {
    sim::save(store, &part(step), &options("r", step))
}

/// These steps of `r` are there bit for bit, and no others.
#[track_caller]
fn has(disk: &SimulatedDisk, steps: &[u64]) {
    let facts = sim::observe(&sim::open(disk, &Fate::new(9)).unwrap()).unwrap();
    let expected: Vec<_> = steps.iter().map(|step| (format!("r@{step}"), sim::content_of(&part(*step)))).collect();
    assert_eq!(facts.into_iter().collect::<Vec<_>>(), expected);
}

/// The store is as good as new: it saves, collects, and keeps nothing that is nobody's.
#[track_caller]
fn works(disk: &SimulatedDisk, steps: &[u64]) {
    let fate = Fate::new(10);
    fate.pass(26 * 3600, disk);
    let store = sim::open(disk, &fate).unwrap();
    save(&store, 77).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound() && report.foreign.is_empty(), "{report:?}");
    let left: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with("/store/tmp")).collect();
    assert_eq!(left, [Path::new("/store/tmp/reserve")]);
    has(disk, &[steps, &[77]].concat());
}

/// The number of operations of a third save.
fn operations_of_a_save() -> usize {
    let disk = two();
    save(&sim::open(&disk, &Fate::new(2)).unwrap(), 3).unwrap();
    disk.operations()
}

/// Each operation of a save fails, once. Returns what it said.
fn each_operation_fails(how: Io) -> Vec<Error> {
    let mut errors = Vec::new();
    for number in 0..operations_of_a_save() {
        let disk = two();
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        disk.fail_at(number, how);
        match save(&store, 3) {
            // What fails after the entry is no failure of the save.
            Ok(()) => has(&disk, &[1, 2, 3]),
            Err(error) => {
                let there = matches!(error, Error::Unknown { .. });
                has(&disk, if there { &[1, 2, 3] } else { &[1, 2] });
                // Nothing that was acknowledged hangs on it: with a crash now, too.
                for state in disk.crashes(64, 1) {
                    let store = sim::open(&state, &Fate::new(3)).unwrap();
                    let facts = sim::observe(&store).unwrap();
                    assert!(facts.contains_key("r@1") && facts.contains_key("r@2"), "{number}: {facts:?}");
                }
                errors.push(error);
            }
        }
        save(&store, 3).unwrap_or_else(|e| panic!("operation {number} failed with {how:?}, and then so does all: {e}"));
        for state in disk.crashes(64, 1) {
            has(&state, &[1, 2, 3]);
        }
        drop(store);
        works(&disk, &[1, 2, 3]);
    }
    assert!(errors.len() > 8, "{errors:?}");
    errors
}

#[test]
fn f001_no_space_at_any_operation_of_a_save() {
    for error in each_operation_fails(Io::StorageFull) {
        assert!(error.kind() == ErrorKind::NoSpace || matches!(error, Error::Unknown { .. }), "{error:?}");
    }
}

#[test]
fn f002_no_space_told_by_a_sync_alone() {
    // Among the operations above are all syncs; a sync that fails leaves zeros behind, and they are nobody's.
    let disk = two();
    let full = FaultyDisk::new(disk.clone(), |act, path| match act {
        Act::Sync if path.starts_with("/store/tmp") => Say::Lie(Io::QuotaExceeded),
        _ => Say::Go,
    });
    let store = open_on(full, &disk, &Fate::new(2)).unwrap();
    assert_eq!(save(&store, 3).unwrap_err().kind(), ErrorKind::NoSpace);
    drop(store);
    has(&disk, &[1, 2]);
    works(&disk, &[1, 2]);
}

#[test]
fn f003_a_full_disk_can_be_freed() {
    let disk = two();
    // Nothing new fits until something is removed.
    let freed = Arc::new(AtomicBool::new(false));
    let seen = freed.clone();
    let full = FaultyDisk::new(disk.clone(), move |act, path| match act {
        Act::Unlink if path.ends_with("reserve") || path.starts_with("/store/packs") => {
            seen.store(true, Ordering::Relaxed);
            Say::Go
        }
        Act::Append if !seen.load(Ordering::Relaxed) => Say::Fail(Io::StorageFull),
        _ => Say::Go,
    });
    let store = open_on(full, &disk, &Fate::new(2)).unwrap();
    assert_eq!(save(&store, 3).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(!freed.load(Ordering::Relaxed), "a save does not take what is put aside");
    store.forget(&[store.find(&at("r@1")).unwrap().slot]).unwrap();
    assert!(freed.load(Ordering::Relaxed));
    store.gc(&GcOptions::default()).unwrap();
    drop(store);
    has(&disk, &[2]);
    works(&disk, &[2]);
}

#[test]
fn f006_a_block_that_cannot_be_read_names_its_pack_and_costs_nothing_else() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    // Of other names, so that not even the schema is shared.
    for (run, name, seed) in [("a", "model.x", 1), ("b", "model.y", 2)] {
        sim::save(&store, &[floats(name, 50, seed)], &options(run, 1)).unwrap();
    }
    let pack = store.checkpoint(&at("a@1")).unwrap().tensors().unwrap()[0].packs[0].to_string();
    let bad = pack.clone();
    let faulty = FaultyDisk::new(disk.clone(), move |act, path| match act {
        Act::Read if path.ends_with(&bad) => Say::Fail(Io::Other),
        _ => Say::Go,
    });
    let store = open_on(faulty, &disk, &fate).unwrap();
    let error = store.checkpoint(&at("a@1")).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&pack), "{error}");
    let mut bytes = Vec::new();
    store.checkpoint(&at("b@1")).unwrap().read_tensor("model.y", &mut bytes).unwrap();
    assert_eq!(bytes, floats("model.y", 50, 2).bytes);
}

#[test]
fn f007_a_sync_that_failed_is_not_asked_again() {
    let errors = each_operation_fails(Io::Other);
    assert!(errors.iter().any(|error| matches!(error, Error::Io { op: "sync", .. })), "{errors:?}");
}

#[test]
fn f008_a_log_folder_that_cannot_be_synced_leaves_the_outcome_unknown() {
    let errors = each_operation_fails(Io::TimedOut);
    assert_eq!(errors.iter().filter(|error| matches!(error, Error::Unknown { slot: 2, .. })).count(), 1, "{errors:?}");
}

/// What each object is in the end it is at every moment, or it is not there: its content was synced before its name was
/// given.
#[test]
fn f009_no_crash_leaves_a_name_without_its_content() {
    let disk = two();
    save(&sim::open(&disk, &Fate::new(2)).unwrap(), 3).unwrap();
    let mut seen = 0;
    let mut look = |operations: usize, states: Vec<SimulatedDisk>| {
        for state in states {
            for path in state.files().iter().filter(|path| !path.starts_with("/store/tmp")) {
                assert_eq!(state.content(path), disk.content(path), "{path:?}, after operation {operations}");
                seen += 1;
            }
        }
    };
    disk.crashes_everywhere(256, 1, &mut look);
    assert!(seen > 1000);
}

/// Should a medium do it all the same, that is damage, and not the end of the log.
#[test]
fn f009_an_entry_without_its_content_is_damage() {
    let newest = Path::new("/store/log/00000000000000000001");
    let length = two().content(newest).unwrap().len();
    let old_blocks = b"TRLG\0\0\x01\0".iter().copied().cycle().take(length).collect();
    for content in [vec![], vec![0; length], old_blocks] {
        let disk = two();
        disk.damage(newest, Some(content));
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        assert!(matches!(save(&store, 3), Err(Error::ObjectDamaged { .. })));
        let report = store.verify(Depth::Deep).unwrap();
        assert_eq!(report.affected.iter().map(|one| one.checkpoint.address()).collect::<Vec<_>>(), ["r@2"]);
        has(&disk, &[1]);
    }
}

/// Names that were not synced are lost in every combination, those of new folders on the way among them.
#[test]
fn f011_any_part_of_the_new_names_is_lost() {
    let disk = two();
    // As in a copy of a store that lacks its empty folders.
    for folder in treering::format::keys::folders() {
        let _ = disk.remove_folder(&Path::new(ROOT).join(folder));
    }
    let disk = disk.settled();
    let mut acknowledged = Vec::new();
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    for step in [3, 4] {
        save(&store, step).unwrap();
        acknowledged.push(disk.operations());
    }
    drop(store);
    let mut look = |operations: usize, states: Vec<SimulatedDisk>| {
        let sure = 2 + acknowledged.iter().filter(|&&then| then <= operations).count() as u64;
        for state in states {
            let slots = sim::slots(&state);
            assert!(slots.len() as u64 >= sure, "after operation {operations}: {slots:?}");
            assert_eq!(slots, (0..slots.len() as u64).collect::<Vec<_>>(), "after operation {operations}");
            let report = sim::open(&state, &Fate::new(3)).unwrap().verify(Depth::Structure).unwrap();
            assert!(report.is_sound(), "after operation {operations}: {report:?}");
        }
    };
    disk.crashes_everywhere(48, 1, &mut look);
}

/// Folders that are missing are made on the way, but not as whoever made the store would have them.
#[test]
fn f011_no_crash_leaves_a_description_without_the_folders() {
    let disk = SimulatedDisk::new();
    drop(sim::create(&disk, &Fate::new(1)).unwrap());
    let mut described = 0;
    disk.crashes_everywhere(24, 1, &mut |operations, states| {
        let has_one = |state: &&SimulatedDisk| state.content(&Path::new(ROOT).join("treering.json")).is_some();
        for state in states.iter().filter(has_one) {
            described += 1;
            for folder in treering::format::keys::folders() {
                assert!(
                    state.list(&Path::new(ROOT).join(&folder)).is_ok(),
                    "after operation {operations}: no {folder}"
                );
            }
        }
    });
    assert!(described > 10, "{described}");
}

#[test]
fn f010_an_entry_that_another_saw_is_durable_before_anything_is_built_on_it() {
    // The writer's process ends between the entry's name and the sync of its folder.
    let disk = two();
    let all = operations_of_a_save();
    let seen = (0..all).find_map(|n| {
        let disk = two();
        let dying = disk.process(n as u64);
        let store = sim::open(&dying, &Fate::new(2)).unwrap();
        save(&store, 3).unwrap_err();
        (sim::slots(&disk).len() == 3).then_some(disk)
    });
    let seen = seen.unwrap_or(disk);
    assert!(seen.crashes(256, 1).iter().any(|state| sim::slots(state).len() == 2), "it is not durable yet");
    let other = sim::open(&seen, &Fate::new(4)).unwrap();
    // The same again is acknowledged as being there: that writes nothing. Something else is saved behind it.
    save(&other, 3).unwrap();
    for state in seen.crashes(256, 1) {
        has(&state, &[1, 2, 3]);
    }
    let acknowledged = seen.operations();
    save(&other, 4).unwrap();
    seen.crashes_everywhere(64, 1, &mut |operations, states| {
        for state in states.iter().filter(|_| operations >= acknowledged) {
            let steps: Vec<u64> = (1..=sim::slots(state).len() as u64).collect();
            assert!(steps.len() >= 3, "after operation {operations}");
            has(state, &steps);
        }
    });
    for state in seen.crashes(256, 1) {
        has(&state, &[1, 2, 3, 4]);
    }
}

/// Two copies of a store went on, each in its own way. An entry of the one in its slot in the other is whole, and wrong:
/// what follows it does not.
#[test]
fn f014_an_entry_of_another_history_in_the_same_slot_is_found() {
    let (mine, other) = (two(), two());
    for (disk, run, seed) in [(&mine, "r", 2), (&other, "s", 3)] {
        let store = sim::open(disk, &Fate::new(seed)).unwrap();
        (3..5).for_each(|step| sim::save(&store, &part(step), &options(run, step)).unwrap());
    }
    let path = Path::new("/store/log/00000000000000000002");
    mine.damage(path, other.content(path));
    let refused = sim::open(&mine, &Fate::new(4)).unwrap_err();
    assert!(refused.kind() == ErrorKind::Damaged && refused.to_string().contains("does not follow"), "{refused}");
}

#[test]
fn f015_a_disk_without_links_is_refused_with_advice() {
    let disk = SimulatedDisk::new();
    let without = FaultyDisk::new(disk.clone(), |act, _| match act {
        Act::Link => Say::Fail(Io::Unsupported),
        _ => Say::Go,
    });
    let options = Options { disk: Some(Arc::new(without)), ..sim::options_on(&disk, &Fate::new(1)) };
    let error = Store::create(ROOT, None, options).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("hard links"), "{error}");
    assert!(!disk.files().iter().any(|path| path.ends_with("treering.json")));
}

#[test]
fn f016_a_disk_on_which_names_can_be_taken_twice_is_refused() {
    let disk = SimulatedDisk::new();
    let overwriting = FaultyDisk::new(disk.clone(), |act, _| if act == Act::Link { Say::Overwrite } else { Say::Go });
    let options = Options { disk: Some(Arc::new(overwriting)), ..sim::options_on(&disk, &Fate::new(1)) };
    let error = Store::create(ROOT, None, options).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("twice"), "{error}");
    assert!(!disk.files().iter().any(|path| path.ends_with("treering.json")));
}

#[test]
fn f017_a_disk_that_is_read_only_is_read_and_a_save_says_so() {
    let disk = two();
    let before = disk.operations();
    let read_only = FaultyDisk::new(disk.clone(), |act, _| match act {
        Act::Open | Act::Read | Act::List => Say::Go,
        _ => Say::Fail(Io::ReadOnlyFilesystem),
    });
    let store = open_on(read_only, &disk, &Fate::new(2)).unwrap();
    assert_eq!(sim::observe(&store).unwrap().len(), 2);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    let error = save(&store, 3).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable), "{error:?}");
    assert!(store.gc(&GcOptions::default()).is_err() || disk.operations() == before);
    assert_eq!(disk.operations(), before, "not a single write");
}

#[test]
fn f019_a_link_that_says_exists_of_its_own_success_is_a_commit() {
    let disk = two();
    let lying = FaultyDisk::new(disk.clone(), |act, path| match act {
        Act::Link if path.starts_with("/store/log") => Say::Lie(Io::AlreadyExists),
        _ => Say::Go,
    });
    let store = open_on(lying, &disk, &Fate::new(2)).unwrap();
    save(&store, 3).unwrap();
    assert_eq!(sim::slots(&disk), [0, 1, 2]);
    for state in disk.crashes(64, 1) {
        has(&state, &[1, 2, 3]);
    }
}

/// Somebody has written three entries, and for a while this machine sees none of them.
#[test]
fn f020_entries_that_are_seen_late_cost_only_attempts() {
    for late in [1, 2, 5, 20] {
        let disk = two();
        let fate = Fate::new(2);
        let seen: Mutex<BTreeMap<PathBuf, u32>> = Mutex::default();
        let stale = FaultyDisk::new(disk.clone(), move |act, path| match act {
            Act::Open if path.starts_with("/store/log") => {
                let mut seen = seen.lock().unwrap();
                let count = seen.entry(path.to_path_buf()).or_default();
                // Those of long ago are in every cache.
                *count += 1;
                let old = path.ends_with("00000000000000000000") || path.ends_with("00000000000000000001");
                if *count > late || old { Say::Go } else { Say::Fail(Io::NotFound) }
            }
            _ => Say::Go,
        });
        let mine = open_on(stale, &disk, &fate).unwrap();
        let other = sim::open(&disk, &Fate::new(3)).unwrap();
        for step in 1..=3 {
            sim::save(&other, &part(60 + step), &options("s", step)).unwrap();
        }
        save(&mine, 3).unwrap();
        assert_eq!(sim::slots(&disk), [0, 1, 2, 3, 4, 5], "{late}");
        let facts = sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap();
        assert_eq!((facts.len(), facts.get("r@3")), (6, Some(&sim::content_of(&part(3)))), "{late}");
    }
}

/// The device stops answering in the middle of a save: that save waits, and nobody else does.
#[test]
fn f023_a_device_that_hangs_holds_up_only_who_waits_for_it() {
    let disk = two();
    let (hangs, is_hanging) = std::sync::mpsc::channel();
    let (answer, answers) = std::sync::mpsc::channel::<()>();
    let (hangs, answers) = (Mutex::new(Some(hangs)), Mutex::new(answers));
    let hanging = FaultyDisk::new(disk.clone(), move |act, path| {
        let first = act == Act::Sync && path.starts_with("/store/tmp");
        let hangs = hangs.lock().unwrap().take_if(|_| first);
        if let Some(hangs) = hangs {
            hangs.send(()).unwrap();
            answers.lock().unwrap().recv().unwrap();
        }
        Say::Go
    });
    let store = open_on(hanging, &disk, &Fate::new(2)).unwrap();
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| save(&store, 3));
        is_hanging.recv().unwrap();
        // The same handle reads; other processes read, save and collect.
        assert_eq!(sim::observe(&store).unwrap().len(), 2);
        let other = sim::open(&disk, &Fate::new(3)).unwrap();
        sim::save(&other, &part(9), &options("s", 1)).unwrap();
        other.gc(&GcOptions::default()).unwrap();
        answer.send(()).unwrap();
        saver.join().unwrap().unwrap();
    });
    drop(store);
    let facts = sim::observe(&sim::open(&disk, &Fate::new(4)).unwrap()).unwrap();
    assert_eq!(facts.keys().collect::<Vec<_>>(), ["r@1", "r@2", "r@3", "s@1"]);
}

#[test]
fn f024_a_process_killed_at_any_operation_of_a_save() {
    for number in 0..operations_of_a_save() {
        let disk = two();
        let dying = disk.process(number as u64);
        let store = sim::open(&dying, &Fate::new(2)).unwrap();
        let acknowledged = save(&store, 3).is_ok();
        drop(store);
        let there = sim::slots(&disk).len() == 3;
        assert!(there || !acknowledged);
        has(&disk, if there { &[1, 2, 3] } else { &[1, 2] });
        works(&disk, if there { &[1, 2, 3] } else { &[1, 2] });
    }
}

#[test]
fn f025_a_process_killed_at_any_operation_of_a_collection_and_of_the_next() {
    let prepared = || {
        let disk = two();
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        save(&store, 3).unwrap();
        store.forget(&[0]).unwrap();
        drop(store);
        disk.settled()
    };
    let whole = prepared();
    sim::open(&whole, &Fate::new(5)).unwrap().gc(&GcOptions::default()).unwrap();
    let operations = whole.operations() as u64;
    assert!(operations > 10);
    for first in (0..operations).step_by(2) {
        for second in (0..operations).step_by(5) {
            let disk = prepared();
            for (seed, limit) in [(5, first), (6, second)] {
                let dying = disk.process(limit);
                let _ = sim::open(&dying, &Fate::new(seed)).and_then(|store| store.gc(&GcOptions::default()));
            }
            has(&disk, &[2, 3]);
            works(&disk, &[2, 3]);
        }
    }
}

#[test]
fn f026_the_same_save_again_after_its_answer_was_lost_is_the_same_checkpoint() {
    let disk = two();
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    save(&store, 3).unwrap();
    let again = sim::open(&disk, &Fate::new(4)).unwrap();
    let report = again.save(&sim::inputs(&part(3)), &options("r", 3)).unwrap();
    assert_eq!((report.outcome, report.slot), (treering::save::SaveOutcome::Identical, Some(2)));
    assert_eq!(sim::slots(&disk).len(), 3);
}

/// Stops a journey when it asks for the n-th time whether it should stop.
#[derive(Debug)]
struct StopsAt(AtomicUsize);

impl Monitor for StopsAt {
    fn interrupted(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }
}

/// A save and a collection that are asked to end, at every moment at which they look: nothing is left of the one, and
/// the other has done a part. No repair is needed.
#[test]
fn f027_asked_to_end_at_any_moment() {
    let mut ended = 0;
    for number in 0.. {
        let disk = two();
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        let before = disk.files();
        let stopped = store.with_monitor(Arc::new(StopsAt(number.into())));
        match save(&stopped, 3) {
            Ok(()) => break,
            Err(Error::Interrupted) => assert_eq!(disk.files(), before, "{number}"),
            Err(error) => panic!("{number}: {error:?}"),
        }
        drop((stopped, store));
        works(&disk, &[1, 2]);
        ended += 1;
    }
    for number in 0.. {
        let disk = two();
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        store.forget(&[0]).unwrap();
        let collected = store.with_monitor(Arc::new(StopsAt(number.into()))).gc(&GcOptions::default());
        drop(store);
        works(&disk, &[2]);
        match collected {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Interrupted), "{number}: {error:?}"),
        }
        ended += 1;
    }
    assert!(ended > 4, "{ended}");
}

/// True while a save's threads work, of which its caller's is one.
#[derive(Debug, Default)]
struct Working(AtomicBool);

impl Monitor for Working {
    fn begin(&self, stage: &'static str, _: Option<u64>, _: Unit) {
        self.0.store(stage == "saving", Ordering::Relaxed);
    }
    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A thread of a save that panics, at anything that it does to the disk: an error, no hang, and the handle is good.
#[test]
fn f030_a_thread_that_panics_is_an_error() {
    let mut panics = 0;
    for number in 0.. {
        let disk = two();
        let store = sim::open(&disk, &Fate::new(2)).unwrap();
        sim::save(&store, &trained(0), &options("s", 0)).unwrap();
        drop(store);
        let left = AtomicUsize::new(number);
        let reached = Arc::new(AtomicBool::new(false));
        let (here, caller) = (reached.clone(), std::thread::current().id());
        let working = Arc::new(Working::default());
        let stage = working.clone();
        let panicking = FaultyDisk::new(disk.clone(), move |_, _| {
            let theirs = stage.0.load(Ordering::Relaxed) || std::thread::current().id() != caller;
            if theirs && left.fetch_sub(1, Ordering::Relaxed) == 0 {
                here.store(true, Ordering::Relaxed);
                panic!("for this test");
            }
            Say::Go
        });
        let with = Options { threads: 3, disk: Some(Arc::new(panicking)), ..sim::options_on(&disk, &Fate::new(5)) };
        let store = Store::open(ROOT, with).unwrap();
        // Of differences: the threads that encode read their bases.
        let saved = sim::save(&store.with_monitor(working), &trained(1), &options("s", 1));
        if !reached.load(Ordering::Relaxed) {
            saved.unwrap();
            break;
        }
        panics += 1;
        assert_eq!(saved.unwrap_err().kind(), ErrorKind::Bug, "{number}");
        sim::save(&store, &trained(1), &options("s", 1)).unwrap();
        drop(store);
        let facts = sim::observe(&sim::open(&disk, &Fate::new(3)).unwrap()).unwrap();
        assert_eq!((facts.len(), facts.get("s@1")), (4, Some(&sim::content_of(&trained(1)))), "{number}");
    }
    assert!(panics > 4, "{panics}");
}

/// Whatever another process does between two operations of a save, even if it takes longer than every grace: what is
/// acknowledged is there.
fn meanwhile(act: fn(&Store)) {
    for number in 0..operations_of_a_save() + 4 {
        let disk = two();
        let fate = Fate::new(8);
        let (other_disk, other_fate) = (disk.clone(), fate.clone());
        let hooked = FaultyDisk::meanwhile(disk.clone(), number, move || {
            other_fate.pass(400 * 86_400, &other_disk);
            act(&sim::open(&other_disk, &Fate::new(11)).unwrap());
        });
        let store = open_on(hooked, &disk, &fate).unwrap();
        let saved = save(&store, 3);
        drop(store);
        let facts = sim::observe(&sim::open(&disk, &Fate::new(9)).unwrap()).unwrap();
        match saved {
            Ok(()) => assert_eq!(facts.get("r@3"), Some(&sim::content_of(&part(3))), "{number}"),
            Err(Error::Stale { .. } | Error::StepExists { .. }) => {}
            Err(error) => panic!("{number}: {error:?}"),
        }
        assert!(sim::open(&disk, &Fate::new(9)).unwrap().verify(Depth::Deep).unwrap().is_sound(), "{number}");
    }
}

#[test]
fn f028_a_saver_that_sleeps_through_a_collection() {
    meanwhile(|store| {
        store.gc(&GcOptions::default()).unwrap();
    });
}

/// Somebody clears away the temporary files of a saver that sleeps: then a collection takes its packs for leavings.
#[test]
fn f028_a_saver_whose_place_is_cleared_away() {
    for number in 0..operations_of_a_save() + 4 {
        let disk = two();
        let fate = Fate::new(8);
        fate.pass(0, &disk);
        let (other_disk, other_fate) = (disk.clone(), fate.clone());
        let hooked = FaultyDisk::meanwhile(disk.clone(), number, move || {
            for path in other_disk.files().into_iter().filter(|path| path.starts_with("/store/tmp")) {
                other_disk.unlink(&path).unwrap();
                let _ = other_disk.remove_folder(path.parent().unwrap());
            }
            let _ = other_disk.make_folder(Path::new("/store/tmp"));
            other_fate.pass(2 * 86_400, &other_disk);
            sim::open(&other_disk, &other_fate).unwrap().gc(&GcOptions::default()).unwrap();
        });
        let saved = save(&open_on(hooked, &disk, &fate).unwrap(), 3);
        let store = sim::open(&disk, &Fate::new(9)).unwrap();
        let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{number}: {e}"));
        assert!(saved.is_err() || facts.get("r@3") == Some(&sim::content_of(&part(3))), "{number}: {facts:?}");
        assert!(store.verify(Depth::Deep).unwrap().is_sound(), "{number}");
    }
}

#[test]
fn f032_two_savers_want_one_slot() {
    meanwhile(|store| sim::save(store, &part(50), &options("s", 1)).unwrap());
}

#[test]
fn f033_two_savers_want_one_step() {
    meanwhile(|store| sim::save(store, &part(51), &options("r", 3)).map_or((), |()| ()));
}

#[test]
fn f068_packs_that_are_not_committed_yet_survive_a_collection_beside_them() {
    meanwhile(|store| {
        assert_eq!(store.gc(&GcOptions::default()).unwrap().dead_saves, 0);
    });
}

/// A local collection has no grace that could be given up: each is what others call forced.
#[test]
fn f069_f110_what_a_save_relies_on_is_forgotten_and_collected_meanwhile() {
    meanwhile(|store| {
        store.forget(&[0, 1]).unwrap();
        store.gc(&GcOptions::default()).unwrap();
    });
}

#[test]
fn f031_what_dead_saves_left_is_counted_and_reclaimed() {
    let disk = two();
    let dying = disk.process(6);
    save(&sim::open(&dying, &Fate::new(2)).unwrap(), 3).unwrap_err();
    let store = sim::open(&disk, &Fate::new(4)).unwrap();
    let found = store.examine().unwrap().into_iter().find(|finding| finding.what == "temporary").unwrap();
    assert!(!found.fine, "{found:?}");
    drop(store);
    works(&disk, &[1, 2]);
}

#[test]
fn f073_an_entry_of_a_later_version_stops_collection() {
    let disk = two();
    let newest = Path::new("/store/log/00000000000000000001");
    let mut bytes = disk.content(newest).unwrap();
    let end = bytes.len() - 32;
    bytes[6..8].copy_from_slice(&999u16.to_le_bytes());
    let hash = treering::id::Hash::of(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash.0);
    disk.damage(newest, Some(bytes));
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    let before = disk.files();
    assert!(store.forget(&[0]).is_err());
    assert!(store.repair(false).is_err(), "what a later version wrote is no damage");
    let _ = store.gc(&GcOptions::default());
    assert_eq!(disk.files(), before);
}

#[test]
fn f076_a_reader_that_sleeps_while_its_checkpoint_is_collected() {
    let disk = two();
    let fate = Fate::new(2);
    let reader = sim::open(&disk, &fate).unwrap();
    let checkpoint = reader.checkpoint(&at("r@2")).unwrap();
    let other = sim::open(&disk, &Fate::new(3)).unwrap();
    other.forget(&[1]).unwrap();
    other.gc(&GcOptions::default()).unwrap();
    for tensor in part(2) {
        let mut bytes = Vec::new();
        match checkpoint.read_tensor(&tensor.name, &mut bytes) {
            Ok(_) => assert_eq!(bytes, tensor.bytes),
            Err(error) => assert!(matches!(error, Error::Forgotten { .. }), "{error:?}"),
        }
    }
    assert!(matches!(reader.checkpoint(&at("r@2")), Err(error) if error.kind() == ErrorKind::NotFound));
}

#[test]
fn f078_a_log_that_was_cut_is_told_and_its_numbers_are_not_used_again() {
    let disk = two();
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    disk.damage(Path::new("/store/log/00000000000000000001"), None);
    assert!(matches!(save(&store, 3), Err(Error::Diverged { slot: 1 })));
    assert_eq!(sim::slots(&disk), [0]);
}

#[test]
fn f102_a_clock_that_jumps_changes_no_order_and_loses_nothing() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in 1..=6 {
        fate.pass([1, -40 * 365, 80 * 365, -1, 0, -300][step as usize - 1] * 86_400, &disk);
        save(&store, step).unwrap();
        store.gc(&GcOptions::default()).unwrap();
    }
    drop(store);
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    assert_eq!(store.find(&at("r@latest")).unwrap().step, 6);
    has(&disk, &[1, 2, 3, 4, 5, 6]);
}

#[test]
fn f109_objects_of_another_store_are_listed_and_left_alone() {
    let disk = two();
    let (other, fate) = (SimulatedDisk::new(), Fate::new(77));
    sim::save(&sim::create(&other, &fate).unwrap(), &part(9), &options("r", 9)).unwrap();
    for path in other.files().into_iter().filter(|path| path.starts_with("/store/packs")) {
        disk.damage(&path, other.content(&path));
    }
    let fate = Fate::new(2);
    let store = sim::open(&disk, &fate).unwrap();
    assert_eq!(store.verify(Depth::Deep).unwrap().foreign.len(), 1);
    // However long they have been lying there.
    fate.pass(400 * 86_400, &disk);
    store.gc(&GcOptions { unexplained: true, ..GcOptions::default() }).unwrap();
    assert_eq!(store.verify(Depth::Deep).unwrap().foreign.len(), 1);
    has(&disk, &[1, 2]);
}
