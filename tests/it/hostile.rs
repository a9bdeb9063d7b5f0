//! Bytes that are not what they should be: refused in one line, found, and never taken for good.

use std::path::{Path, PathBuf};

use treering::save::{Inputs, SaveOptions};
use treering::store::{Options, Store};
use treering::verify::{Depth, VerifyReport};
use treering::{Error, ErrorKind};

use crate::helpers::{Place, at, file_bytes, floats, metrics, options};

#[track_caller]
fn refused(place: &Place, bytes: &[u8]) {
    let path = place.path("bad.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let error = place.save_with(&path, &options("r", 1)).unwrap_err();
    let said = error.to_string();
    assert!(error.kind() == ErrorKind::Invalid && !said.contains('\n') && said.contains("bad.safetensors"), "{said}");
    assert!(place.packs().is_empty() && !place.entry(0).exists());
}

fn with_header(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn f091_lying_files_are_refused_and_nothing_is_saved() {
    let place = Place::new();
    let sound = file_bytes(&[floats("model.a", 100, 1)]);
    for cut in [0, 7, 8, 50, sound.len() - 1] {
        refused(&place, &sound[..cut]);
    }
    refused(&place, &[sound.as_slice(), b"more"].concat());
    refused(&place, &u64::MAX.to_le_bytes());
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    refused(&place, &with_header(overlap, 12));
    refused(&place, &with_header(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8));
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#;
    refused(&place, &with_header(huge, 8));
    refused(&place, &with_header("not json\u{1b}[2J", 8));
}

/// Counts, lengths and products that no memory holds, in everything that is read.
#[test]
fn f088_numbers_that_overflow_are_refused() {
    use treering::format::manifest::{Block, Recipe, Root, Schema};
    use treering::wire::Write;
    let most = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62, 1 << 32, u64::from(u32::MAX), 1 << 20];
    // Wherever a number stands in a small manifest, a large one takes its place.
    let schema = |shape: &[u64], bytes: u64| {
        let mut out = b"TRMS\0".to_vec();
        out.put_varint(1);
        out.put_counted(b"model");
        out.put_varint(1);
        out.put_varint(1);
        out.put_counted(b"F32");
        out.put_varint(1);
        [0, 0].into_iter().for_each(|n| out.put_varint(n));
        out.put_counted(b"w");
        out.put_varint(0);
        out.put_varint(shape.len() as u64);
        shape.iter().for_each(|n| out.put_varint(*n));
        out.put_varint(bytes);
        out.put_varint(0);
        out
    };
    assert!(Schema::decode(&schema(&[2, 3], 24)).is_ok());
    for large in most {
        assert!(Schema::decode(&schema(&[large, large], 24)).is_err(), "{large}");
        assert!(Schema::decode(&schema(&[large, 4], large.wrapping_mul(16))).is_err() || large < 1 << 59, "{large}");
        assert!(Schema::decode(&schema(&[2, 3], large)).is_err(), "{large}");
        for magic in [b"TRMR\0", b"TRMS\0", b"TRMB\0", b"TRRC\0"] {
            for before in [&[][..], &[0], &[1], &[0, 0], &[1, 1]] {
                let mut out = magic.to_vec();
                out.extend(before);
                out.put_varint(large);
                out.extend([0; 64]);
                let refused = Root::decode(&out).is_err() && Schema::decode(&out).is_err();
                assert!(refused && Block::decode(&out).is_err() && Recipe::decode(&out, large).is_err(), "{out:?}");
            }
        }
    }
    let shape = format!(r#"{{"a":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,8]}}}}"#, 1u64 << 32);
    refused(&Place::new(), &with_header(&shape, 8));
    let offsets = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551615,0]}}"#;
    refused(&Place::new(), &with_header(offsets, 1));
}

#[test]
fn f089_bad_names_are_refused() {
    let place = Place::new();
    let file = place.file("a.safetensors", &[floats("model.a", 10, 1)]);
    let bad = [
        options("../r", 1),
        options("r@1", 1),
        options("", 1),
        SaveOptions { tags: vec!["latest".into()], ..options("r", 1) },
        SaveOptions { tags: vec!["17".into()], ..options("r", 1) },
        SaveOptions { metrics: metrics(&[("a b", 1.0)]), ..options("r", 1) },
    ];
    for options in bad {
        assert!(matches!(place.save_with(&file, &options), Err(Error::Invalid { .. })), "{options:?}");
    }
    for name in ["../x", "/etc/x", "a//b", "", "a\0b", "checkpoint.safetensors"] {
        let inputs = Inputs::paths(&[(None, file.clone())], false).unwrap();
        assert!(inputs.with_side_bytes(name, vec![1]).is_err(), "{name}");
    }
}

