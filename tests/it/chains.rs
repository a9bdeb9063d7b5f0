//! Differences to earlier checkpoints: chains grow to their bounds, restore byte for byte, and lose links without harm.

use treering::Store;
use treering::catalog::Filter;
use treering::format::entry::Number;
use treering::format::policy::{Keep, Mode, Policy};
use treering::gc::GcOptions;
use treering::save::{Encoding, Inputs, MemoryTensor, SaveOptions};
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;

use crate::helpers::Place;

const ELEMENTS: usize = 96 << 10;

/// Weights that drift: each step adds a little to each, so the newest are nearest.
struct Drift {
    weights: Vec<f32>,
    seed: u64,
}

impl Drift {
    fn new(seed: u64) -> Drift {
        let weights = noise(seed, ELEMENTS).map(|x| 0.05 * x).collect();
        Drift { weights, seed }
    }

    fn step(&mut self) {
        self.seed += 1;
        self.weights.iter_mut().zip(noise(self.seed, ELEMENTS)).for_each(|(weight, x)| *weight += 2e-5 * x);
    }

    fn bytes(&self) -> Vec<u8> {
        self.weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()
    }
}

/// Numbers between -1 and 1.
fn noise(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let mut bytes = vec![0; 4 * count];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let words = bytes.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()));
    words.map(|word| word as f32 / i32::MAX as f32).collect::<Vec<_>>().into_iter()
}

fn save(store: &Store, run: &str, step: u64, bytes: &[u8], encoding: Encoding) -> u64 {
    save_named(store, "w", bytes, &SaveOptions { run: run.into(), step, encoding, ..Default::default() })
}

fn save_named(store: &Store, name: &str, bytes: &[u8], options: &SaveOptions) -> u64 {
    store.save(&Inputs::tensors(vec![(None, memory(name, bytes))]).unwrap(), options).unwrap().new_bytes
}

fn memory<'a>(name: &str, bytes: &'a [u8]) -> MemoryTensor<'a> {
    let (dtype, length) = (DType::new("F32"), bytes.len() as u64);
    MemoryTensor { meta: TensorMeta { name: name.into(), dtype, shape: vec![length / 4], bytes: length }, bytes }
}

fn read(store: &Store, address: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.checkpoint(&address.parse().unwrap()).unwrap().read_tensor("w", &mut bytes).unwrap();
    bytes
}

fn depth(store: &Store, address: &str) -> u8 {
    store.checkpoint(&address.parse().unwrap()).unwrap().tensors().unwrap()[0].depth
}

#[test]
fn a_model_that_was_wrapped_is_a_difference_to_the_one_that_was_not() {
    let place = Place::new();
    let mut drift = Drift::new(7);
    let first = SaveOptions { run: "base".into(), step: 1, ..Default::default() };
    let alone = save_named(&place.store, "model.layer.w", &drift.bytes(), &first);
    for (n, name) in ["module.layer.w", "model._orig_mod.module.layer.w", "layer.w", "model.layer.w"].iter().enumerate()
    {
        drift.step();
        let options = SaveOptions {
            run: format!("tune-{n}"),
            step: 1,
            parent: Some("base@1".parse().unwrap()),
            ..Default::default()
        };
        let new = save_named(&place.store, name, &drift.bytes(), &options);
        assert!(new < alone * 8 / 10, "{name}: {new} bytes, {alone} without a base");
    }
    drift.step();
    let other = SaveOptions { run: "other".into(), step: 1, parent: Some("base@1".parse().unwrap()), ..first };
    let new = save_named(&place.store, "module.other.w", &drift.bytes(), &other);
    assert!(new > alone * 9 / 10, "another tensor: {new} bytes, {alone} without a base");
}

/// A run of so many steps, and what each of them was.
fn run_of(store: &Store, run: &str, steps: u64, encoding: Encoding) -> Vec<Vec<u8>> {
    let mut drift = Drift::new(7);
    let mut saved = Vec::new();
    for step in 0..steps {
        let bytes = drift.bytes();
        save(store, run, step, &bytes, encoding);
        saved.push(bytes);
        drift.step();
    }
    saved
}

#[test]
fn a_changed_chunk_costs_its_difference() {
    let place = Place::new();
    let store = &place.store;
    let mut drift = Drift::new(1);
    let whole = save(store, "run", 0, &drift.bytes(), Encoding::Balanced);
    drift.step();
    let changed = save(store, "run", 1, &drift.bytes(), Encoding::Balanced);
    assert!(changed < whole * 3 / 4, "{changed} of {whole}");
    assert_eq!((depth(store, "run@0"), depth(store, "run@1")), (0, 1));
    assert!(read(store, "run@1") == drift.bytes());
}

