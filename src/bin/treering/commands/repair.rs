//! `treering repair`

use std::process::ExitCode;

use serde_json::json;
use treering::repair::RepairReport;
use treering::{ErrorKind, Result};

use super::verify::print_lost;
use crate::args::Repair;
use crate::context::Context;
use crate::ui::{Out, count, printable, red};

pub(crate) fn run(args: &Repair, context: &Context) -> Result<ExitCode> {
    let report = context.store()?.repair(args.dry_run)?;
    let facts = json!({
        "dry_run": args.dry_run,
        "damage": report.damage.iter().map(|d| json!({ "object": d.object, "chunk": d.chunk, "why": d.why })).collect::<Vec<_>>(),
        "voided": report.voided,
        "remade": report.remade,
        "marked": report.marked,
        "healed": report.healed,
        "gone": report.gone.iter().map(|a| json!({ "checkpoint": a.checkpoint.address(), "lost": a.lost })).collect::<Vec<_>>(),
    });
    context.print(&facts, |_, out| print(&report, args.dry_run, out))?;
    Ok(if report.gone.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Damaged.exit_code()) })
}

fn print(report: &RepairReport, dry_run: bool, out: &mut Out) -> Result<()> {
    for damage in &report.damage {
        let chunk = damage.chunk.map_or(String::new(), |chunk| format!(", chunk {chunk}"));
        out.line(format_args!("{} {}{chunk}: {}", red("damaged:"), damage.object, printable(&damage.why)))?;
    }
    print_lost(&report.gone, out)?;
    let (voided, marked) = (count(report.voided.len() as u64, "log entry"), count(report.marked, "damaged frame"));
    let (remade, healed) = (report.remade.len(), count(report.healed.len() as u64, "pack"));
    if dry_run {
        return out.line(format_args!("would pass {voided} ({remade} made again) and mark {marked}"));
    }
    out.line(format_args!("passed {voided} ({remade} made again), marked {marked}, healed {healed}"))
}
