//! Folders, several files, parts of a checkpoint, and where outputs go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;
use treering::Error;
use treering::restore::RestoreOptions;
use treering::save::{Inputs, SaveOptions};

use crate::helpers::{Place, assert_same, at, file_bytes, files_below, floats, options};

/// Frames of all sizes, small beside large, must lie in the pack in their order.
#[test]
fn tensors_of_every_size_come_back() {
    let place = Place::new();
    for (step, kib) in [1, 100, 300, 500, 560, 650, 800, 1000, 1100, 1300, 2500].into_iter().enumerate() {
        let tensors = [floats("model.small", 7, 1), floats("model.large", kib * 256, step as u64)];
        let file = place.file(&format!("{kib}.safetensors"), &tensors);
        place.save("sizes", step as u64, &file);
        place.assert_restores(&format!("sizes@{step}"), &file);
    }
}

/// A model in shards, with what lies beside it.
fn model_folder(place: &Place) -> PathBuf {
    let root = place.path("llm");
    let _ = place.file("llm/model-00001-of-00002.safetensors", &[floats("model.a", 200_000, 1)]);
    let _ = place.file("llm/model-00002-of-00002.safetensors", &[floats("model.b", 1000, 2), floats("lm_head", 10, 3)]);
    std::fs::write(root.join("model.safetensors.index.json"), "{\"weight_map\": {}}\n").unwrap();
    std::fs::create_dir_all(root.join("tokenizer/deep")).unwrap();
    std::fs::write(root.join("tokenizer/deep/merges.txt"), vec![b'x'; 300_000]).unwrap();
    std::fs::write(root.join("tokenizer/empty"), "").unwrap();
    root
}

/// Weights and the optimizer's state, given as two files.
fn two_parts(place: &Place) -> Inputs<'static> {
    let weights =
        place.file("w.safetensors", &[floats("layer.0", 5000, 1), floats("layer.1", 100, 2), floats("head", 10, 3)]);
    let moments = place.file("o.safetensors", &[floats("optim.layer.0", 5000, 4), floats("optim.step", 1, 5)]);
    Inputs::paths(&[(Some("model".into()), weights), (Some("optim".into()), moments)], false).unwrap()
}

fn restore(place: &Place, address: &str, out: &Path, options: &RestoreOptions) -> treering::Result<BTreeSet<String>> {
    place.store.restore(&at(address), out, options)?;
    let files = if out.is_dir() { files_below(out) } else { vec![out.to_path_buf()] };
    let tensors = files.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    Ok(tensors.flat_map(|path| names_in(path)).collect())
}

