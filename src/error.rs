//! Everything that can go wrong, said so that a person knows what to do next.
//!
//! A variant names the thing and the act; its cause is `source`, and the outermost caller prints the chain. Programs
//! look at [`Error::kind`], shells at [`Error::exit_code`], people read the message and [`Error::hint`].

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{ChunkId, PackId};

/// What an operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The input or the request makes no sense: change it.
    Invalid,
    /// Nothing of that name is here.
    NotFound,
    /// Something of that name is already here.
    Exists,
    /// Somebody else was faster, or the outcome is not known yet: look again, then try again.
    Conflict,
    /// Stored bytes are not what was written.
    Damaged,
    /// The disk, or its quota, is full.
    NoSpace,
    /// This version, file system or machine cannot do that.
    Unsupported,
    /// The place under the store failed; trying again may help.
    Unavailable,
    /// A mistake of ours.
    Bug,
}

impl ErrorKind {
    /// The exit code of the command line for errors of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Invalid => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Damaged => 4,
            ErrorKind::Exists => 5,
            ErrorKind::NoSpace => 6,
            ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Unavailable | ErrorKind::Bug => 1,
        }
    }
}

/// Anything that can go wrong in a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the file system failed.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create", "sync".
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no store at this path.
    #[error("no store at {}", path.display())]
    StoreMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a store at this path already.
    #[error("{} is a store already", path.display())]
    StoreExists {
        /// Where.
        path: PathBuf,
    },
    /// The store was made by a newer version.
    #[error("the store at {} has format {found}; this version reads up to {known}", path.display())]
    StoreNewer {
        /// Where.
        path: PathBuf,
        /// The format of the store.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// The store was made, or upgraded, by a version that knows more.
    #[error("whoever {act} the store must know {feature:?}, which this version does not")]
    FeatureUnknown {
        /// What must be known.
        feature: String,
        /// For what: "reads" or "writes to".
        act: &'static str,
    },
    /// Somebody put an entry into the log that this version does not know.
    #[error("log entry {slot} is of a kind that this version does not know ({kind})")]
    EntryUnknown {
        /// Its place in the log.
        slot: u64,
        /// The number of its kind.
        kind: u16,
    },
    /// The log is shorter than what was seen of it before.
    #[error("the log ends before entry {slot}, which was seen before")]
    Diverged {
        /// The newest entry that was seen.
        slot: u64,
    },
    /// The store, or its folder, cannot be written.
    #[error("the store at {} is read-only", path.display())]
    ReadOnly {
        /// Where.
        path: PathBuf,
    },
    /// The store has no such run.
    #[error("no run {run}")]
    RunUnknown {
        /// The name that was asked for.
        run: String,
        /// Names of runs that are there.
        near: Vec<String>,
    },
    /// The run has no such checkpoint.
    #[error("no checkpoint {run}@{what}")]
    CheckpointUnknown {
        /// The run.
        run: String,
        /// The step, tag or word after the `@`.
        what: String,
        /// What to ask for instead.
        near: String,
    },
    /// The checkpoint has no such tensor, component or side file.
    #[error("no {what} {name} in {checkpoint}")]
    PartUnknown {
        /// "tensor", "component", "state".
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it was looked for, as an address.
        checkpoint: String,
    },
    /// The checkpoint was forgotten, and may be collected.
    #[error("{checkpoint} was forgotten")]
    Forgotten {
        /// Its address.
        checkpoint: String,
    },
    /// Somebody holds a lease on the checkpoint.
    #[error("{checkpoint} is leased until {until}{}", if purpose.is_empty() { String::new() } else { format!(" for {purpose}") })]
    Leased {
        /// The checkpoint's address.
        checkpoint: String,
        /// When the lease ends, by the clock of whoever took it.
        until: String,
        /// For whom or what; may be empty.
        purpose: String,
    },
    /// The part was dropped by a thinning rule.
    #[error("{what} of {checkpoint} was dropped by a policy")]
    Thinned {
        /// The component.
        what: String,
        /// The checkpoint's address.
        checkpoint: String,
    },
    /// The run has this step already, with other content.
    #[error("{run}@{step} exists and is different")]
    StepExists {
        /// The run.
        run: String,
        /// Its step.
        step: u64,
    },
    /// A name is taken.
    #[error("{what} {name} exists already")]
    NameTaken {
        /// "run", "tag".
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Nobody has said yet whether a metric is to be small or large.
    #[error("whether a small or a large {metric} is better is not known for run {run}")]
    DirectionUnset {
        /// The run.
        run: String,
        /// The metric.
        metric: String,
    },
    /// Something given by the caller cannot be used.
    #[error("{what}: {why}")]
    Invalid {
        /// The thing: an argument, a name, a file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// An input file changed while it was read.
    #[error("{} changed while it was read; nothing was saved", path.display())]
    InputChanged {
        /// The file.
        path: PathBuf,
    },
    /// The output is there already.
    #[error("{} exists", path.display())]
    OutputExists {
        /// The file or folder.
        path: PathBuf,
    },
    /// The bytes of a chunk do not hash to its id. This chunk is lost here; all others are untouched.
    #[error("chunk {chunk} is damaged in pack {pack}: {why}")]
    ChunkDamaged {
        /// Whose bytes they should be.
        chunk: ChunkId,
        /// Where they lie.
        pack: PackId,
        /// What showed it.
        why: String,
    },
    /// No pack that the checkpoint needs has the chunk.
    #[error("chunk {chunk} is missing")]
    ChunkMissing {
        /// Which.
        chunk: ChunkId,
    },
    /// An object of the store is not what was written.
    #[error("{object} is damaged: {why}")]
    ObjectDamaged {
        /// Its key in the store.
        object: String,
        /// What showed it.
        why: String,
    },
    /// An object of the store is not there.
    #[error("{object} is missing from the store")]
    ObjectMissing {
        /// Its key in the store.
        object: String,
    },
    /// So much lies in the store that the log does not know of that the log itself must have lost something.
    #[error("{packs} packs of this store are named by no entry of its log; nothing was deleted")]
    Unexplained {
        /// How many.
        packs: u64,
    },
    /// What the save relied on was collected meanwhile. Nothing was written to the log.
    #[error("{what} was collected while it was being used")]
    Stale {
        /// The object.
        what: String,
    },
    /// A process of a joint save did not store its part in time.
    #[error("rank {rank} of {ranks} has not stored its part after {seconds} s")]
    PartMissing {
        /// The process.
        rank: u32,
        /// How many there are.
        ranks: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An object of that name is already there.
    #[error("{object} exists already")]
    ObjectExists {
        /// Its key in the store.
        object: String,
    },
    /// It is not known whether an entry was written.
    #[error("whether log entry {slot} was written is not known")]
    Unknown {
        /// Its place in the log.
        slot: u64,
        /// Why not.
        source: Box<Error>,
    },
    /// A bound of this version was passed.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What is too large or too many.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// This version, machine or file system cannot do that.
    #[error("{what}")]
    Unsupported {
        /// What cannot be done, and why.
        what: String,
    },
    /// The catalog failed. It can always be rebuilt.
    #[error("the catalog failed")]
    Catalog {
        /// Why.
        source: rusqlite::Error,
    },
    /// Someone stopped it.
    #[error("interrupted")]
    Interrupted,
    /// A mistake of ours.
    #[error("internal error: {0}")]
    Bug(String),
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { source, .. } => match source.kind() {
                _ if out_of_space(source) => ErrorKind::NoSpace,
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Unavailable,
            },
            Error::StoreMissing { .. }
            | Error::RunUnknown { .. }
            | Error::CheckpointUnknown { .. }
            | Error::PartUnknown { .. }
            | Error::Forgotten { .. }
            | Error::Thinned { .. } => ErrorKind::NotFound,
            Error::StoreExists { .. }
            | Error::StepExists { .. }
            | Error::NameTaken { .. }
            | Error::OutputExists { .. }
            | Error::ObjectExists { .. } => ErrorKind::Exists,
            Error::DirectionUnset { .. } | Error::Invalid { .. } | Error::Limit { .. } => ErrorKind::Invalid,
            Error::Leased { .. } | Error::InputChanged { .. } | Error::Stale { .. } | Error::Unknown { .. } => {
                ErrorKind::Conflict
            }
            Error::ChunkDamaged { .. }
            | Error::ChunkMissing { .. }
            | Error::ObjectDamaged { .. }
            | Error::ObjectMissing { .. }
            | Error::Unexplained { .. }
            | Error::Diverged { .. } => ErrorKind::Damaged,
            Error::StoreNewer { .. }
            | Error::FeatureUnknown { .. }
            | Error::EntryUnknown { .. }
            | Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::PartMissing { .. } | Error::ReadOnly { .. } | Error::Catalog { .. } | Error::Interrupted => {
                ErrorKind::Unavailable
            }
            Error::Bug(_) => ErrorKind::Bug,
        }
    }

    /// The exit code of the command line.
    pub fn exit_code(&self) -> u8 {
        self.kind().exit_code()
    }

    /// What to do next, where there is more to say than the message does.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::StoreMissing { path } => format!("make one with: treering init {}", path.display()),
            Error::StoreNewer { .. } | Error::FeatureUnknown { .. } | Error::EntryUnknown { .. } => {
                "update treering".into()
            }
            Error::Diverged { .. } => {
                "an older copy of the store was put in its place; if that was meant: treering rebuild --accept-shorter-log"
                    .into()
            }
            Error::Unexplained { .. } => {
                "the log may have lost its end: put it back from a copy; if these packs may go: treering gc --unexplained"
                    .into()
            }
            Error::RunUnknown { near, .. } if near.is_empty() => "the store has no runs yet".into(),
            Error::RunUnknown { near, .. } => format!("runs here: {}", near.join(", ")),
            Error::CheckpointUnknown { near, .. } if !near.is_empty() => near.clone(),
            Error::StepExists { .. } => {
                "--on-conflict replace takes the new one, --on-conflict skip keeps the old one".into()
            }
            Error::DirectionUnset { run, metric } => format!("say it once: treering metric {metric} --run {run} --mode min"),
            Error::Forgotten { checkpoint } => format!("if it is not collected yet: treering undo {checkpoint}"),
            Error::OutputExists { .. } => "--force replaces it".into(),
            Error::Leased { .. } => "wait for its end, or take it away all the same: treering forget --force".into(),
            Error::InputChanged { .. } => "save again once its writer has finished".into(),
            Error::Stale { .. } => "save again".into(),
            Error::PartMissing { .. } => "nothing was committed; save again once every process runs".into(),
            Error::ChunkDamaged { .. } | Error::ChunkMissing { .. } | Error::ObjectMissing { .. } | Error::ObjectDamaged { .. } => {
                "treering verify --deep names every checkpoint and tensor that it touches; treering repair saves what can be saved".into()
            }
            Error::Catalog { .. } => "treering rebuild makes it anew".into(),
            Error::Bug(_) => "please report this".into(),
            _ if self.kind() == ErrorKind::NoSpace => {
                "nothing saved before is touched; treering forget and treering gc free space, also on a full disk".into()
            }
            _ => return None,
        })
    }

    /// An unusable thing and what is wrong with it.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Invalid { what: what.into(), why: why.into() }
    }

    /// An object that is not what was written.
    pub fn damaged(object: impl Into<String>, why: impl Into<String>) -> Error {
        Error::ObjectDamaged { object: object.into(), why: why.into() }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Error {
        Error::Catalog { source }
    }
}

fn out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Gives an I/O result the act and the path that it was about.
pub(crate) trait Context<T> {
    fn context(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { op, path: path.to_path_buf(), source })
    }
}
