//! A file that is saved and restored is the same file.

use crate::helpers::{Place, floats};

#[test]
fn a_file_comes_back_byte_for_byte() {
    let place = Place::new();
    let tensors =
        [floats("model.a", 1_500_000, 1), floats("model.b", 10, 2), floats("optimizer.exp_avg.a", 700_000, 3)];
    let first = place.file("1.safetensors", &tensors);
    let report = place.save("r", 1, &first);
    assert_eq!(report.sizes.raw, std::fs::metadata(&first).unwrap().len());
    assert!(report.new_bytes < report.sizes.raw * 9 / 10);
    place.assert_restores("r@1", &first);
}

#[test]
fn an_unchanged_checkpoint_costs_an_entry() {
    let place = Place::new();
    let file = place.file("1.safetensors", &[floats("model.a", 1_500_000, 1), floats("model.b", 10, 2)]);
    place.save("r", 1, &file);
    let again = place.save("r", 2, &file);
    assert_eq!(again.sizes.unchanged, again.sizes.raw);
    assert!(again.new_bytes < 4000 && again.new_objects == 1, "{again:?}");
    place.assert_restores("r@2", &file);
}

#[test]
fn a_change_costs_what_changed() {
    let place = Place::new();
    let mut tensors = vec![floats("model.a", 1_500_000, 1), floats("model.b", 500_000, 2)];
    let one = place.file("1.safetensors", &tensors);
    place.save("r", 1, &one);
    tensors[1] = floats("model.b", 500_000, 9);
    let two = place.file("2.safetensors", &tensors);
    let report = place.save("r", 2, &two);
    assert_eq!(report.sizes.encoded, 2_000_000);
    place.assert_restores("r@1", &one);
    place.assert_restores("r@2", &two);
}

#[test]
fn frames_of_all_sizes_lie_in_order() {
    let place = Place::new();
    // Noise, so that a frame is as long as its tensor: below, around and above what is written at a time.
    let sizes = [10, 70_000, 200_000, 3, 64_000, 250_000, 500, 130_000, 60_000, 40_000, 300_000, 9];
    let tensors: Vec<_> =
        sizes.iter().enumerate().map(|(i, &n)| floats(&format!("model.t{i:02}"), n, i as u64 + 5)).collect();
    let file = place.file("1.safetensors", &tensors);
    place.save("r", 1, &file);
    place.assert_restores("r@1", &file);
    assert!(place.store.verify(treering::verify::Depth::Deep).unwrap().is_sound());
}
