//! The command that measures.

use std::path::PathBuf;

use clap::Args;

use super::Encoding;

/// Measure what a store makes of checkpoints of your own
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering bench runs/mine/                     its files, or its checkpoint-N/
  treering bench step-*.safetensors --quick     without zstd
  treering bench runs/mine/ --limit 20 --encoding small --store-dir /data

Saves them one after the other in a temporary store, beside a plain copy and
zstd -3, all of it synced; restores the last and the middle one and compares
every byte; and says what is left under some policies. Nothing stays behind.")]
pub(crate) struct Bench {
    /// A folder with a series of .safetensors files or checkpoint folders, or these themselves
    #[arg(value_name = "FOLDER|FILE", required = true)]
    pub(crate) inputs: Vec<PathBuf>,
    /// Where the temporary store is made [default: the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) store_dir: Option<PathBuf>,
    /// How much time a smaller store is worth: chains of up to 4, 8 or 16 differences
    #[arg(long, value_name = "fast|balanced|small", value_enum, default_value_t, hide_possible_values = true)]
    pub(crate) encoding: Encoding,
    /// Only the first N of the series
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Leave zstd out
    #[arg(long)]
    pub(crate) quick: bool,
}
