//! What was written once is read for ever, and not by this library alone.
//!
//! `tests/fixtures/v1` holds stores of format 1, and the hashes of all that they give back; `v0` one of the format before
//! it was frozen. A second reader, written from FORMAT.md in another language, must give back the same, of those stores
//! and of new ones.
//!
//! A new fixture is written by `TREERING_WRITE_FIXTURES=NAME,… cargo test --test it write_fixture`. One that is there is
//! never written again: what once was a store stays one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use treering::catalog::Filter;
use treering::env::{Env, Source, Time};
use treering::format::entry::Number;
use treering::format::policy::{Mode, Policy, Rule};
use treering::gc::GcOptions;
use treering::restore::RestoreOptions;
use treering::save::{BoxOf, Inputs, JointPart, MemoryTensor, OnConflict, SaveOptions};
use treering::store::{CatalogPlace, Options, Store};
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;

use crate::helpers::{Place, Tensor, assert_same, file_bytes, floats, options, trained};

/// The stores that are read for ever: their names, and how they were made.
type Fixture = (&'static str, fn(&Path) -> Store);
const FIXTURES: [Fixture; 5] = [
    (V0, make_store),
    (HISTORY, make_store),
    ("v1/differences", make_differences),
    ("v1/boxes", make_boxes),
    ("v1/repaired", make_repaired),
];
const V0: &str = "v0";
const HISTORY: &str = "v1/history";

/// What comes back of a checkpoint: BLAKE3 hashes, in hexadecimal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    /// By relative path; a single file is `.`.
    files: BTreeMap<String, String>,
    /// Of the JSON of the state.
    state: Option<String>,
    dropped: Vec<String>,
}

#[test]
fn f094_every_format_is_read_for_ever() {
    for (name, _) in FIXTURES {
        let folder = tempfile::tempdir().unwrap();
        let store = fixture_store(name, folder.path());
        let known = expected(name);
        let addresses = addresses_of(&store);
        assert_eq!(addresses, known.keys().cloned().collect::<BTreeSet<_>>());
        for (address, expected) in &known {
            assert_eq!(&restored(&store, address, folder.path()), expected, "{name}: {address}");
        }
        let report = store.verify(Depth::Deep).unwrap();
        assert!(report.is_sound() && report.foreign.is_empty(), "{report:?}");
        // One step was left behind and taken again: two checkpoints, one address.
        let twice = usize::from(name == V0 || name == HISTORY);
        assert_eq!(report.checkpoints as usize, known.len() + twice, "{name}");
    }
}

#[test]
fn a_collection_of_an_old_store_takes_nothing_that_is_wanted() {
    for (name, _) in FIXTURES {
        let folder = tempfile::tempdir().unwrap();
        let store = fixture_store(name, folder.path());
        for name in treering::format::keys::folders() {
            std::fs::create_dir_all(store.root().join(name)).unwrap();
        }
        store.gc(&GcOptions { repack_above: Some(0.0), ..GcOptions::default() }).unwrap();
        let left = addresses_of(&store);
        let mut known = expected(name);
        known.retain(|address, _| left.contains(address));
        assert!(known.len() + 2 >= expected(name).len(), "only superseded checkpoints may go");
        for (address, expected) in &known {
            assert_eq!(&restored(&store, address, folder.path()), expected, "{name}: {address}");
        }
    }
}

#[test]
fn the_fixtures_of_format_1_have_every_kind_of_entry_and_codec() {
    let mut kinds = BTreeSet::new();
    let (mut codecs, mut chunks, mut depth) = (BTreeSet::new(), 0, 0);
    for (name, _) in FIXTURES.into_iter().filter(|(name, _)| name.starts_with("v1/")) {
        for entry in files_below(&fixtures(name).join("store/log")) {
            let bytes = std::fs::read(entry).unwrap();
            kinds.insert(u16::from_le_bytes([bytes[6], bytes[7]]));
        }
        let folder = tempfile::tempdir().unwrap();
        let store = fixture_store(name, folder.path());
        for address in addresses_of(&store) {
            for tensor in store.checkpoint(&address.parse().unwrap()).unwrap().tensors().unwrap() {
                (chunks, depth) = (chunks.max(tensor.chunks), depth.max(tensor.depth));
                codecs.extend(tensor.encodings.into_iter().map(|(codec, _)| codec));
            }
        }
    }
    // An upgrade has nothing to say yet in a store that begins with the newest format.
    assert_eq!(kinds, (1..=16).collect());
    assert_eq!(codecs, ["cast", "delta", "patch", "planes", "raw", "zstd"].map(String::from).into());
    assert!(chunks > 1 && depth > 2, "{chunks} chunks, {depth} deep");
}

