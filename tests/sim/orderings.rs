//! Every order in which a few actors can take their steps. An actor runs until the next thing that others see (an entry
//! gets its slot, a pack is deleted), and waits there until it is its turn again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use treering::disk::SimulatedDisk;
use treering::gc::GcOptions;
use treering::verify::Depth;
use treering::{Error, ErrorKind, Store};

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{at, options, trained};
use crate::sim::open_on;
use crate::sim::{self, Fate};

/// What somebody does. The steps of each are in brackets, as far as others see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    /// Encodes the next step of the run; commits it.
    Commit,
    /// Saves what the first step was, under another name: from its packs.
    Again,
    /// Looks for the first step; forgets it.
    Forget,
    /// Looks for the second step, which is forgotten; brings it back.
    Undo,
    /// Makes the newest step's manifest anew, without its optimizer; puts it in the place of the old one.
    Amend,
    /// Finds what nobody needs; condemns it; deletes it.
    Collect,
    /// Opens the first step; reads it.
    Read,
}

impl Actor {
    fn steps(self) -> usize {
        if self == Actor::Collect { 3 } else { 2 }
    }

    fn run(self, store: &Store, gate: &dyn Fn()) -> treering::Result<()> {
        match self {
            Actor::Commit => sim::save(store, &trained(4), &options("r", 4)),
            Actor::Again => sim::save(store, &trained(0), &options("s", 1)),
            Actor::Forget => store.forget(&[store.find(&at("r@0"))?.slot]).map(drop),
            Actor::Undo => store.undo(&at("r@1")).map(drop),
            Actor::Amend => {
                store.set_policy("r", &["thin optimizer:0".parse().unwrap()].into_iter().collect())?;
                store.gc(&GcOptions { run: Some("r".into()), ..GcOptions::default() }).map(drop)
            }
            Actor::Collect => store.gc(&GcOptions { repack_above: Some(0.0), ..GcOptions::default() }).map(drop),
            Actor::Read => {
                let checkpoint = store.checkpoint(&at("r@0"))?;
                gate();
                for tensor in trained(0) {
                    let mut bytes = Vec::new();
                    checkpoint.read_tensor(&tensor.name, &mut bytes)?;
                    assert!(bytes == tensor.bytes, "{}", tensor.name);
                }
                Ok(())
            }
        }
    }
}

/// An actor on a thread of its own, which moves only when it is told to.
struct Turns {
    go: Sender<()>,
    stopped: Receiver<()>,
}

impl Turns {
    /// Runs to the next stop; false once there is none.
    fn step(&self) -> bool {
        self.go.send(()).is_ok() && self.stopped.recv().is_ok()
    }
}

/// A run of four steps, of which the second is forgotten, long ago.
fn four() -> SimulatedDisk {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    (0..4).for_each(|step| sim::save(&store, &trained(step), &options("r", step)).unwrap());
    store.forget(&[1]).unwrap();
    drop(store);
    disk.settled()
}

type Outcomes = BTreeMap<Actor, treering::Result<()>>;

/// Lets the actors take their steps in this order, and then whatever is left of them.
fn play(disk: &SimulatedDisk, order: &[Actor]) -> Outcomes {
    let outcomes: Mutex<Outcomes> = Mutex::default();
    std::thread::scope(|scope| {
        let mut turns: BTreeMap<Actor, Turns> = BTreeMap::new();
        for &actor in order {
            turns.entry(actor).or_insert_with(|| {
                let ((go, may_go), (stops, stopped)) = (channel::<()>(), channel());
                let outcomes = &outcomes;
                scope.spawn(move || {
                    let gate = Arc::new(Mutex::new((stops, may_go)));
                    let wait = |gate: &Mutex<(Sender<()>, Receiver<()>)>| {
                        let gate = gate.lock().unwrap();
                        // Whoever does not play any more lets everybody run.
                        let _ = gate.0.send(()).map(|()| gate.1.recv());
                    };
                    let _ = gate.lock().unwrap().1.recv();
                    let here = gate.clone();
                    let gated = FaultyDisk::new(disk.clone(), move |act, path: &Path| {
                        let seen = act == Act::Link && path.starts_with("/store/log")
                            || act == Act::Unlink && path.starts_with("/store/packs");
                        if seen {
                            wait(&here);
                        }
                        Say::Go
                    });
                    let done = open_on(gated, disk, &Fate::new(100 + actor as u64))
                        .and_then(|store| actor.run(&store, &|| wait(&gate)));
                    outcomes.lock().unwrap().insert(actor, done);
                });
                Turns { go, stopped }
            });
            turns[&actor].step();
        }
        for turns in turns.values() {
            while turns.step() {}
        }
    });
    outcomes.into_inner().unwrap()
}

