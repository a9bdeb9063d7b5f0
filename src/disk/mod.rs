//! Files, and nothing that a store means by them: the one floor that touches a file system.
//!
//! Every side effect is one operation here, so that a test can put a disk of its own below a store: one that counts,
//! fails, or forgets what was not synced. Nothing above opens a file of the store in another way.
//!
//! # What a disk promises
//! * After [`DiskFile::sync`] the bytes written so far survive a crash; after [`Disk::sync_folder`] the names in it do.
//! * [`Disk::link`] gives a file a second name, and fails if that name is taken: nothing is ever overwritten by it.
//! * Links are not followed in the last component of a path.

mod kind;
mod real;
mod simulated;

use std::fmt;
use std::io;
use std::path::Path;

use crate::env::Time;

pub use kind::FileSystem;
pub(crate) use real::Ahead;
pub use real::RealDisk;
pub use simulated::SimulatedDisk;

/// A file system, as far as a store needs one.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes a new file for writing; fails if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that [`Disk::create`] made, to append to it.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name; fails with `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Name>>;
    /// Makes a file, if there is none, and holds a lock on it that ends with the process; `None` if another holds it, or has
    /// held and removed it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// What kind of file system it is there.
    fn kind(&self, path: &Path) -> FileSystem;
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The last component of the path.
    pub name: String,
    /// It is a folder.
    pub folder: bool,
    /// The file's length.
    pub bytes: u64,
    /// When its content last changed, by the file system's clock; 0 if that is not known.
    pub modified: Time,
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` behind what is there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Fills `out` from `offset` on; a file that ends before is an `UnexpectedEof`.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// The file's length.
    fn bytes(&self) -> io::Result<u64>;
}

/// A lock; dropping it ends it.
pub trait Lock: fmt::Debug + Send + Sync {}
