//! A crash of the machine after each operation of small histories, with every loss that a disk may then show.
//!
//! A history runs once, on a simulated disk that keeps a journal. For each operation, each state that a crash there may
//! leave is opened as by a new process without a catalog. What was acknowledged must be there, bit for bit; what was
//! under way is there whole, or not at all. Then the store is put to use again, and some of that is cut short, too.
//!
//! A new history is a function and a line in `histories!`. Others are made up by chance, each by its seed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use treering::catalog::Filter;
use treering::disk::SimulatedDisk;
use treering::format::policy::{Policy, Rule};
use treering::gc::GcOptions;
use treering::save::{OnConflict, SaveOptions};
use treering::verify::Depth;
use treering::{Error, Store};

use crate::helpers::{Tensor, at, floats, metrics, options, trained};
use crate::sim::{self, Fate};

/// States that one run of all histories may look at before recoveries are cut short, too, which makes some three times
/// as many; more with `TREERING_CRASH_STATES`.
const STATES: usize = 30_000;
/// Of so many states, one is put to use and crashes again meanwhile.
const AGAIN: usize = 24;

/// All that a store says of itself.
type Facts = BTreeMap<String, String>;

/// A history that runs, and what is acknowledged in it.
struct Session {
    disk: SimulatedDisk,
    fate: Fate,
    store: Option<Store>,
    acts: Vec<Act>,
    /// Some of it was damaged from outside.
    damaged: bool,
}

/// Something that changes facts, between two operations of the disk.
struct Act {
    began: usize,
    ended: usize,
    facts: Facts,
}

impl Session {
    /// Opens a store that was made and synced before.
    fn prepared() -> Session {
        let mut session = Session::bare();
        session.store = Some(sim::create(&session.disk, &session.fate).unwrap());
        session.settle();
        session
    }

    fn bare() -> Session {
        let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
        Session { disk, fate, store: None, acts: Vec::new(), damaged: false }
    }

    /// What happened so far was long ago.
    fn settle(&mut self) {
        self.store = None;
        self.disk = self.disk.settled();
        self.store = Some(sim::open(&self.disk, &self.fate).unwrap());
        let facts = sim::observe(self.store()).unwrap();
        self.acts = vec![Act { began: 0, ended: 0, facts }];
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Session) -> T) -> T {
        let began = self.disk.operations();
        let done = act(self);
        let ended = self.disk.operations();
        let facts = sim::observe(self.store()).unwrap();
        self.acts.push(Act { began, ended, facts });
        done
    }

    fn save(&mut self, run: &str, step: u64, tensors: &[Tensor]) {
        self.save_with(tensors, &options(run, step));
    }

    fn save_with(&mut self, tensors: &[Tensor], options: &SaveOptions) {
        self.act(|session| sim::save(session.store(), tensors, options).unwrap());
        let facts = &self.acts.last().unwrap().facts;
        assert_eq!(facts[&format!("{}@{}", options.run, options.step)], sim::content_of(tensors));
    }

    fn forget(&mut self, address: &str) {
        self.act(|session| {
            let slot = session.store().find(&at(address)).unwrap().slot;
            session.store().forget(&[slot]).unwrap();
        });
    }

    fn gc(&mut self) {
        self.act(|session| session.store().gc(&GcOptions::default()).unwrap());
    }

    fn policy(&mut self, run: &str, rules: &[&str]) {
        let policy: Policy = rules.iter().map(|rule| rule.parse::<Rule>().unwrap()).collect();
        self.act(|session| session.store().set_policy(run, &policy).unwrap());
    }

    /// What may be said of each thing after so many operations: `None` is that it is not there.
    fn allowed(&self, operations: usize) -> BTreeMap<String, BTreeSet<Option<String>>> {
        let mut certain = &Facts::new();
        let mut possible = None;
        for act in &self.acts {
            if act.ended <= operations {
                certain = &act.facts;
            } else if act.began < operations {
                possible = Some(&act.facts);
            }
        }
        let mut allowed: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
        for facts in [Some(certain), possible].into_iter().flatten() {
            let keys = certain.keys().chain(possible.into_iter().flat_map(Facts::keys));
            for key in keys {
                allowed.entry(key.clone()).or_default().insert(facts.get(key).cloned());
            }
        }
        allowed
    }

    /// The store is acknowledged.
    fn is_made(&self, operations: usize) -> bool {
        self.acts.iter().any(|act| act.ended <= operations)
    }
}

#[derive(Debug, Default)]
struct Count {
    states: usize,
    again: usize,
}

