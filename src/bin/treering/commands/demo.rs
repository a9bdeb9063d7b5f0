//! `treering demo`: a real training in a real store, killed once on the way.
//!
//! The training runs in processes of its own, as trainings do. Each saves through the library, as a Rust program would;
//! the rest is told by the store.

mod model;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use treering::catalog::Filter;
use treering::format::entry::Number;
use treering::format::policy::{Keep, Mode, Policy, Rule};
use treering::gc::GcOptions;
use treering::monitor::Monitor;
use treering::restore::RestoreOptions;
use treering::save::{Inputs, MemoryTensor, SaveOptions};
use treering::store::{Address, Options, Store};
use treering::tensor::{DType, TensorMeta};
use treering::{Error, Result};

use crate::args::Demo;
use crate::context::Context;
use crate::ui::{Table, bold, bytes, left, percent, right, spark};
use model::Model;

const RUN: &str = "demo";
const SEED: u64 = 7;
const STEPS: u64 = 100;
const EVERY: u64 = 5;
/// The save in whose middle the training is killed.
const KILLED_AT: u64 = 45;
/// The file that shows that it is there.
const IN_A_SAVE: &str = "in-a-save";

pub(crate) fn run(args: &Demo, context: &Context) -> Result<ExitCode> {
    if let (Some(until), Some(folder)) = (args.train_until, &args.dir) {
        return train(folder, until, args.killed_at).map(|()| ExitCode::SUCCESS);
    }
    let folder = Folder::new(args.dir.clone())?;
    let told = tell(&folder.path, context);
    if args.dir.is_some() {
        context.note(format_args!("\nthe store is at {}", store_path(&folder.path).display()));
    }
    told.map(|()| ExitCode::SUCCESS)
}

fn tell(folder: &Path, context: &Context) -> Result<()> {
    let say = |text: &str| context.line(format_args!("\n{}", bold(text)));
    let store = Store::create(store_path(folder), None, Options::default())?;
    store.set_mode(RUN, "val_loss", Mode::Min)?;

    say(&format!("Training a small model for {STEPS} steps, a save every {EVERY} steps."))?;
    let killed = in_another_process(folder, true)?;
    context.line(format_args!("The training was killed in the middle of the save of step {KILLED_AT} ({killed})."))?;
    let newest = store.find(&address("latest")?)?;
    context.line(format_args!("The newest checkpoint is {}: all of a save, or nothing of it.", newest.address()))?;

    say("Starting it again: it resumes from the newest checkpoint.")?;
    in_another_process(folder, false)?;
    log(&store, context)?;

    say("Restoring the best step, and comparing.")?;
    let best = store.best(RUN, "val_loss", None, 1)?.remove(0);
    prove(&store, folder, &best.address(), best.step, context)?;

    say("Keeping the last 3 and the best 2 steps, and the optimizer of the newest 2.")?;
    let plain = store.stats()?;
    let saved: u64 =
        store.log(&Filter { run: Some(RUN.into()), ..Filter::default() })?.iter().map(|row| row.sizes.stored).sum();
    let thin = treering::format::policy::Thin { component: "optimizer".into(), newest: 2, best: false };
    let rules =
        [Rule::Keep(Keep::Last(3)), Rule::Keep(Keep::Best { metric: "val_loss".into(), n: 2 }), Rule::Thin(thin)];
    store.set_policy(RUN, &rules.into_iter().collect::<Policy>())?;
    let report = store.gc(&GcOptions::default())?;
    for verdict in report.checkpoints.iter().filter(|verdict| !verdict.goes()) {
        let reasons: Vec<String> = verdict.keeps.iter().map(ToString::to_string).collect();
        let drops =
            if verdict.thin.is_empty() { String::new() } else { format!(" (without its {})", verdict.thin.join(", ")) };
        context.line(format_args!("{} stays: {}{drops}", verdict.checkpoint.address(), reasons.join(", ")))?;
    }
    let gone = report.checkpoints.iter().filter(|verdict| verdict.goes()).count();
    context.line(format_args!("{gone} steps went."))?;
    let sound = store.verify(treering::verify::Depth::Deep)?.is_sound();
    context
        .line(format_args!("Every byte that is left was read again: {}.", if sound { "sound" } else { "damaged" }))?;

    say("What it took.")?;
    let now = store.stats()?;
    let mut table = Table::new([left(""), right("bytes"), right("of plain copies")]);
    let mut row = |what: &str, size: u64| table.row([what.to_string(), bytes(size), percent(size, plain.raw_bytes)]);
    row(&format!("plain copies of all {} saves", plain.checkpoints), plain.raw_bytes);
    row("the store with all of them", saved);
    row("the store under that policy", now.stored_bytes);
    context.line(table)?;
    if sound { Ok(()) } else { Err(Error::damaged("the demo's store", "verify found damage")) }
}

