//! `treering log`

use std::process::ExitCode;

use serde_json::json;
use treering::catalog::{CheckpointRow, Filter, Order, Status};
use treering::{Error, Result};

use super::rows;
use crate::args::Log;
use crate::context::Context;
use crate::ui::{Out, Table, age, bytes, count, csv, dim, left, percent, printable, right, spark};

const SPARK_WIDTH: usize = 60;

pub(crate) fn run(args: &Log, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let order = if args.sort == "step" { Order::Step } else { Order::Slot };
    // Where the catalog has that order, it need not give more than is asked for.
    let ordered = args.filter.is_none() && ["step", "time"].contains(&args.sort.as_str()) && !args.reverse;
    let filter = Filter {
        run: args.run.clone(),
        superseded: args.all,
        forgotten: args.all,
        order,
        newest: args.limit.filter(|_| ordered),
        ..Filter::default()
    };
    let mut found = store.log(&filter)?;
    if let Some(wanted) = &args.filter {
        found.retain(|row| wanted.matches(|name| value(row, name)));
    }
    let known = ["step", "time", "size"].contains(&args.sort.as_str()) || found.is_empty();
    if !known && found.iter().all(|row| !row.metrics.contains_key(&args.sort)) {
        return Err(Error::invalid(
            format!("--sort {}", args.sort),
            "none of these checkpoints has a metric of that name",
        ));
    }
    sort(&mut found, &args.sort);
    if args.reverse {
        found.reverse();
    }
    let all = if filter.newest.is_some() { store.count(&filter)? } else { found.len() as u64 };
    let shown = args.limit.map_or(found.len(), |limit| usize::try_from(limit).unwrap_or(usize::MAX).min(found.len()));
    let hidden = all - shown as u64;
    found.drain(..found.len() - shown);
    let raw: u64 = found.iter().map(|row| row.sizes.raw).sum();
    let new: u64 = found.iter().map(|row| row.sizes.stored).sum();
    if args.csv {
        return print_csv(&found, context).map(|()| ExitCode::SUCCESS);
    }
    let facts = json!({
        "checkpoints": found.iter().map(rows::checkpoint).collect::<Vec<_>>(),
        "totals": { "checkpoints": found.len(), "raw_bytes": raw, "new_bytes": new },
    });
    context.print(&facts, |_, out| print(&found, args, hidden, (raw, new), out))?;
    Ok(ExitCode::SUCCESS)
}

/// A name that can be compared with or sorted by.
fn value(row: &CheckpointRow, name: &str) -> Option<f64> {
    match name {
        "step" => Some(row.step as f64),
        "time" => Some(row.created.0 as f64 / 1e9),
        "size" => Some(row.sizes.raw as f64),
        metric => row.metrics.get(metric).map(|value| value.0),
    }
}

/// What has no such value comes first, so that the last lines are the interesting ones.
fn sort(found: &mut [CheckpointRow], key: &str) {
    match key {
        // As the catalog gave them.
        "step" | "time" => {}
        key => found.sort_by(|a, b| {
            let number = |row| value(row, key).unwrap_or(f64::NAN);
            let (a, b) = (number(a), number(b));
            b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(&b))
        }),
    }
}

fn metric_names(found: &[CheckpointRow], args: &Log) -> Vec<String> {
    if !args.metrics.is_empty() {
        return args.metrics.clone();
    }
    let mut names: Vec<String> = found.iter().flat_map(|row| row.metrics.keys().cloned()).collect();
    names.sort();
    names.dedup();
    names.truncate(3);
    names
}

fn print(found: &[CheckpointRow], args: &Log, hidden: u64, (raw, new): (u64, u64), out: &mut Out) -> Result<()> {
    if found.is_empty() {
        return out.line("no checkpoints");
    }
    let names = metric_names(found, args);
    let now = treering::env::Env::system().now();
    let mut table =
        Table::new([left("checkpoint"), right("saved"), right("size"), right("new"), left("metrics"), left("")]);
    for row in found {
        let metrics: Vec<String> =
            names.iter().filter_map(|n| row.metrics.get(n).map(|v| format!("{n} {}", rows::number(v.0)))).collect();
        let mut notes = row.tags.clone();
        notes.extend((row.status != Status::Kept).then(|| rows::status(row.status).to_string()));
        notes.extend(row.dropped.iter().map(|name| format!("without {name}")));
        notes.extend(row.note.clone());
        let cells = [
            row.address(),
            age(row.created, now),
            bytes(row.sizes.raw),
            bytes(row.sizes.stored),
            metrics.join("  "),
            notes.join(", "),
        ];
        if row.status == Status::Kept { table.row(cells) } else { table.dim_row(cells) }
    }
    out.line(&table)?;
    for name in &args.metrics {
        let series: Vec<f64> = found.iter().map(|row| row.metrics.get(name).map_or(f64::NAN, |v| v.0)).collect();
        out.line(format_args!("{} {}", printable(name), spark(&series, SPARK_WIDTH)))?;
    }
    let more = if hidden > 0 { format!("; {hidden} more not shown") } else { String::new() };
    let total = count(found.len() as u64, "checkpoint");
    out.line(dim(&format!("{total}: {} saved in {} ({}){more}", bytes(raw), bytes(new), percent(new, raw))))
}

fn print_csv(found: &[CheckpointRow], context: &Context) -> Result<()> {
    let mut names: Vec<&String> = found.iter().flat_map(|row| row.metrics.keys()).collect();
    names.sort();
    names.dedup();
    let mut out = context.out();
    let fixed = ["run", "step", "status", "created_at", "raw_bytes", "new_bytes", "tags"];
    out.line(csv::record(fixed.iter().map(|s| s.to_string()).chain(names.iter().map(|n| n.to_string()))))?;
    for row in found {
        let mut cells =
            vec![row.run.clone(), row.step.to_string(), rows::status(row.status).into(), row.created.to_rfc3339()];
        cells.extend([row.sizes.raw.to_string(), row.sizes.stored.to_string(), row.tags.join(" ")]);
        cells.extend(names.iter().map(|name| row.metrics.get(*name).map_or(String::new(), |v| v.0.to_string())));
        out.line(csv::record(cells))?;
    }
    out.finish()
}
