//! What may be typed: every command with its flags, and what their values mean by themselves.
//!
//! Deliberately ignorant of stores: an address such as `RUN@STEP` stays text here, and whether flags make sense for a
//! run is for the command to say.

mod bench;
mod check;
mod filter;
mod help;
mod history;
mod keep;
mod read;
mod values;
mod write;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use bench::Bench;
pub(crate) use check::{Completions, Doctor, Du, DuBy, Man, Rebuild, Repair, Stats, Upgrade, Verify};
pub(crate) use filter::Filter;
pub(crate) use help::{GROUPS, command};
pub(crate) use history::{Best, Fork, Lease, Log, Metric, Runs, Show, Watch, Why};
pub(crate) use keep::{Forget, Gc, Policy, Undo};
pub(crate) use read::{Cat, Export, Restore, State};
pub(crate) use values::{Direction, Json};
pub(crate) use write::{Annotate, Demo, Encoding, Init, OnConflict, Save, Shared, Tag, Untag};

/// A store for training checkpoints: save a step, pay for what changed
#[derive(Debug, Parser)]
#[command(name = "treering", version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The store [default: ./treering-store if it is there]
    #[arg(long, global = true, env = "TREERING_STORE", value_name = "PATH")]
    pub(crate) store: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress, and nothing that was not asked for
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Colours: auto, always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    pub(crate) color: When,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

/// Every command. The order here means nothing: the groups of `--help` are in [`help`].
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(Init),
    Save(Box<Save>),
    Log(Log),
    Runs(Runs),
    Metric(Metric),
    Best(Best),
    Show(Show),
    Why(Why),
    Restore(Restore),
    Cat(Cat),
    State(State),
    Export(Export),
    Annotate(Annotate),
    Tag(Tag),
    Untag(Untag),
    Forget(Forget),
    Undo(Undo),
    Fork(Fork),
    Watch(Watch),
    Lease(Lease),
    Policy(Policy),
    Gc(Gc),
    Verify(Verify),
    Repair(Repair),
    Bench(Bench),
    Rebuild(Rebuild),
    Upgrade(Upgrade),
    Doctor(Doctor),
    Stats(Stats),
    Du(Du),
    Demo(Demo),
    Completions(Completions),
    Man(Man),
}

#[cfg(test)]
mod tests;
