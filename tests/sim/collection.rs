//! Collections beside everything else that may happen. Named after their rows in docs/DURABILITY.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use treering::disk::SimulatedDisk;
use treering::format::entry::Number;
use treering::format::policy::{Mode, Policy, Rule};
use treering::gc::GcOptions;
use treering::save::SaveOptions;
use treering::verify::Depth;
use treering::{Error, Store};

use crate::faulty::FaultyDisk;
use crate::helpers::{Tensor, at, floats, options, trained};
use crate::sim::open_on;
use crate::sim::{self, Fate};

const DAY: i64 = 86_400;

fn part(seed: u64) -> Vec<Tensor> {
    vec![floats("model.base", 300, 1), floats("model.head", 40, seed)]
}

fn save(store: &Store, run: &str, step: u64, tensors: &[Tensor]) {
    sim::save(store, tensors, &options(run, step)).unwrap();
}

fn gc(store: &Store) -> treering::Result<treering::gc::GcReport> {
    store.gc(&GcOptions::default())
}

fn packs(disk: &SimulatedDisk) -> BTreeSet<PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with("/store/packs")).collect()
}

/// Three checkpoints of `r` that share a part, the first of them forgotten.
fn one_forgotten() -> SimulatedDisk {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    (1..=3).for_each(|step| save(&store, "r", step, &part(step)));
    store.forget(&[0]).unwrap();
    drop(store);
    disk.settled()
}

/// A collector that sleeps between any two operations knows an old root: meanwhile what it is about to delete is brought
/// back, and relied on by a new checkpoint.
#[test]
fn f072_a_collector_whose_root_is_old() {
    let operations = {
        let disk = one_forgotten();
        gc(&sim::open(&disk, &Fate::new(2)).unwrap()).unwrap();
        disk.operations()
    };
    let mut brought_back = 0;
    for number in 0..operations {
        let disk = one_forgotten();
        let (other_disk, done) = (disk.clone(), Arc::new(Mutex::new((false, false))));
        let told = done.clone();
        let sleeping = FaultyDisk::meanwhile(disk.clone(), number, move || {
            let other = sim::open(&other_disk, &Fate::new(3)).unwrap();
            let undone = other.undo(&at("r@1")).is_ok();
            let saved = sim::save(&other, &part(1), &options("s", 1)).is_ok();
            *told.lock().unwrap() = (undone, saved);
        });
        let store = open_on(sleeping, &disk, &Fate::new(2)).unwrap();
        if let Err(error) = gc(&store) {
            assert!(matches!(error, Error::Stale { .. }), "{number}: {error:?}");
        }
        drop(store);
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{number}: {e}"));
        let (undone, saved) = *done.lock().unwrap();
        assert!(saved, "{number}");
        assert_eq!(facts.get("s@1"), Some(&sim::content_of(&part(1))), "{number}");
        assert_eq!(facts.contains_key("r@1"), undone, "{number}");
        assert!(facts.contains_key("r@2") && facts.contains_key("r@3"), "{number}");
        assert!(store.verify(Depth::Deep).unwrap().is_sound(), "{number}");
        brought_back += usize::from(undone);
    }
    assert!(brought_back > 0 && brought_back < operations, "{brought_back} of {operations}");
}

/// The same, and what a save left that died once its packs had names.
fn one_forgotten_and_one_dead() -> SimulatedDisk {
    let count = packs(&one_forgotten()).len();
    let died = (0..).find_map(|limit| {
        let disk = one_forgotten();
        let dying = disk.process(limit);
        let _ = sim::open(&dying, &Fate::new(2)).and_then(|store| sim::save(&store, &part(4), &options("r", 4)));
        (packs(&disk).len() > count).then_some(disk)
    });
    died.unwrap().settled()
}

