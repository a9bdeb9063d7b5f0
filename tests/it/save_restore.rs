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
