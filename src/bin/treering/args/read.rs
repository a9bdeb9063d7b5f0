//! Commands that take something out of a store.

use std::path::PathBuf;

use clap::Args;

use super::values::size;

/// Write a checkpoint back as files, byte for byte
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering restore mnist@latest -o model.safetensors
  treering restore mnist@best:val_loss -o best/ --component model
  treering restore mnist@release -o part/ --include \"layers.0.*\"

Addresses: RUN@STEP, RUN@latest, RUN@best:METRIC, RUN@TAG, and
RUN@latest:complete, from which training can resume whatever a policy dropped.
One file saved is one file again; more are a folder, as it was. Each tensor is
checked before it is written.")]
pub(crate) struct Restore {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// The file or folder to write
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Only this component, without its prefix, as frameworks load it
    #[arg(long, value_name = "NAME")]
    pub(crate) component: Option<String>,
    /// Only tensors whose names match
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// No tensors whose names match
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Split into files of at most this size, with an index
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_shard_size: Option<u64>,
    /// Replace what is there
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// Print the bytes of one tensor
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering cat mnist@300 model.layers.0.bias | od -An -tf4")]
pub(crate) struct Cat {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
    /// The tensor, or a file that was saved beside the tensors
    #[arg(value_name = "TENSOR")]
    pub(crate) tensor: String,
    /// Its component, where two have a tensor of that name
    #[arg(long, value_name = "NAME")]
    pub(crate) component: Option<String>,
}

/// Print the values that were saved with --state
#[derive(Args, Debug)]
pub(crate) struct State {
    /// The checkpoint
    #[arg(value_name = "RUN@STEP")]
    pub(crate) checkpoint: String,
}

/// Write every kept step as plain safetensors, with metrics.jsonl
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["all", "run"]))]
#[command(after_help = "\
Examples:
  treering export --all plain/
  treering export --run mnist plain/")]
pub(crate) struct Export {
    /// The folder to write; steps that are there already are skipped
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Every run
    #[arg(long)]
    pub(crate) all: bool,
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}
