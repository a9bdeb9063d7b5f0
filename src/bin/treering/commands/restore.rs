//! `treering restore`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use treering::Result;
use treering::restore::RestoreOptions;

use crate::args::Restore;
use crate::context::Context;
use crate::ui::{bytes, count, duration, rate};

pub(crate) fn run(args: &Restore, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let options = RestoreOptions {
        component: args.component.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        max_shard_bytes: args.max_shard_size,
        force: args.force,
    };
    let report = store.restore(&args.checkpoint.parse()?, &args.output, &options)?;
    let facts = json!({
        "checkpoint": report.checkpoint.address(),
        "output": report.output,
        "files": report.files,
        "bytes": report.bytes,
        "tensors": report.tensors,
        "identical": report.identical,
        "dropped": report.dropped,
        "seconds": report.seconds,
    });
    context.print(&facts, |_, out| {
        if context.quiet {
            return Ok(());
        }
        let time = Duration::from_secs_f64(report.seconds);
        out.line(format_args!(
            "restored {} to {}: {} in {}, {} ({})",
            report.checkpoint.address(),
            report.output.display(),
            bytes(report.bytes),
            count(report.tensors, "tensor"),
            duration(time),
            rate(report.bytes, time)
        ))?;
        match &report.dropped[..] {
            [] => Ok(()),
            dropped => out.line(format_args!(
                "without {}, which a policy dropped; {}@latest:complete is the newest step with everything",
                dropped.join(", "),
                report.checkpoint.run
            )),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
