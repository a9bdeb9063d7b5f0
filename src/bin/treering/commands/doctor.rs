//! `treering doctor`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Doctor;
use crate::context::Context;
use crate::ui::{green, yellow};

pub(crate) fn run(_args: &Doctor, context: &Context) -> Result<ExitCode> {
    let findings = context.store()?.examine()?;
    let each = findings.iter().map(|f| json!({ "what": f.what, "fine": f.fine, "says": f.says }));
    context.print(&json!({ "findings": each.collect::<Vec<_>>() }), |_, out| {
        for finding in &findings {
            let sign = if finding.fine { green("ok  ") } else { yellow("look") };
            out.line(format_args!("{sign} {:<12} {}", finding.what, finding.says))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
