//! `treering export`: a way out.

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Export;
use crate::context::Context;
use crate::ui::{bytes, count};

pub(crate) fn run(args: &Export, context: &Context) -> Result<ExitCode> {
    let report = context.store()?.export(args.run.as_deref(), &args.dir)?;
    let facts =
        json!({ "folder": args.dir, "written": report.written, "skipped": report.skipped, "bytes": report.bytes });
    context.print(&facts, |_, out| {
        let written = count(report.written, "checkpoint");
        let skipped =
            if report.skipped > 0 { format!("; {} were there already", report.skipped) } else { String::new() };
        out.line(format_args!("wrote {written}, {}, to {}{skipped}", bytes(report.bytes), args.dir.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}