fn asked_for() -> Option<usize> {
    std::env::var("TREERING_CRASH_STATES").ok().and_then(|text| text.parse().ok())
}

/// Looks at no more than `budget` states, or two for each operation.
fn crash_everywhere(name: &str, session: &Session, budget: usize) -> Count {
    let points = session.disk.operations() + 1;
    let mut seen: HashSet<(blake3::Hash, usize)> = HashSet::new();
    let mut count = Count::default();
    let mut look = |operations: usize, states: Vec<SimulatedDisk>| {
        let acknowledged = session.acts.iter().filter(|act| act.ended <= operations).count();
        for disk in states {
            // The same state under the same promises has been looked at.
            if !seen.insert((disk.fingerprint(), acknowledged)) {
                continue;
            }
            count.states += 1;
            let what = format!("{name}, a crash after operation {operations} of {points}, state {}", count.states);
            look_at(&what, session, operations, &disk, &mut count);
        }
    };
    session.disk.crashes_everywhere((budget / points).max(2), 7, &mut look);
    println!("{name}: {points} operations, {} states, {} crashes of recoveries", count.states, count.again);
    count
}

/// Histories that nobody thought of, as many as it takes to see a share of the states, or all that are asked for.
#[test]
fn by_chance() {
    let wanted = asked_for().unwrap_or(STATES / HISTORIES);
    let mut seen = 0;
    for seed in 0.. {
        let count = crash_everywhere(&format!("seed {seed}"), &histories::by_chance(seed), 500);
        seen += count.states + count.again;
        if seen >= wanted {
            println!("{} histories by chance, {seen} states", seed + 1);
            break;
        }
    }
}

fn look_at(what: &str, session: &Session, operations: usize, disk: &SimulatedDisk, count: &mut Count) {
    // Not the chance of the history: ids are never drawn twice.
    let fate = Fate::new(!(operations as u64));
    let store = match sim::open(disk, &fate) {
        Err(Error::StoreMissing { .. }) if !session.is_made(operations) => {
            let made = sim::create(disk, &fate).unwrap_or_else(|e| panic!("{what}: it cannot be made again: {e}"));
            assert!(sim::observe(&made).unwrap().is_empty());
            return;
        }
        opened => opened.unwrap_or_else(|e| panic!("{what}: it does not open: {}", chain(&e))),
    };
    let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
    check(what, &session.allowed(operations), &facts);
    let slots = sim::slots(disk);
    assert_eq!(slots, (0..slots.len() as u64).collect::<Vec<_>>(), "{what}: the log has gaps");
    recover(what, session, store, disk, &fate, &facts, count);
}

fn check(what: &str, allowed: &BTreeMap<String, BTreeSet<Option<String>>>, facts: &Facts) {
    for (key, allowed) in allowed {
        let found = facts.get(key).cloned();
        assert!(allowed.contains(&found), "{what}: {key} is {found:?}, not one of {allowed:?}");
    }
    let unknown: Vec<_> = facts.keys().filter(|key| !allowed.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "{what}: nobody did this: {unknown:?}");
}

