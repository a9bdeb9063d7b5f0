//! `treering best`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use super::rows;
use crate::args::Best;
use crate::context::Context;
use crate::ui::{Table, bytes, left, right};

pub(crate) fn run(args: &Best, context: &Context) -> Result<ExitCode> {
    let best = context.store()?.best(&args.run, &args.metric, args.mode.map(rows::mode), args.k)?;
    let facts = json!({ "checkpoints": best.iter().map(rows::checkpoint).collect::<Vec<_>>() });
    context.print(&facts, |_, out| {
        let mut table = Table::new([left("checkpoint"), right("value"), right("size"), left("")]);
        for row in &best {
            let value = row.metrics.get(&args.metric).map_or(String::new(), |value| rows::number(value.0));
            table.row([row.address(), value, bytes(row.sizes.raw), row.tags.join(", ")]);
        }
        out.line(&table)
    })?;
    Ok(ExitCode::SUCCESS)
}
