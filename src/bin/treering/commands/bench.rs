//! `treering bench`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use treering::Result;
use treering::format::policy::Policy;
use treering::measure::{self, MeasureOptions, Measured, MeasuredSave};

use super::save::encoding;
use crate::args::Bench;
use crate::context::Context;
use crate::ui::{Out, Table, bytes, dim, left, percent, rate, right};

pub(crate) fn run(args: &Bench, context: &Context) -> Result<ExitCode> {
    let options = MeasureOptions {
        folder: args.store_dir.clone().unwrap_or_else(std::env::temp_dir),
        encoding: encoding(args.encoding),
        quick: args.quick,
    };
    let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let series = measure::series(&args.inputs, limit)?;
    let measured = measure::measure(&series, &options, context.progress())?;
    context.print(&facts(&measured), |_, out| print(&measured, &options, out))?;
    Ok(ExitCode::SUCCESS)
}

fn facts(measured: &Measured) -> Value {
    let save = |save: &MeasuredSave| {
        json!({
            "name": save.name,
            "raw_bytes": save.raw_bytes,
            "new_bytes": save.new_bytes,
            "seconds": save.seconds,
            "copy_seconds": save.copy_seconds,
            "zstd_bytes": save.zstd.map(|(bytes, _)| bytes),
            "zstd_seconds": save.zstd.map(|(_, seconds)| seconds),
        })
    };
    let restores = measured.restores.iter().map(|restore| {
        json!({
            "name": measured.saves[restore.save].name,
            "bytes": restore.bytes,
            "seconds": restore.seconds,
            "identical": true,
        })
    });
    let policies = measured.policies.iter().map(|kept| {
        json!({
            "rules": kept.policy.rules().map(|rule| rule.to_string()).collect::<Vec<_>>(),
            "checkpoints": kept.checkpoints,
            "raw_bytes": kept.raw_bytes,
            "stored_bytes": kept.stored_bytes,
        })
    });
    json!({
        "saves": measured.saves.iter().map(save).collect::<Vec<_>>(),
        "restores": restores.collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
    })
}

fn print(measured: &Measured, options: &MeasureOptions, out: &mut Out) -> Result<()> {
    let mut saves = Table::new([
        left("save"),
        right("raw"),
        right("new"),
        right("of raw"),
        right("saved at"),
        right("copied at"),
        right("zstd -3"),
        right("at"),
    ]);
    let [all, later] = [&measured.saves[..], measured.saves.get(1..).unwrap_or_default()];
    for save in all {
        saves.row(row(save.name.clone(), std::slice::from_ref(save)));
    }
    if later.len() > 1 {
        saves.row(row("all".into(), all));
        saves.row(row("all but the first".into(), later));
    }
    out.line(&saves)?;

    let mut restores = Table::new([left("restore"), right("size"), right("restored at"), right("copied at")]);
    for restore in &measured.restores {
        let save = &measured.saves[restore.save];
        let speed = |seconds| rate(restore.bytes, Duration::from_secs_f64(seconds));
        restores.row([save.name.clone(), bytes(restore.bytes), speed(restore.seconds), speed(save.copy_seconds)]);
    }
    out.line(format_args!("\n{restores}"))?;

    let mut policies =
        Table::new([left("policy"), right("checkpoints"), right("plain copies"), right("store"), right("of raw")]);
    for kept in &measured.policies {
        let (raw, stored) = (kept.raw_bytes, kept.stored_bytes);
        policies.row([
            words(&kept.policy),
            kept.checkpoints.to_string(),
            bytes(raw),
            bytes(stored),
            percent(stored, raw),
        ]);
    }
    out.line(format_args!("\n{policies}"))?;
    let place = options.folder.display();
    out.line(dim(&format!("\nin {place}, read from the page cache and synced; every restored byte was compared")))
}

/// The sum of some saves.
fn row(name: String, saves: &[MeasuredSave]) -> [String; 8] {
    let raw: u64 = saves.iter().map(|save| save.raw_bytes).sum();
    let new = saves.iter().map(|save| save.new_bytes).sum();
    let at = |seconds: f64| rate(raw, Duration::from_secs_f64(seconds));
    let zstd: Option<Vec<(u64, f64)>> = saves.iter().map(|save| save.zstd).collect();
    let [zstd, zstd_at] = match zstd {
        Some(each) => {
            [percent(each.iter().map(|(bytes, _)| bytes).sum(), raw), at(each.iter().map(|(_, seconds)| seconds).sum())]
        }
        None => ["-".into(), "-".into()],
    };
    let save_at = at(saves.iter().map(|save| save.seconds).sum());
    let copy_at = at(saves.iter().map(|save| save.copy_seconds).sum());
    [name, bytes(raw), bytes(new), percent(new, raw), save_at, copy_at, zstd, zstd_at]
}

fn words(policy: &Policy) -> String {
    let rules: Vec<String> = policy.rules().map(|rule| rule.to_string()).collect();
    if rules.is_empty() { "everything".into() } else { rules.join(", ") }
}
