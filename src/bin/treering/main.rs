//! The command line: a door. It parses, calls the library, and renders what comes back; it decides nothing.

mod args;
mod commands;
mod context;
mod report;
mod ui;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::Cli;
use context::Context;

fn main() -> ExitCode {
    let cli = match args::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error, std::env::args_os().any(|arg| arg == "--json")),
    };
    let context = Context::new(cli.global);
    commands::run(cli.command, &context).unwrap_or_else(|error| report::failure(&error, context.json))
}
