//! `treering stats`

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use treering::Result;
use treering::encodings::{Encodings, Share};

use crate::args::Stats;
use crate::context::Context;
use crate::ui::{Out, Table, bytes, left, percent, right};

pub(crate) fn run(args: &Stats, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let stats = store.stats()?;
    let encodings = args.encodings.then(|| store.encodings()).transpose()?;
    let mut facts = json!({
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
    if let Some(encodings) = &encodings {
        facts["encodings"] = facts_of(encodings);
    }
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
        stats.components.iter().try_for_each(|(name, size)| line("component", format!("{name} {}", bytes(*size))))?;
        encodings.as_ref().map_or(Ok(()), |encodings| print(encodings, out))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn facts_of(encodings: &Encodings) -> Value {
    fn each<N: ToString>(shares: impl IntoIterator<Item = (N, Share)>) -> Map<String, Value> {
        shares.into_iter().map(|(name, share)| (name.to_string(), fact(&share))).collect()
    }
    json!({
        "by_encoding": each(encodings.by_encoding.clone()),
        "by_depth": each(encodings.by_depth.clone()),
        "by_dtype": each(encodings.by_dtype.clone()),
        "by_component": each(encodings.by_component.clone()),
        "files": fact(&encodings.files),
        "manifests": fact(&encodings.manifests),
        "held": fact(&encodings.held),
        "garbage": fact(&encodings.garbage),
    })
}

fn fact(share: &Share) -> Value {
    json!({ "frames": share.frames, "raw_bytes": share.raw_bytes, "stored_bytes": share.stored_bytes })
}

fn print(encodings: &Encodings, out: &mut Out) -> Result<()> {
    let mut table =
        Table::new([left("frames"), left(""), right("number"), right("raw"), right("stored"), right("of raw")]);
    let mut row = |what: &str, name: &str, share: &Share| {
        let Share { frames, raw_bytes: raw, stored_bytes: stored } = *share;
        table.row([what, name, &frames.to_string(), &bytes(raw), &bytes(stored), &percent(stored, raw)]);
    };
    encodings.by_encoding.iter().for_each(|(name, share)| row("encoding", name, share));
    encodings.by_depth.iter().for_each(|(depth, share)| row("depth", &depth.to_string(), share));
    encodings.by_dtype.iter().for_each(|(name, share)| row("type", name, share));
    encodings.by_component.iter().for_each(|(name, share)| row("component", name, share));
    row("other", "headers, side files, states", &encodings.files);
    row("other", "manifests", &encodings.manifests);
    row("held", "bases of others", &encodings.held);
    row("garbage", "used by nobody", &encodings.garbage);
    out.line(format_args!("\n{table}"))
}
