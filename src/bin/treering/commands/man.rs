//! `treering man`: a page for the whole and one for each command.

use std::process::ExitCode;

use clap::CommandFactory;
use treering::{Error, Result};

use crate::args::{Cli, Man};
use crate::context::Context;

pub(crate) fn run(args: &Man, _context: &Context) -> Result<ExitCode> {
    let failed = |op, source| Error::Io { op, path: args.dir.clone(), source };
    std::fs::create_dir_all(&args.dir).map_err(|e| failed("create", e))?;
    // The plain definitions: a page of its own has no use for the groups of the front page.
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(|e| failed("write into", e))?;
    Ok(ExitCode::SUCCESS)
}
