//! `treering stats`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Stats;
use crate::context::Context;
use crate::ui::{bytes, percent};

pub(crate) fn run(_args: &Stats, context: &Context) -> Result<ExitCode> {
    let stats = context.store()?.stats()?;
    let facts = json!({
        "runs": stats.runs,
        "checkpoints": stats.checkpoints,
        "superseded": stats.superseded,
        "forgotten": stats.forgotten,
        "raw_bytes": stats.raw_bytes,
        "stored_bytes": stats.stored_bytes,
        "garbage_bytes": stats.garbage_bytes,
        "catalog_bytes": stats.catalog_bytes,
        "packs": stats.packs,
        "entries": stats.entries,
        "components": stats.components,
    });
    context.print(&facts, |_, out| {
        let mut line = |name: &str, value: String| out.line(format_args!("{name:<12} {value}"));
        line(
            "checkpoints",
            format!(
                "{} in {} runs, {} superseded, {} forgotten",
                stats.checkpoints, stats.runs, stats.superseded, stats.forgotten
            ),
        )?;
        line("raw", format!("{} as plain copies", bytes(stats.raw_bytes)))?;
        line(
            "stored",
            format!(
                "{} ({}) in {} packs and {} log entries",
                bytes(stats.stored_bytes),
                percent(stats.stored_bytes, stats.raw_bytes),
                stats.packs,
                stats.entries
            ),
        )?;
        line("garbage", format!("{}, which gc frees", bytes(stats.garbage_bytes)))?;
        line("catalog", format!("{}, which can be made again", bytes(stats.catalog_bytes)))?;
        stats.components.iter().try_for_each(|(name, size)| line("component", format!("{name} {}", bytes(*size))))
    })?;
    Ok(ExitCode::SUCCESS)
}
