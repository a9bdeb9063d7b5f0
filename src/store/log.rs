//! The log: following it, and adding to it.
//!
//! Slots are taken by creating their object, which at most one writer can; so whoever wrote slot n has folded all
//! before it, and what it checked against that fold still holds. The answer of a create is never believed blindly: the
//! entry's nonce tells a writer whether the slot is its own.

use super::Store;
use crate::catalog::{Catalog, Position, is_broken};
use crate::error::{Error, Result};
use crate::format::entry::{self, Body, Decoded, Entry};
use crate::format::keys::Key;
use crate::id::{Hash, SaveId};
use crate::monitor::Unit;

/// Slots that others may take before a writer gives up.
const RACES_MAX: u32 = 10_000;
/// Entries folded in one transaction.
const BATCH: usize = 1024;

impl Store {
    /// Folds what was added to the log since the last time.
    pub fn refresh(&self) -> Result<()> {
        let mut catalog = self.catalog();
        self.catch_up(&mut catalog)
    }

    /// Makes the catalog anew from the log.
    pub fn rebuild(&self) -> Result<()> {
        let mut catalog = self.catalog();
        self.start_over(&mut catalog)?;
        self.fold_from(&mut catalog)?;
        drop(catalog);
        self.index_packs()
    }

    /// Adds an entry. `plan` sees the catalog at the head of the log and says what to write, or `None` for nothing; it
    /// is asked again whenever somebody else was faster. Returns the slot.
    pub(crate) fn append(
        &self,
        save: SaveId,
        begin: u64,
        mut plan: impl FnMut(&Catalog) -> Result<Option<Body>>,
    ) -> Result<Option<u64>> {
        let nonce = self.env().random();
        for _ in 0..RACES_MAX {
            let mut catalog = self.catalog();
            self.catch_up(&mut catalog)?;
            self.check_writable(&catalog)?;
            let Position { next: slot, head: previous } = catalog.position()?;
            let Some(body) = plan(&catalog)? else { return Ok(None) };
            let entry = Entry { slot, previous, nonce, save, time: self.env().now(), begin, body };
            let (bytes, hash) = entry.encode(self.id())?;
            if self.put(&entry, &bytes)? {
                self.fold_own(&mut catalog, &entry, hash);
                return Ok(Some(slot));
            }
        }
        Err(Error::Stale { what: format!("each of {RACES_MAX} slots of the log") })
    }

    /// Creates the entry's object: true if it is ours, false if the slot is somebody else's.
    fn put(&self, entry: &Entry, bytes: &[u8]) -> Result<bool> {
        let written = match self.backend().put_entry(entry.slot, bytes) {
            // On a full disk, entries that free space may use what was put aside for them.
            Err(e)
                if e.kind() == crate::ErrorKind::NoSpace
                    && frees_space(&entry.body)
                    && self.backend().release_reserve() =>
            {
                self.backend().put_entry(entry.slot, bytes)
            }
            written => written,
        };
        match written {
            Ok(()) => Ok(true),
            // Some file systems say this of one's own success.
            Err(Error::ObjectExists { .. }) => Ok(self.read_entry_bytes(entry.slot)?.as_deref() == Some(bytes)),
            Err(unknown @ Error::Unknown { .. }) => Err(unknown),
            Err(error) => match self.read_entry_bytes(entry.slot) {
                Ok(None) => Err(error),
                Ok(Some(found)) if found != bytes => Err(error),
                // The name is there, but its writer was told of a failure: it may not be durable.
                _ => Err(Error::Unknown { slot: entry.slot, source: Box::new(error) }),
            },
        }
    }

    /// The log has the entry already: a catalog that cannot take it only has to catch up later.
    fn fold_own(&self, catalog: &mut Catalog, entry: &Entry, hash: Hash) {
        if catalog.apply(entry, hash).is_err()
            && let Ok(memory) = Catalog::in_memory(self.id(), self.inner.origin)
        {
            *catalog = memory;
            let _ = self.catch_up(catalog);
        }
    }

    fn check_writable(&self, catalog: &Catalog) -> Result<()> {
        match catalog.damaged()?.into_iter().next() {
            Some((slot, why)) => {
                Err(Error::damaged(Key::entry(slot).as_str(), format!("{why}; the store can be read, but not written")))
            }
            None => Ok(()),
        }
    }