fn names_in(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    read.names().into_iter().map(|name| name.to_string()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn a_folder_comes_back_file_for_file() {
    let place = Place::new();
    let folder = model_folder(&place);
    place.save("llm", 1, &folder);
    place.assert_restores("llm@1", &folder);
    std::fs::write(folder.join("tokenizer/empty"), "no more").unwrap();
    place.save("llm", 2, &folder);
    place.assert_restores("llm@2", &folder);
    let checkpoint = place.store.checkpoint(&at("llm@1")).unwrap();
    assert!(checkpoint.is_folder() && checkpoint.files().len() == 2 && checkpoint.side_files().len() == 3);
}

#[test]
fn a_folder_without_tensors_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    assert!(Inputs::paths(&[(None, place.path("empty"))], false).is_err());
}

#[test]
fn files_with_their_components_come_back_as_a_folder() {
    let place = Place::new();
    place.store.save(&two_parts(&place), &options("r", 1)).unwrap();
    let row = place.store.find(&at("r@1")).unwrap();
    assert_eq!(row.components.into_keys().collect::<Vec<_>>(), ["model", "optim"]);
    let out = place.path("out");
    let report = place.store.restore(&at("r@1"), &out, &RestoreOptions::default()).unwrap();
    assert!(report.identical && report.tensors == 5);
    assert_same(&place.path("w.safetensors"), &out.join("w.safetensors"));
    assert_same(&place.path("o.safetensors"), &out.join("o.safetensors"));
}

#[test]
fn a_component_alone_loses_its_prefix() {
    let place = Place::new();
    place.store.save(&two_parts(&place), &options("r", 1)).unwrap();
    let only = |name: &str| RestoreOptions { component: Some(name.into()), ..RestoreOptions::default() };
    let out = place.path("optim.safetensors");
    assert_eq!(restore(&place, "r@1", &out, &only("optim")).unwrap(), set(&["layer.0", "step"]));
    let bytes = std::fs::read(&out).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(read.tensor("layer.0").unwrap().data() == floats("optim.layer.0", 5000, 4).bytes);
    let unknown = restore(&place, "r@1", &place.path("x"), &only("ema"));
    assert!(matches!(unknown, Err(Error::PartUnknown { what: "component", .. })), "{unknown:?}");
}

#[test]
fn globs_choose_tensors() {
    let place = Place::new();
    place.store.save(&two_parts(&place), &options("r", 1)).unwrap();
    let choose = |include: &[&str], exclude: &[&str]| RestoreOptions {
        include: include.iter().map(|glob| glob.to_string()).collect(),
        exclude: exclude.iter().map(|glob| glob.to_string()).collect(),
        ..RestoreOptions::default()
    };
    let chosen = |n: u32, options| restore(&place, "r@1", &place.path(&format!("{n}.safetensors")), &options);
    assert_eq!(chosen(1, choose(&["layer.*"], &[])).unwrap(), set(&["layer.0", "layer.1"]));
    assert_eq!(chosen(2, choose(&["*layer.*"], &["optim*", "*.1"])).unwrap(), set(&["layer.0"]));
    assert_eq!(chosen(3, choose(&[], &["optim.*"])).unwrap(), set(&["layer.0", "layer.1", "head"]));
    assert!(matches!(chosen(4, choose(&["nothing"], &[])), Err(Error::PartUnknown { .. })));
    assert!(matches!(chosen(5, choose(&["a["], &[])), Err(Error::Invalid { .. })));
}

#[test]
fn shards_are_bounded_and_have_an_index() {
    let place = Place::new();
    let tensors: Vec<_> = (0..6).map(|n| floats(&format!("model.{n}"), 10_000, n)).collect();
    place.save("r", 1, &place.file("a.safetensors", &tensors));
    let out = place.path("shards");
    let sharded = RestoreOptions { max_shard_bytes: Some(90_000), ..RestoreOptions::default() };
    let names = restore(&place, "r@1", &out, &sharded).unwrap();
    assert_eq!(names.len(), 6);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], json!(240_000));
    for tensor in &tensors {
        let file = out.join(index["weight_map"][&tensor.name].as_str().unwrap());
        assert!(names_in(&file).contains(&tensor.name));
    }
    assert_eq!(files_below(&out).len(), 4);
}

#[test]
fn other_shards_have_another_index() {
    let place = Place::new();
    place.save("llm", 1, &model_folder(&place));
    let out = place.path("one");
    let names =
        restore(&place, "llm@1", &out, &RestoreOptions { max_shard_bytes: Some(1 << 30), ..Default::default() });
    assert_eq!(names.unwrap(), set(&["model.a", "model.b", "lm_head"]));
    // All else is there as it was.
    let left: Vec<_> = files_below(&out).into_iter().map(|p| p.strip_prefix(&out).unwrap().to_path_buf()).collect();
    let expected = ["model.safetensors", "tokenizer/deep/merges.txt", "tokenizer/empty"].map(PathBuf::from);
    assert_eq!(left, expected);
    let out = place.path("many");
    restore(&place, "llm@1", &out, &RestoreOptions { max_shard_bytes: Some(500_000), ..Default::default() }).unwrap();
    let index = std::fs::read_to_string(out.join("model.safetensors.index.json")).unwrap();
    assert!(index.contains("model-00002-of-00002.safetensors"), "{index}");
}