/// A collection sleeps between any two operations, while another one does all of its work.
#[test]
fn f071_a_collection_in_the_middle_of_another() {
    for number in 0.. {
        let disk = one_forgotten_and_one_dead();
        let fate = Fate::new(2);
        fate.pass(2 * DAY, &disk);
        let (other_disk, other_fate, met) = (disk.clone(), fate.clone(), Arc::new(Mutex::new(false)));
        let told = met.clone();
        let sleeping = FaultyDisk::meanwhile(disk.clone(), number, move || {
            gc(&sim::open(&other_disk, &other_fate).unwrap()).unwrap();
            *told.lock().unwrap() = true;
        });
        if let Err(error) = gc(&open_on(sleeping, &disk, &fate).unwrap()) {
            assert!(matches!(error, Error::Stale { .. }), "{number}: {error:?}");
        }
        if !*met.lock().unwrap() {
            assert!(number > 10);
            break;
        }
        fate.pass(2 * DAY, &disk);
        let store = sim::open(&disk, &fate).unwrap();
        gc(&store).unwrap();
        assert_eq!(sim::observe(&store).unwrap().keys().collect::<Vec<_>>(), ["r@2", "r@3"], "{number}");
        let report = store.verify(Depth::Deep).unwrap();
        assert!(report.is_sound() && report.foreign.is_empty(), "{number}: {report:?}");
        let left: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with("/store/tmp")).collect();
        assert_eq!(left, [Path::new("/store/tmp/reserve")], "{number}");
    }
}

/// What is tagged, scored or leased before a policy's forgetting is in the log stays, also when the plan was made before.
#[test]
fn f072_what_is_worth_keeping_since_the_plan_stays() {
    type Act = fn(&Store) -> treering::Result<()>;
    let acts: [(&str, Act); 3] = [
        ("tagged", |store| store.tag(&at("r@1"), &["good".into()], &[]).map(drop)),
        ("scored", |store| store.annotate(&at("r@1"), [("loss".into(), Number(0.5))].into(), None).map(drop)),
        ("leased", |store| store.lease(&at("r@1"), Duration::from_secs(3600), "reading").map(drop)),
    ];
    let rules = ["keep-last 1", "keep-tagged", "keep-best loss:1"].map(|rule| rule.parse::<Rule>().unwrap());
    for (what, act) in acts {
        let (mut in_time, mut too_late) = (0, 0);
        for number in 0.. {
            let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
            let other = sim::create(&disk, &fate).unwrap();
            for step in 1..=3u8 {
                save(&other, "r", step.into(), &part(step.into()));
                let loss = [("loss".into(), Number(f64::from(4 - step)))];
                other.annotate(&at(&format!("r@{step}")), loss.into(), None).unwrap();
            }
            other.set_policy("r", &rules.clone().into_iter().collect::<Policy>()).unwrap();
            other.set_mode("r", "loss", Mode::Min).unwrap();
            let done = Arc::new(Mutex::new(None));
            let (told, actor) = (done.clone(), other.clone());
            let sleeping = FaultyDisk::meanwhile(disk.clone(), number, move || {
                *told.lock().unwrap() = Some(act(&actor).is_ok());
            });
            gc(&open_on(sleeping, &disk, &fate).unwrap()).unwrap();
            let Some(in_log) = *done.lock().unwrap() else { break };
            let kept = sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap().contains_key("r@1");
            assert_eq!(kept, in_log, "{what} between operations {number} and the next");
            if in_log { in_time += 1 } else { too_late += 1 }
        }
        assert!(in_time > 3 && too_late > 3, "{what}: {in_time} times in time, {too_late} times too late");
    }
}

