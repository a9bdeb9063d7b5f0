//! Commands that decide what stays, and free the rest.

use std::time::Duration;

use clap::Args;

use super::values::{KeepBest, Thin, duration};

/// Show or change which steps of a run are kept
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering policy mnist                               show it
  treering policy mnist --keep-last 3 --keep-best val_loss:2
  treering policy mnist --thin optimizer:2            drop older optimizers
  treering policy mnist --remove keep-last

A step stays if any rule keeps it. The newest and the best so far always stay.
Nothing is freed before treering gc.")]
pub(crate) struct Policy {
    /// The run
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u64>,
    /// Keep the N best of a metric
    #[arg(long, value_name = "METRIC:N")]
    pub(crate) keep_best: Vec<KeepBest>,
    /// Keep steps that N divides
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keep_every: Option<u64>,
    /// Keep one step of every such time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) keep_every_duration: Option<Duration>,
    /// Keep what is younger than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) keep_within: Option<Duration>,
    /// Keep this step
    #[arg(long, value_name = "N")]
    pub(crate) keep_step: Vec<u64>,
    /// Keep every step that has a tag
    #[arg(long)]
    pub(crate) keep_tagged: bool,
    /// Keep a component of the newest N steps only, and with +best of the best ones
    #[arg(long, value_name = "COMPONENT:N[+best]")]
    pub(crate) thin: Vec<Thin>,
    /// Take a rule away, named as treering policy shows it
    #[arg(long, value_name = "RULE")]
    pub(crate) remove: Vec<String>,
    /// Take all rules away first
    #[arg(long)]
    pub(crate) clear: bool,
}

/// Apply policies and free space
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering gc --dry-run          what keeps each step, and what would go
  treering gc --run mnist")]
pub(crate) struct Gc {
    /// Apply the policy of this run only
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Say what would happen, and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Stop after this time; the next gc goes on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) max_time: Option<Duration>,
    /// Let what is condemned lie for so long, for who still reads it [default: 15m on a network file system, else 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) grace: Option<Duration>,
    /// Delete packs that no log entry explains, even if they are many
    #[arg(long)]
    pub(crate) unexplained: bool,
}

/// Let checkpoints go; the next gc frees their space
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["checkpoints", "run", "older_than"]))]
#[command(after_help = "\
Examples:
  treering forget mnist@100 mnist@200
  treering forget --run mnist                     all of it
  treering forget --run mnist --older-than 30d

Until they are collected, treering undo brings them back. If one of them is
leased, nothing is forgotten.")]
pub(crate) struct Forget {
    /// The checkpoints
    #[arg(value_name = "RUN@STEP", conflicts_with_all = ["run", "older_than"])]
    pub(crate) checkpoints: Vec<String>,
    /// All of this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// All that are older than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// Leased ones too
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// Bring forgotten or superseded checkpoints back
#[derive(Args, Debug)]
pub(crate) struct Undo {
    /// The checkpoints
    #[arg(value_name = "RUN@STEP", required = true)]
    pub(crate) checkpoints: Vec<String>,
}
