//! `treering save`

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::{Map, Value, json};
use treering::format::entry::Number;
use treering::gc::GcOptions;
use treering::save::{Encoding, Inputs, OnConflict, SaveOptions, SaveOutcome, SaveReport};
use treering::store::{Options, Store};
use treering::{Error, Result};

use super::rows;
use crate::args::{self, Save};
use crate::context::Context;
use crate::ui::{Out, bytes, count, dim, duration, percent, rate};

/// A pack is rewritten after a save only if more than this share of it is dead.
const DEAD_SHARE: f64 = 0.25;

pub(crate) fn run(args: &Save, context: &Context) -> Result<ExitCode> {
    let store = open(args, context)?;
    let paths: Vec<(Option<String>, PathBuf)> =
        args.inputs.iter().map(|i| (i.component.clone(), i.path.clone())).collect();
    let inputs = Inputs::paths(&paths, args.mmap)?.with_side_files(&args.files)?;
    let report = store.save(&inputs, &options(args)?)?;
    let collected = args.gc && report.outcome != SaveOutcome::Planned;
    let gc = if collected { Some(collect(&store, args)?) } else { None };
    let facts = json!({
        "run": report.run,
        "step": report.step,
        "outcome": outcome(report.outcome),
        "sizes": rows::sizes(&report.sizes),
        "tensors": report.tensors,
        "new_bytes": report.new_bytes,
        "superseded": report.superseded,
        "seconds": report.seconds,
        "space_left": report.space_left,
        "durability": context.durability(&store),
        "collected": gc,
    });
    context.print(&facts, |_, out| print(&report, context, out))?;
    Ok(ExitCode::SUCCESS)
}

fn open(args: &Save, context: &Context) -> Result<Store> {
    match context.store() {
        Err(Error::StoreMissing { path }) if args.init => {
            let store = Store::create(&path, None, Options::default())?;
            let root = store.root().canonicalize().unwrap_or(path);
            context.note(format_args!("made a store at {}", root.display()));
            Ok(store.with_monitor(context.progress()))
        }
        opened => opened,
    }
}

fn options(args: &Save) -> Result<SaveOptions> {
    Ok(SaveOptions {
        run: args.run.clone(),
        step: args.step,
        metrics: args.metrics.iter().map(|score| (score.name.clone(), Number(score.value))).collect(),
        tags: args.tags.clone(),
        note: args.note.clone(),
        state: args.state.as_ref().map(args::Json::load).transpose()?,
        config: args.config.as_ref().map(args::Json::load).transpose()?,
        provenance: (!args.no_provenance).then(provenance),
        parent: args.parent.as_ref().map(|text| text.parse()).transpose()?,
        backfill: args.backfill,
        on_conflict: match args.on_conflict {
            args::OnConflict::Error => OnConflict::Error,
            args::OnConflict::Skip => OnConflict::Skip,
            args::OnConflict::Replace => OnConflict::Replace,
        },
        encoding: encoding(args.encoding),
        dry_run: args.dry_run,
    })
}

/// Where the save comes from: what helps to find the code and the job again.
fn provenance() -> Value {
    let mut from = Map::new();
    from.insert("program".into(), format!("treering {}", env!("CARGO_PKG_VERSION")).into());
    let arguments = crate::typed().iter().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    from.insert("arguments".into(), arguments.collect());
    from.insert("host".into(), rustix::system::uname().nodename().to_string_lossy().into());
    if let Ok(folder) = std::env::current_dir() {
        from.insert("folder".into(), folder.display().to_string().into());
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        from.insert("git_commit".into(), commit.into());
        from.insert(
            "git_dirty".into(),
            git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty()).into(),
        );
    }
    for variable in ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "KUBERNETES_POD_NAME"] {
        if let Ok(job) = std::env::var(variable) {
            from.insert("job".into(), format!("{variable}={job}").into());
            break;
        }
    }
    Value::Object(from)
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

pub(super) fn encoding(asked: args::Encoding) -> Encoding {
    match asked {
        args::Encoding::Fast => Encoding::Fast,
        args::Encoding::Balanced => Encoding::Balanced,
        args::Encoding::Small => Encoding::Small,
    }
}

fn collect(store: &Store, args: &Save) -> Result<Value> {
    let options = GcOptions { run: Some(args.run.clone()), repack_above: Some(DEAD_SHARE), ..GcOptions::default() };
    let report = store.gc(&options)?;
    let gone = report.checkpoints.iter().filter(|verdict| verdict.goes()).count();
    Ok(json!({ "checkpoints": gone, "freed_bytes": report.bytes_freed }))
}

fn outcome(outcome: SaveOutcome) -> &'static str {
    match outcome {
        SaveOutcome::Saved => "saved",
        SaveOutcome::Identical => "identical",
        SaveOutcome::Skipped => "skipped",
        SaveOutcome::Planned => "planned",
    }
}

fn print(report: &SaveReport, context: &Context, out: &mut Out) -> Result<()> {
    if context.quiet {
        return Ok(());
    }
    let address = format!("{}@{}", report.run, report.step);
    let time = Duration::from_secs_f64(report.seconds);
    match report.outcome {
        SaveOutcome::Skipped => return out.line(format_args!("{address} exists; nothing was saved")),
        SaveOutcome::Identical => return out.line(format_args!("{address} is saved already, with the same content")),
        SaveOutcome::Saved | SaveOutcome::Planned => {}
    }
    let sizes = &report.sizes;
    let verb = if report.outcome == SaveOutcome::Saved { "saved" } else { "would save" };
    out.line(format_args!(
        "{verb} {address}: {} in {}, {} new on disk ({})",
        bytes(sizes.raw),
        count(report.tensors, "tensor"),
        bytes(report.new_bytes),
        percent(report.new_bytes, sizes.raw),
    ))?;
    let parts = format!(
        "  unchanged {}, deduplicated {}, encoded {} to {}",
        bytes(sizes.unchanged),
        bytes(sizes.deduplicated),
        bytes(sizes.encoded),
        bytes(sizes.stored)
    );
    let left = report.space_left.map_or(String::new(), |left| format!(", {} left", bytes(left)));
    out.line(dim(&format!("{parts}; {} ({}){left}", duration(time), rate(sizes.raw, time))))?;
    if !report.superseded.is_empty() {
        let steps: Vec<String> = report.superseded.iter().map(u64::to_string).collect();
        out.line(dim(&format!("  leaves behind {}", steps.join(", "))))?;
    }
    Ok(())
}
