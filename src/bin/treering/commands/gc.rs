//! `treering gc`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use treering::Result;
use treering::gc::{GcOptions, GcReport, GcVerdict};

use crate::args::Gc;
use crate::context::Context;
use crate::ui::{Out, Table, bytes, count, duration, left, right};

pub(crate) fn run(args: &Gc, context: &Context) -> Result<ExitCode> {
    let options = GcOptions {
        run: args.run.clone(),
        dry_run: args.dry_run,
        max_time: args.max_time,
        unexplained: args.unexplained,
        grace: args.grace,
        ..GcOptions::default()
    };
    let report = context.store()?.gc(&options)?;
    let each = report.checkpoints.iter().map(|verdict| {
        json!({
            "run": verdict.checkpoint.run,
            "step": verdict.checkpoint.step,
            "goes": verdict.goes(),
            "kept_by": reasons(verdict),
            "thin": verdict.thin,
            "bytes": verdict.bytes,
        })
    });
    let facts = json!({
        "dry_run": args.dry_run,
        "checkpoints": each.collect::<Vec<_>>(),
        "packs_deleted": report.packs_deleted,
        "packs_waiting": report.packs_waiting,
        "packs_rewritten": report.packs_rewritten,
        "freed_bytes": report.bytes_freed,
        "waiting_bytes": report.bytes_waiting,
        "dead_saves": report.dead_saves,
        "unfinished": report.unfinished,
        "seconds": report.seconds,
    });
    context.print(&facts, |_, out| print(&report, args, context, out))?;
    Ok(ExitCode::SUCCESS)
}

fn reasons(verdict: &GcVerdict) -> Vec<String> {
    verdict.keeps.iter().map(ToString::to_string).collect()
}

fn print(report: &GcReport, args: &Gc, context: &Context, out: &mut Out) -> Result<()> {
    let goes = if args.dry_run { "would go" } else { "went" };
    if !context.quiet {
        let mut table = Table::new([left("checkpoint"), left("kept by"), left("drops"), right(goes)]);
        for verdict in &report.checkpoints {
            let address = verdict.checkpoint.address();
            if verdict.goes() {
                table.row([address, format!("nothing: {goes}"), String::new(), bytes(verdict.bytes)]);
            } else {
                table.row([address, reasons(verdict).join(", "), verdict.thin.join(", "), String::new()]);
            }
        }
        if !table.is_empty() {
            out.line(&table)?;
        }
    }
    let freed = u64::try_from(report.bytes_freed).unwrap_or(0);
    let gone = count(report.checkpoints.iter().filter(|verdict| verdict.goes()).count() as u64, "checkpoint");
    if args.dry_run {
        return out.line(format_args!("{gone} would go, and {} with them", bytes(freed)));
    }
    let rewritten = if report.packs_rewritten > 0 {
        format!(", rewrote {}", count(report.packs_rewritten, "pack"))
    } else {
        String::new()
    };
    let time = duration(Duration::from_secs_f64(report.seconds));
    out.line(format_args!("{gone} went; freed {}{rewritten} in {time}", bytes(freed)))?;
    if report.packs_waiting > 0 {
        let packs = count(report.packs_waiting, "pack");
        out.line(format_args!(
            "{} in {packs} lie on for who still reads them; a later gc deletes them, --grace 0s at once",
            bytes(report.bytes_waiting)
        ))?;
    }
    if report.unfinished { out.line("time is up; the next gc goes on") } else { Ok(()) }
}
