//! `treering state`

use std::process::ExitCode;

use treering::{Error, Result};

use crate::args::State;
use crate::context::Context;

pub(crate) fn run(args: &State, context: &Context) -> Result<ExitCode> {
    let checkpoint = context.store()?.checkpoint(&args.checkpoint.parse()?)?;
    let address = checkpoint.info().address();
    let missing = Error::PartUnknown { what: "state", name: "of any kind".into(), checkpoint: address };
    let state = checkpoint.state()?.ok_or(missing)?;
    context.line(serde_json::to_string_pretty(&state).map_err(|e| Error::Bug(e.to_string()))?)?;
    Ok(ExitCode::SUCCESS)
}