/// The training as a process: with `kill`, it is ended without warning in the middle of a save.
fn in_another_process(folder: &Path, kill: bool) -> Result<String> {
    let own = |source| Error::Io { op: "start", path: PathBuf::from("treering"), source };
    let program = crate::typed().first().ok_or_else(|| Error::Bug("a command without a name".into()))?;
    let mut command = Command::new(program);
    command
        .args(["demo", "--quiet", "--dir"])
        .arg(folder)
        .args(["--train-until", &STEPS.to_string()])
        .stdin(Stdio::null());
    if kill {
        command.args(["--killed-at", &KILLED_AT.to_string()]);
    }
    let mut child = command.spawn().map_err(own)?;
    while kill && child.try_wait().map_err(own)?.is_none() {
        if folder.join(IN_A_SAVE).exists() {
            child.kill().map_err(own)?;
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = child.wait().map_err(own)?;
    if kill == status.success() {
        return Err(Error::Bug(format!("the training ended with {status}")));
    }
    Ok(status.to_string())
}

/// In the save of the step before which it was told: the tensors are written, and nothing is committed. There it waits
/// to be killed.
#[derive(Debug)]
struct Victim {
    marker: PathBuf,
    waits: AtomicBool,
}

impl Monitor for Victim {
    fn end(&self) {
        if self.waits.load(Ordering::Relaxed) && std::fs::write(&self.marker, "").is_ok() {
            // Not for ever: whoever was to kill it may have died first.
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}

/// Trains from the newest checkpoint, or from the beginning, and saves every few steps.
fn train(folder: &Path, until: u64, killed_at: Option<u64>) -> Result<()> {
    let victim = Arc::new(Victim { marker: folder.join(IN_A_SAVE), waits: AtomicBool::new(false) });
    let store = Store::open(store_path(folder), Options::default())?.with_monitor(victim.clone());
    let mut model = Model::new(SEED);
    match store.checkpoint(&address("latest")?) {
        Ok(checkpoint) => load(&mut model, &checkpoint)?,
        Err(Error::CheckpointUnknown { .. }) => {}
        Err(error) => return Err(error),
    }
    while model.step() < until {
        let loss = model.train_step();
        let step = model.step();
        if step.is_multiple_of(EVERY) {
            let (val_loss, accuracy) = model.validate();
            // What the file of the best step has to be compared with later.
            let path = plain_path(folder, step);
            std::fs::write(&path, plain(&model)).map_err(|source| Error::Io { op: "write", path, source })?;
            victim.waits.store(killed_at == Some(step), Ordering::Relaxed);
            let metrics = [("train_loss", loss), ("val_loss", val_loss), ("val_accuracy", accuracy)];
            let options = SaveOptions {
                run: RUN.into(),
                step,
                metrics: metrics.iter().map(|(name, value)| (name.to_string(), Number(f64::from(*value)))).collect(),
                state: Some(model.state()),
                ..SaveOptions::default()
            };
            let values: Vec<(TensorMeta, Vec<u8>)> = tensors(&model);
            let inputs = values.iter().map(|(meta, bytes)| (None, MemoryTensor { meta: meta.clone(), bytes }));
            store.save(&Inputs::tensors(inputs.collect())?, &options)?;
        }
    }
    Ok(())
}

fn load(model: &mut Model, checkpoint: &treering::restore::Checkpoint) -> Result<()> {
    let names: Vec<String> = checkpoint.metas().map(|(_, meta)| meta.name.clone()).collect();
    for name in names {
        let mut bytes = Vec::new();
        checkpoint.read_tensor(&name, &mut bytes)?;
        let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        model.load(&name, &values)?;
    }
    let state = checkpoint.state()?.ok_or_else(|| Error::Bug("a checkpoint without a state".into()))?;
    model.load_state(&state)
}

fn tensors(model: &Model) -> Vec<(TensorMeta, Vec<u8>)> {
    let each = model.tensors().into_iter().map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (TensorMeta { name, dtype: DType::new("F32"), shape, bytes: bytes.len() as u64 }, bytes)
    });
    each.collect()
}

/// The model's tensors, each behind its name: something simple that treering has no part in.
fn plain(model: &Model) -> Vec<u8> {
    let mut all: Vec<(String, Vec<u8>)> = tensors(model).into_iter().map(|(meta, bytes)| (meta.name, bytes)).collect();
    all.sort();
    all.into_iter().flat_map(|(name, bytes)| [name.into_bytes(), bytes].concat()).collect()
}

fn prove(store: &Store, folder: &Path, best: &str, step: u64, context: &Context) -> Result<()> {
    let output = folder.join("best.safetensors");
    let report = store.restore(&best.parse()?, &output, &RestoreOptions::default())?;
    let unreadable = |source| Error::Io { op: "read", path: output.clone(), source };
    let file = std::fs::read(&output).map_err(unreadable)?;
    let saved = plain_path(folder, step);
    let original = std::fs::read(&saved).map_err(|source| Error::Io { op: "read", path: saved.clone(), source })?;
    let restored = from_file(&file)?;
    if restored != original {
        return Err(Error::damaged(best, "it came back different"));
    }
    let hash = treering::id::Hash::of(&original).to_hex();
    context.line(format_args!("{best} came back as it was: {}, BLAKE3 {}…", bytes(report.bytes), &hash[..16]))
}

/// The same form as [`plain`], from a safetensors file.
fn from_file(file: &[u8]) -> Result<Vec<u8>> {
    let short = || Error::damaged("the restored file", "it is too short");
    let (first, rest) = file.split_first_chunk::<8>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*first) as usize;
    let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let parsed = treering::format::safetensors::parse("the restored file", header, data.len() as u64)?;
    let mut all: Vec<(String, &[u8])> = Vec::new();
    for entry in parsed.tensors {
        all.push((entry.meta.name, data.get(entry.begin as usize..entry.end as usize).ok_or_else(short)?));
    }
    all.sort();
    Ok(all.into_iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes].concat()).collect())
}