#[test]
fn an_output_that_exists_stays_unless_forced() {
    let place = Place::new();
    let file = place.file("a.safetensors", &[floats("model.a", 100, 1)]);
    place.save("r", 1, &file);
    let out = place.path("out");
    std::fs::write(&out, "mine").unwrap();
    let refused = place.store.restore(&at("r@1"), &out, &RestoreOptions::default());
    assert!(matches!(refused, Err(Error::OutputExists { .. })), "{refused:?}");
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    let force = RestoreOptions { force: true, ..RestoreOptions::default() };
    place.store.restore(&at("r@1"), &out, &force).unwrap();
    assert_same(&file, &out);

    let folder = model_folder(&place);
    place.save("llm", 1, &folder);
    let out = place.path("folder");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "mine").unwrap();
    assert!(place.store.restore(&at("llm@1"), &out, &RestoreOptions::default()).is_err());
    assert_eq!(std::fs::read(out.join("mine")).unwrap(), b"mine");
    place.store.restore(&at("llm@1"), &out, &force).unwrap();
    assert_same(&folder, &out);
}

#[test]
fn a_restore_that_fails_leaves_nothing_behind() {
    let place = Place::new();
    let folder = model_folder(&place);
    place.save("llm", 1, &folder);
    let pack = &place.packs()[0];
    let mut bytes = std::fs::read(pack).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(pack, bytes).unwrap();
    let parent = place.path("outputs");
    std::fs::create_dir(&parent).unwrap();
    let failed = place.store.restore(&at("llm@1"), &parent.join("out"), &RestoreOptions::default());
    assert!(matches!(failed, Err(Error::ChunkDamaged { .. })), "{failed:?}");
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    std::fs::write(parent.join("out"), "mine").unwrap();
    let force = RestoreOptions { force: true, ..RestoreOptions::default() };
    assert!(place.store.restore(&at("llm@1"), &parent.join("out"), &force).is_err());
    assert_eq!(std::fs::read(parent.join("out")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 1);
}

#[test]
fn one_tensor_and_the_state_can_be_read_alone() {
    let place = Place::new();
    let state = json!({"epoch": 3, "rng": [1, 2, 18446744073709551615u64], "lr": 3e-5, "none": null});
    let with = SaveOptions { state: Some(state.clone()), ..options("r", 1) };
    place.store.save(&two_parts(&place), &with).unwrap();
    let checkpoint = place.store.checkpoint(&at("r@1")).unwrap();
    assert_eq!(checkpoint.state().unwrap(), Some(state));
    let mut bytes = Vec::new();
    let meta = checkpoint.read_tensor("optim:optim.layer.0", &mut bytes).unwrap();
    assert_eq!(meta.shape, [5000]);
    assert!(bytes == floats("optim.layer.0", 5000, 4).bytes);
    assert!(matches!(checkpoint.read_tensor("nope", &mut bytes), Err(Error::PartUnknown { .. })));
}

#[test]
fn tensors_in_memory_and_side_bytes_come_back() {
    let place = Place::new();
    let tensor = floats("model.a", 70_000, 1);
    let meta = treering::tensor::TensorMeta {
        name: tensor.name.clone(),
        dtype: treering::tensor::DType::new("F32"),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes.len() as u64,
    };
    let given = treering::save::MemoryTensor { meta, bytes: &tensor.bytes };
    let inputs = Inputs::tensors(vec![(None, given)]).unwrap().with_side_bytes("notes.txt", b"hello".to_vec()).unwrap();
    place.store.save(&inputs, &options("r", 1)).unwrap();
    let out = place.path("out");
    place.store.restore(&at("r@1"), &out, &RestoreOptions::default()).unwrap();
    assert_eq!(std::fs::read(out.join("notes.txt")).unwrap(), b"hello");
    assert_eq!(std::fs::read(out.join("model.safetensors")).unwrap(), file_bytes(&[tensor]));
}
