//! Entries that cannot be read, made again from what packs say.
//!
//! The footer of each pack repeats the body of the entry that was to name it. Packs that no entry names any more, of a
//! save that is not under way, are therefore the lost entry, all but its place: that is told by what is left of the
//! entry's bytes, or by there being only one entry and one save to match.

use std::collections::{BTreeMap, BTreeSet};

use super::{Store, Voids};
use crate::backend::LyingPack;
use crate::env::Time;
use crate::error::Result;
use crate::format::entry::{Body, Decoded, Entry, NewPack, Remade, RemadeBody};
use crate::format::keys::Key;
use crate::format::pack::{self, Footer, HEADER_BYTES, TRAILER_BYTES};
use crate::id::{Hash, PackId, SaveId};

/// Where an entry's slot stands in its bytes.
const SLOT_AT: std::ops::Range<usize> = 24..32;
/// Where its save id stands.
const SAVE_AT: std::ops::Range<usize> = 80..96;

impl Store {
    /// The slots of the log that cannot be read, by this store's catalog. Kinds of a later version are none of them.
    pub(crate) fn unreadable(&self) -> Result<Vec<u64>> {
        let damaged = self.catalog().damaged()?;
        let mut slots = Vec::new();
        for (slot, _) in damaged {
            if !matches!(self.read_entry(slot)?, Some(Ok(_))) {
                slots.push(slot);
            }
        }
        Ok(slots)
    }

    /// What takes the place of these slots: an entry made again, or nothing.
    pub(crate) fn remake(&self, slots: &[u64]) -> Result<Voids> {
        let mut saves = if slots.is_empty() { BTreeMap::new() } else { self.unnamed()? };
        let mut voids: Voids = slots.iter().map(|&slot| (slot, None)).collect();
        for &slot in slots {
            let bytes = self.read_entry_bytes(slot).ok().flatten().unwrap_or_default();
            // A good entry in the wrong place is the one thing that is better than what packs say.
            if let Some((at, entry)) = self.misplaced(&bytes) {
                if slots.contains(&at) {
                    saves.remove(&entry.save);
                    voids.insert(at, Some(entry));
                }
                continue;
            }
            let found = saves.iter().find(|(save, body)| is_of(&bytes, **save, body)).map(|(save, _)| *save);
            if let Some((save, body)) = found.and_then(|save| saves.remove_entry(&save)) {
                voids.insert(slot, Some(Remade { save, time: self.time_before(slot)?, body }));
            }
        }
        let open: Vec<u64> = voids.iter().filter(|(_, entry)| entry.is_none()).map(|(slot, _)| *slot).collect();
        if let ([slot], 1) = (&open[..], saves.len())
            && let Some((save, body)) = saves.pop_first()
        {
            voids.insert(*slot, Some(Remade { save, time: self.time_before(*slot)?, body }));
        }
        Ok(voids)
    }

    /// The entry of another slot, if these bytes are one.
    fn misplaced(&self, bytes: &[u8]) -> Option<(u64, Remade)> {
        let slot = u64::from_le_bytes(bytes.get(SLOT_AT)?.try_into().ok()?);
        match Entry::decode(bytes, self.id(), slot).ok()? {
            Decoded::Entry(entry, _) => {
                let body = RemadeBody::from_body(entry.body)?;
                Some((slot, Remade { save: entry.save, time: entry.time, body }))
            }
            Decoded::Unknown { .. } => None,
        }
    }

    /// Saves whose packs all lie here, and that no entry names and no process is at work on.
    fn unnamed(&self) -> Result<BTreeMap<SaveId, RemadeBody>> {
        // An entry that can be read, and only makes no sense without a lost one, names its packs itself.
        let mut named = BTreeSet::new();
        let passed = self.catalog().damaged()?;
        for (slot, _) in passed {
            if let Some(Ok(Decoded::Entry(entry, _))) = self.read_entry(slot)? {
                named.insert(entry.save);
            }
        }
        let mut saves: BTreeMap<SaveId, Vec<(PackId, u64)>> = BTreeMap::new();
        for LyingPack { pack, bytes, .. } in self.backend().packs()? {
            if !named.contains(&pack.save) && self.catalog().pack(pack)?.is_none() {
                saves.entry(pack.save).or_default().push((pack, bytes));
            }
        }
        let mut bodies = BTreeMap::new();
        for (save, packs) in saves {
            if self.backend().is_staged(save)? {
                continue;
            }
            let mut new = Vec::new();
            let mut body = Vec::new();
            for (pack, bytes) in packs {
                let Ok((footer, hash)) = self.own_footer(pack, bytes) else { break };
                new.push(NewPack { index: pack.index, bytes, footer: hash });
                if !footer.commit.is_empty() {
                    body = footer.commit;
                }
            }
            bodies.extend(RemadeBody::from_footer(&body, new).map(|body| (save, body)));
        }
        Ok(bodies)
    }

    /// The footer of a pack that the log does not know, by what the pack says of it.
    fn own_footer(&self, pack: PackId, bytes: u64) -> Result<(Footer, Hash)> {
        let object = self.backend().open(&Key::pack(pack))?;
        let damaged = |why: &str| crate::Error::damaged(Key::pack(pack).as_str(), why);
        if bytes < HEADER_BYTES + TRAILER_BYTES || object.bytes() != bytes {
            return Err(damaged("it is too short"));
        }
        let mut trailer = [0; TRAILER_BYTES as usize];
        object.read_exact_at(&mut trailer, bytes - TRAILER_BYTES)?;
        let (length, hash) = pack::decode_trailer(&trailer, pack, bytes)?;
        let mut footer = vec![0; length as usize];
        object.read_exact_at(&mut footer, bytes - TRAILER_BYTES - length)?;
        if Hash::of(&footer) != hash {
            return Err(damaged("its footer is not what its end says"));
        }
        Ok((Footer::decode(&footer, pack, self.id(), bytes)?, hash))
    }

    /// The time of the nearest entry before: it was not earlier.
    fn time_before(&self, slot: u64) -> Result<Time> {
        for before in (0..slot).rev() {
            if let Some(Ok(Decoded::Entry(entry, _))) = self.read_entry(before)? {
                return Ok(entry.time);
            }
        }
        Ok(self.config().created)
    }
}

/// What is left of an entry's bytes tells the save that it was of.
fn is_of(bytes: &[u8], save: SaveId, body: &RemadeBody) -> bool {
    let says = |text: String| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    bytes.get(SAVE_AT) == Some(&save.0)
        || match body.body() {
            Body::Commit(commit) => commit.packs.iter().any(|pack| says(pack.footer.to_hex())),
            Body::Amend(amend) => amend.packs.iter().any(|pack| says(pack.footer.to_hex())),
            Body::Repack(repack) => repack.packs.iter().any(|pack| says(pack.footer.to_hex())),
            _ => false,
        }
}