#[test]
fn f094_a_store_of_the_format_before_is_written_to_and_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let store = fixture_store(V0, folder.path());
    for name in treering::format::keys::folders() {
        std::fs::create_dir_all(store.root().join(name)).unwrap();
    }
    let file = folder.path().join("new.safetensors");
    std::fs::write(&file, file_bytes(&[floats("model.w", 700, 1)])).unwrap();
    let save = |run: &str| {
        let inputs = Inputs::paths(&[(None, file.clone())], false).unwrap();
        store.save(&inputs, &options(run, 1)).unwrap()
    };
    save("before");
    assert_eq!((store.format().unwrap(), store.upgrade().unwrap(), store.format().unwrap()), (0, 0, 1));
    save("after");
    let entries = store.stats().unwrap().entries;
    assert_eq!(store.upgrade().unwrap(), 1);
    assert_eq!(store.stats().unwrap().entries, entries, "there was nothing to upgrade");

    // Whoever knows nothing but the objects sees it, too.
    Store::forget_catalog(store.root()).unwrap();
    let store = Store::open(store.root(), Options::default()).unwrap();
    assert_eq!(store.format().unwrap(), 1);
    for (address, expected) in &expected(V0) {
        assert_eq!(&restored(&store, address, folder.path()), expected, "{address}");
    }
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    let Some(reader) = SecondReader::find() else { return };
    reader.assert_lists(&store);
    for address in ["before@1", "after@1"] {
        let output = folder.path().join(address);
        reader.ok(&store, &["restore", address, output.to_str().unwrap()]);
        assert_same(&file, &output);
    }
}

#[test]
fn a_second_reader_agrees_about_every_format() {
    let Some(reader) = SecondReader::find() else { return };
    for (name, _) in FIXTURES {
        let folder = tempfile::tempdir().unwrap();
        let store = fixture_store(name, folder.path());
        reader.assert_lists(&store);
        for (address, expected) in expected(name) {
            let output = folder.path().join("second");
            if expected.dropped.is_empty() {
                reader.ok(&store, &["restore", &address, output.to_str().unwrap()]);
                assert_eq!(hashes(&output), expected.files, "{name}: {address}");
                remove(&output);
            } else {
                let said = reader.refuses(&store, &["restore", &address, output.to_str().unwrap()]);
                assert!(said.contains(&expected.dropped[0]) && !output.exists(), "{said}");
            }
            if let Some(state) = expected.state {
                let said = reader.ok(&store, &["state", &address]);
                assert_eq!(hash(said.trim_end().as_bytes()), state, "{address}");
            }
        }
    }
}

#[test]
fn a_second_reader_reads_what_was_just_written() {
    let place = Place::new();
    let mut saved = Vec::new();
    for step in 0..4_u64 {
        let tensors = [
            floats("model.a", 600_000, 1),
            floats("model.b", 200_000, 10 + step),
            floats("optimizer.exp_avg.a", 30_000, 20 + step / 2),
            bf16("model.c", 50_001, step),
        ];
        let file = place.file(&format!("{step}.safetensors"), &tensors);
        place.save("r", step, &file);
        place.assert_restores(&format!("r@{step}"), &file);
        saved.push(file);
    }
    let Some(reader) = SecondReader::find() else { return };
    reader.assert_lists(&place.store);
    for (step, file) in saved.iter().enumerate() {
        let output = place.path(&format!("out-{step}"));
        reader.ok(&place.store, &["restore", &format!("r@{step}"), output.to_str().unwrap()]);
        assert_same(file, &output);
    }
}