fn log(store: &Store, context: &Context) -> Result<()> {
    let rows = store.log(&Filter { run: Some(RUN.into()), ..Filter::default() })?;
    let mut table =
        Table::new([left("checkpoint"), right("train_loss"), right("val_loss"), right("size"), right("new")]);
    let metric =
        |row: &treering::catalog::CheckpointRow, name: &str| row.metrics.get(name).map_or(f64::NAN, |value| value.0);
    for row in &rows {
        let losses = ["train_loss", "val_loss"].map(|name| format!("{:.4}", metric(row, name)));
        let [train, val] = losses;
        table.row([row.address(), train, val, bytes(row.sizes.raw), bytes(row.sizes.stored)]);
    }
    context.line(table)?;
    let series: Vec<f64> = rows.iter().map(|row| metric(row, "val_loss")).collect();
    context.line(format_args!("val_loss {}", spark(&series, 40)))
}

fn address(point: &str) -> Result<Address> {
    format!("{RUN}@{point}").parse()
}

fn store_path(folder: &Path) -> PathBuf {
    folder.join("store")
}

fn plain_path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step}.plain"))
}

/// A folder that goes at the end, unless it was asked for by name.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn new(asked: Option<PathBuf>) -> Result<Folder> {
        let keep = asked.is_some();
        let path = asked.unwrap_or_else(|| std::env::temp_dir().join(format!("treering-demo-{}", std::process::id())));
        std::fs::create_dir_all(&path).map_err(|source| Error::Io {
            op: "create folder",
            path: path.clone(),
            source,
        })?;
        Ok(Folder { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