#[test]
fn a_nan_metric_comes_back() {
    let place = Place::new();
    let file = place.file("a.safetensors", &[floats("model.a", 10, 1)]);
    let values = metrics(&[("loss", f64::NAN), ("top", f64::INFINITY), ("low", -0.0)]);
    place.save_with(&file, &SaveOptions { metrics: values, ..options("r", 1) }).unwrap();
    place.store.rebuild().unwrap();
    let row = place.reopened().find(&at("r@1")).unwrap();
    assert!(row.metrics["loss"].0.is_nan() && row.metrics["top"].0 == f64::INFINITY);
    assert_eq!(row.metrics["low"].0, 0.0);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_no_checkpoint() {
    let place = Place::new();
    let tensors = [floats("model.a", 100_000, 1)];
    for (n, change) in
        [file_bytes(&tensors)[..1000].to_vec(), file_bytes(&[floats("model.a", 100_000, 2)])].iter().enumerate()
    {
        let path = place.file(&format!("{n}.safetensors"), &tensors);
        let inputs = Inputs::paths(&[(None, path.clone())], false).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, change).unwrap();
        let saved = place.store.save(&inputs, &options("r", 1));
        assert!(matches!(saved, Err(Error::InputChanged { .. })), "{saved:?}");
        assert!(place.packs().is_empty() && !place.entry(0).exists());
    }
}

#[test]
fn a_store_that_is_missing_or_newer_says_so() {
    let place = Place::new();
    let missing = Store::open(place.path("nowhere"), Options::default());
    assert!(matches!(missing, Err(Error::StoreMissing { .. })), "{missing:?}");
    let config = place.store.root().join("treering.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"format\": 1", "\"format\": 7")).unwrap();
    let newer = Store::open(place.store.root(), Options::default());
    assert!(matches!(newer, Err(Error::StoreNewer { found: 7, .. })), "{newer:?}");
}