/// What people do next: save, and collect. Nothing of the crash stays behind, and nothing that was there is lost.
fn recover(
    what: &str,
    session: &Session,
    store: Store,
    disk: &SimulatedDisk,
    fate: &Fate,
    facts: &Facts,
    count: &mut Count,
) {
    fate.pass(27 * 3600, disk);
    let new = [floats("model.new", 20, 99)];
    let use_it = |store: Store| -> treering::Result<Store> {
        sim::save(&store, &new, &options("after", 1))?;
        store.gc(&GcOptions::default())?;
        Ok(store)
    };
    let store = use_it(store).unwrap_or_else(|e| panic!("{what}: it cannot be used: {}", chain(&e)));
    // A policy that survived may let something go.
    let policies = facts.keys().any(|key| key.starts_with("policy"));
    let mut expected: BTreeMap<String, BTreeSet<Option<String>>> =
        facts.iter().map(|(key, value)| (key.clone(), [Some(value.clone())].into())).collect();
    let after = sim::observe(&store).unwrap_or_else(|e| panic!("{what}, used again: {}", chain(&e)));
    if policies {
        for (key, allowed) in &mut expected {
            allowed.insert(after.get(key).cloned());
        }
    }
    expected.insert("after@1".into(), [Some(sim::content_of(&new))].into());
    check(&format!("{what}, used again"), &expected, &after);
    let report = store.verify(Depth::Deep).unwrap();
    assert!(session.damaged || report.is_sound(), "{what}: {:?} {:?}", report.damage, report.affected);
    assert!(report.foreign.is_empty(), "{what}: {:?} stay for ever", report.foreign);
    let left: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with("/store/tmp")).collect();
    assert!(left.len() <= 1, "{what}: {left:?} stay for ever");
    if !count.states.is_multiple_of(AGAIN) {
        return;
    }
    expected.values_mut().for_each(|allowed| {
        allowed.insert(None);
    });
    let kept: Vec<&String> = facts.keys().filter(|_| !policies).collect();
    let mut seen: HashSet<blake3::Hash> = HashSet::new();
    let mut look = |operations: usize, states: Vec<SimulatedDisk>| {
        for state in states {
            if !seen.insert(state.fingerprint()) {
                continue;
            }
            count.again += 1;
            let what = format!("{what}, then after operation {operations} of the recovery");
            let store = sim::open(&state, fate).unwrap_or_else(|e| panic!("{what}: it does not open: {}", chain(&e)));
            let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{what}: {}", chain(&e)));
            check(&what, &expected, &facts);
            assert!(kept.iter().all(|key| facts.contains_key(*key)), "{what}: {facts:?}");
            if !count.again.is_multiple_of(8) {
                continue;
            }
            let store = use_it(store).unwrap_or_else(|e| panic!("{what}: no third time: {}", chain(&e)));
            assert_eq!(sim::observe(&store).unwrap().get("after@1"), Some(&sim::content_of(&new)), "{what}");
        }
    };
    disk.crashes_everywhere(3, count.states as u64, &mut look);
}