/// What was acknowledged is so, what was kept is whole, and what was read was right or told.
fn check(what: &str, disk: &SimulatedDisk, outcomes: &Outcomes) {
    let store = sim::open(disk, &Fate::new(7)).unwrap();
    let facts = sim::observe(&store).unwrap_or_else(|e| panic!("{what}: {e}"));
    let ok = |actor: Actor| outcomes.get(&actor).is_some_and(Result::is_ok);
    let amended = outcomes.contains_key(&Actor::Amend);
    let whole = |address: &str, step: u64| {
        let found = facts.get(address).unwrap_or_else(|| panic!("{what}: {address} is gone: {outcomes:?}"));
        assert!(amended || *found == sim::content_of(&trained(step)), "{what}: {address} is another");
    };
    whole("r@2", 2);
    whole("r@3", 3);
    if ok(Actor::Commit) {
        whole("r@4", 4);
    }
    if ok(Actor::Again) {
        whole("s@1", 0);
    }
    if ok(Actor::Undo) {
        whole("r@1", 1);
    }
    assert_eq!(facts.contains_key("r@0"), !ok(Actor::Forget), "{what}");
    for (actor, outcome) in outcomes {
        let Err(error) = outcome else { continue };
        let lost_a_race = matches!(error, Error::Stale { .. }) || error.kind() == ErrorKind::NotFound;
        let told = *actor == Actor::Read && matches!(error, Error::ObjectMissing { .. } | Error::Forgotten { .. });
        assert!(lost_a_race || told, "{what}: {actor:?}: {error:?}");
    }
    if !outcomes.contains_key(&Actor::Forget) {
        assert!(outcomes.get(&Actor::Read).is_none_or(Result::is_ok), "{what}: {outcomes:?}");
    }
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound(), "{what}: {report:?}");
}

/// All orders of so many steps of each.
fn orders(left: &mut BTreeMap<Actor, usize>, order: &mut Vec<Actor>, see: &mut dyn FnMut(&[Actor])) {
    if left.values().all(|left| *left == 0) {
        return see(order);
    }
    let actors: Vec<Actor> = left.iter().filter(|(_, left)| **left > 0).map(|(actor, _)| *actor).collect();
    for actor in actors {
        *left.get_mut(&actor).unwrap() -= 1;
        order.push(actor);
        orders(left, order, see);
        order.pop();
        *left.get_mut(&actor).unwrap() += 1;
    }
}

#[track_caller]
fn in_every_order(actors: &[Actor]) {
    let mut left: BTreeMap<Actor, usize> = actors.iter().map(|actor| (*actor, actor.steps())).collect();
    let mut played = 0;
    orders(&mut left, &mut Vec::new(), &mut |order| {
        let disk = four();
        let outcomes = play(&disk, order);
        assert_eq!(outcomes.len(), actors.len());
        check(&format!("{order:?}"), &disk, &outcomes);
        played += 1;
    });
    println!("{actors:?}: {played} orders");
}

#[test]
fn f069_f072_commit_forget_and_collect_in_every_order() {
    in_every_order(&[Actor::Forget, Actor::Collect, Actor::Again]);
}

#[test]
fn f072_commit_undo_and_collect_in_every_order() {
    in_every_order(&[Actor::Undo, Actor::Collect, Actor::Commit]);
}

#[test]
fn f076_read_forget_and_collect_in_every_order() {
    in_every_order(&[Actor::Read, Actor::Forget, Actor::Collect]);
}

#[test]
fn f041_read_commit_and_amend_in_every_order() {
    in_every_order(&[Actor::Read, Actor::Commit, Actor::Amend]);
}

#[test]
fn f032_two_commits_and_a_forget_in_every_order() {
    in_every_order(&[Actor::Commit, Actor::Again, Actor::Forget]);
}
