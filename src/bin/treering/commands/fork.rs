//! `treering fork`

use std::process::ExitCode;

use treering::Result;

use super::rows;
use crate::args::Fork;
use crate::context::Context;

pub(crate) fn run(args: &Fork, context: &Context) -> Result<ExitCode> {
    let row = context.store()?.fork(&args.run, &args.checkpoint.parse()?)?;
    context.print(&rows::checkpoint(&row), |_, out| {
        out.line(format_args!("{} begins as {}; it shares all bytes", row.address(), args.checkpoint))
    })?;
    Ok(ExitCode::SUCCESS)
}
