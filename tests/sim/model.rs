//! Histories by chance against a map: savers alone and together, readers, collectors and rebuilders, of whom any may die
//! or sleep for years between two operations while another one does all of its work; a clock that jumps; a machine that
//! loses what was not synced. After every step, whoever knows nothing but the disk, or has been there for long, sees what
//! was acknowledged, bit for bit.
//!
//! The same on two machines over a network, which see each other late and lose answers.
//!
//! One seed is one history: `TREERING_SEED` runs just that, `TREERING_SEEDS` that many, from it or from 0 on, of
//! `TREERING_STEPS` each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use treering::disk::SimulatedDisk;
use treering::gc::GcOptions;
use treering::verify::Depth;
use treering::{Error, Store};

use crate::faulty::FaultyDisk;
use crate::helpers::{Tensor, at, floats, options, trained};
use crate::network::{BELIEVED_SECS, Machine};
use crate::sim::{self, Fate};

const SEEDS: u64 = 60;
const STEPS: u64 = 30;
const RUNS: [&str; 2] = ["a", "b/c"];
/// Longer than any grace.
const YEARS: i64 = 3 * 365 * 86_400;

type Facts = BTreeMap<String, String>;

/// An act that came to an end.
struct Done {
    act: Act,
    result: treering::Result<()>,
    /// The log was empty when it began.
    unborn: bool,
}

impl Done {
    fn of(act: &Act, disk: &SimulatedDisk, work: impl FnOnce() -> treering::Result<()>) -> Done {
        let unborn = sim::slots(disk).is_empty();
        Done { act: act.clone(), result: work(), unborn }
    }
}

/// What an actor does.
#[derive(Clone, Debug)]
enum Act {
    Save(String, u64, Vec<Tensor>),
    SaveTogether(String, u64, Vec<Tensor>),
    Forget(String),
    Undo(String),
    Collect,
    Rebuild,
    Verify,
}

/// What becomes of an actor between two of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Nothing,
    Dies(u64),
    Sleeps(u64),
    MachineCrashes(u64),
}

struct World {
    seed: u64,
    fate: Fate,
    disk: SimulatedDisk,
    /// The machines over whose network the actors use the disk; none: they are all where the disk is.
    machines: Vec<Machine>,
    /// What everybody must see.
    facts: Facts,
    /// What was forgotten and may come back.
    forgotten: Facts,
    /// Opened long ago, and never again.
    reader: Option<(Store, Facts)>,
    /// A process that lives on from step to step: it acts, and looks. Others know nothing but the disk.
    living: Option<Store>,
    steps: [u64; 2],
    said: String,
}

impl World {
    fn new(seed: u64, machines: usize) -> World {
        let (fate, disk) = (Fate::new(seed), SimulatedDisk::new());
        sim::create(&disk, &fate).unwrap();
        let disk = disk.settled();
        let (facts, forgotten) = (Facts::new(), Facts::new());
        World {
            seed,
            machines: Machine::several(machines, &disk, &fate),
            fate,
            disk,
            facts,
            forgotten,
            reader: None,
            living: None,
            steps: [0; 2],
            said: String::new(),
        }
    }

