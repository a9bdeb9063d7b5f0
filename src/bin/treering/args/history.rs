//! Commands that look at, or order, what was saved.

use std::time::Duration;

use clap::Args;

use super::Filter;
use super::values::{Direction, duration};

/// List checkpoints by step and metric
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering log --run mnist --metric val_loss
  treering log --where \"val_loss<2.1 and step>=100\" --sort val_loss --limit 5
  treering log --csv > history.csv

Comparisons: <  <=  >  >=  =  !=  of a metric or step with a number, joined with
\"and\".")]
pub(crate) struct Log {
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// Show this metric, and draw it
    #[arg(long = "metric", short, value_name = "NAME")]
    pub(crate) metrics: Vec<String>,
    /// Only checkpoints of which this is true
    #[arg(long = "where", value_name = "COMPARISON")]
    pub(crate) filter: Option<Filter>,
    /// Order: step, time, size, or the name of a metric
    #[arg(long, value_name = "KEY", default_value = "step")]
    pub(crate) sort: String,
    /// The other way round
    #[arg(long, short)]
    pub(crate) reverse: bool,
    /// At most so many: the last ones of that order
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Superseded and forgotten ones too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

/// List runs
#[derive(Args, Debug)]
pub(crate) struct Runs {}

/// Say once whether small or large values of a metric are better
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering metric val_loss --run mnist --mode min")]
pub(crate) struct Metric {
    /// The metric
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: String,
    /// Which values are better
    #[arg(long, value_name = "min|max", hide_possible_values = true)]
    pub(crate) mode: Direction,
}

/// Show the best steps of a run
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering best --run mnist --metric val_loss -k 3
  treering restore mnist@best:val_loss -o best.safetensors")]
pub(crate) struct Best {
    /// The run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: String,
    /// The metric
    #[arg(long, short, value_name = "NAME")]
    pub(crate) metric: String,
    /// Which values are better [default: as said with treering metric]
    #[arg(long, value_name = "min|max", hide_possible_values = true)]
    pub(crate) mode: Option<Direction>,
    /// How many
    #[arg(short, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) k: u64,
}

/// Show one checkpoint: what it is made of and how it is stored
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering show mnist@latest --tensors")]
pub(crate) struct Show {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// Every tensor, with how it is stored and why
    #[arg(long, short)]
    pub(crate) tensors: bool,
}

/// Say what keeps a checkpoint, and who needs its packs
#[derive(Args, Debug)]
pub(crate) struct Why {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
}

/// Start a new run from a checkpoint of another; costs no space
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering fork mnist-lower-lr mnist@300")]
pub(crate) struct Fork {
    /// The name of the new run
    #[arg(value_name = "NEW_RUN")]
    pub(crate) run: String,
    /// Where it starts
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
}

/// Print each newly saved step of a run, once
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering watch mnist                       new steps, until ctrl-c
  treering watch mnist --from 0 --limit 10   the first ten, waiting where needed")]
pub(crate) struct Watch {
    /// The run
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    /// Start after this position of the log, as printed with each step [default: now]
    #[arg(long, value_name = "POSITION")]
    pub(crate) from: Option<u64>,
    /// Look this often
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) interval: Duration,
    /// Stop after so many steps
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Keep a checkpoint for a while, whatever the policy says
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering lease mnist@300 --for 2h")]
pub(crate) struct Lease {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// How long: 90s, 30m, 2h, 7d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) length: Duration,
}