/// What is forgotten while a collection writes packs anew was condemned by nobody: it can still be brought back.
#[test]
fn f072_what_is_forgotten_in_the_middle_of_a_collection() {
    let (mut brought_back, mut gone) = (0, 0);
    for number in 0.. {
        let disk = one_forgotten();
        let other = sim::open(&disk, &Fate::new(3)).unwrap();
        save(&other, "s", 1, &[floats("model.other", 50, 7)]);
        let (forgetting, met) = (other.clone(), Arc::new(Mutex::new(false)));
        let told = met.clone();
        let sleeping = FaultyDisk::meanwhile(disk.clone(), number, move || {
            forgetting.forget(&[forgetting.find(&at("s@1")).unwrap().slot]).unwrap();
            *told.lock().unwrap() = true;
        });
        gc(&open_on(sleeping, &disk, &Fate::new(2)).unwrap()).unwrap();
        if !*met.lock().unwrap() {
            break;
        }
        let undone = other.undo(&at("s@1")).is_ok();
        let facts = sim::observe(&sim::open(&disk, &Fate::new(4)).unwrap()).unwrap();
        assert_eq!(
            facts.get("s@1"),
            undone.then(|| sim::content_of(&[floats("model.other", 50, 7)])).as_ref(),
            "{number}"
        );
        assert!(facts.contains_key("r@2") && facts.contains_key("r@3"), "{number}");
        (brought_back, gone) = (brought_back + usize::from(undone), gone + usize::from(!undone));
    }
    assert!(brought_back > 3 && gone > 0, "{brought_back}, {gone}");
}

/// The same, and it is brought back before the collection is done: unless it was condemned, its packs are not touched.
#[test]
fn f072_what_is_forgotten_and_brought_back_in_the_middle_of_a_collection() {
    let mut brought_back = 0;
    let operations = {
        let disk = one_forgotten();
        gc(&sim::open(&disk, &Fate::new(2)).unwrap()).unwrap();
        disk.operations()
    };
    for (first, second) in (0..operations).flat_map(|first| (first..operations).map(move |second| (first, second))) {
        let disk = one_forgotten();
        let other = sim::open(&disk, &Fate::new(3)).unwrap();
        save(&other, "s", 1, &[floats("model.other", 50, 7)]);
        let (forgets, undoes) = (other.clone(), other.clone());
        let undone = Arc::new(Mutex::new(false));
        let told = undone.clone();
        let forgetting = FaultyDisk::meanwhile(disk.clone(), first, move || {
            forgets.forget(&[forgets.find(&at("s@1")).unwrap().slot]).unwrap();
        });
        let sleeping = FaultyDisk::meanwhile(forgetting, second + 1, move || {
            *told.lock().unwrap() = undoes.undo(&at("s@1")).is_ok();
        });
        gc(&open_on(sleeping, &disk, &Fate::new(2)).unwrap()).unwrap();
        let what = format!("{first}, {second}");
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{what}: {e}"));
        if *undone.lock().unwrap() {
            brought_back += 1;
            assert_eq!(facts.get("s@1"), Some(&sim::content_of(&[floats("model.other", 50, 7)])), "{what}");
        }
        assert!(facts.contains_key("r@2") && facts.contains_key("r@3"), "{what}");
        assert!(store.verify(Depth::Deep).unwrap().is_sound(), "{what}");
    }
    assert!(brought_back > 10, "{brought_back}");
}

/// What the log says is gone does not come back with a power loss: nobody would look for it.
#[test]
fn f011_deletions_are_durable_before_they_are_noted() {
    let disk = one_forgotten();
    gc(&sim::open(&disk, &Fate::new(2)).unwrap()).unwrap();
    let crashes = disk.crashes(64, 1);
    assert!(!crashes.is_empty());
    for crashed in crashes {
        let report = sim::open(&crashed, &Fate::new(3)).unwrap().verify(Depth::Structure).unwrap();
        assert!(report.foreign.is_empty(), "{:?} came back", report.foreign);
    }
}

