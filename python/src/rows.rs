//! What the library reports, as Python dictionaries.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use treering::catalog::{CheckpointRow, Status};
use treering::env::Time;
use treering::format::entry::{Metrics, Number};
use treering::gc::GcReport;
use treering::history::RunSummary;
use treering::restore::RestoreReport;
use treering::save::{SaveOutcome, SaveReport};

/// A checkpoint.
#[derive(IntoPyObject)]
pub(crate) struct Row {
    run: String,
    step: u64,
    slot: u64,
    parent: Option<u64>,
    status: &'static str,
    saved_at: f64,
    metrics: BTreeMap<String, f64>,
    tags: Vec<String>,
    note: Option<String>,
    raw_bytes: u64,
    new_bytes: u64,
    tensors: u64,
    components: BTreeMap<String, u64>,
    dropped: Vec<String>,
}

impl From<CheckpointRow> for Row {
    fn from(row: CheckpointRow) -> Row {
        Row {
            run: row.run,
            step: row.step,
            slot: row.slot,
            parent: row.parent,
            status: match row.status {
                Status::Kept => "kept",
                Status::Superseded => "superseded",
                Status::Forgotten => "forgotten",
            },
            saved_at: seconds(row.created),
            metrics: row.metrics.into_iter().map(|(name, Number(value))| (name, value)).collect(),
            tags: row.tags,
            note: row.note,
            raw_bytes: row.sizes.raw,
            new_bytes: row.sizes.stored,
            tensors: row.tensors,
            components: row.components,
            dropped: row.dropped,
        }
    }
}

/// A run.
#[derive(IntoPyObject)]
pub(crate) struct Run {
    run: String,
    created_at: f64,
    checkpoints: u64,
    superseded: u64,
    latest: Option<u64>,
    raw_bytes: u64,
    policy: Vec<String>,
    metrics: BTreeMap<String, String>,
    config: Option<String>,
    provenance: Option<String>,
}

impl From<RunSummary> for Run {
    fn from(summary: RunSummary) -> Run {
        let run = summary.run;
        Run {
            created_at: seconds(run.created),
            checkpoints: summary.checkpoints,
            superseded: summary.superseded,
            latest: summary.latest.map(|row| row.step),
            raw_bytes: summary.raw_bytes,
            policy: run.policy.rules().map(|rule| rule.to_string()).collect(),
            metrics: summary.modes.into_iter().map(|(metric, mode)| (metric, mode.to_string())).collect(),
            config: run.config.map(|value| value.to_string()),
            provenance: run.provenance.map(|value| value.to_string()),
            run: run.name,
        }
    }
}

/// How a save ended.
#[derive(IntoPyObject)]
pub(crate) struct Saved {
    run: String,
    step: u64,
    outcome: &'static str,
    raw_bytes: u64,
    unchanged_bytes: u64,
    deduplicated_bytes: u64,
    encoded_bytes: u64,
    new_bytes: u64,
    bases_in_memory_bytes: u64,
    tensors: u64,
    superseded: Vec<u64>,
    seconds: f64,
    space_left: Option<u64>,
}

impl From<SaveReport> for Saved {
    fn from(report: SaveReport) -> Saved {
        Saved {
            run: report.run,
            step: report.step,
            outcome: match report.outcome {
                SaveOutcome::Saved => "saved",
                SaveOutcome::Identical => "identical",
                SaveOutcome::Skipped => "skipped",
                SaveOutcome::Planned => "planned",
            },
            raw_bytes: report.sizes.raw,
            unchanged_bytes: report.sizes.unchanged,
            deduplicated_bytes: report.sizes.deduplicated,
            encoded_bytes: report.sizes.encoded,
            new_bytes: report.new_bytes,
            bases_in_memory_bytes: report.bases_in_memory,
            tensors: report.tensors,
            superseded: report.superseded,
            seconds: report.seconds,
            space_left: report.space_left,
        }
    }
}

/// How a restore ended.
#[derive(IntoPyObject)]
pub(crate) struct Restored {
    output: String,
    files: Vec<String>,
    bytes: u64,
    tensors: u64,
    identical: bool,
}

impl From<RestoreReport> for Restored {
    fn from(report: RestoreReport) -> Restored {
        Restored {
            output: report.output.display().to_string(),
            files: report.files,
            bytes: report.bytes,
            tensors: report.tensors,
            identical: report.identical,
        }
    }
}

/// What a collection did.
#[derive(IntoPyObject)]
pub(crate) struct Collected {
    forgotten: Vec<(String, u64)>,
    kept: BTreeMap<String, Vec<String>>,
    packs_deleted: u64,
    packs_waiting: u64,
    packs_rewritten: u64,
    bytes_freed: i64,
    bytes_waiting: u64,
    unfinished: bool,
    seconds: f64,
}

impl From<GcReport> for Collected {
    fn from(report: GcReport) -> Collected {
        let going = report.checkpoints.iter().filter(|verdict| verdict.goes());
        let staying = report.checkpoints.iter().filter(|verdict| !verdict.goes());
        Collected {
            forgotten: going.map(|verdict| (verdict.checkpoint.run.clone(), verdict.checkpoint.step)).collect(),
            kept: staying
                .map(|verdict| {
                    (verdict.checkpoint.address(), verdict.keeps.iter().map(|reason| reason.to_string()).collect())
                })
                .collect(),
            packs_deleted: report.packs_deleted,
            packs_waiting: report.packs_waiting,
            packs_rewritten: report.packs_rewritten,
            bytes_freed: report.bytes_freed,
            bytes_waiting: report.bytes_waiting,
            unfinished: report.unfinished,
            seconds: report.seconds,
        }
    }
}

/// Metrics of Python as the log keeps them.
pub(crate) fn metrics(given: BTreeMap<String, f64>) -> Metrics {
    given.into_iter().map(|(name, value)| (name, Number(value))).collect()
}

fn seconds(time: Time) -> f64 {
    time.0 as f64 / 1e9
}