#[test]
fn a_second_reader_refuses_what_was_changed() {
    let Some(reader) = SecondReader::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = fixture_store(V0, folder.path());
    let output = folder.path().join("second");
    let restore = ["restore", "sharded/run@10", output.to_str().unwrap()];
    for path in files_below(store.root()).into_iter().rev().step_by(4) {
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        std::fs::write(&path, bad).unwrap();
        // It may not need the file, and a log with a damaged entry can be read; but it never gives back something else.
        let done = reader.run(&store, &restore);
        if done.status.success() {
            assert_eq!(hashes(&output), expected(V0)["sharded/run@10"].files, "{}", path.display());
            remove(&output);
        } else {
            assert_one_line(&done);
        }
        std::fs::write(&path, good).unwrap();
    }
    for command in [&["restore", "sharded/run@11", "x"][..], &["restore", "nobody", "x"], &["state", "back@1"], &[]] {
        reader.refuses(&store, command);
    }
}

/// What the fixtures are made of still becomes stores that give it back. Writes one, if it is asked to.
#[test]
fn write_fixture() {
    for (name, make) in FIXTURES {
        let folder = tempfile::tempdir().unwrap();
        let store = make(folder.path());
        assert!(store.verify(Depth::Deep).unwrap().is_sound());
        let known: BTreeMap<String, Expected> =
            addresses_of(&store).into_iter().map(|a| (a.clone(), restored(&store, &a, folder.path()))).collect();
        if std::env::var("TREERING_WRITE_FIXTURES").is_ok_and(|asked| asked.split(',').any(|asked| asked == name)) {
            write(name, &store, &known);
        }
        assert_eq!(known, expected(name), "{name}");
    }
}