    fn step(&mut self, number: u64) {
        let act = self.choose();
        let turn = match self.fate.below(8) {
            0 => Turn::Dies(self.fate.below(30)),
            1 | 2 => Turn::Sleeps(self.fate.below(24)),
            3 => Turn::MachineCrashes(self.fate.below(30)),
            _ => Turn::Nothing,
        };
        let other = self.choose();
        // Over a network a grace is one only as long as clocks go forward.
        let jumps =
            if self.machines.is_empty() { [0, 1, 3600, -86_400, YEARS, -YEARS] } else { [0, 1, 3600, 0, YEARS, 90] };
        let jump = jumps[self.fate.below(6) as usize];
        self.fate.pass(jump, &self.disk);
        let what = format!("seed {}, step {number}: {act:?}, {turn:?}, meanwhile {other:?}", self.seed);
        let mut done = Vec::new();
        match turn {
            Turn::Nothing => {
                let disk = self.disk.clone();
                let work = || perform(&self.some_process()?, &self.helper(), &act);
                done.push(Done::of(&act, &disk, work));
            }
            Turn::Dies(after) | Turn::MachineCrashes(after) => {
                let dying = self.disk.process(after);
                let work = || perform(&self.another(&dying)?, &self.helper(), &act);
                done.push(Done::of(&act, &self.disk, work));
            }
            Turn::Sleeps(after) => {
                let meanwhile: Arc<Mutex<Option<Done>>> = Arc::default();
                let (world, disk, told) = (self.fate.clone(), self.disk.clone(), meanwhile.clone());
                let (theirs, helper) = (self.view(&self.disk), self.helper());
                let sleeping = FaultyDisk::meanwhile(self.view(&self.disk), after as usize, move || {
                    world.pass(YEARS, &disk);
                    let work = || perform(&sim::open_on(theirs, &disk, &world)?, &helper, &other);
                    *told.lock().unwrap() = Some(Done::of(&other, &disk, work));
                });
                let work = || perform(&sim::open_on(sleeping, &self.disk, &self.fate)?, &self.helper(), &act);
                done.push(Done::of(&act, &self.disk, work));
                done.extend(meanwhile.lock().unwrap().take());
            }
        }
        if matches!(turn, Turn::MachineCrashes(_)) {
            let mut states = self.disk.crashes(16, self.fate.below(u64::MAX));
            let chosen = self.fate.below(states.len() as u64) as usize;
            self.disk = states.swap_remove(chosen).settled();
            // Nobody lives on.
            (self.reader, self.living) = (None, None);
            self.machines = Machine::several(self.machines.len(), &self.disk, &self.fate);
        }
        self.judge(&what, &done);
        self.read_long_after(&what);
        self.said.push_str(&format!("{what}\n{:?}\n{}\n", self.facts, self.disk.fingerprint()));
    }

    fn choose(&mut self) -> Act {
        let pick =
            |fate: &Fate, facts: &Facts| facts.keys().nth(fate.below(facts.len().max(1) as u64) as usize).cloned();
        match self.fate.below(12) {
            0 | 1 => pick(&self.fate, &self.facts).map_or(Act::Collect, Act::Forget),
            2 => pick(&self.fate, &self.forgotten).map_or(Act::Verify, Act::Undo),
            3 | 4 => Act::Collect,
            5 => Act::Rebuild,
            6 => Act::Verify,
            _ => {
                let run = self.fate.below(2) as usize;
                self.steps[run] += 1;
                let few = (0..1 + self.fate.below(3))
                    .map(|n| floats(&format!("model.{n}"), 20 + 40 * n as usize, self.fate.below(5)))
                    .collect();
                // Some are a training, whose steps are stored as differences to whatever is there.
                let mut tensors = if self.fate.below(3) == 0 { trained(self.steps[run] % 8) } else { few };
                if self.fate.below(4) != 0 {
                    return Act::Save(RUNS[run].into(), self.steps[run], tensors);
                }
                tensors.sort_by(|a, b| a.name.cmp(&b.name));
                Act::SaveTogether(RUNS[run].into(), self.steps[run], tensors)
            }
        }
    }

    /// The process that lives on, mostly, or one that has just begun.
    fn some_process(&mut self) -> treering::Result<Store> {
        match &self.living {
            Some(store) if self.fate.below(4) != 0 => Ok(store.clone()),
            _ => {
                let store = self.another(&self.disk)?;
                self.living = Some(store.clone());
                Ok(store)
            }
        }
    }

    /// A process that has just begun, somewhere.
    fn another(&self, disk: &SimulatedDisk) -> treering::Result<Store> {
        sim::open_on(self.view(disk), disk, &self.fate)
    }