/// If it does all the same, as from a backup, it is listed, and deleted again.
#[test]
fn what_came_back_is_deleted_again() {
    let disk = one_forgotten();
    let gone: Vec<(PathBuf, Vec<u8>)> =
        packs(&disk).into_iter().map(|path| (path.clone(), disk.content(&path).unwrap())).collect();
    let fate = Fate::new(2);
    gc(&sim::open(&disk, &fate).unwrap()).unwrap();
    let gone: Vec<_> = gone.into_iter().filter(|(path, _)| !packs(&disk).contains(path)).collect();
    assert_eq!(gone.len(), 1);
    let left = packs(&disk);
    gone.iter().for_each(|(path, bytes)| disk.damage(path, Some(bytes.clone())));
    let store = sim::open(&disk, &fate).unwrap();
    assert_eq!(store.verify(Depth::Structure).unwrap().foreign.len(), 1);
    fate.pass(2 * DAY, &disk);
    gc(&store).unwrap();
    assert_eq!(packs(&disk), left);
    assert!(store.verify(Depth::Deep).unwrap().foreign.is_empty());
}

#[test]
fn f074_a_deletion_that_comes_late_meets_no_name_that_is_used_again() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    let mut ever: BTreeSet<PathBuf> = BTreeSet::new();
    for step in 1..=12 {
        // The very same content, again and again.
        save(&store, "r", step, &part(1));
        let now = packs(&disk);
        assert!(now.is_disjoint(&ever), "{now:?} was used before");
        ever.extend(now);
        store.forget(&[store.find(&at(&format!("r@{step}"))).unwrap().slot]).unwrap();
        gc(&store).unwrap();
        assert!(packs(&disk).is_empty());
    }
    save(&store, "r", 50, &part(1));
    ever.iter().for_each(|path| disk.damage(path, None));
    assert_eq!(sim::observe(&store).unwrap()["r@50"], sim::content_of(&part(1)));
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

/// Two savers write the same content at the same moment: two packs, each with a copy.
fn two_copies() -> SimulatedDisk {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    drop(sim::create(&disk, &fate).unwrap());
    let other = disk.clone();
    let meanwhile = FaultyDisk::meanwhile(disk.clone(), 2, move || {
        save(&sim::open(&other, &Fate::new(3)).unwrap(), "s", 1, &part(1));
    });
    save(&open_on(meanwhile, &disk, &fate).unwrap(), "r", 1, &part(1));
    assert_eq!(packs(&disk).len(), 2);
    disk.settled()
}

#[test]
fn f075_of_several_copies_the_last_good_one_stays() {
    for (gone, stays) in [("r@1", "s@1"), ("s@1", "r@1")] {
        let disk = two_copies();
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        store.forget(&[store.find(&at(gone)).unwrap().slot]).unwrap();
        gc(&store).unwrap();
        assert_eq!(packs(&disk).len(), 1, "{gone}");
        assert_eq!(sim::observe(&store).unwrap()[stays], sim::content_of(&part(1)));
    }
    // One copy is damaged, and the other one healed whoever needs it: then that stays, whoever brought it.
    for damaged in packs(&two_copies()) {
        let disk = two_copies();
        let mut bytes = disk.content(&damaged).unwrap();
        bytes[60] ^= 1;
        disk.damage(&damaged, Some(bytes));
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        assert_eq!(store.verify(Depth::Deep).unwrap().affected.len(), 1);
        assert!(store.repair(false).unwrap().gone.is_empty());
        let of_good = store.find(&at("r@1")).unwrap();
        let is_of_good = damaged.to_string_lossy().contains(&of_good.save.to_string());
        let (hurt, whole) = if is_of_good { ("r@1", "s@1") } else { ("s@1", "r@1") };
        store.forget(&[store.find(&at(whole)).unwrap().slot]).unwrap();
        gc(&store).unwrap();
        assert_eq!(sim::observe(&store).unwrap()[hurt], sim::content_of(&part(1)), "{damaged:?}");
    }
}

