//! Commands about the store as a whole, and about this program.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Check that what is stored is what was saved
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  treering verify            structure: every object is there and in order
  treering verify --stored   and every stored byte fits its checksum
  treering verify --deep     and every tensor decodes to what was saved")]
pub(crate) struct Verify {
    /// Read every stored byte and compare checksums
    #[arg(long, conflicts_with = "deep")]
    pub(crate) stored: bool,
    /// Decode and hash every byte
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Save what can be saved of a damaged store, and say what is gone
#[derive(Args, Debug)]
#[command(after_help = "\
Nothing is changed or deleted: entries are added to the log. What cannot be
read there has no effect from now on, or is made again from packs; damaged
copies are marked, and good ones elsewhere take their place. Saving the same
content again heals the rest.

Examples:
  treering repair --dry-run   say what is damaged, and what would be done
  treering repair")]
pub(crate) struct Repair {
    /// Only say what would be done
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
}

/// Make the catalog anew from the store's objects
#[derive(Args, Debug)]
pub(crate) struct Rebuild {
    /// Go on although the log is shorter than it was: an older copy of the store was put in its place on purpose
    #[arg(long)]
    pub(crate) accept_shorter_log: bool,
}

/// Raise a store that an older version made to the newest format
#[derive(Args, Debug)]
#[command(after_help = "\
Stores of older formats are read and written as they are. An upgrade adds an
entry to the log, by which versions that do not know the newest format hear that
they must not write any more. It cannot be taken back.")]
pub(crate) struct Upgrade {}

/// Say what about this machine, file system and store limits a promise
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

/// Count checkpoints, bytes and files of the store
#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// How the bytes are encoded, by type and component; reads every manifest
    #[arg(long)]
    pub(crate) encodings: bool,
}

/// Show where the bytes are
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering du --by component --run mnist")]
pub(crate) struct Du {
    /// A line for each
    #[arg(long, value_name = "run|component|checkpoint", default_value = "run", hide_possible_values = true)]
    pub(crate) by: DuBy,
    /// Only this run
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<String>,
}

/// What `du` has a line for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DuBy {
    Run,
    Component,
    Checkpoint,
}

/// Print a script that completes commands for a shell
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  treering completions bash > ~/.bash_completion")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Write man pages
#[derive(Args, Debug)]
#[command(hide = true)]
pub(crate) struct Man {
    /// The folder to write
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}
