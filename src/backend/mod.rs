//! Where objects lie: whole, immutable, each under a key that is never used twice.
//!
//! # What every backend promises
//! * An object becomes visible whole or not at all, and never changes afterwards.
//! * [`Staging::publish`] and [`Backend::put_entry`] never replace an object. If their answer is lost, the object may
//!   be there all the same: the caller looks, and compares.
//! * What [`Staging::publish`] or [`Backend::put_entry`] has answered for survives a crash of the machine.
//! * A key that was deleted is not used again by anyone, so a late deletion does no harm.

mod local;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::env::Time;
use crate::error::Result;
use crate::format::keys::Key;
use crate::id::{PackId, SaveId};

pub use local::LocalBackend;

/// A flat place for immutable objects: the least that a store needs.
pub trait Backend: fmt::Debug + Send + Sync {
    /// A place for the packs of a new save, owned by the returned value.
    fn begin(&self, save: SaveId) -> Result<Box<dyn Staging>>;
    /// A place for more of a save that another process has begun; `Stale` if it has ended.
    fn join(&self, save: SaveId) -> Result<Box<dyn Staging>>;
    /// Puts the receipt of one process of a save where the others see it; `ObjectExists` if there is one.
    fn put_receipt(&self, save: SaveId, rank: u32, bytes: &[u8]) -> Result<()>;
    /// Removes all receipts of a save.
    fn remove_receipts(&self, save: SaveId) -> Result<()>;
    /// Makes a log entry durable under its key; `ObjectExists` if there is one already, `Unknown` if that cannot be
    /// told.
    fn put_entry(&self, slot: u64, bytes: &[u8]) -> Result<()>;
    /// Makes every entry that can be seen durable. Whoever builds on an entry that another has put, or says to someone
    /// that it is there, asks for this first: its writer may not have come that far.
    fn sync_log(&self) -> Result<()>;
    /// The whole of a small object.
    fn read(&self, key: &Key, bytes_max: usize) -> Result<Vec<u8>>;
    /// An object to read parts of.
    fn open(&self, key: &Key) -> Result<Arc<dyn Object>>;
    /// The slots of the log that have an entry, sorted.
    fn slots(&self) -> Result<Vec<u64>>;
    /// Bytes of the log's entries.
    fn log_bytes(&self) -> Result<u64>;
    /// All packs that lie here.
    fn packs(&self) -> Result<Vec<LyingPack>>;
    /// Removes a pack; an absent one is a success. Only collection calls this.
    fn delete_pack(&self, pack: PackId) -> Result<()>;
    /// Makes deletions durable, and gives their space back.
    fn sync_deletions(&self, packs: &[PackId]) -> Result<()>;
    /// The packs of one save that lie here, with their lengths.
    fn packs_of(&self, save: SaveId) -> Result<Vec<(PackId, u64)>>;
    /// Calls `bury` for each save that began and did not end, and that no living process owns, as far as can be told; then
    /// its staged files and receipts are removed. Other temporary files that belong to nobody go too.
    fn reap(&self, now: Time, bury: &mut dyn FnMut(SaveId) -> Result<()>) -> Result<()>;
    /// True if the save began and did not end.
    fn is_staged(&self, save: SaveId) -> Result<bool>;
    /// Temporary files, and their bytes. What is put aside for a full disk does not count.
    fn temporary(&self) -> Result<(u64, u64)>;
    /// Gives up the space that is put aside for freeing space on a full disk; false if there is none.
    fn release_reserve(&self) -> bool;
    /// Puts that space aside, as far as there is any.
    fn make_reserve(&self);
    /// For how long a name that another machine has made may not be seen here.
    fn lag(&self) -> Duration;
    /// For how long readers elsewhere may go on with what was condemned, before it is deleted.
    fn grace(&self) -> Duration;
    /// Bytes left on the device, if that means anything here.
    fn space_left(&self) -> Option<u64>;
}

/// A pack as it lies in a place, whatever the log says of it.
#[derive(Clone, Copy, Debug)]
pub struct LyingPack {
    /// Its name.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// Since when it lies there, by the clock of the place.
    pub since: Time,
}

/// An open object.
pub trait Object: fmt::Debug + Send + Sync {
    /// Its length.
    fn bytes(&self) -> u64;
    /// Fills `out` from `offset` on.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()>;
}

/// The packs of one save, before anyone else can see them.
pub trait Staging: fmt::Debug + Send + Sync {
    /// Begins a pack.
    fn create(&self, pack: PackId) -> Result<Box<dyn Sink>>;
    /// Makes the finished packs visible and durable.
    fn publish(&self, packs: &[PackId]) -> Result<()>;
    /// Removes what was staged. Without it, a place whose packs were published stays, as that of a save that died: the
    /// next collection looks whether it committed.
    fn clear(self: Box<Self>);
}

/// A pack that is being written.
pub trait Sink: fmt::Debug + Send {
    /// Adds to its end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Nothing more comes for now: what was written goes to the device in the background.
    fn flush(&mut self) -> Result<()>;
    /// Adds its end and makes the content durable; the name comes with [`Staging::publish`].
    fn finish(self: Box<Self>, end: &[u8]) -> Result<()>;
}
