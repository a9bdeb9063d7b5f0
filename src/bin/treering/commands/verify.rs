//! `treering verify`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use treering::verify::{Affected, Depth, VerifyReport};
use treering::{ErrorKind, Result};

use crate::args::Verify;
use crate::context::Context;
use crate::ui::{Out, bytes, count, duration, printable, red};

/// Names printed for one checkpoint.
const NAMES_MAX: usize = 10;

pub(crate) fn run(args: &Verify, context: &Context) -> Result<ExitCode> {
    let depth = match (args.deep, args.stored) {
        (true, _) => Depth::Deep,
        (_, true) => Depth::Stored,
        _ => Depth::Structure,
    };
    let report = context.store()?.verify(depth)?;
    let facts = json!({
        "sound": report.is_sound(),
        "entries": report.entries,
        "packs": report.packs,
        "frames": report.frames,
        "checkpoints": report.checkpoints,
        "stored_bytes": report.stored_bytes,
        "raw_bytes": report.raw_bytes,
        "damage": report.damage.iter().map(|d| json!({ "object": d.object, "chunk": d.chunk, "why": d.why })).collect::<Vec<_>>(),
        "known": report.known.iter().map(|d| json!({ "object": d.object, "chunk": d.chunk, "why": d.why })).collect::<Vec<_>>(),
        "affected": report.affected.iter().map(|a| json!({ "checkpoint": a.checkpoint.address(), "lost": a.lost })).collect::<Vec<_>>(),
        "foreign": report.foreign,
        "seconds": report.seconds,
    });
    context.print(&facts, |_, out| print(&report, out))?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Damaged.exit_code()) })
}

/// What is lost of each checkpoint, by name.
pub(super) fn print_lost(affected: &[Affected], out: &mut Out) -> Result<()> {
    for affected in affected {
        let mut names: Vec<String> =
            affected.lost.iter().take(NAMES_MAX).map(|name| printable(name).into_owned()).collect();
        if affected.lost.len() > NAMES_MAX {
            names.push(format!("and {} more", affected.lost.len() - NAMES_MAX));
        }
        out.line(format_args!("{} {}: {}", red("lost:"), affected.checkpoint.address(), names.join(", ")))?;
    }
    Ok(())
}

fn print(report: &VerifyReport, out: &mut Out) -> Result<()> {
    for damage in &report.damage {
        let chunk = damage.chunk.map_or(String::new(), |chunk| format!(", chunk {chunk}"));
        out.line(format_args!("{} {}{chunk}: {}", red("damaged:"), damage.object, printable(&damage.why)))?;
    }
    if !report.known.is_empty() {
        out.line(format_args!("{} that the log knows of", count(report.known.len() as u64, "damaged frame")))?;
    }
    print_lost(&report.affected, out)?;
    for pack in &report.foreign {
        out.line(format_args!(
            "pack {pack} belongs to no checkpoint: of a save that runs, or died (gc removes it then)"
        ))?;
    }
    let read = if report.stored_bytes > 0 { format!(", {} read", bytes(report.stored_bytes)) } else { String::new() };
    let time = duration(Duration::from_secs_f64(report.seconds));
    let (checkpoints, packs) = (count(report.checkpoints, "checkpoint"), count(report.packs, "pack"));
    let verdict = if report.is_sound() { "sound" } else { "damaged" };
    out.line(format_args!("{verdict}: {checkpoints}, {packs}, {} log entries{read}, in {time}", report.entries))
}
