//! Commands that put something into a store.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{Input, Json, Score, step};

/// Make an empty store
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering init                              ./treering-store, or --store
  treering init /data/team --shared group    the folder's group may save too")]
pub(crate) struct Init {
    /// Where [default: --store, else ./treering-store]
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Who may read and write the files, whatever the umask says
    #[arg(long, value_name = "group|private", hide_possible_values = true)]
    pub(crate) shared: Option<Shared>,
}

/// Whose the files of a store are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shared {
    /// The owner and the group write.
    Group,
    /// Only the owner reads and writes.
    Private,
}

/// Save a step of a run: tensors, metrics, state
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering save model.safetensors --run mnist --step 100 -m loss=0.31 --init
  treering save model=m.safetensors optimizer=o.safetensors --run mnist --step 9
  treering save checkpoint-300/ --run mnist --step 300 --tag candidate --gc

A folder is saved with every .safetensors in it, and its other files beside
them. A path that holds an = is written with its folder: ./a=b.safetensors")]
pub(crate) struct Save {
    /// A .safetensors file, several, COMPONENT=FILE, or a folder
    #[arg(value_name = "FILE", required = true, value_parser = Input::parser())]
    pub(crate) inputs: Vec<Input>,
    /// The run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: String,
    /// The step: the trainer's own number
    #[arg(long, value_name = "N", value_parser = step, allow_negative_numbers = true)]
    pub(crate) step: u64,
    /// A metric of this step; may be nan or inf
    #[arg(long = "metric", short, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub(crate) metrics: Vec<Score>,
    /// A name for this step within its run
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// A remark in your own words
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Values that are not tensors, such as a data loader's position: JSON, or @FILE
    #[arg(long, value_name = "JSON")]
    pub(crate) state: Option<Json>,
    /// A file to keep beside the tensors
    #[arg(long = "file", value_name = "SIDE-FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The configuration of the run: JSON, or @FILE
    #[arg(long, value_name = "JSON")]
    pub(crate) config: Option<Json>,
    /// The checkpoint that this one continues [default: the run's latest]
    #[arg(long, value_name = "RUN@STEP")]
    pub(crate) parent: Option<String>,
    /// Add an older step, and supersede nothing
    #[arg(long, conflicts_with = "parent")]
    pub(crate) backfill: bool,
    /// If the run has this step with other content: error, skip or replace
    #[arg(long, value_name = "WHAT", default_value = "error", hide_possible_values = true)]
    pub(crate) on_conflict: OnConflict,
    /// How much time a smaller store is worth: chains of up to 4, 8 or 16 differences
    #[arg(long, value_name = "fast|balanced|small", value_enum, default_value_t, hide_possible_values = true)]
    pub(crate) encoding: Encoding,
    /// Make the store if there is none
    #[arg(long)]
    pub(crate) init: bool,
    /// Apply the run's policy afterwards and free space
    #[arg(long)]
    pub(crate) gc: bool,
    /// Map the inputs into memory: faster; only for files that nobody changes meanwhile
    #[arg(long)]
    pub(crate) mmap: bool,
    /// Do not record the arguments, git commit, host and job
    #[arg(long)]
    pub(crate) no_provenance: bool,
    /// Say what would be saved, and write nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

/// How much time a smaller store is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// Fast to restore.
    Fast,
    /// In between.
    #[default]
    Balanced,
    /// Few bytes.
    Small,
}

/// What to do about a step that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// Fail.
    Error,
    /// Keep the old one.
    Skip,
    /// Take the new one.
    Replace,
}

/// Add metrics or a note after the save
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["metrics", "note", "from"]))]
#[command(after_help = "\
Examples:
  treering annotate mnist@300 --metric test_acc=0.981 --note \"after the fix\"
  treering annotate --run mnist --from metrics.jsonl

Each line of the file is an object:
  {\"step\": 300, \"metrics\": {\"test_acc\": 0.981}}")]
pub(crate) struct Annotate {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP", required_unless_present = "from")]
    pub(crate) checkpoint: Option<String>,
    /// A metric of this step; may be nan or inf
    #[arg(long = "metric", short, value_name = "NAME=VALUE", requires = "checkpoint", allow_hyphen_values = true)]
    pub(crate) metrics: Vec<Score>,
    /// A remark in your own words; replaces the one before
    #[arg(long, value_name = "TEXT", requires = "checkpoint")]
    pub(crate) note: Option<String>,
    /// Metrics of many steps, one JSON object a line
    #[arg(long, value_name = "FILE", requires = "run", conflicts_with = "checkpoint")]
    pub(crate) from: Option<PathBuf>,
    /// The run that the lines of --from are about
    #[arg(long, value_name = "RUN", requires = "from")]
    pub(crate) run: Option<String>,
}

/// Give a checkpoint a name of its own
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering tag mnist@300 release     then mnist@release is an address")]
pub(crate) struct Tag {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// Its names
    #[arg(value_name = "TAG", required = true)]
    pub(crate) tags: Vec<String>,
}

/// Take such a name away
#[derive(Args, Debug)]
pub(crate) struct Untag {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// Its names
    #[arg(value_name = "TAG", required = true)]
    pub(crate) tags: Vec<String>,
}

/// Train a small model here and now, and watch a store at work
#[derive(Args, Debug)]
#[command(long_about = "\
Train a small model here and now, and watch a store at work

Takes seconds and needs nothing: trains a multilayer perceptron with Adam on data
that it makes up, saves every few steps, is killed in the middle of a save and
resumes, restores the best step and proves it identical, applies a policy, and
says what plain copies would have cost.")]
pub(crate) struct Demo {
    /// Where its files stay [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "PATH")]
    pub(crate) dir: Option<PathBuf>,
    /// The part that is run in a process of its own, to be killed.
    #[arg(long, hide = true, value_name = "STEPS")]
    pub(crate) train_until: Option<u64>,
    /// The step in the middle of whose save that process waits for its end.
    #[arg(long, hide = true, value_name = "STEP", requires = "train_until")]
    pub(crate) killed_at: Option<u64>,
}
