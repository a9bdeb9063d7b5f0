//! `treering rebuild`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;
use treering::store::{Options, Store};

use crate::args::Rebuild;
use crate::context::Context;
use crate::ui::count;

pub(crate) fn run(args: &Rebuild, context: &Context) -> Result<ExitCode> {
    let path = context.store_path()?;
    if args.accept_shorter_log {
        // What refuses a shorter log is the catalog's memory of a longer one.
        Store::forget_catalog(&path)?;
    }
    let store = Store::open(&path, Options::default())?.with_monitor(context.progress());
    store.rebuild()?;
    let stats = store.stats()?;
    context.print(&json!({ "entries": stats.entries, "checkpoints": stats.checkpoints }), |_, out| {
        out.line(format_args!("read {} log entries: {}", stats.entries, count(stats.checkpoints, "checkpoint")))
    })?;
    Ok(ExitCode::SUCCESS)
}
