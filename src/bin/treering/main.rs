//! The command line: a door. It parses, calls the library, and renders what comes back; it decides nothing.
//!
//! The same sources are a library too, through which the Python package brings the command line along.

mod args;
mod commands;
mod context;
mod report;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::FromArgMatches;

use args::Cli;
use context::Context;

/// What was typed. In a process of another program that is not what the process was started with.
static TYPED: OnceLock<Vec<OsString>> = OnceLock::new();

/// Does what the process was started for.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// Does what was typed: the program's name and its arguments. Once in a process.
pub fn run(typed: Vec<OsString>) -> ExitCode {
    let typed = TYPED.get_or_init(|| typed);
    match args::command().try_get_matches_from(typed).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => {
            let context = Context::new(cli.global);
            commands::run(cli.command, &context).unwrap_or_else(|error| report::failure(&error, context.json))
        }
        Err(error) => report::usage(&error, typed.iter().any(|arg| arg == "--json")),
    }
}

/// The program's name and its arguments.
pub(crate) fn typed() -> &'static [OsString] {
    TYPED.get().map_or(&[], Vec::as_slice)
}
