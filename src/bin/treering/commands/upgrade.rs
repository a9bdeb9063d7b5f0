//! `treering upgrade`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Upgrade;
use crate::context::Context;

pub(crate) fn run(_args: &Upgrade, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let before = store.upgrade()?;
    let format = store.format()?;
    context.print(&json!({ "before": before, "format": format }), |_, out| match before < format {
        true => {
            out.line(format_args!("format {before} is format {format} now; versions without it can no longer write"))
        }
        false => out.line(format_args!("format {format} is the newest already")),
    })?;
    Ok(ExitCode::SUCCESS)
}