#[test]
fn f077_much_that_nobody_explains_is_not_collected() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    (1..=20).for_each(|step| save(&store, "r", step, &[floats("model.a", 30, step)]));
    drop(store);
    // The log is lost, whole or all but its beginning, and nobody has a catalog that knew it.
    for keep in [0, 1, 2] {
        let disk = disk.settled();
        fate.pass(400 * DAY, &disk);
        for slot in keep..20 {
            disk.damage(&PathBuf::from(format!("/store/log/{slot:020}")), None);
        }
        let before = packs(&disk);
        let store = sim::open(&disk, &fate).unwrap();
        let refused = gc(&store).unwrap_err();
        assert!(matches!(refused, Error::Unexplained { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&format!("{} packs", 20 - keep)), "{refused}");
        assert_eq!(packs(&disk), before);
        let report = store.gc(&GcOptions { unexplained: true, ..GcOptions::default() }).unwrap();
        assert_eq!(report.dead_saves, 20 - keep as u64);
        assert_eq!(packs(&disk).len(), keep);
    }
    // A few, as savers may leave that a power loss ended, are no reason to stop.
    let disk = disk.settled();
    fate.pass(400 * DAY, &disk);
    (16..20).for_each(|slot| disk.damage(&PathBuf::from(format!("/store/log/{slot:020}")), None));
    gc(&sim::open(&disk, &fate).unwrap()).unwrap();
    assert_eq!(packs(&disk).len(), 16);
}

/// The first pack has a head that nobody needs any more and a base that all share: a collection writes it anew.
fn to_be_rewritten() -> SimulatedDisk {
    let disk = one_forgotten();
    let count = |disk: &SimulatedDisk| gc(&sim::open(disk, &Fate::new(2)).unwrap()).unwrap().packs_rewritten;
    assert!(count(&disk.settled()) > 0);
    disk
}

#[test]
fn f079_damage_is_never_copied_as_good() {
    let disk = to_be_rewritten();
    let first = packs(&disk).into_iter().find(|path| {
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        let tensors = store.checkpoint(&at("r@2")).unwrap().tensors().unwrap();
        path.ends_with(tensors[0].packs[0].to_string())
    });
    let first = first.unwrap();
    for byte in [60, 300, 900] {
        let disk = disk.settled();
        let mut bytes = disk.content(&first).unwrap();
        bytes[byte] ^= 1;
        disk.damage(&first, Some(bytes));
        let lost = |store: &Store| {
            let report = store.verify(Depth::Deep).unwrap();
            report.affected.into_iter().map(|one| (one.checkpoint.address(), one.lost)).collect::<Vec<_>>()
        };
        let store = sim::open(&disk, &Fate::new(4)).unwrap();
        let before = lost(&store);
        assert_eq!(before.len(), 2, "{before:?}");
        let _ = gc(&store);
        assert_eq!(lost(&store), before, "byte {byte}");
        assert!(packs(&disk).contains(&first), "what is good beside the damage stays");
        store.repair(false).unwrap();
        gc(&store).unwrap();
        assert_eq!(lost(&store), before, "byte {byte}, repaired");
        save(&store, "t", 1, &part(2));
        assert!(lost(&store).is_empty(), "byte {byte}, healed");
    }
}

#[test]
fn f079_packs_that_are_written_anew_are_there_until_the_new_ones_are() {
    let operations = {
        let disk = to_be_rewritten();
        gc(&sim::open(&disk, &Fate::new(2)).unwrap()).unwrap();
        disk.operations() as u64
    };
    for limit in 0..operations {
        let disk = to_be_rewritten();
        let dying = disk.process(limit);
        assert!(sim::open(&dying, &Fate::new(2)).and_then(|store| gc(&store)).is_err());
        for state in disk.crashes(16, limit) {
            let fate = Fate::new(5);
            fate.pass(2 * DAY, &state);
            let store = sim::open(&state, &fate).unwrap();
            gc(&store).unwrap();
            let facts = sim::observe(&store).unwrap();
            assert_eq!(facts.keys().collect::<Vec<_>>(), ["r@2", "r@3"], "{limit}");
            let report = store.verify(Depth::Deep).unwrap();
            assert!(report.is_sound() && report.foreign.is_empty(), "{limit}: {report:?}");
        }
    }
}

