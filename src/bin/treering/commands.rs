//! One file for each command: it calls the library and renders the answer.

mod annotate;
mod bench;
mod best;
mod cat;
mod completions;
mod demo;
mod doctor;
mod du;
mod export;
mod forget;
mod fork;
mod gc;
mod init;
mod lease;
mod log;
mod man;
mod metric;
mod policy;
mod rebuild;
mod repair;
mod restore;
mod rows;
mod runs;
mod save;
mod show;
mod state;
mod stats;
mod tag;
mod undo;
mod untag;
mod upgrade;
mod verify;
mod watch;
mod why;

use std::process::ExitCode;

use treering::Result;

use crate::args::Command;
use crate::context::Context;

/// Runs a command. Its exit code is success unless it found what it was asked to look for, such as damage.
pub(crate) fn run(command: Command, context: &Context) -> Result<ExitCode> {
    match command {
        Command::Init(args) => init::run(&args, context),
        Command::Save(args) => save::run(&args, context),
        Command::Log(args) => log::run(&args, context),
        Command::Runs(args) => runs::run(&args, context),
        Command::Metric(args) => metric::run(&args, context),
        Command::Best(args) => best::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Why(args) => why::run(&args, context),
        Command::Restore(args) => restore::run(&args, context),
        Command::Cat(args) => cat::run(&args, context),
        Command::State(args) => state::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Annotate(args) => annotate::run(&args, context),
        Command::Tag(args) => tag::run(&args, context),
        Command::Untag(args) => untag::run(&args, context),
        Command::Forget(args) => forget::run(&args, context),
        Command::Undo(args) => undo::run(&args, context),
        Command::Fork(args) => fork::run(&args, context),
        Command::Watch(args) => watch::run(&args, context),
        Command::Lease(args) => lease::run(&args, context),
        Command::Policy(args) => policy::run(&args, context),
        Command::Gc(args) => gc::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Repair(args) => repair::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Rebuild(args) => rebuild::run(&args, context),
        Command::Upgrade(args) => upgrade::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Stats(args) => stats::run(&args, context),
        Command::Du(args) => du::run(&args, context),
        Command::Demo(args) => demo::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
    }
}
