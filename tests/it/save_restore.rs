//! A file that is saved and restored is the same file.

use std::sync::{Arc, Mutex};

use treering::monitor::Monitor;
use treering::save::Inputs;
use treering::store::{Options, Store};

use crate::helpers::{Place, at, floats, options};

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

/// Every pack of a save is named by its entry, and all get their footers at once.
#[test]
fn the_packs_of_a_save_grow_as_they_become_many() {
    let mut place = Place::new();
    let small = Options { pack_bytes: 1 << 10, ..Options::default() };
    place.store = Store::create(place.path("small packs"), None, small).unwrap();
    // Frames of 400 bytes and a little, three to the first packs.
    let tensors: Vec<_> = (0..1500).map(|n| floats(&format!("model.t{n:04}"), 115, n)).collect();
    let file = place.file("1.safetensors", &tensors);
    place.save("r", 1, &file);
    let mut sizes: Vec<u64> = place.packs().iter().map(|pack| std::fs::metadata(pack).unwrap().len()).collect();
    sizes.sort_unstable();
    assert!((150..260).contains(&sizes.len()), "{} packs", sizes.len());
    assert!(sizes[sizes.len() - 2] > 3 * sizes[1], "{sizes:?}");
    place.assert_restores("r@1", &file);
    let report = place.reopened().verify(treering::verify::Depth::Deep).unwrap();
    assert!(report.is_sound(), "{report:?}");
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

#[test]
fn a_copy_without_its_empty_folders_is_saved_into() {
    let place = Place::new();
    let one = place.file("1.safetensors", &[floats("model.a", 5000, 1)]);
    let two = place.file("2.safetensors", &[floats("model.a", 5000, 2)]);
    let bare = |place: &Place| {
        std::fs::remove_file(place.store.root().join("tmp/reserve")).unwrap();
        for name in treering::format::keys::folders() {
            // Those with something in them stay.
            let _ = std::fs::remove_dir(place.store.root().join(name));
        }
        assert!(!place.store.root().join("tmp").exists());
    };
    bare(&place);
    assert!(!place.store.root().join("log").exists());
    place.save("r", 1, &one);
    place.gc();
    bare(&place);
    place.store.tag(&at("r@1"), &["first".into()], &[]).unwrap();
    place.save("r", 2, &two);
    place.assert_restores("r@1", &one);
    place.assert_restores("r@2", &two);
}

/// What the monitor was warned of.
#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Monitor for Warnings {
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_string());
    }
}

#[test]
fn a_counterpart_that_cannot_be_read_is_told_of() {
    let place = Place::new();
    let one = place.file("1.safetensors", &[floats("model.a", 1_500_000, 1), floats("model.b", 1_500_000, 2)]);
    place.save("r", 1, &one);
    let pack = &place.packs()[0];
    let mut bytes = std::fs::read(pack).unwrap();
    let recipe = bytes.windows(4).position(|four| four == b"TRRC").unwrap();
    bytes[recipe + 20] ^= 1;
    std::fs::write(pack, bytes).unwrap();

    let warnings = Arc::new(Warnings::default());
    let store = place.reopened().with_monitor(warnings.clone());
    let two = place.file("2.safetensors", &[floats("model.a", 1_500_000, 3), floats("model.b", 1_500_000, 4)]);
    store.save(&Inputs::paths(&[(None, two.clone())], false).unwrap(), &options("r", 2)).unwrap();
    let said = warnings.0.lock().unwrap();
    assert!(said.len() == 1 && said[0].contains("is damaged"), "{said:?}");
    place.assert_restores("r@2", &two);
}