/// A process dies with differences in packs that no entry names. The next one neither shares them nor builds on them.
#[test]
fn f082_nothing_rests_on_what_a_dead_save_wrote() {
    let two = || {
        let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
        let store = sim::create(&disk, &fate).unwrap();
        (0..2).for_each(|step| save(&store, "r", step, &trained(step)));
        drop(store);
        disk.settled()
    };
    let operations = {
        let disk = two();
        save(&sim::open(&disk, &Fate::new(2)).unwrap(), "r", 2, &trained(2));
        disk.operations() as u64
    };
    let mut left_packs = 0;
    for limit in 0..operations {
        let disk = two();
        let dying = disk.process(limit);
        let _ = sim::open(&dying, &Fate::new(2)).and_then(|store| sim::save(&store, &trained(2), &options("r", 2)));
        if sim::slots(&disk).len() > 2 {
            continue;
        }
        left_packs += usize::from(packs(&disk).len() > packs(&two()).len());
        // The same content under another name, and the next step.
        let fate = Fate::new(3);
        fate.pass(2 * DAY, &disk);
        let store = sim::open(&disk, &fate).unwrap();
        save(&store, "s", 2, &trained(2));
        save(&store, "r", 3, &trained(3));
        gc(&store).unwrap();
        let facts = sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap();
        let expected = [("r@0", 0), ("r@1", 1), ("r@3", 3), ("s@2", 2)];
        let expected = expected.map(|(address, step)| (address.to_string(), sim::content_of(&trained(step))));
        assert_eq!(facts.into_iter().collect::<Vec<_>>(), expected, "{limit}");
        let report = store.verify(Depth::Deep).unwrap();
        assert!(report.is_sound() && report.foreign.is_empty(), "{limit}: {report:?}");
    }
    assert!(left_packs > 2, "{left_packs}");
}

/// What a run rests on is a base that another run brought, and that run goes.
#[test]
fn f080_a_base_that_is_lost_names_all_that_rest_on_it() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in 0..3 {
        save(&store, "r", step, &trained(step));
    }
    let forked = SaveOptions { parent: Some(at("r@1")), ..options("s", 2) };
    sim::save(&store, &trained(9), &forked).unwrap();
    save(&store, "u", 1, &[floats("model.other", 50, 7)]);
    let base = &store.checkpoint(&at("r@0")).unwrap().tensors().unwrap()[0].packs[0];
    let path = packs(&disk).into_iter().find(|path| path.ends_with(base.to_string())).unwrap();
    let content = disk.content(&path).unwrap();
    drop(store);
    let mut cut = content.clone();
    cut.truncate(content.len() - 1);
    for damage in [None, Some(cut)] {
        disk.damage(&path, damage);
        let store = sim::open(&disk, &fate).unwrap();
        let report = store.verify(Depth::Deep).unwrap();
        let named: Vec<String> = report.affected.iter().map(|one| one.checkpoint.address()).collect();
        assert_eq!(named, ["r@0", "r@1", "r@2", "s@2"]);
        for address in named {
            let read =
                store.checkpoint(&at(&address)).and_then(|c| c.read_tensor("model.w", &mut Vec::new()).map(drop));
            assert!(read.is_err_and(|e| e.kind() == treering::ErrorKind::Damaged), "{address}");
        }
        assert_eq!(sim::observe_run(&store, "u").unwrap().len(), 1);
    }
    // Only in another place by mistake: all is well again.
    disk.damage(Path::new(&path), Some(content));
    assert!(sim::open(&disk, &fate).unwrap().verify(Depth::Deep).unwrap().is_sound());
}