    /// The disk as some machine sees it.
    fn view(&self, disk: &SimulatedDisk) -> FaultyDisk {
        match self.machines.len() as u64 {
            0 => FaultyDisk::fair(disk.clone()),
            count => FaultyDisk::fair(self.machines[self.fate.below(count) as usize].process(disk.clone())),
        }
    }

    /// The second process of a joint save: on some machine, where there are several.
    fn helper(&self) -> impl Fn(&Store) -> treering::Result<Store> + Send + use<> {
        let elsewhere = (!self.machines.is_empty()).then(|| self.view(&self.disk));
        let (disk, fate) = (self.disk.clone(), self.fate.clone());
        move |first| elsewhere.clone().map_or(Ok(first.clone()), |view| sim::open_on(view, &disk, &fate))
    }

    /// Whoever sees at once what is there.
    fn witness(&mut self) -> treering::Result<Store> {
        if self.machines.is_empty() { self.some_process() } else { sim::open(&self.disk, &self.fate) }
    }

    /// What can be seen now must follow from what was done, and acknowledged.
    fn judge(&mut self, what: &str, done: &[Done]) {
        let store = self.witness().unwrap_or_else(|e| panic!("{what}: it does not open: {e}"));
        let seen = sim::observe(&store).unwrap_or_else(|e| panic!("{what}: {e}"));
        let mut allowed: BTreeMap<String, BTreeSet<Option<String>>> =
            self.facts.iter().map(|(key, value)| (key.clone(), [Some(value.clone())].into())).collect();
        for Done { act, result, .. } in done {
            let (address, becomes) = match act {
                Act::Save(run, step, tensors) | Act::SaveTogether(run, step, tensors) => {
                    (format!("{run}@{step}"), Some(sim::content_of(tensors)))
                }
                Act::Forget(address) => (address.clone(), None),
                Act::Undo(address) => (address.clone(), self.forgotten.get(address).cloned()),
                Act::Collect | Act::Rebuild | Act::Verify => continue,
            };
            let ways = allowed.entry(address).or_insert_with(|| [None].into());
            // Of two who did something with one checkpoint either may have been the last.
            let alone = done.iter().filter(|other| speaks_of(&other.act) == speaks_of(act)).count() == 1;
            if result.is_ok() && alone {
                ways.clear();
            }
            ways.insert(becomes);
        }
        for (address, ways) in &allowed {
            let found = seen.get(address).cloned();
            assert!(ways.contains(&found), "{what}: {address} is {found:?}, not one of {ways:?}\n{}", self.said);
            if found.is_none() && self.facts.contains_key(address) {
                self.forgotten.insert(address.clone(), self.facts[address].clone());
            }
        }
        assert!(seen.keys().all(|key| allowed.contains_key(key)), "{what}: {seen:?}");
        for Done { act, result, unborn } in done {
            if let Err(error) = result {
                let fine = matches!(error, Error::Stale { .. } | Error::Unknown { .. } | Error::CheckpointUnknown { .. })
                        || matches!(error, Error::RunUnknown { .. } | Error::Invalid { .. } | Error::StepExists { .. })
                        || matches!(error, Error::Forgotten { .. })
                        // Nothing was committed yet, and there are packs, of a save that died or still sleeps: it looks
                        // like a log that was lost.
                        || matches!(error, Error::Unexplained { .. }) && *unborn
                        || self.disk_died(error);
                assert!(fine, "{what}: {act:?} said {error:?}");
            }
        }
        self.facts = seen;
    }

