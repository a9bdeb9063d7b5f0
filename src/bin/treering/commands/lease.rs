//! `treering lease`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Lease;
use crate::context::Context;

pub(crate) fn run(args: &Lease, context: &Context) -> Result<ExitCode> {
    let (row, until) = context.store()?.lease(&args.checkpoint.parse()?, args.length, "")?;
    let facts = json!({ "checkpoint": row.address(), "until": until.to_rfc3339() });
    context.print(&facts, |_, out| out.line(format_args!("{} stays until {}", row.address(), until.to_rfc3339())))?;
    Ok(ExitCode::SUCCESS)
}