    /// Folds up to the head. A catalog that turns out to be broken, or cannot be written, is replaced.
    fn catch_up(&self, catalog: &mut Catalog) -> Result<()> {
        match self.check_position(catalog).and_then(|()| self.fold_from(catalog)) {
            Err(e) if is_broken(&e) => self.start_over(catalog)?,
            Err(Error::Catalog { .. }) => *catalog = Catalog::in_memory(self.id(), self.inner.origin)?,
            done => return done,
        }
        self.fold_from(catalog)
    }

    fn start_over(&self, catalog: &mut Catalog) -> Result<()> {
        let fresh = match catalog.path().map(std::path::Path::to_path_buf) {
            Some(path) => {
                *catalog = Catalog::in_memory(self.id(), self.inner.origin)?;
                Catalog::remove(&path);
                Catalog::open(&path, self.id(), self.inner.origin)
                    .or_else(|_| Catalog::in_memory(self.id(), self.inner.origin))
            }
            None => Catalog::in_memory(self.id(), self.inner.origin),
        };
        *catalog = fresh?;
        Ok(())
    }

    /// The catalog's newest entry must still be there, and be the same.
    fn check_position(&self, catalog: &mut Catalog) -> Result<()> {
        let position = catalog.position()?;
        let Some(last) = position.next.checked_sub(1) else { return Ok(()) };
        match self.read_entry_bytes(last)? {
            None => Err(Error::Diverged { slot: last }),
            Some(bytes) => match Entry::decode(&bytes, self.id(), last) {
                Ok(Decoded::Entry(_, hash) | Decoded::Unknown { hash, .. }) if hash == position.head => Ok(()),
                // A catalog of another history: the log is right.
                Ok(_) => self.start_over(catalog),
                // Damaged since it was folded: the catalog still knows what it said.
                Err(_) => Ok(()),
            },
        }
    }

    fn fold_from(&self, catalog: &mut Catalog) -> Result<()> {
        let mut position = catalog.position()?;
        let mut batch: Vec<(Entry, Hash)> = Vec::new();
        let mut told = false;
        loop {
            let slot = position.next;
            let found = self.read_entry_bytes(slot)?.map(|bytes| Entry::decode(&bytes, self.id(), slot));
            let flush = batch.len() >= BATCH || !matches!(found, Some(Ok(Decoded::Entry(..))));
            if flush && !batch.is_empty() {
                if !told && batch.len() >= BATCH {
                    told = true;
                    self.monitor().begin("reading the log", None, Unit::Things);
                }
                catalog.apply_all(batch.iter().map(|(entry, hash)| (entry, *hash)))?;
                if told {
                    self.monitor().advance(batch.len() as u64);
                }
                batch.clear();
            }
            match found {
                None => break,
                Some(Ok(Decoded::Entry(entry, hash))) => {
                    if entry.previous != position.head {
                        return Err(Error::damaged(
                            Key::entry(slot).as_str(),
                            "it does not follow the entry before it",
                        ));
                    }
                    batch.push((*entry, hash));
                    position = Position { next: slot + 1, head: hash };
                }
                Some(Ok(Decoded::Unknown { kind, hash })) => {
                    catalog.pass_damaged(slot, hash, &Error::EntryUnknown { slot, kind }.to_string())?;
                    position = Position { next: slot + 1, head: hash };
                }
                Some(Err(error)) => {
                    // Its successor knows its hash, and so vouches that there was such an entry.
                    let Some(hash) = self.hash_by_successor(slot)? else { return Err(error) };
                    catalog.pass_damaged(slot, hash, &error.to_string())?;
                    position = Position { next: slot + 1, head: hash };
                }
            }
        }
        if told {
            self.monitor().end();
        }
        Ok(())
    }

    fn hash_by_successor(&self, slot: u64) -> Result<Option<Hash>> {
        let Some(bytes) = self.read_entry_bytes(slot + 1)? else { return Ok(None) };
        Ok(match Entry::decode(&bytes, self.id(), slot + 1) {
            Ok(Decoded::Entry(next, _)) => Some(next.previous),
            _ => None,
        })
    }

    /// The bytes in a slot; `None` if it was not taken yet.
    pub(crate) fn read_entry_bytes(&self, slot: u64) -> Result<Option<Vec<u8>>> {
        match self.backend().read(&Key::entry(slot), entry::BYTES_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::ObjectMissing { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn frees_space(body: &Body) -> bool {
    matches!(
        body,
        Body::Forget(_) | Body::Condemn(_) | Body::Swept(_) | Body::Abort(_) | Body::Unpin(_) | Body::Settings(_)
    )
}
