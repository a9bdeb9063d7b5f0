//! The log: following it, and adding to it.
//!
//! Slots are taken by creating their object, which at most one writer can; so whoever wrote slot n has folded all
//! before it, and what it checked against that fold still holds. The answer of a create is never believed blindly: the
//! entry's nonce tells a writer whether the slot is its own.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Store;
use crate::catalog::{Catalog, Position, is_broken};
use crate::error::{Error, Result};
use crate::format::entry::{self, Body, Decoded, Entry, Remade, Void};
use crate::format::keys::Key;
use crate::id::{Hash, SaveId};
use crate::monitor::Unit;

/// Slots that others may take before a writer gives up.
const RACES_MAX: u32 = 10_000;
/// The first pause before another look at a slot that must be taken, and the longest one.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(5)];
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
        let mut made_anew = false;
        for _ in 0..RACES_MAX {
            let mut catalog = self.catalog();
            self.catch_up(&mut catalog)?;
            self.check_writable(&catalog)?;
            self.make_sure()?;
            let Position { next: slot, head: previous } = catalog.position()?;
            let body = match plan(&catalog) {
                // A row of the catalog lies: nothing was decided by it.
                Err(e) if is_broken(&e) && !made_anew => {
                    made_anew = true;
                    self.start_over(&mut catalog)?;
                    continue;
                }
                planned => planned?,
            };
            let Some(body) = body else { return Ok(None) };
            let entry = Entry { slot, previous, nonce, save, time: self.env().now(), begin, body };
            let (bytes, hash) = entry.encode(self.id())?;
            if self.put(&entry, &bytes)? {
                self.fold_own(&mut catalog, &entry, hash);
                return Ok(Some(slot));
            }
        }
        Err(Error::Stale { what: format!("each of {RACES_MAX} slots of the log") })
    }

    /// Adds a void entry: the one kind that is written to a log with damage in it. `cold` has folded just that log.
    pub(crate) fn append_void(&self, cold: &Store, body: Void) -> Result<()> {
        cold.check_writer(&cold.catalog())?;
        let Position { next: slot, head } = cold.catalog().position()?;
        // What cannot be read has no hash that is known: that of the bytes which lie there serves.
        let previous = match slot.checked_sub(1) {
            Some(last) if head == UNKNOWN => Hash::of(&self.read_entry_bytes(last).ok().flatten().unwrap_or_default()),
            _ => head,
        };
        let (nonce, time) = (self.env().random(), self.env().now());
        let entry = Entry { slot, previous, nonce, save: SaveId::default(), time, begin: slot, body: Body::Void(body) };
        let (bytes, _) = entry.encode(self.id())?;
        match self.put(&entry, &bytes)? {
            true => self.refresh(),
            false => Err(Error::Stale { what: format!("slot {slot} of the log") }),
        }
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
            Err(Error::ObjectExists { .. }) => {
                let found = self.look_again(entry.slot, || self.read_entry_bytes(entry.slot))?;
                let ours = found.as_deref() == Some(bytes);
                if ours {
                    let unknown = |e| Error::Unknown { slot: entry.slot, source: Box::new(e) };
                    self.backend().sync_log().map_err(unknown)?;
                }
                Ok(ours)
            }
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

    /// What was folded is durable: nothing is built on an entry, and nobody is told of one, that a crash might take.
    pub(crate) fn make_sure(&self) -> Result<()> {
        if self.inner.unsure.swap(false, Ordering::Relaxed)
            && let Err(error) = self.backend().sync_log()
        {
            self.inner.unsure.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn check_writable(&self, catalog: &Catalog) -> Result<()> {
        self.check_writer(catalog)?;
        match catalog.damaged()?.into_iter().next() {
            Some((slot, why)) => {
                self.check_known(slot)?;
                Err(Error::damaged(
                    Key::entry(slot).as_str(),
                    format!("{why}; the store can be read, but not written before: treering repair"),
                ))
            }
            None => Ok(()),
        }
    }

    /// Fails if an entry that was passed is of a kind that only later versions know.
    pub(crate) fn check_known(&self, slot: u64) -> Result<()> {
        match self.read_entry(slot)? {
            Some(Ok(Decoded::Unknown { kind, .. })) => Err(Error::EntryUnknown { slot, kind }),
            _ => Ok(()),
        }
    }

    /// Folds up to the head. A catalog that turns out to be broken, or cannot be written, is replaced.
    fn catch_up(&self, catalog: &mut Catalog) -> Result<()> {
        // Another version may have folded what this one may not pass.
        catalog.upgrades()?.iter().try_for_each(|upgrade| self.check_readable(upgrade))?;
        match self.check_position(catalog).and_then(|()| self.fold_from(catalog)) {
            Err(e) if is_broken(&e) => self.start_over(catalog)?,
            // Damage is believed only from the beginning on: a later entry may say what to make of it.
            Err(Error::ObjectDamaged { .. }) if catalog.position()?.next > 0 => self.start_over(catalog)?,
            Err(Error::Catalog { .. }) => *catalog = Catalog::in_memory(self.id(), self.inner.origin)?,
            done => return done,
        }
        self.fold_from(catalog)
    }

    /// Makes the catalog anew if a row in it is not what was folded: before something is decided that cannot be undone.
    pub(crate) fn check_catalog(&self) -> Result<()> {
        let catalog = self.catalog();
        match catalog.check_seals() {
            Err(e) if is_broken(&e) => {
                drop(catalog);
                self.remake_catalog(&e)
            }
            checked => checked,
        }
    }

    /// Makes the catalog anew, which was found not to be the fold of the log.
    pub(crate) fn remake_catalog(&self, why: &Error) -> Result<()> {
        let mut catalog = self.catalog();
        self.monitor().warn(&format!("the catalog is made anew: {}", cause(why)));
        self.start_over(&mut catalog)?;
        self.fold_from(&mut catalog)
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
        match self.look_again(last, || self.read_entry(last))? {
            // With others behind it, it was deleted: that is verify's to say. Else all that came later is gone, too.
            None if self.is_taken(position.next)? || catalog.is_void(last)? => Ok(()),
            None if catalog.damaged()?.iter().any(|(slot, _)| *slot == last) => Ok(()),
            None => Err(Error::Diverged { slot: last }),
            Some(Ok(Decoded::Entry(_, hash) | Decoded::Unknown { hash, .. })) if hash == position.head => Ok(()),
            // A catalog of another history: the log is right.
            Some(Ok(_)) if !catalog.is_void(last)? => self.start_over(catalog),
            // Damaged since it was folded: the catalog still knows what it said.
            Some(_) => Ok(()),
        }
    }

    fn fold_from(&self, catalog: &mut Catalog) -> Result<()> {
        match self.fold_with(catalog, &Voids::new())? {
            Folded::ToTheHead => Ok(()),
            // What was folded of the void slots is to be undone: once more from the beginning, without them.
            Folded::ToAVoid => {
                let voids = self.voids()?;
                self.start_over(catalog)?;
                match self.fold_with(catalog, &voids)? {
                    Folded::ToTheHead => Ok(()),
                    Folded::ToAVoid => Err(Error::Stale { what: "the log".into() }),
                }
            }
        }
    }

    /// The description says whose log this is. If the log's both ends are sound entries of another store, it is the
    /// description that lies: as an empty store it would be believed, and its packs taken for garbage.
    fn check_description(&self, last: u64) -> Result<()> {
        let owner = |slot| self.read_entry_bytes(slot).ok().flatten().and_then(|bytes| entry::owner(&bytes));
        match (owner(0), owner(last)) {
            (Some(first), Some(last)) if first == last && first != self.id() => {
                Err(Error::damaged(Key::config().as_str(), format!("the log is that of store {first}")))
            }
            _ => Ok(()),
        }
    }

    /// The slots that void entries name, with what stands in their place.
    fn voids(&self) -> Result<Voids> {
        let mut all = Vec::new();
        for slot in self.backend().slots()? {
            if let Some(Ok(Decoded::Entry(entry, _))) = self.read_entry(slot)?
                && let Body::Void(body) = entry.body
            {
                all.push((slot, body));
            }
        }
        let mut voids = Voids::new();
        // A later one may void an earlier one, and says it better.
        for (slot, body) in all.into_iter().rev() {
            if !voids.contains_key(&slot) {
                for void in body.slots {
                    voids.entry(void.slot).or_insert(void.entry);
                }
            }
        }
        Ok(voids)
    }

    /// Folds the log into an empty catalog as if it had these voids, too: what a repair would make of it.
    pub(crate) fn fold_as_if(&self, more: &Voids) -> Result<()> {
        let mut voids = self.voids()?;
        voids.extend(more.iter().map(|(slot, entry)| (*slot, entry.clone())));
        let mut catalog = self.catalog();
        self.start_over(&mut catalog)?;
        self.fold_with(&mut catalog, &voids).map(|_| ())
    }

    fn fold_with(&self, catalog: &mut Catalog, voids: &Voids) -> Result<Folded> {
        let mut position = catalog.position()?;
        if !voids.is_empty() {
            catalog.be_lenient();
        }
        // A catalog that begins knows nothing of the log's end: what is missing in the middle must not look like it.
        let listed = if position.next == 0 { self.backend().slots()?.last().copied() } else { None };
        if let Some(last) = listed {
            self.check_description(last)?;
        }
        let mut batch: Vec<(Entry, Hash)> = Vec::new();
        let mut told = false;
        let folded = loop {
            let slot = position.next;
            let step = self.step(position, voids, listed)?;
            let flush = batch.len() >= BATCH || !matches!(step, Step::Entry(..));
            if flush && !batch.is_empty() {
                // A reader may not be able to; a writer asks again.
                if self.backend().sync_log().is_err() {
                    self.inner.unsure.store(true, Ordering::Relaxed);
                }
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
            let head = match step {
                Step::End => break Folded::ToTheHead,
                Step::Void => break Folded::ToAVoid,
                Step::Entry(entry, hash) => {
                    batch.push((*entry, hash));
                    hash
                }
                Step::Pass(hash) => {
                    catalog.pass_void(slot, hash)?;
                    hash
                }
                Step::Damaged(hash, why) => {
                    catalog.pass_damaged(slot, hash, &why)?;
                    hash
                }
            };
            position = Position { next: slot + 1, head };
        };
        if told {
            self.monitor().end();
        }
        Ok(folded)
    }

    /// What the next slot does.
    fn step(&self, position: Position, voids: &Voids, listed: Option<u64>) -> Result<Step> {
        let slot = position.next;
        let Some(found) = self.read_slot(slot, listed)? else { return Ok(Step::End) };
        if let Some(stand_in) = voids.get(&slot) {
            let hash = match found {
                Ok(Decoded::Entry(_, hash) | Decoded::Unknown { hash, .. }) => hash,
                Err(_) => self.hash_by_successor(slot)?,
            };
            return Ok(match stand_in {
                Some(remade) => Step::Entry(Box::new(stand_in_for(slot, remade)), hash),
                None => Step::Pass(hash),
            });
        }
        Ok(match found {
            Ok(Decoded::Entry(entry, hash)) => match &entry.body {
                Body::Void(body) if body.slots.iter().any(|void| !voids.contains_key(&void.slot)) => Step::Void,
                _ if position.head != UNKNOWN && entry.previous != position.head => {
                    return Err(Error::damaged(Key::entry(slot).as_str(), "it does not follow the entry before it"));
                }
                Body::Upgrade(body) => {
                    self.check_readable(body)?;
                    Step::Entry(entry, hash)
                }
                _ => Step::Entry(entry, hash),
            },
            Ok(Decoded::Unknown { kind, hash }) => Step::Damaged(hash, Error::EntryUnknown { slot, kind }.to_string()),
            Err(error) => Step::Damaged(self.hash_by_successor(slot)?, error.to_string()),
        })
    }

    /// What is in a slot; `None` at the end of the log. One that is missing while later ones are there is damaged.
    fn read_slot(&self, slot: u64, listed: Option<u64>) -> Result<Option<Result<Decoded>>> {
        if let Some(found) = self.read_entry(slot)? {
            return Ok(Some(found));
        }
        if listed.is_none_or(|last| last <= slot) && !self.is_taken(slot + 1)? {
            return Ok(None);
        }
        // Both may have been written since the first look.
        let again = self.look_again(slot, || self.read_entry(slot))?;
        Ok(Some(again.unwrap_or_else(|| Err(Error::damaged(Key::entry(slot).as_str(), "missing")))))
    }

    /// Looks at a slot that must be taken, until it is seen. Another machine's entry shows late.
    fn look_again<T>(&self, slot: u64, look: impl Fn() -> Result<Option<T>>) -> Result<Option<T>> {
        let [mut pause, longest] = PAUSES;
        let mut waited = Duration::ZERO;
        loop {
            let found = look()?;
            if found.is_some() || waited >= self.backend().lag() {
                return Ok(found);
            }
            if pause == longest {
                self.monitor().warn(&format!("slot {slot} of the log is not seen yet: waiting"));
            }
            self.check_stop()?;
            self.env().sleep(pause);
            waited += pause;
            pause = (2 * pause).min(longest);
        }
    }

    fn is_taken(&self, slot: u64) -> Result<bool> {
        Ok(self.read_entry(slot)?.is_some())
    }

    /// The successor of an entry that cannot be read knows its hash.
    fn hash_by_successor(&self, slot: u64) -> Result<Hash> {
        Ok(match self.read_entry(slot + 1)? {
            Some(Ok(Decoded::Entry(next, _))) => next.previous,
            _ => UNKNOWN,
        })
    }

    /// The entry in a slot, or how it is damaged; `None` if the slot was not taken yet.
    pub(crate) fn read_entry(&self, slot: u64) -> Result<Option<Result<Decoded>>> {
        match self.read_entry_bytes(slot) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Ok(Some(Entry::decode(&bytes, self.id(), slot))),
            Err(error @ Error::ObjectDamaged { .. }) => Ok(Some(Err(error))),
            Err(error) => Err(error),
        }
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

/// Void slots, with what takes effect there instead.
pub(crate) type Voids = BTreeMap<u64, Option<Remade>>;

/// How far a fold came.
enum Folded {
    ToTheHead,
    /// A void entry names slots that were folded as if it were not there.
    ToAVoid,
}

/// What a slot does to the catalog, and the hash that its successor must follow.
enum Step {
    Entry(Box<Entry>, Hash),
    Pass(Hash),
    Damaged(Hash, String),
    Void,
    End,
}

/// The hash of an entry that can neither be read nor is known by its successor: anything may follow it.
const UNKNOWN: Hash = Hash([0; 32]);

fn stand_in_for(slot: u64, remade: &Remade) -> Entry {
    let Remade { save, time, body } = remade;
    Entry { slot, previous: UNKNOWN, nonce: [0; 16], save: *save, time: *time, begin: slot, body: body.body() }
}

fn cause(error: &Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| cause.to_string())
}

fn frees_space(body: &Body) -> bool {
    matches!(
        body,
        Body::Forget(_) | Body::Condemn(_) | Body::Swept(_) | Body::Abort(_) | Body::Unpin(_) | Body::Settings(_)
    )
}