    /// The error of a process that the test ended.
    fn disk_died(&self, error: &Error) -> bool {
        let mut cause = Some(error as &dyn std::error::Error);
        while let Some(error) = cause {
            if error.to_string().contains("ended by the test") {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// A reader who opened the store long ago reads what it saw then, whole, or hears that it is gone.
    fn read_long_after(&mut self, what: &str) {
        let Some((store, facts)) = &self.reader else {
            self.reader = Some((self.another(&self.disk).unwrap(), self.facts.clone()));
            return;
        };
        for (address, content) in facts {
            let kept = self.facts.get(address) == Some(content);
            let mut read = read(store, address);
            if kept && read.is_err() && !self.machines.is_empty() {
                // Its machine may not have seen yet that somebody brought it back.
                self.fate.pass(BELIEVED_SECS as i64 + 1, &self.disk);
                read = self::read(store, address);
            }
            match read {
                Ok(read) => assert_eq!(&read, content, "{what}: {address}"),
                Err(error) => assert!(!kept, "{what}: {address} is kept, and cannot be read: {error:?}"),
            }
        }
        if self.fate.below(4) == 0 {
            self.reader = None;
        }
    }
}

/// The content of a checkpoint.
fn read(store: &Store, address: &str) -> treering::Result<String> {
    let checkpoint = store.checkpoint(&at(address))?;
    let mut tensors = Vec::new();
    for tensor in checkpoint.tensors()? {
        let mut bytes = Vec::new();
        checkpoint.read_tensor(&tensor.meta.name, &mut bytes)?;
        tensors.push(Tensor { name: tensor.meta.name, dtype: "", shape: tensor.meta.shape, bytes });
    }
    Ok(sim::content_of(&tensors))
}

fn speaks_of(act: &Act) -> Option<String> {
    match act {
        Act::Save(run, step, _) | Act::SaveTogether(run, step, _) => Some(format!("{run}@{step}")),
        Act::Forget(address) | Act::Undo(address) => Some(address.clone()),
        Act::Collect | Act::Rebuild | Act::Verify => None,
    }
}

fn perform(store: &Store, helper: &dyn Fn(&Store) -> treering::Result<Store>, act: &Act) -> treering::Result<()> {
    match act {
        Act::Save(run, step, tensors) => sim::save(store, tensors, &options(run, *step)),
        Act::SaveTogether(run, step, tensors) => {
            sim::save_from([store, &helper(store)?], tensors, &options(run, *step), 2)
        }
        Act::Forget(address) => {
            let slot = store.find(&at(address))?.slot;
            store.forget(&[slot]).map(|_| ())
        }
        Act::Undo(address) => store.undo(&at(address)).map(|_| ()),
        Act::Collect => store.gc(&GcOptions::default()).map(|_| ()),
        Act::Rebuild => store.rebuild(),
        Act::Verify => {
            let report = store.verify(Depth::Structure)?;
            assert!(report.is_sound(), "{report:?}");
            Ok(())
        }
    }
}

fn history(seed: u64, machines: usize) -> World {
    let mut world = World::new(seed, machines);
    for number in 0..steps() {
        world.step(number);
    }
    // Faults have stopped: everything finishes, and nothing is left behind. What was written while the clock was years
    // ahead is let lie until then.
    world.fate.pass_all(&world.disk);
    (world.reader, world.living) = (None, None);
    let store = sim::open(&world.disk, &world.fate).unwrap();
    store.gc(&GcOptions::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound() && report.foreign.is_empty(), "seed {seed}: {report:?}");
    assert_eq!(sim::observe(&store).unwrap(), world.facts, "seed {seed}");
    world
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn steps() -> u64 {
    from_env("TREERING_STEPS").unwrap_or(STEPS)
}

fn histories(machines: usize) {
    let first = from_env("TREERING_SEED");
    let count = from_env("TREERING_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let seeds = first.unwrap_or(0)..first.unwrap_or(0) + count;
    println!("seeds {seeds:?} of {} steps", steps());
    seeds.for_each(|seed| drop(history(seed, machines)));
}

#[test]
fn f041_f071_whatever_happens_what_was_acknowledged_is_seen() {
    histories(0);
}

#[test]
fn f019_f020_f071_machines_that_see_each_other_late_lose_nothing() {
    histories(2);
}

#[test]
fn one_seed_is_one_history_byte_for_byte() {
    for machines in [0, 2] {
        assert_eq!(history(17, machines).said, history(17, machines).said);
    }
}