/// Three checkpoints; the third has all its tensors from the others.
fn three() -> (Place, Vec<PathBuf>) {
    let place = Place::new();
    let (a, b) = (floats("model.a", 90_000, 1), floats("model.b", 80_000, 2));
    let files = vec![
        place.file("1.safetensors", &[a.clone(), b.clone()]),
        place.file("2.safetensors", &[a.clone(), floats("model.b", 80_000, 3)]),
        place.file("3.safetensors", &[a, b]),
    ];
    for (n, file) in files.iter().enumerate() {
        place.save("r", n as u64 + 1, file);
    }
    (place, files)
}

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    with(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// What the tests are to find: addresses, each with what is lost.
fn affected(report: &VerifyReport) -> Vec<(String, Vec<String>)> {
    report.affected.iter().map(|one| (one.checkpoint.address(), one.lost.clone())).collect()
}

fn pack_of(place: &Place, address: &str, tensor: &str) -> PathBuf {
    let tensors = place.store.checkpoint(&at(address)).unwrap().tensors().unwrap();
    let pack = tensors.iter().find(|t| t.meta.name == tensor).unwrap().packs[0].to_string();
    place.packs().into_iter().find(|path| path.ends_with(&pack)).unwrap()
}

#[test]
fn a_flipped_bit_is_found_with_all_that_it_touches() {
    let (place, files) = three();
    // The second save's pack begins with its own tensor.
    let pack = pack_of(&place, "r@2", "model.b");
    change(&pack, |bytes| bytes[5000] ^= 1);
    let lost = vec![("r@2".to_string(), vec!["model.b".to_string()])];
    assert_eq!(affected(&place.store.verify(Depth::Stored).unwrap()), lost);
    assert_eq!(affected(&place.store.verify(Depth::Deep).unwrap()), lost);
    let failed = place.store.restore(&at("r@2"), &place.path("x"), &Default::default());
    assert!(matches!(failed, Err(Error::ChunkDamaged { .. } | Error::ObjectDamaged { .. })), "{failed:?}");
    place.assert_restores("r@1", &files[0]);
    place.assert_restores("r@3", &files[2]);
}

#[test]
fn damage_to_what_is_shared_touches_all_that_share_it() {
    let (place, _) = three();
    let pack = pack_of(&place, "r@1", "model.a");
    change(&pack, |bytes| bytes[5000] ^= 1);
    let report = place.store.verify(Depth::Stored).unwrap();
    let a = || vec!["model.a".to_string()];
    assert_eq!(affected(&report), [("r@1".into(), a()), ("r@2".into(), a()), ("r@3".into(), a())]);
}

#[test]
fn packs_cut_deleted_or_swapped_are_found() {
    for harm in 0..3 {
        let (place, files) = three();
        let (first, second) = (pack_of(&place, "r@1", "model.a"), pack_of(&place, "r@2", "model.b"));
        match harm {
            0 => change(&second, |bytes| bytes.truncate(bytes.len() - 1)),
            1 => std::fs::remove_file(&second).unwrap(),
            _ => {
                std::fs::rename(&first, place.path("aside")).unwrap();
                std::fs::rename(&second, &first).unwrap();
                std::fs::rename(place.path("aside"), &second).unwrap();
            }
        }
        place.delete_catalog();
        let reopened = place.reopened();
        let report = reopened.verify(Depth::Structure).unwrap();
        let touched: Vec<String> = affected(&report).into_iter().map(|(address, _)| address).collect();
        let expected: &[&str] = if harm == 2 { &["r@1", "r@2", "r@3"] } else { &["r@2"] };
        assert_eq!(touched, expected, "{harm}");
        let failed = reopened.restore(&at("r@2"), &place.path("x"), &Default::default());
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Damaged);
        if harm < 2 {
            place.assert_restores("r@1", &files[0]);
        }
    }
}

#[test]
fn readers_pass_a_damaged_entry_and_writers_wait() {
    let (place, files) = three();
    place.store.tag(&at("r@2"), &["x".into()], &[]).unwrap();
    place.store.annotate(&at("r@1"), metrics(&[("loss", 1.0)]), None).unwrap();
    change(&place.entry(1), |bytes| bytes[60] ^= 1);
    place.delete_catalog();
    let reopened = place.reopened();
    assert!(!reopened.verify(Depth::Structure).unwrap().is_sound());
    assert!(reopened.find(&at("r@2")).is_err());
    assert_eq!(reopened.find(&at("r@1")).unwrap().metrics["loss"].0, 1.0);
    place.assert_restores("r@1", &files[0]);
    let inputs = Inputs::paths(&[(None, files[0].clone())], false).unwrap();
    let written = reopened.save(&inputs, &options("r", 9));
    assert!(matches!(written, Err(Error::ObjectDamaged { .. })), "{written:?}");
    assert!(reopened.gc(&Default::default()).is_err() || place.packs().len() == 2);
}

#[test]
fn two_entries_in_each_others_place_are_found() {
    let (place, _) = three();
    place.save("r", 4, &place.path("2.safetensors"));
    std::fs::rename(place.entry(0), place.path("aside")).unwrap();
    std::fs::rename(place.entry(2), place.entry(0)).unwrap();
    std::fs::rename(place.path("aside"), place.entry(2)).unwrap();
    let report = place.store.verify(Depth::Structure).unwrap();
    assert_eq!(report.damage.len(), 2, "{:?}", report.damage);
}

#[test]
fn f093_an_entry_of_an_unknown_kind_stops_writers_alone() {
    let (place, files) = three();
    // The newest entry, said to be of a kind of the future, its hash made to fit.
    change(&place.entry(2), |bytes| {
        let end = bytes.len() - 32;
        bytes[6..8].copy_from_slice(&999u16.to_le_bytes());
        let hash = treering::id::Hash::of(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash.0);
    });
    place.delete_catalog();
    let reopened = place.reopened();
    place.assert_restores("r@2", &files[1]);
    let inputs = Inputs::paths(&[(None, files[0].clone())], false).unwrap();
    assert!(reopened.save(&inputs, &options("r", 9)).is_err());
    assert!(!place.entry(3).exists());
}