#[test]
fn chains_grow_to_their_bound_and_every_step_comes_back() {
    for (encoding, bound) in [(Encoding::Fast, 4), (Encoding::Balanced, 8), (Encoding::Small, 16)] {
        let place = Place::new();
        let store = &place.store;
        let saved = run_of(store, "run", 20, encoding);
        let depths: Vec<u8> = (0..20).map(|step| depth(store, &format!("run@{step}"))).collect();
        let deepest = *depths.iter().max().unwrap();
        assert!(deepest <= bound && deepest > bound * 3 / 4 - 1, "{encoding:?}: {depths:?}");
        for (step, bytes) in saved.iter().enumerate() {
            assert!(read(store, &format!("run@{step}")) == *bytes, "{encoding:?}: step {step}");
        }
    }
}

#[test]
fn f084_what_hangs_on_dead_bases_is_encoded_again() {
    let place = Place::new();
    let store = &place.store;
    let saved = run_of(store, "run", 20, Encoding::Balanced);
    store.set_policy("run", &Policy { keeps: vec![Keep::Last(2)], thins: vec![] }).unwrap();
    store.gc(&GcOptions::default()).unwrap();

    let fresh = Store::create(place.path("fresh"), None, Default::default()).unwrap();
    for step in [18, 19] {
        assert!(read(store, &format!("run@{step}")) == saved[step as usize]);
        save(&fresh, "run", step, &saved[step as usize], Encoding::Balanced);
    }
    let packs = |store: &Store| {
        let stats = store.stats().unwrap();
        stats.stored_bytes - stats.entries * 400
    };
    let (left, least) = (packs(store), packs(&fresh));
    assert!(left as f64 <= 1.05 * least as f64, "{left} bytes, {least} in a store that never held more");
    assert_eq!(depth(store, "run@18"), 0);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

#[test]
fn f084_what_hangs_is_a_difference_to_the_nearest_live_chunk_of_its_chain() {
    let place = Place::new();
    let store = &place.store;
    let saved = run_of(store, "run", 4, Encoding::Balanced);
    let slots = [1, 2].map(|step| store.find(&format!("run@{step}").parse().unwrap()).unwrap().slot);
    assert_eq!(depth(store, "run@3"), 3);
    store.forget(&slots).unwrap();
    assert!(store.gc(&GcOptions::default()).unwrap().packs_rewritten > 0);
    assert_eq!((depth(store, "run@0"), depth(store, "run@3")), (0, 1));
    assert!(read(store, "run@0") == saved[0] && read(store, "run@3") == saved[3]);
}

/// Turns a bit of a checkpoint's first frame.
fn damage(store: &Store, address: &str) {
    let pack = store.checkpoint(&address.parse().unwrap()).unwrap().tensors().unwrap()[0].packs[0];
    let name = pack.to_string();
    let path = store.root().join("packs").join(&name[..2]).join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 4;
    std::fs::write(&path, bytes).unwrap();
}

const FORKS: [&str; 3] = ["fork1@1", "fork2@2", "fork3@3"];

/// A step, and three that go on from it: each rests on it.
fn forks_of_a_root(store: &Store) -> Vec<Vec<u8>> {
    let mut drift = Drift::new(7);
    let mut saved = Vec::new();
    for step in 0..4 {
        saved.push(drift.bytes());
        let run = if step == 0 { "run".into() } else { format!("fork{step}") };
        let parent = (step > 0).then(|| "run@0".parse().unwrap());
        save_named(store, "w", &saved[step as usize], &SaveOptions { run, step, parent, ..Default::default() });
        drift.step();
    }
    assert_eq!(FORKS.map(|fork| depth(store, fork)), [1; 3]);
    saved
}

fn forget_and_collect(store: &Store, address: &str) -> u64 {
    store.forget(&[store.find(&address.parse().unwrap()).unwrap().slot]).unwrap();
    store.gc(&GcOptions::default()).unwrap().packs_rewritten
}

/// Of three that hung on one root, one is stored without a base, and the others as differences to it.
#[test]
fn f084_when_a_root_goes_one_takes_its_place() {
    let place = Place::new();
    let store = &place.store;
    let saved = forks_of_a_root(store);
    assert!(forget_and_collect(store, "run@0") > 0);
    assert_eq!(FORKS.map(|fork| depth(store, fork)), [1, 1, 0], "the newest is the root");
    for (fork, bytes) in FORKS.iter().zip(&saved[1..]) {
        assert!(read(store, fork) == *bytes, "{fork}");
    }
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    // And so on, until one is left.
    for (goes, left) in [("fork3@3", "fork2@2"), ("fork2@2", "fork1@1")] {
        forget_and_collect(store, goes);
        assert_eq!(depth(store, left), 0);
    }
    assert!(read(store, "fork1@1") == saved[1]);
    assert_eq!(store.stats().unwrap().packs, 1);
}

/// What is damaged stays as it is, and so nobody is made to rest on it.
#[test]
fn f084_what_is_damaged_takes_nobodys_place() {
    let place = Place::new();
    let store = &place.store;
    let saved = forks_of_a_root(store);
    damage(store, "fork3@3");
    assert_eq!(store.repair(false).unwrap().gone.len(), 1);
    assert!(forget_and_collect(store, "run@0") > 0);
    assert_eq!(depth(store, "fork2@2"), 0);
    for (fork, bytes) in FORKS[..2].iter().zip(&saved[1..]) {
        assert!(read(store, fork) == *bytes, "{fork}");
    }
    let affected = store.verify(Depth::Deep).unwrap().affected;
    assert_eq!(affected.iter().map(|one| one.checkpoint.step).collect::<Vec<_>>(), [3]);
}

#[test]
fn f084_saves_go_on_from_what_a_collection_left() {
    let place = Place::new();
    let store = &place.store;
    store.set_policy("run", &Policy { keeps: vec![Keep::Last(3)], thins: vec![] }).unwrap();
    let mut drift = Drift::new(3);
    let mut saved = Vec::new();
    for step in 0..25 {
        saved.push(drift.bytes());
        save(store, "run", step, &saved[step as usize], Encoding::Balanced);
        store.gc(&GcOptions::default()).unwrap();
        for checkpoint in store.log(&Filter::default()).unwrap() {
            assert!(read(store, &checkpoint.address()) == saved[checkpoint.step as usize], "after {step}");
            assert!(depth(store, &checkpoint.address()) <= 8);
        }
        drift.step();
    }
    assert_eq!(store.log(&Filter::default()).unwrap().len(), 3);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

/// What a policy will let go soon is no base: the best step, which stays, is the base of all that follow.
#[test]
fn bases_come_from_what_a_policy_keeps() {
    let place = Place::new();
    let store = &place.store;
    store.set_mode("run", "loss", Mode::Min).unwrap();
    let keeps = vec![Keep::Last(2), Keep::Best { metric: "loss".into(), n: 1 }];
    store.set_policy("run", &Policy { keeps, thins: vec![] }).unwrap();
    let mut drift = Drift::new(5);
    for step in 0..8 {
        let bytes = drift.bytes();
        save(store, "run", step, &bytes, Encoding::Balanced);
        let loss = if step == 2 { 0.0 } else { 1.0 };
        let address = format!("run@{step}").parse().unwrap();
        store.annotate(&address, [("loss".to_string(), Number(loss))].into(), None).unwrap();
        store.gc(&GcOptions::default()).unwrap();
        if step > 2 {
            assert_eq!(depth(store, &format!("run@{step}")), depth(store, "run@2") + 1, "step {step}");
            assert!(read(store, &format!("run@{step}")) == bytes);
        }
        drift.step();
    }
}

/// Of the best steps the very best stays longest: what comes later rests on it, not on one that is nearer and will go.
#[test]
fn bases_come_from_the_very_best() {
    let place = Place::new();
    let store = &place.store;
    store.set_mode("run", "loss", Mode::Min).unwrap();
    let keeps = vec![Keep::Last(2), Keep::Best { metric: "loss".into(), n: 2 }];
    store.set_policy("run", &Policy { keeps, thins: vec![] }).unwrap();
    let mut drift = Drift::new(6);
    for (step, loss) in [(0, 9.0), (1, 1.0), (2, 5.0), (3, 2.0), (4, 6.0), (5, 7.0)] {
        save(store, "run", step, &drift.bytes(), Encoding::Balanced);
        let address = format!("run@{step}").parse().unwrap();
        store.annotate(&address, [("loss".to_string(), Number(loss))].into(), None).unwrap();
        drift.step();
    }
    let best = depth(store, "run@1");
    assert_eq!([2, 3, 4, 5].map(|step| depth(store, &format!("run@{step}"))), [best + 1; 4]);
}

/// A base may be dead in one run and live in another that was forked from it.
#[test]
fn a_base_that_another_run_keeps_stays() {
    let place = Place::new();
    let store = &place.store;
    let saved = run_of(store, "a", 4, Encoding::Balanced);
    store.fork("b", &"a@2".parse().unwrap()).unwrap();
    store.set_policy("a", &Policy { keeps: vec![Keep::Last(1)], thins: vec![] }).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert!(read(store, "a@3") == saved[3]);
    assert!(read(store, "b@2") == saved[2]);
    let encodings = |address: &str| {
        let tensors = store.checkpoint(&address.parse().unwrap()).unwrap().tensors().unwrap();
        tensors.into_iter().flat_map(|tensor| tensor.encodings).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(encodings("b@2"), ["planes"], "its base is gone");
    assert_eq!(encodings("a@3"), ["delta"], "its base is what the fork keeps");
}

/// A chunk that lies in the store only as a difference is found with all that it rests on.
#[test]
fn a_difference_of_another_run_is_shared_with_its_chain() {
    let place = Place::new();
    let store = &place.store;
    let saved = run_of(store, "a", 4, Encoding::Balanced);
    let shared = save(store, "b", 0, &saved[3], Encoding::Balanced);
    assert!(shared < 30_000, "{shared} bytes for what was there");
    let filter = Filter { run: Some("a".into()), ..Default::default() };
    let slots: Vec<u64> = store.log(&filter).unwrap().iter().map(|row| row.slot).collect();
    store.forget(&slots).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert!(read(store, "b@0") == saved[3]);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

/// A damaged difference is found by decoding it, and so is everything that rests on it.
#[test]
fn f080_damage_in_a_chain_reaches_what_rests_on_it() {
    let place = Place::new();
    let store = &place.store;
    run_of(store, "run", 5, Encoding::Balanced);
    damage(store, "run@2");
    let report = store.verify(Depth::Deep).unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    let affected: Vec<u64> = report.affected.iter().map(|affected| affected.checkpoint.step).collect();
    assert_eq!(affected, [2, 3, 4]);
    let mut sink = Vec::new();
    let checkpoint = store.checkpoint(&"run@3".parse().unwrap()).unwrap();
    assert!(checkpoint.read_tensor("w", &mut sink).is_err() && sink.is_empty());
}

/// A sound store is decoded as a whole: every frame, those with a base included, once.
#[test]
fn a_deep_look_decodes_differences_too() {
    let place = Place::new();
    run_of(&place.store, "run", 6, Encoding::Balanced);
    let report = place.store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound(), "{:?}", report.damage);
    assert!(report.raw_bytes >= 6 * 4 * ELEMENTS as u64, "{}", report.raw_bytes);
}

/// Weights in 32 bits and the model's 16-bit copy of them, under other names, the copy before and behind its source.
fn mixed(drift: &Drift) -> (Vec<u8>, Vec<u8>) {
    let wide = drift.bytes();
    let narrow = |weight: f32| {
        let bits = weight.to_bits();
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    };
    let half = drift.weights.iter().flat_map(|weight| narrow(*weight).to_le_bytes()).collect();
    (wide, half)
}

fn save_mixed(store: &Store, step: u64, wide: &[u8], half: &[u8]) -> u64 {
    let tensor = |name: &str, dtype: &str, bytes| {
        let meta = TensorMeta { name: name.into(), dtype: DType::new(dtype), shape: vec![ELEMENTS as u64], bytes: 0 };
        let meta = TensorMeta { bytes: <[u8]>::len(bytes) as u64, ..meta };
        (None, MemoryTensor { meta, bytes })
    };
    let tensors = vec![tensor("model.w", "BF16", half), tensor("optimizer.master.w", "F32", wide)];
    let options = SaveOptions { run: "run".into(), step, ..Default::default() };
    store.save(&Inputs::tensors(tensors).unwrap(), &options).unwrap().new_bytes
}

#[test]
fn a_16_bit_copy_of_weights_costs_nothing() {
    let place = Place::new();
    let store = &place.store;
    let mut drift = Drift::new(11);
    let mut saved = Vec::new();
    for step in 0..4 {
        let (wide, half) = mixed(&drift);
        let alone = {
            let place = Place::new();
            save(&place.store, "run", 0, &wide, Encoding::Balanced)
        };
        let bytes = save_mixed(store, step, &wide, &half);
        assert!(bytes < alone + 2000, "step {step}: {bytes} bytes, the weights alone {alone}");
        saved.push((wide, half));
        drift.step();
    }
    let read = |store: &Store, address: &str, name: &str| {
        let mut bytes = Vec::new();
        store.checkpoint(&address.parse().unwrap()).unwrap().read_tensor(name, &mut bytes).unwrap();
        bytes
    };
    for (step, (wide, half)) in saved.iter().enumerate() {
        assert!(read(store, &format!("run@{step}"), "optimizer.master.w") == *wide, "step {step}");
        assert!(read(store, &format!("run@{step}"), "model.w") == *half, "step {step}");
    }
    // Without its source a copy has to stand for itself.
    let thin = treering::format::policy::Thin { component: "optimizer".into(), newest: 1, best: false };
    store.set_policy("run", &Policy { keeps: vec![Keep::Last(2)], thins: vec![thin] }).unwrap();
    store.gc(&GcOptions::default()).unwrap();
    assert!(read(store, "run@2", "model.w") == saved[2].1);
    assert!(read(store, "run@3", "model.w") == saved[3].1);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

/// Saves a tensor, its caller having in memory what it was before, and says how many bytes of that were looked at as bases.
fn looked_at(store: &Store, values: &[f32], before: &[f32], options: &SaveOptions) -> u64 {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (new, old) = (bytes(values), bytes(before));
    let tensor = |bytes| (None, memory("w", bytes));
    let inputs = Inputs::tensors(vec![tensor(&new)]).unwrap().with_before(vec![tensor(&old)]);
    let report = store.save(&inputs, options).unwrap();
    assert!(read(store, &format!("run@{}", options.step)) == new);
    report.bases_in_memory
}

/// What Adam's first moments are like: each save has others.
fn moments(seed: u64) -> Vec<f32> {
    noise(seed, 2 << 20).collect()
}

#[test]
fn bases_that_were_no_help_are_tried_now_and_then() {
    let place = Place::new();
    let (mut before, mut step) = (moments(0), 0);
    let mut tried = |values: Vec<f32>, encoding| {
        step += 1;
        let options = SaveOptions { run: "run".into(), step, encoding, ..Default::default() };
        let looked_at = looked_at(&place.store, &values, &before, &options);
        before = values;
        looked_at
    };
    assert_eq!(tried(moments(1), Encoding::Balanced), 0);
    let all = tried(moments(2), Encoding::Balanced);
    assert_eq!(all, 8 << 20, "nothing is known yet");
    let seldom: Vec<u64> = (3..9).map(|seed| tried(moments(seed), Encoding::Balanced)).collect();
    assert!(seldom.iter().all(|some| *some <= all / 2) && seldom.iter().sum::<u64>() > 0, "{seldom:?}");
    assert_eq!(tried(moments(9), Encoding::Small), all, "where time does not count");

    // They come to rest: once one of the few that are tried gains by it, all are.
    let calm = |step: usize| moments(9).into_iter().map(|value| value * (1.0 + 1e-6 * step as f32)).collect();
    let mut waited = (1..20).map(|step| tried(calm(step), Encoding::Balanced)).skip_while(|some| *some == 0);
    assert!(waited.next().unwrap() < all);
    assert_eq!(waited.next(), Some(all));
}

/// With an anchor, that two steps are stored alone does not tell that a difference to the parent was tried.
#[test]
fn nothing_is_learned_from_saves_that_had_an_anchor() {
    let place = Place::new();
    place.store.set_mode("run", "loss", Mode::Min).unwrap();
    let keeps = vec![Keep::Last(2), Keep::Best { metric: "loss".into(), n: 1 }];
    place.store.set_policy("run", &Policy { keeps, thins: Vec::new() }).unwrap();
    let save = |step: u64, loss: f64| {
        let metrics = [("loss".to_string(), Number(loss))].into();
        let options = SaveOptions { run: "run".into(), step, metrics, ..Default::default() };
        looked_at(&place.store, &moments(step), &moments(step - 1), &options)
    };
    let all = 8 << 20;
    assert_eq!((save(1, 1.0), save(2, 2.0)), (0, all), "the parent is the best");
    assert_eq!((save(3, 0.5), save(4, 2.0)), (0, all), "the best was the first, and is the parent");
}
