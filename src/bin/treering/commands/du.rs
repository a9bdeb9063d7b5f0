//! `treering du`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use treering::Result;
use treering::stats::Usage;
use treering::store::Store;

use crate::args::{Du, DuBy};
use crate::context::Context;
use crate::ui::{Table, bytes, left, right};

/// A line: what it is about, then raw, stored, shared and unique bytes.
struct Line {
    name: String,
    checkpoints: u64,
    raw: u64,
    stored: Option<(u64, u64)>,
}

pub(crate) fn run(args: &Du, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let usage = store.usage(args.run.as_deref())?;
    let lines = match args.by {
        DuBy::Run => by_run(&store, usage)?,
        DuBy::Checkpoint => usage.iter().map(of_checkpoint).collect(),
        DuBy::Component => by_component(&usage),
    };
    let each = lines.iter().map(|line| {
        json!({
            "name": line.name,
            "checkpoints": line.checkpoints,
            "raw_bytes": line.raw,
            "stored_bytes": line.stored.map(|(stored, _)| stored),
            "shared_bytes": line.stored.map(|(stored, unique)| stored - unique),
            "unique_bytes": line.stored.map(|(_, unique)| unique),
        })
    });
    let stats = store.stats()?;
    let facts = json!({
        "raw_bytes": stats.raw_bytes,
        "stored_bytes": stats.stored_bytes,
        "checkpoints": stats.checkpoints,
        "lines": each.collect::<Vec<_>>(),
    });
    context.print(&facts, |_, out| {
        let columns = [left(""), right("checkpoints"), right("raw"), right("stored"), right("shared"), right("unique")];
        let mut table = Table::new(columns);
        for line in &lines {
            let size = |pick: fn((u64, u64)) -> u64| line.stored.map_or(String::new(), |pair| bytes(pick(pair)));
            let cells =
                [size(|(stored, _)| stored), size(|(stored, unique)| stored - unique), size(|(_, unique)| unique)];
            table
                .row([vec![line.name.clone(), line.checkpoints.to_string(), bytes(line.raw)], cells.to_vec()].concat());
        }
        out.line(&table)?;
        out.line(format_args!("{} in packs and log", bytes(stats.stored_bytes)))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn of_checkpoint(usage: &Usage) -> Line {
    let stored = Some((usage.stored_bytes, usage.unique_bytes));
    Line { name: usage.checkpoint.address(), checkpoints: 1, raw: usage.checkpoint.sizes.raw, stored }
}

fn by_run(store: &Store, usage: Vec<Usage>) -> Result<Vec<Line>> {
    let mut runs: BTreeMap<String, Vec<Usage>> = BTreeMap::new();
    for one in usage {
        runs.entry(one.checkpoint.run.clone()).or_default().push(one);
    }
    let line = |(name, usage): (String, Vec<Usage>)| {
        let raw = usage.iter().map(|one| one.checkpoint.sizes.raw).sum();
        Ok(Line { name, checkpoints: usage.len() as u64, raw, stored: Some(store.usage_of(&usage)?) })
    };
    runs.into_iter().map(line).collect()
}

/// Components of one save share packs, so only raw bytes are told apart.
fn by_component(usage: &[Usage]) -> Vec<Line> {
    let mut components: BTreeMap<&String, (u64, u64)> = BTreeMap::new();
    for one in usage {
        for (name, bytes) in one.checkpoint.components.iter().filter(|(name, _)| !one.checkpoint.dropped.contains(name))
        {
            let (count, raw) = components.entry(name).or_default();
            *count += 1;
            *raw += bytes;
        }
    }
    let line =
        |(name, (checkpoints, raw)): (&String, (u64, u64))| Line { name: name.clone(), checkpoints, raw, stored: None };
    components.into_iter().map(line).collect()
}
