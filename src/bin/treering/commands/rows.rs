//! Checkpoints as rows for people and as JSON for programs: the same in every command.

use serde_json::{Map, Value, json};
use treering::catalog::{CheckpointRow, Status};
use treering::format::entry::{Metrics, Sizes};
use treering::format::policy::Mode;

use crate::args::Direction;
use crate::ui::Number;

/// The keys that `log`, `best`, `show` and `watch` share.
pub(crate) fn checkpoint(row: &CheckpointRow) -> Value {
    json!({
        "run": row.run,
        "step": row.step,
        "status": status(row.status),
        "created_at": row.created.to_rfc3339(),
        "metrics": metrics(&row.metrics),
        "tags": row.tags,
        "note": row.note,
        "raw_bytes": row.sizes.raw,
        "new_bytes": row.sizes.stored,
        "tensors": row.tensors,
        "dropped": row.dropped,
    })
}

pub(crate) fn metrics(metrics: &Metrics) -> Value {
    let pairs: Map<String, Value> =
        metrics.iter().map(|(name, value)| (name.clone(), Number(value.0).into())).collect();
    Value::Object(pairs)
}

pub(crate) fn sizes(sizes: &Sizes) -> Value {
    json!({
        "raw_bytes": sizes.raw,
        "unchanged_bytes": sizes.unchanged,
        "deduplicated_bytes": sizes.deduplicated,
        "encoded_bytes": sizes.encoded,
        "stored_bytes": sizes.stored,
    })
}

pub(crate) fn status(status: Status) -> &'static str {
    match status {
        Status::Kept => "kept",
        Status::Superseded => "superseded",
        Status::Forgotten => "forgotten",
    }
}

/// A metric as people read it: six digits are enough.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let short = format!("{value:.6}");
    let short = short.trim_end_matches('0').trim_end_matches('.');
    if value != 0.0 && value.abs() < 1e-4 { format!("{value:e}") } else { short.to_string() }
}

pub(crate) fn mode(direction: Direction) -> Mode {
    match direction {
        Direction::Min => Mode::Min,
        Direction::Max => Mode::Max,
    }
}
