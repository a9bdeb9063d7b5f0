//! Faults that need real files; the others are in `tests/sim`. Named after their rows in docs/DURABILITY.md.

use std::path::Path;

use treering::catalog::Filter;
use treering::store::{Durability, Options, Store};
use treering::{Error, ErrorKind};

use crate::helpers::{Place, at, file_bytes, floats};

#[test]
fn f018_a_store_in_memory_says_so() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        println!("f018 skipped: there is no /dev/shm");
        return;
    };
    let store = Store::create(folder.path().join("store"), None, Options::default()).unwrap();
    assert_eq!(store.durability(), Durability::Process);
}

#[test]
fn f021_a_pack_that_is_cut_while_it_is_read_is_an_error() {
    let place = Place::new();
    let tensors = [floats("model.a", 300_000, 1), floats("model.b", 300_000, 2)];
    place.save("r", 1, &place.file("1.safetensors", &tensors));
    let checkpoint = place.store.checkpoint(&at("r@1")).unwrap();
    checkpoint.read_tensor("model.a", &mut Vec::new()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&place.packs()[0]).unwrap();
    file.set_len(1000).unwrap();
    let error = checkpoint.read_tensor("model.b", &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
}

#[test]
fn f093_a_store_with_a_feature_of_a_later_version_is_refused() {
    let place = Place::new();
    let config = place.store.root().join("treering.json");
    let mut facts: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    facts["features"] = serde_json::json!(["time-travel"]);
    std::fs::write(&config, facts.to_string()).unwrap();
    let error = Store::open(place.store.root(), Options::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("time-travel"), "{error}");
}

#[test]
fn f104_a_store_that_is_copied_while_it_is_in_use() {
    let place = Place::new();
    let tensors = |step: u64| [floats("model.a", 500, step)];
    for round in 0..4 {
        let copy = place.path(&format!("copy-{round}"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for step in round * 10..round * 10 + 10 {
                    place.save("r", step, &place.file(&format!("{step}.safetensors"), &tensors(step)));
                }
            });
            copy_folder(place.store.root(), &copy);
        });
        let store = match Store::open(&copy, Options::default()) {
            Ok(store) => store,
            // A catalog that was copied later than the log knows more than that.
            Err(Error::Diverged { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        for row in store.log(&Filter::default()).unwrap() {
            let out = place.path(&format!("out-{round}-{}", row.step));
            match store.restore(&at(&row.address()), &out, &Default::default()) {
                Ok(_) => assert!(std::fs::read(out).unwrap() == file_bytes(&tensors(row.step))),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}"),
            }
        }
    }
}

/// As `cp -r` does it: what vanishes meanwhile is passed.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_folder(&entry.path(), &target),
            _ => drop(std::fs::copy(entry.path(), target)),
        }
    }
}