fn chain(error: &Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

macro_rules! histories {
    ($($name:ident),* $(,)?) => {
        const HISTORIES: usize = [$(stringify!($name)),*].len();
        $(
            #[test]
            fn $name() {
                let share = asked_for().unwrap_or(STATES) / HISTORIES;
                crash_everywhere(stringify!($name), &histories::$name(), share);
            }
        )*
    };
}

histories! {
    a_store_is_made,
    the_first_save,
    a_save_with_much_that_is_known,
    a_save_of_several_packs,
    a_step_is_replaced,
    a_parent_is_chosen_and_steps_are_superseded,
    forgotten_and_brought_back,
    collected,
    collected_with_packs_written_anew,
    collected_by_a_policy,
    a_component_is_dropped,
    tags_metrics_notes_and_policies,
    a_run_is_forked_and_leased,
    the_catalog_is_made_anew,
    a_dead_save_is_buried,
    a_save_of_differences,
    differences_that_hang_on_what_is_collected,
    differences_under_a_policy,
    a_copy_loses_what_it_was_made_of,
    damage_is_marked_and_healed,
    saved_by_several_processes,
    a_joint_save_is_given_up,
}

mod histories {
    use super::*;

    /// A part that stays and a part that changes.
    fn lora(seed: u64) -> Vec<Tensor> {
        vec![floats("model.base", 400, 1), floats("model.head", 30, seed), floats("optimizer.m", 60, 1000 + seed)]
    }

    /// What is done is acknowledged as it is then seen: an act may be refused.
    pub(super) fn by_chance(seed: u64) -> Session {
        let chance = Fate::new(seed);
        let mut session = Session::prepared();
        let before = chance.below(8);
        for n in 0..before + 2 + chance.below(4) {
            if n == before {
                session.settle();
            }
            something(&mut session, &chance, n + 1);
        }
        session
    }

    fn something(session: &mut Session, chance: &Fate, step: u64) {
        let one_of = |words: Vec<String>| words.get(chance.below(words.len().max(1) as u64) as usize).cloned();
        let checkpoints = |facts: &Facts| facts.keys().filter(|key| !key.contains(' ')).cloned().collect::<Vec<_>>();
        let kept = checkpoints(&session.acts.last().unwrap().facts);
        let run = ["r", "s"][chance.below(2) as usize];
        let tensors = match chance.below(6) {
            0 => vec![floats("model.base", 1200, step), floats("model.more", 900, chance.below(3))],
            1 | 2 => lora(chance.below(3)),
            _ => trained(step % 8),
        };
        match (chance.below(12), one_of(kept)) {
            (0, Some(address)) => session.forget(&address),
            (1, Some(address)) => drop(session.act(|s| s.store().tag(&at(&address), &["a".into()], &[]).unwrap())),
            (2, Some(address)) => {
                let loss = metrics(&[("loss", 1.0 / step as f64)]);
                session.act(|s| s.store().annotate(&at(&address), loss, None).unwrap());
            }
            (3, Some(address)) => drop(session.act(|s| s.store().fork(&format!("fork{step}"), &at(&address)).unwrap())),
            (4, _) => {
                let ever: Vec<String> = session.acts.iter().flat_map(|act| checkpoints(&act.facts)).collect();
                if let Some(address) = one_of(ever) {
                    let _ = session.act(|s| s.store().undo(&at(&address)));
                }
            }
            (5, _) => {
                let rules = ["keep-last 2", "keep-every 3", "thin optimizer:1"];
                session.policy(run, &rules[chance.below(3) as usize..]);
            }
            (6 | 7, _) => session.gc(),
            (8, Some(address)) => {
                let (run, step) = address.split_once('@').unwrap();
                let replace = SaveOptions { on_conflict: OnConflict::Replace, ..options(run, step.parse().unwrap()) };
                session.save_with(&tensors, &replace);
            }
            (9, _) => session.act(|s| sim::save_together(s.store(), &tensors, &options(run, step), 2).unwrap()),
            _ => session.save(run, step, &tensors),
        }
    }

    pub(super) fn saved_by_several_processes() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        for step in 2..4 {
            session.act(|session| {
                sim::save_together(session.store(), &trained(step)[2..], &options("r", step), 2).unwrap();
            });
        }
        session.gc();
        session
    }

    pub(super) fn a_joint_save_is_given_up() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.act(|session| {
            assert!(sim::save_together(session.store(), &lora(2)[..1], &options("r", 2), 1).is_err());
        });
        session.gc();
        session.save("r", 2, &lora(3));
        session
    }

    pub(super) fn a_store_is_made() -> Session {
        let mut session = Session::bare();
        session.act(|session| session.store = Some(sim::create(&session.disk, &session.fate).unwrap()));
        session
    }

    pub(super) fn the_first_save() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session
    }

    pub(super) fn a_save_with_much_that_is_known() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.save("r", 2, &lora(2));
        session.save("s", 1, &lora(1));
        session.save("r", 2, &lora(2));
        session
    }

    pub(super) fn a_save_of_several_packs() -> Session {
        let mut session = Session::prepared();
        let tensors: Vec<Tensor> = (0..4).map(|n| floats(&format!("model.{n}"), 1200, n)).collect();
        session.save("r", 1, &tensors);
        session
    }

    pub(super) fn a_step_is_replaced() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.save_with(&lora(2), &SaveOptions { on_conflict: OnConflict::Replace, ..options("r", 1) });
        session.gc();
        session
    }

    pub(super) fn a_parent_is_chosen_and_steps_are_superseded() -> Session {
        let mut session = Session::prepared();
        for step in 1..=3 {
            session.save("r", step, &lora(step));
        }
        session.settle();
        session.save_with(&lora(9), &SaveOptions { parent: Some(at("r@1")), ..options("r", 4) });
        session.act(|session| session.store().undo(&at("r@2")).unwrap());
        session
    }

    pub(super) fn forgotten_and_brought_back() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.save("r", 2, &lora(2));
        session.settle();
        session.forget("r@1");
        session.act(|session| session.store().undo(&at("r@1")).unwrap());
        session.forget("r@2");
        session.forget("r@1");
        session
    }

    pub(super) fn collected() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.save("r", 2, &[floats("model.base", 300, 5)]);
        session.save("r", 3, &[floats("model.base", 300, 6)]);
        session.settle();
        session.forget("r@2");
        session.gc();
        session.forget("r@3");
        session.gc();
        session.save("r", 4, &lora(1));
        session
    }

    pub(super) fn collected_with_packs_written_anew() -> Session {
        let mut session = Session::prepared();
        for step in 1..=3 {
            session.save("r", step, &lora(step));
        }
        session.settle();
        session.forget("r@1");
        session.gc();
        session.save("r", 4, &lora(1));
        session
    }

    pub(super) fn collected_by_a_policy() -> Session {
        let mut session = Session::prepared();
        session.policy("r", &["keep-last 2"]);
        for step in 1..=3 {
            session.save("r", step, &lora(step));
        }
        session.gc();
        session.gc();
        session
    }

    pub(super) fn a_component_is_dropped() -> Session {
        let mut session = Session::prepared();
        for step in 1..=3 {
            session.save("r", step, &lora(step));
        }
        session.settle();
        session.policy("r", &["thin optimizer:1"]);
        session.gc();
        session
    }

    pub(super) fn tags_metrics_notes_and_policies() -> Session {
        let mut session = Session::prepared();
        let with = SaveOptions { metrics: metrics(&[("loss", 0.5)]), tags: vec!["a".into()], ..options("r", 1) };
        session.save_with(&lora(1), &with);
        session.save("r", 2, &lora(2));
        session.act(|s| s.store().tag(&at("r@2"), &["a".into(), "b".into()], &[]).unwrap());
        session.act(|s| s.store().annotate(&at("r@2"), metrics(&[("loss", 0.25)]), Some("n".into())).unwrap());
        session.act(|s| s.store().tag(&at("r@2"), &[], &["b".into()]).unwrap());
        session.policy("r", &["keep-last 1"]);
        session.policy("r", &["keep-last 3", "keep-tagged"]);
        session
    }

    pub(super) fn a_run_is_forked_and_leased() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.act(|session| session.store().fork("s", &at("r@1")).unwrap());
        session.act(|s| s.store().lease(&at("r@1"), std::time::Duration::from_secs(60), "me").unwrap());
        session.act(|session| {
            let slot = session.store().find(&at("r@1")).unwrap().slot;
            session.store().forget_leased(&[slot]).unwrap();
        });
        session.gc();
        session
    }

    pub(super) fn the_catalog_is_made_anew() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.act(|session| session.store().rebuild().unwrap());
        session.save("r", 2, &lora(2));
        session
    }

    pub(super) fn a_save_of_differences() -> Session {
        let mut session = Session::prepared();
        session.save("r", 0, &trained(0));
        session.settle();
        session.save("r", 1, &trained(1));
        session.save("r", 2, &trained(2));
        session
    }

    /// What is left of a chain is encoded again, against what lives or without a base.
    pub(super) fn differences_that_hang_on_what_is_collected() -> Session {
        let mut session = Session::prepared();
        (0..4).for_each(|step| session.save("r", step, &trained(step)));
        session.settle();
        session.forget("r@0");
        session.forget("r@2");
        session.gc();
        session.save("r", 4, &trained(4));
        session
    }

    pub(super) fn differences_under_a_policy() -> Session {
        let mut session = Session::prepared();
        session.policy("r", &["keep-last 1", "keep-every 4"]);
        (0..3).for_each(|step| session.save("r", step, &trained(step)));
        session.settle();
        session.gc();
        session.save("r", 4, &trained(4));
        session.gc();
        session
    }

    pub(super) fn a_copy_loses_what_it_was_made_of() -> Session {
        let mut session = Session::prepared();
        (0..3).for_each(|step| session.save("r", step, &trained(step)));
        session.settle();
        session.policy("r", &["thin optimizer:1"]);
        session.gc();
        session
    }

    /// A link in the middle of a chain turns bad. The same content again heals it, and what rests on it.
    pub(super) fn damage_is_marked_and_healed() -> Session {
        let mut session = Session::prepared();
        (0..3).for_each(|step| session.save("r", step, &trained(step)));
        session.settle();
        let pack = session.store().checkpoint(&at("r@1")).unwrap().tensors().unwrap()[2].packs[0].to_string();
        let path = session.disk.files().into_iter().find(|path| path.ends_with(&pack)).unwrap();
        let mut bytes = session.disk.content(&path).unwrap();
        bytes[100] ^= 1;
        session.disk.damage(&path, Some(bytes));
        session.settle();
        session.damaged = true;
        let before = session.acts[0].facts.clone();
        session.act(|session| session.store().repair(false).unwrap());
        assert_eq!(session.acts[1].facts, before);
        session.save("s", 1, &trained(1));
        let after = &session.acts[2].facts;
        assert!((0..3).all(|step| after[&format!("r@{step}")] == sim::content_of(&trained(step))), "{after:?}");
        assert_ne!(before["r@2"], after["r@2"]);
        session
    }

    /// A process dies at its last operation but one before the entry; another one goes on, and collects.
    pub(super) fn a_dead_save_is_buried() -> Session {
        let mut session = Session::prepared();
        session.save("r", 1, &lora(1));
        session.settle();
        let dying = session.disk.process(9);
        let store = sim::open(&dying, &session.fate).unwrap();
        session.act(|_| sim::save(&store, &lora(2), &options("r", 2)).unwrap_err());
        assert!(dying.is_dead());
        drop(store);
        assert_eq!(session.store().log(&Filter::default()).unwrap().len(), 1);
        session.gc();
        session.save("r", 2, &lora(2));
        session
    }
}
