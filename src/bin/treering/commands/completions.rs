//! `treering completions`: scripts that complete commands in a shell.

use std::process::ExitCode;

use treering::Result;

use crate::args::{self, Completions};
use crate::context::Context;

pub(crate) fn run(args: &Completions, context: &Context) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "treering", &mut script);
    let mut out = context.out();
    out.bytes(&script)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
