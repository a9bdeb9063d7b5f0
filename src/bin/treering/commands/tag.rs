//! `treering tag`

use std::process::ExitCode;

use treering::Result;

use super::rows;
use crate::args::Tag;
use crate::context::Context;

pub(crate) fn run(args: &Tag, context: &Context) -> Result<ExitCode> {
    let row = context.store()?.tag(&args.checkpoint.parse()?, &args.tags, &[])?;
    context.print(&rows::checkpoint(&row), |_, out| {
        out.line(format_args!("{}: {}", row.address(), row.tags.join(", ")))
    })?;
    Ok(ExitCode::SUCCESS)
}
