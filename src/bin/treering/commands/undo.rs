//! `treering undo`

use std::process::ExitCode;

use serde_json::json;
use treering::Result;

use crate::args::Undo;
use crate::context::Context;

pub(crate) fn run(args: &Undo, context: &Context) -> Result<ExitCode> {
    let store = context.store()?;
    let mut back = Vec::new();
    for address in &args.checkpoints {
        back.push(store.undo(&address.parse()?)?.address());
    }
    context.print(&json!({ "kept": back }), |_, out| out.line(format_args!("brought back {}", back.join(", "))))?;
    Ok(ExitCode::SUCCESS)
}
