//! Random histories against a plain map: whatever happens, what is kept comes back bit for bit.

use std::collections::BTreeMap;

use proptest::prelude::*;
use treering::catalog::Filter;
use treering::save::{OnConflict, SaveOptions};

use crate::helpers::{Place, Tensor, at, file_bytes, floats, options};

#[derive(Clone, Debug)]
enum Act {
    Save { run: usize, change: Change },
    Again { run: usize },
    Forget(prop::sample::Index),
    Undo(prop::sample::Index),
    Tag(prop::sample::Index),
    Policy { run: usize, last: u64 },
    Gc,
    Reopen,
    Rebuild,
}

#[derive(Clone, Debug)]
enum Change {
    Nothing,
    Values(prop::sample::Index, u64),
    Add(u64),
    Remove(prop::sample::Index),
    Grow(prop::sample::Index),
}

fn acts() -> impl Strategy<Value = Act> {
    let change = prop_oneof![
        1 => Just(Change::Nothing),
        4 => (any::<prop::sample::Index>(), 0u64..50).prop_map(|(at, seed)| Change::Values(at, seed)),
        1 => (0u64..50).prop_map(Change::Add),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
        1 => any::<prop::sample::Index>().prop_map(Change::Grow),
    ];
    prop_oneof![
        8 => (0usize..2, change).prop_map(|(run, change)| Act::Save { run, change }),
        1 => (0usize..2).prop_map(|run| Act::Again { run }),
        2 => any::<prop::sample::Index>().prop_map(Act::Forget),
        2 => any::<prop::sample::Index>().prop_map(Act::Undo),
        1 => any::<prop::sample::Index>().prop_map(Act::Tag),
        1 => (0usize..2, 1u64..4).prop_map(|(run, last)| Act::Policy { run, last }),
        3 => Just(Act::Gc),
        1 => Just(Act::Reopen),
        1 => Just(Act::Rebuild),
    ]
}

impl Change {
    fn apply(&self, tensors: &mut Vec<Tensor>) {
        match self {
            Change::Nothing => {}
            Change::Values(at, seed) => {
                let at = at.index(tensors.len());
                let old = &tensors[at];
                tensors[at] = floats(&old.name, old.bytes.len() / 4, *seed);
            }
            Change::Add(seed) => tensors.push(floats(&format!("model.new{}", tensors.len()), 500, *seed)),
            Change::Remove(at) if tensors.len() > 1 => drop(tensors.remove(at.index(tensors.len()))),
            Change::Remove(_) => {}
            Change::Grow(at) => {
                let at = at.index(tensors.len());
                let old = &mut tensors[at];
                old.bytes.extend([0; 400]);
                old.shape = vec![old.bytes.len() as u64 / 4];
            }
        }
        let mut seen = std::collections::HashSet::new();
        tensors.retain(|tensor| seen.insert(tensor.name.clone()));
    }
}

const RUNS: [&str; 2] = ["a", "b/c"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_kept_come_back(acts in prop::collection::vec(acts(), 1..30)) {
        let mut place = Place::new();
        let start = vec![floats("model.big", 120_000, 1), floats("model.small", 700, 2), floats("optimizer.m", 900, 3)];
        let mut now = [start.clone(), start];
        let mut steps = [0u64; 2];
        let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut forgotten: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for act in acts {
            match &act {
                Act::Save { run, change } => {
                    change.apply(&mut now[*run]);
                    steps[*run] += 1;
                    let file = place.file("now.safetensors", &now[*run]);
                    place.save(RUNS[*run], steps[*run], &file);
                    kept.insert(format!("{}@{}", RUNS[*run], steps[*run]), file_bytes(&now[*run]));
                }
                Act::Again { run } => {
                    let address = format!("{}@{}", RUNS[*run], steps[*run]);
                    if !kept.contains_key(&address) { continue }
                    let file = place.file("now.safetensors", &now[*run]);
                    let with = SaveOptions { on_conflict: OnConflict::Replace, ..options(RUNS[*run], steps[*run]) };
                    place.save_with(&file, &with).unwrap();
                    kept.insert(address, file_bytes(&now[*run]));
                }
                Act::Forget(which) if !kept.is_empty() => {
                    let address = which.get(&kept.keys().cloned().collect::<Vec<_>>()).clone();
                    place.forget(&address);
                    let bytes = kept.remove(&address).unwrap();
                    forgotten.insert(address, bytes);
                }
                Act::Undo(which) if !forgotten.is_empty() => {
                    let address = which.get(&forgotten.keys().cloned().collect::<Vec<_>>()).clone();
                    if !kept.contains_key(&address) && place.store.undo(&at(&address)).is_ok() {
                        kept.insert(address.clone(), forgotten.remove(&address).unwrap());
                    }
                }
                Act::Tag(which) if !kept.is_empty() => {
                    let address = which.get(&kept.keys().cloned().collect::<Vec<_>>()).clone();
                    place.store.tag(&at(&address), &["here".into()], &[]).unwrap();
                }
                Act::Policy { run, last } => {
                    place.policy(RUNS[*run], &[&format!("keep-last {last}"), "keep-tagged"]);
                }
                Act::Gc => {
                    let report = place.gc();
                    for verdict in report.checkpoints.iter().filter(|verdict| verdict.goes()) {
                        prop_assert!(verdict.checkpoint.tags.is_empty());
                        kept.remove(&verdict.checkpoint.address());
                    }
                }
                Act::Reopen => place.store = place.reopened(),
                Act::Rebuild => place.store.rebuild().unwrap(),
                _ => {}
            }
            let listed: Vec<String> =
                place.store.log(&Filter::default()).unwrap().iter().map(|row| row.address()).collect();
            prop_assert_eq!(listed.len(), kept.len());
            for (address, bytes) in &kept {
                prop_assert!(listed.contains(address), "{} is gone", address);
                let out = place.path("restored");
                let force = treering::restore::RestoreOptions { force: true, ..Default::default() };
                place.store.restore(&at(address), &out, &force).unwrap();
                prop_assert!(&std::fs::read(&out).unwrap() == bytes, "{} differs after {:?}", address, act);
            }
        }
        prop_assert!(place.store.verify(treering::verify::Depth::Deep).unwrap().is_sound());
    }
}
