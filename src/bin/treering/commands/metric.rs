//! `treering metric`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use super::rows;
use crate::args::Metric;
use crate::context::Context;

pub(crate) fn run(args: &Metric, context: &Context) -> Result<ExitCode> {
    let mode = rows::mode(args.mode);
    context.store()?.set_mode(&args.run, &args.name, mode)?;
    let facts = json!({ "run": args.run, "metric": args.name, "mode": mode });
    context.print(&facts, |_, out| {
        let better = if mode == treering::format::policy::Mode::Min { "small" } else { "large" };
        out.line(format_args!("{} of {}: {better} is better", args.name, args.run))
    })?;
    Ok(ExitCode::SUCCESS)
}
