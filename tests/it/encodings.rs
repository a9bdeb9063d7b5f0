//! How bytes are encoded: of a whole store each frame once, and of a tensor with the reason.

use treering::encodings::{Encoded, Encodings, Origin, Share, Why};
use treering::save::{Encoding, SaveOptions};

use crate::helpers::{Place, Tensor, at, floats, options};

/// Weights that were trained by one more step: each moves a little.
fn trained(tensor: Tensor, seed: u64) -> Tensor {
    moved(tensor, 1e-3, seed)
}

fn moved(mut tensor: Tensor, step: f32, seed: u64) -> Tensor {
    let moves = floats("", tensor.bytes.len() / 4, seed);
    for (bytes, by) in tensor.bytes.chunks_exact_mut(4).zip(moves.bytes.chunks_exact(4)) {
        let [value, by] = [&*bytes, by].map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        bytes.copy_from_slice(&(value + step * by).to_le_bytes());
    }
    tensor
}

/// Steps 10 to 40: a part that is frozen, one that moves, and at step 40 one that is new.
fn four_steps() -> Place {
    let place = Place::new();
    let mut moving = floats("model.moving", 40_000, 2);
    for step in [10, 20, 30, 40] {
        let mut tensors = vec![floats("model.frozen", 40_000, 1), moving.clone()];
        if step == 40 {
            tensors.push(floats("optimizer.new", 20_000, 3));
        }
        let path = place.file(&format!("{step}.safetensors"), &tensors);
        place.save("run", step, &path);
        moving = trained(moving, step);
    }
    place
}

fn of(place: &Place, address: &str) -> Vec<Encoded> {
    let checkpoint = place.store.checkpoint(&at(address)).unwrap();
    let all = place.store.encodings_of(&checkpoint).unwrap();
    assert!(all.iter().all(|encoded| encoded.len() == 1), "each tensor of this test is one chunk");
    all.into_iter().flatten().collect()
}

fn words(place: &Place, address: &str) -> Vec<String> {
    of(place, address).iter().map(ToString::to_string).collect()
}

fn sum<N>(shares: &std::collections::BTreeMap<N, Share>) -> u64 {
    shares.values().map(|share| share.stored_bytes).sum()
}

/// All frames of all packs.
fn all(encodings: &Encodings) -> u64 {
    sum(&encodings.by_encoding) + encodings.held.stored_bytes + encodings.garbage.stored_bytes
}

fn frames_of_packs(place: &Place) -> u64 {
    let packs = place.packs().into_iter().map(|path| {
        let bytes = std::fs::read(path).unwrap();
        let length = u32::from_le_bytes(bytes[bytes.len() - 40..bytes.len() - 36].try_into().unwrap());
        bytes.len() as u64 - u64::from(length) - 40 - 48
    });
    packs.sum()
}

#[test]
fn every_frame_is_counted_once() {
    let place = four_steps();
    let encodings = place.store.encodings().unwrap();
    assert_eq!(all(&encodings), frames_of_packs(&place));
    assert_eq!(sum(&encodings.by_depth), sum(&encodings.by_encoding));
    assert_eq!(sum(&encodings.by_dtype), sum(&encodings.by_component));
    let others = encodings.files.stored_bytes + encodings.manifests.stored_bytes;
    assert_eq!(sum(&encodings.by_dtype) + others, sum(&encodings.by_encoding));
    // The frozen tensor, four of the moving one, the new one.
    assert_eq!(encodings.by_dtype["F32"].frames, 6);
    assert_eq!(encodings.by_dtype["F32"].raw_bytes, 5 * 160_000 + 80_000);
    assert_eq!(encodings.by_component["model"].frames, 5);
    assert_eq!(encodings.by_encoding["delta"].frames, 3);
    let depths: Vec<u64> = (1..=3).map(|depth| encodings.by_depth[&depth].frames).collect();
    assert_eq!(depths, [1, 1, 1]);
    assert_eq!((encodings.held, encodings.garbage), Default::default());
}

#[test]
fn what_is_held_and_what_is_garbage() {
    let place = four_steps();
    let before = place.store.encodings().unwrap();
    place.forget("run@20");
    let encodings = place.store.encodings().unwrap();
    // Nobody is made of the moving tensor of step 20 any more, but that of step 30 is a difference to it.
    assert_eq!((encodings.held.frames, encodings.held.raw_bytes), (1, 160_000));
    assert_eq!(all(&encodings), all(&before));
    assert!(encodings.garbage.stored_bytes > 0, "its manifest");
    place.forget("run@30");
    place.forget("run@40");
    let encodings = place.store.encodings().unwrap();
    assert_eq!(encodings.held, Share::default(), "nothing is a difference to it any more");
    assert_eq!(all(&encodings), all(&before));
    assert_eq!(encodings.by_dtype["F32"].frames, 2);
    place.gc();
    let encodings = place.store.encodings().unwrap();
    assert_eq!(encodings.garbage, Share::default());
    assert_eq!(all(&encodings), frames_of_packs(&place));
}

