//! `treering untag`

use std::process::ExitCode;

use treering::Result;

use super::rows;
use crate::args::Untag;
use crate::context::Context;

pub(crate) fn run(args: &Untag, context: &Context) -> Result<ExitCode> {
    let row = context.store()?.tag(&args.checkpoint.parse()?, &[], &args.tags)?;
    let left = if row.tags.is_empty() { "no tags".into() } else { row.tags.join(", ") };
    context.print(&rows::checkpoint(&row), |_, out| out.line(format_args!("{}: {left}", row.address())))?;
    Ok(ExitCode::SUCCESS)
}