fn write(name: &str, store: &Store, known: &BTreeMap<String, Expected>) {
    let target = fixtures(name).join("store");
    assert!(!target.exists(), "{name}: a fixture is never written again");
    remove(&store.root().join("tmp"));
    for from in files_below(store.root()) {
        let to = target.join(from.strip_prefix(store.root()).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
    std::fs::write(fixtures(name).join("expected.json"), serde_json::to_string_pretty(known).unwrap() + "\n").unwrap();
}

// -- the fixtures

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected(name: &str) -> BTreeMap<String, Expected> {
    serde_json::from_slice(&std::fs::read(fixtures(name).join("expected.json")).unwrap()).unwrap()
}

/// The store of a fixture, in a folder that may be written to. Folders without files are not there.
fn fixture_store(name: &str, folder: &Path) -> Store {
    let (from, to) = (fixtures(name).join("store"), folder.join("store"));
    for file in files_below(&from) {
        let copy = to.join(file.strip_prefix(&from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(file, copy).unwrap();
    }
    Store::open(to, Options::default()).unwrap()
}

/// A run of differences of every kind, as they were saved and as a collection left them.
fn make_differences(folder: &Path) -> Store {
    let store = Store::create(folder.join("store"), None, repeatable()).unwrap();
    for run in ["as-saved", "collected"] {
        for step in 0..6 {
            let path = folder.join("input.safetensors");
            // Two trainings that have nothing in common.
            let mut tensors = trained(step);
            let first =
                tensors.iter_mut().flat_map(|tensor| &mut tensor.bytes).filter(|_| run == "collected").step_by(2);
            first.for_each(|byte| *byte ^= 3);
            std::fs::write(&path, file_bytes(&tensors)).unwrap();
            store.save(&Inputs::paths(&[(None, path)], false).unwrap(), &options(run, step)).unwrap();
        }
    }
    let slots: Vec<u64> =
        [0, 2, 3].map(|step| store.find(&format!("collected@{step}").parse().unwrap()).unwrap().slot).into();
    store.forget(&slots).unwrap();
    let report = store.gc(&GcOptions { repack_above: Some(0.0), ..GcOptions::default() }).unwrap();
    assert!(report.packs_rewritten > 0, "{report:?}");
    store
}

/// Damage of every kind, and what repair and saving again made of it: void entries, of which one is made again and one
/// is not; a copy known to be bad in the middle of a chain, and good ones for whoever needs it.
fn make_repaired(folder: &Path) -> Store {
    let store = Store::create(folder.join("store"), None, repeatable()).unwrap();
    let path = folder.join("input.safetensors");
    let save = |run: &str, step: u64, tensors: &[Tensor]| {
        std::fs::write(&path, file_bytes(tensors)).unwrap();
        store.save(&Inputs::paths(&[(None, path.clone())], false).unwrap(), &options(run, step)).unwrap();
    };
    let at = |address: &str| address.parse::<treering::store::Address>().unwrap();
    (0..4).for_each(|step| save("r", step, &trained(step)));
    store.annotate(&at("r@1"), [("lost".to_string(), Number(1.0))].into(), None).unwrap();
    store.annotate(&at("r@1"), [("loss".to_string(), Number(0.5))].into(), None).unwrap();

    // The commit of r@2 and the first note cannot be read, and a table of r@1 has a wrong byte.
    let turn = |path: PathBuf, at: usize| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        // An object cannot be written to.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };
    let pack = store.checkpoint(&at("r@1")).unwrap().tensors().unwrap()[2].packs[0].to_string();
    turn(store.root().join("packs").join(&pack[..2]).join(&pack), 100);
    [2, 4].into_iter().for_each(|slot| turn(store.root().join(format!("log/{slot:020}")), 150));
    let report = store.repair(false).unwrap();
    assert_eq!((&report.voided[..], &report.remade[..], report.marked), (&[2, 4][..], &[2][..], 1), "{report:?}");
    assert!(!report.gone.is_empty(), "{report:?}");
    save("again", 1, &trained(1));
    save("r", 4, &trained(4));
    store
}

/// What two processes saved together: rows, columns and blocks of tensors, and tensors of their own.
fn make_boxes(folder: &Path) -> Store {
    let store = Store::create(folder.join("store"), None, repeatable()).unwrap();
    let shapes = [("model.rows", [40, 30]), ("model.columns", [30, 40]), ("model.blocks", [60, 20])];
    for step in 1..=3_u8 {
        let options = options("r", step.into());
        let mut joint = store.begin_joint().unwrap();
        for rank in 0..2 {
            let mut boxes = Vec::new();
            for (name, [rows, columns]) in shapes {
                let mut whole = floats(name, (rows * columns) as usize, 1);
                whole.bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= step);
                let (half, other) = (columns / 2 * rank, columns / 2);
                let cut = match name {
                    "model.rows" => vec![([rows / 2 * rank, 0], [rows / 2, columns])],
                    "model.columns" => vec![([0, half], [rows, other])],
                    _ => vec![([0, half], [7, other]), ([7, half], [rows - 7, other])],
                };
                for (offsets, lengths) in cut {
                    let row =
                        |row: u64| &whole.bytes[4 * (row * columns + offsets[1]) as usize..][..4 * lengths[1] as usize];
                    let bytes: Vec<u8> = (offsets[0]..offsets[0] + lengths[0]).flat_map(row).copied().collect();
                    boxes.push((
                        name.to_string(),
                        lengths.to_vec(),
                        bytes,
                        Some(BoxOf { shape: vec![rows, columns], offsets: offsets.to_vec() }),
                    ));
                }
            }
            let own = floats("", 100, 10 + rank);
            boxes.push((format!("optimizer.{rank}"), own.shape, own.bytes, None));
            let given = boxes.iter().map(|(name, shape, bytes, of)| {
                let (dtype, length) = (DType::new("F32"), bytes.len() as u64);
                let meta = TensorMeta { name: name.clone(), dtype, shape: shape.clone(), bytes: length };
                (None, MemoryTensor { meta, bytes }, of.clone())
            });
            let part = JointPart { save: joint.id(), rank: rank as u32, ranks: 2 };
            store.save_part(&part, &Inputs::shares(given.collect()).unwrap(), &options, "").unwrap();
        }
        joint.wait(2, Duration::ZERO).unwrap();
        joint.commit(&options).unwrap();
    }
    assert_eq!(store.checkpoint(&"r@3".parse().unwrap()).unwrap().boxes(0).len(), 4);
    store
}

/// Everything the same at every run.
fn repeatable() -> Options {
    Options { env: Env::new(Repeatable::default()), threads: 1, catalog: CatalogPlace::Memory, ..Options::default() }
}

/// A clock that a minute passes on at every look, and chance that repeats: the same store every time.
#[derive(Debug, Default)]
struct Repeatable(AtomicU64);

impl Source for Repeatable {
    fn now(&self) -> Time {
        Time(1_700_000_000_000_000_000).plus_secs(60 * self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn fill(&self, out: &mut [u8]) {
        let seed = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        blake3::Hasher::new().update(&seed).finalize_xof().fill(out);
    }
}

/// Every kind of entry, every codec, every form of checkpoint.
fn make_store(folder: &Path) -> Store {
    let env = Env::new(Repeatable::default());
    let options_here = Options { env, threads: 1, catalog: CatalogPlace::Memory, ..Options::default() };
    let store = Store::create(folder.join("store"), None, options_here).unwrap();
    let save = |path: &Path, options: SaveOptions| {
        store.save(&Inputs::paths(&[(None, path.to_path_buf())], false).unwrap(), &options).unwrap()
    };
    let file = |tensors: &[Tensor]| {
        let path = folder.join("input.safetensors");
        std::fs::write(&path, file_bytes(tensors)).unwrap();
        path
    };
    let at = |address: &str| address.parse().unwrap();

    // Every form of tensor, and what comes with a checkpoint.
    let metrics = |loss: f64| {
        let all = [("loss", loss), ("nan", f64::NAN), ("low", f64::NEG_INFINITY), ("tiny", 5e-324), ("round", 1e16)];
        all.into_iter().map(|(name, value)| (name.to_string(), Number(value))).collect()
    };
    for step in 1..=4_u64 {
        let options = SaveOptions {
            metrics: metrics(1.0 / step as f64),
            tags: vec!["newest".into(), format!("step {step}")],
            note: (step == 2).then(|| "a note: \"ü\"\n\u{1}".into()),
            state: Some(json!({"epoch": step, "rng": [0.1, -3, null], "ö": "\u{7f}"})),
            config: Some(json!({"z": 1, "a": {"lr": 3e-4}})),
            provenance: Some(json!({"commit": if step < 3 { "one" } else { "two" }})),
            ..options("odd", step)
        };
        save(&file(&odd_tensors(step)), options);
    }
    store.annotate(&at("odd@2"), [("late".to_string(), Number(2.5))].into(), Some("another".into())).unwrap();
    store.tag(&at("odd@1"), &["base".into(), "newest".into()], &["step 1".into()]).unwrap();
    store.set_mode("odd", "loss", Mode::Min).unwrap();

    // A folder with shards, an index, and other files; the second has all but one tensor of the first.
    for step in [10, 20] {
        let root = folder.join(format!("sharded-{step}"));
        std::fs::create_dir_all(root.join("sub")).unwrap();
        let shards = [[floats("a", 3000, 1), floats("b", 500, step)], [floats("c", 2000, 3), bf16("d", 700, 4)]];
        for (n, tensors) in shards.iter().enumerate() {
            let name = treering::format::safetensors::shard_name("model", n, 2);
            std::fs::write(root.join(name), file_bytes(tensors)).unwrap();
        }
        let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#;
        std::fs::write(root.join("model.safetensors.index.json"), index).unwrap();
        std::fs::write(root.join("sub/merges.txt"), "a b\n".repeat(2000)).unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        save(&root, options("sharded/run", step));
    }

    // Tensors from memory, with and without a side file.
    for step in 1..=2 {
        let tensors = [floats("model.w", 300, step), floats("ema.w", 300, 2)];
        let given = tensors.iter().map(|t| (None, MemoryTensor { meta: meta(t), bytes: &t.bytes })).collect();
        let mut inputs = Inputs::tensors(given).unwrap();
        if step == 2 {
            inputs = inputs.with_side_bytes("tokenizer.json", b"{}".to_vec()).unwrap();
        }
        store.save(&inputs, &options("memory", step)).unwrap();
    }

    // Going back leaves two steps behind; one step is saved again, one is forked.
    for step in 1..=3 {
        save(&file(&[floats("w", 400, 100 + step)]), options("back", step));
    }
    save(&file(&[floats("w", 400, 110)]), SaveOptions { parent: Some(at("back@1")), ..options("back", 2) });
    let replace = SaveOptions { on_conflict: OnConflict::Replace, ..options("back", 2) };
    save(&file(&[floats("w", 400, 111)]), replace);
    store.fork("branch", &at("back@2")).unwrap();
    store.undo(&at("back@3")).unwrap();

    // What a policy thins, and the packs that are written anew for it.
    let thin: Rule = "thin optimizer:1".parse().unwrap();
    store.set_policy("thinned", &[thin].into_iter().collect::<Policy>()).unwrap();
    for step in 1..=4 {
        let tensors = [floats("model.w", 1000, step), floats("optimizer.exp_avg.w", 3000, 50 + step)];
        save(&file(&tensors), options("thinned", step));
    }

    // Leases of which one ends, a save that died, checkpoints that are forgotten, and a collection.
    store.lease(&at("odd@1"), Duration::from_secs(1), "short").unwrap();
    store.lease(&at("odd@4"), Duration::from_secs(1 << 32), "long").unwrap();
    let dead = "deadbeef".repeat(4);
    std::fs::create_dir(store.root().join("tmp").join(&dead)).unwrap();
    std::fs::write(store.root().join("tmp").join(&dead).join("lock"), "").unwrap();
    std::fs::write(store.root().join("packs/de").join(format!("{dead}-0")), "TRPK").unwrap();
    let slot_of = |address: &str| store.find(&at(address)).unwrap().slot;
    store.forget(&[slot_of("odd@3"), slot_of("sharded/run@20")]).unwrap();
    let report = store.gc(&GcOptions::default()).unwrap();
    assert!(report.dead_saves == 1 && report.packs_rewritten > 0 && report.packs_deleted > 0, "{report:?}");

    // What was written anew is built on again; one more is forgotten, but not collected.
    save(&file(&[floats("model.w", 1000, 4), floats("optimizer.exp_avg.w", 3000, 60)]), options("thinned", 5));
    store.forget(&[slot_of("memory@1"), slot_of("thinned@4")]).unwrap();
    store.undo(&at("memory@1")).unwrap();
    store
}

fn odd_tensors(step: u64) -> Vec<Tensor> {
    let of = |name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let counted: Vec<u8> = (0..800_000_u32).flat_map(|n| (n / 40 + step as u32 / 3).to_le_bytes()).collect();
    let mut rounded = floats("model.rounded", 70_000, 1).bytes;
    rounded.chunks_exact_mut(4).enumerate().for_each(|(n, value)| {
        let value: &mut [u8; 4] = value.try_into().unwrap();
        *value = (f32::from_le_bytes(*value).signum() * (1.0 + (n % 7) as f32)).to_le_bytes();
    });
    vec![
        floats("model.float", 1500, step),
        bf16("model.bfloat", 1001, step),
        of("model.rounded", "F32", &[700, 100], rounded),
        of("model.long", "I32", &[800, 1000], counted),
        of("model.int", "I64", &[50], (0..50_i64).flat_map(|n| (n * n - 900).to_le_bytes()).collect()),
        of("model.bool", "BOOL", &[2, 3], vec![1, 0, 0, 1, 1, 0]),
        of("model.half byte", "F4", &[3, 4], vec![0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]),
        of("model.byte float", "F8_E4M3", &[500], (0..500_u32).map(|n| (n % 11) as u8 | 0x30).collect()),
        of("model.bytes", "U8", &[3000], b"again and ".repeat(300)),
        of("model.double", "F64", &[300], (0..300).flat_map(|n| f64::from(n / 9).sqrt().to_le_bytes()).collect()),
        of("model.zeros", "F16", &[64, 64], vec![0; 8192]),
        of("model.scalar", "F32", &[], f32::NAN.to_le_bytes().to_vec()),
        of("model.empty", "F32", &[0, 7], Vec::new()),
        of("optimizer.step", "I64", &[], step.to_le_bytes().to_vec()),
        floats("optimizer.größe", 500, 7 + step),
    ]
}

fn bf16(name: &str, count: usize, seed: u64) -> Tensor {
    let bytes = floats(name, count, seed).bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect();
    Tensor { name: name.into(), dtype: "BF16", shape: vec![count as u64], bytes }
}

fn meta(tensor: &Tensor) -> TensorMeta {
    TensorMeta {
        name: tensor.name.clone(),
        dtype: DType::new(tensor.dtype),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes.len() as u64,
    }
}

// -- what comes back

fn addresses_of(store: &Store) -> BTreeSet<String> {
    let rows = store.log(&Filter { superseded: true, ..Filter::default() }).unwrap();
    rows.iter().map(treering::catalog::CheckpointRow::address).collect()
}

fn restored(store: &Store, address: &str, folder: &Path) -> Expected {
    let output = folder.join("first");
    let parsed = address.parse().unwrap();
    let report = store.restore(&parsed, &output, &RestoreOptions::default()).unwrap();
    let files = hashes(&output);
    remove(&output);
    let state = store.checkpoint(&parsed).unwrap().state().unwrap();
    Expected { files, state: state.map(|state| hash(state.to_string().as_bytes())), dropped: report.dropped }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_string()
}

fn hashes(output: &Path) -> BTreeMap<String, String> {
    if output.is_file() {
        return [(".".to_string(), hash(&std::fs::read(output).unwrap()))].into();
    }
    let name = |file: &Path| file.strip_prefix(output).unwrap().to_str().unwrap().to_string();
    files_below(output).into_iter().map(|file| (name(&file), hash(&std::fs::read(&file).unwrap()))).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.retain(|file| !file.to_string_lossy().contains("catalog.sqlite"));
    files.sort();
    files
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        std::fs::remove_file(path).unwrap();
    }
}

// -- the second reader

struct SecondReader {
    python: String,
}

impl SecondReader {
    /// The reader, if there is a Python that can run it: `TREERING_PYTHON`, or `python3`. Where tests must not be left out,
    /// there has to be one.
    fn find() -> Option<SecondReader> {
        let python = std::env::var("TREERING_PYTHON").unwrap_or_else(|_| "python3".into());
        let tried = Command::new(&python).args(["-c", "import blake3, numpy, zstandard"]).output();
        let why = match tried {
            Ok(output) if output.status.success() => return Some(SecondReader { python }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_string(),
            Err(error) => error.to_string(),
        };
        println!("the second reader was not run: {python}: {why}");
        assert!(std::env::var_os("CI").is_none(), "the second reader must run here: {python}: {why}");
        None
    }

    fn run(&self, store: &Store, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/treering_reader.py");
        let mut command = Command::new(&self.python);
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONIOENCODING", "utf-8");
        command.arg(script).arg(store.root()).args(arguments).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, store: &Store, arguments: &[&str]) -> String {
        let done = self.run(store, arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    #[track_caller]
    fn refuses(&self, store: &Store, arguments: &[&str]) -> String {
        let done = self.run(store, arguments);
        assert_one_line(&done);
        String::from_utf8(done.stderr).unwrap()
    }

    /// It tells the same history as the library.
    #[track_caller]
    fn assert_lists(&self, store: &Store) {
        let said = self.ok(store, &["list"]);
        let theirs: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let rows = store.log(&Filter { superseded: true, ..Filter::default() }).unwrap();
        let ours = rows.iter().map(|row| {
            json!({"run": row.run, "step": row.step, "status": row.status, "metrics": row.metrics, "tags": row.tags})
        });
        assert_eq!(theirs, ours.collect::<Vec<_>>());
    }
}

#[track_caller]
fn assert_one_line(done: &Output) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.lines().count() == 1 && !said.contains("Traceback"), "{said}");
}
