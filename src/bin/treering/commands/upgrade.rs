//! `treering upgrade`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Upgrade;
use crate::context::Context;

pub(crate) fn run(_args: &Upgrade, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let before = store.upgrade()?;
    let after = store.format()?;
    context.print(&json!({ "before": before, "after": after }), |_, out| {
        if before == after {
            return out.line(format_args!("format {after} is the newest already"));
        }
        out.line(format_args!("format {before} became {after}: versions that do not know it can no longer write"))
    })?;
    Ok(ExitCode::SUCCESS)
}
