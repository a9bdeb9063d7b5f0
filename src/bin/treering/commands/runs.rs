//! `treering runs`

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use treering::Result;
use treering::format::policy::Mode;

use crate::args::Runs;
use crate::context::Context;
use crate::ui::{Table, bytes, left, right};

pub(crate) fn run(_args: &Runs, context: &Context) -> Result<ExitCode> {
    let runs = context.store()?.runs()?;
    let each = runs.iter().map(|run| {
        let modes: Map<String, Value> =
            run.modes.iter().map(|(name, mode)| (name.clone(), word(*mode).into())).collect();
        json!({
            "run": run.run.name,
            "created_at": run.run.created.to_rfc3339(),
            "checkpoints": run.checkpoints,
            "superseded": run.superseded,
            "latest": run.latest.as_ref().map(|row| row.step),
            "latest_complete": run.latest_complete.as_ref().map(|row| row.step),
            "raw_bytes": run.raw_bytes,
            "policy": run.run.policy.rules().map(|rule| rule.to_string()).collect::<Vec<_>>(),
            "metrics": modes,
            "config": run.run.config,
            "provenance": run.run.provenance,
        })
    });
    let facts = json!({ "runs": each.collect::<Vec<_>>() });
    context.print(&facts, |_, out| {
        let mut table = Table::new([left("run"), right("checkpoints"), right("latest"), right("size"), left("policy")]);
        for run in &runs {
            let rules: Vec<String> = run.run.policy.rules().map(|rule| rule.to_string()).collect();
            let latest = run.latest.as_ref().map_or(String::new(), |row| row.step.to_string());
            table.row([
                run.run.name.clone(),
                run.checkpoints.to_string(),
                latest,
                bytes(run.raw_bytes),
                rules.join(", "),
            ]);
        }
        if table.is_empty() { out.line("no runs") } else { out.line(&table) }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Min => "min",
        Mode::Max => "max",
    }
}
