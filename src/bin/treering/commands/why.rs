//! `treering why`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Why;
use crate::context::Context;
use crate::ui::{bytes, count};

pub(crate) fn run(args: &Why, context: &Context) -> Result<ExitCode> {
    let why = context.store()?.why(&args.checkpoint.parse()?)?;
    let reasons: Vec<String> = why.keeps.iter().map(ToString::to_string).collect();
    let unique: u64 = why.packs.iter().filter(|(_, _, refs)| *refs == 1).map(|(_, bytes, _)| bytes).sum();
    let total: u64 = why.packs.iter().map(|(_, bytes, _)| bytes).sum();
    let facts = json!({
        "checkpoint": why.checkpoint.address(),
        "kept_by": reasons,
        "leases": why.leases.iter().map(|l| json!({ "until": l.until.to_rfc3339(), "purpose": l.purpose })).collect::<Vec<_>>(),
        "packs": why.packs.iter().map(|(pack, bytes, refs)| json!({ "pack": pack, "bytes": bytes, "needed_by": refs })).collect::<Vec<_>>(),
        "needed_by": why.needed_by,
        "unique_bytes": unique,
    });
    context.print(&facts, |_, out| {
        let address = why.checkpoint.address();
        if reasons.is_empty() {
            out.line(format_args!("nothing keeps {address}: the next gc takes it"))?;
        } else {
            out.line(format_args!("{address} is kept by: {}", reasons.join(", ")))?;
        }
        for lease in &why.leases {
            out.line(format_args!("leased until {}", lease.until.to_rfc3339()))?;
        }
        let packs = count(why.packs.len() as u64, "pack");
        out.line(format_args!("it needs {packs} of {}; {} of that nobody else needs", bytes(total), bytes(unique)))?;
        if !why.needed_by.is_empty() {
            out.line(format_args!("its own packs are needed by {}", why.needed_by.join(", ")))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