#[test]
fn each_tensor_says_why_it_is_stored_so() {
    let place = four_steps();
    assert_eq!(words(&place, "run@10"), ["planes: its run had no earlier step", "planes: its run had no earlier step"]);
    assert_eq!(words(&place, "run@20"), ["planes: unchanged since run@10", "delta to run@10, depth 1"]);
    assert_eq!(
        words(&place, "run@40"),
        ["planes: unchanged since run@10", "delta to run@30, depth 3", "planes: no counterpart in run@30"]
    );
}

#[test]
fn a_difference_that_does_not_pay_is_named() {
    let place = Place::new();
    for step in [1, 2] {
        let path = place.file("a.safetensors", &[floats("w", 40_000, step)]);
        place.save("run", step, &path);
    }
    assert_eq!(words(&place, "run@2"), ["planes: a difference to an earlier save was not smaller"]);
    // Another shape has no counterpart of its own.
    let mut reshaped = floats("w", 40_000, 3);
    reshaped.shape = vec![200, 200];
    place.save("run", 3, &place.file("b.safetensors", &[reshaped]));
    assert_eq!(words(&place, "run@3"), ["planes: another shape than in run@2"]);
}

/// The depth of the deepest large chunk after 14 saves of a tensor that moves.
fn deepest(encoding: Encoding, first: Tensor, step: impl Fn(Tensor, u64) -> Tensor) -> u8 {
    let place = Place::new();
    let mut moving = first;
    for number in 1..=14 {
        let path = place.file(&format!("{number}.safetensors"), &[moving.clone()]);
        place.save_with(&path, &SaveOptions { encoding, ..options("run", number) }).unwrap();
        moving = step(moving, number);
    }
    let depths = place.store.encodings().unwrap().by_depth;
    depths.into_iter().filter(|(_, share)| share.raw_bytes >= 160_000).map(|(depth, _)| depth).max().unwrap()
}

/// Each link costs its readers a frame: so many of them have to be worth it.
#[test]
fn chains_are_long_only_where_a_difference_saves_much() {
    let moves = |step: f32| deepest(Encoding::Balanced, floats("w", 40_000, 2), move |w, n| moved(w, step, n));
    let (little, some, much) = (moves(0.3), moves(0.03), moves(1e-4));
    assert!(little == 3 && (4..=6).contains(&some) && (7..=8).contains(&much), "{little}, {some}, {much} deep");
    // Where bytes count, and time does not.
    let small = deepest(Encoding::Small, floats("w", 40_000, 2), |w, n| moved(w, 0.3, n));
    assert!((12..=13).contains(&small), "{small} deep");
}

/// What is next to nothing saves next to nothing, and is read in no time.
#[test]
fn chains_of_tiny_frames_are_long() {
    let sparse = Tensor { bytes: vec![0; 160_000], ..floats("w", 40_000, 2) };
    let touched = |mut tensor: Tensor, number: u64| {
        let values = floats("", 100, number).bytes;
        for (n, value) in values.chunks_exact(4).enumerate() {
            let at = 4 * (397 * n + number as usize);
            tensor.bytes[at..at + 4].copy_from_slice(value);
        }
        tensor
    };
    let depth = deepest(Encoding::Balanced, sparse, touched);
    assert!((7..=8).contains(&depth), "{depth} deep");
}

#[test]
fn what_is_shared_and_what_is_gone() {
    let place = four_steps();
    // The same bytes in another run, without a history of its own there.
    let path = place.file("other.safetensors", &[floats("model.other", 40_000, 1)]);
    place.save("other", 1, &path);
    assert_eq!(of(&place, "other@1")[0].why, Some(Why::Shared(Some("run@10".into()))));
    // A base that no kept checkpoint has.
    place.forget("run@20");
    assert_eq!(of(&place, "run@30")[1].base, Some(Origin::Older));
    assert_eq!(words(&place, "run@30")[0], "planes: unchanged since run@10");
    // A fork is made of what its origin is made of.
    place.store.fork("fork", &at("run@40")).unwrap();
    assert_eq!(words(&place, "fork@40")[1], "delta to run@30, depth 3; unchanged since run@40");
}

/// What a collection wrote anew says nothing of what its save thought, and nothing is made up.
#[test]
fn a_collection_leaves_no_guess() {
    let place = four_steps();
    place.policy("run", &["keep-last 1"]);
    place.gc();
    let new = &of(&place, "run@40")[1];
    assert_eq!((new.encoding, &new.base, &new.why), ("planes", &None, &Some(Why::Rewritten)));
}
