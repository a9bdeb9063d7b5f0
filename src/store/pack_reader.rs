//! Reading chunks out of a set of packs.
//!
//! A [`PackSet`] is the footers of the packs that a checkpoint needs, folded into one map. A chunk that lies in several
//! packs, or a copy that turns out to be damaged, is read from the next best copy: the smallest depth, then the pack's
//! name.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Store;
use crate::backend::Object;
use crate::catalog::{Kept, PackRow, PackState, Status};
use crate::chunk;
use crate::codec::{self, Base, CodecId, Scratch};
use crate::error::{Error, Result};
use crate::format::entry::NewPack;
use crate::format::keys::Key;
use crate::format::manifest::{Recipe, Stored};
use crate::format::pack::{self, Footer, Row};
use crate::id::{ChunkId, PackId};

/// What stands for all copies in a pack that are known to be damaged.
pub(crate) const WHOLE: ChunkId = ChunkId([0; 32]);
/// Packs whose footers are asked for at a time.
const PACKS_AT_ONCE: usize = 64;
/// Packs kept open at a time.
const OPEN_MAX: usize = 16;

/// The chunks of some packs.
#[derive(Debug)]
pub(crate) struct PackSet {
    store: Store,
    packs: Vec<PackRow>,
    copies: HashMap<ChunkId, Copies>,
    open: Mutex<HashMap<PackId, Arc<dyn Object>>>,
    /// The checkpoint whose packs they were.
    of: Option<u64>,
    /// Its packs as they are since a collection wrote one of these anew.
    moved: OnceLock<Arc<PackSet>>,
}

/// Where the frames of a chunk are: nearly always one place.
#[derive(Debug)]
enum Copies {
    One(Place),
    Many(Vec<Place>),
}

/// A frame of a pack.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Which of the set's packs.
    pack: u32,
    offset: u64,
    frame_bytes: u32,
    chunk_bytes: u32,
    crc: u32,
    codec: CodecId,
    depth: u8,
    bases: Box<[ChunkId]>,
    /// It is known to be damaged: the last to be tried.
    bad: bool,
}

/// What a thread needs to read chunks: buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct ChunkTool {
    frame: Vec<u8>,
    pub(crate) scratch: Scratch,
}

/// How a chunk is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HowStored {
    pub(crate) pack: PackId,
    pub(crate) codec: CodecId,
    pub(crate) depth: u8,
    pub(crate) frame_bytes: u32,
    pub(crate) chunk_bytes: u32,
}

impl Store {
    /// The chunks of the packs that a checkpoint needs.
    pub(crate) fn pack_set_of(&self, slot: u64) -> Result<PackSet> {
        let packs = self.catalog().packs_of(slot)?;
        Ok(PackSet { of: Some(slot), ..self.pack_set(packs)? })
    }

    /// The chunks of these packs.
    pub(crate) fn pack_set(&self, packs: Vec<PackRow>) -> Result<PackSet> {
        self.pack_set_with(packs, &[])
    }

    /// The chunks of these packs, and of others that no entry names yet.
    pub(crate) fn pack_set_with(&self, packs: Vec<PackRow>, new: &[(NewPack, Footer)]) -> Result<PackSet> {
        let mut set = PackSet {
            store: self.clone(),
            packs: Vec::new(),
            copies: HashMap::new(),
            open: Mutex::default(),
            of: None,
            moved: OnceLock::new(),
        };
        for packs in packs.chunks(PACKS_AT_ONCE) {
            let kept = self.catalog().kept(packs)?;
            for (pack, Kept { bad, footer }) in packs.iter().zip(kept) {
                // A pack of which nothing can be read is passed: another may hold what it held.
                if !bad.contains(&WHOLE) {
                    let footer = self.footer_from(pack, footer)?;
                    set.add(pack.clone(), &footer, &bad);
                }
            }
        }
        for (pack, footer) in new {
            set.add(PackRow::of_new(footer.pack, pack), footer, &HashSet::new());
        }
        set.drop_loose();
        Ok(set)
    }

    /// The footer of a pack, from the catalog if it is there.
    pub(crate) fn footer(&self, pack: &PackRow) -> Result<Footer> {
        let kept = self.catalog().footer(pack)?;
        self.footer_from(pack, kept)
    }

    /// The footer that was kept, or that of the pack if it is none.
    fn footer_from(&self, pack: &PackRow, kept: Option<Vec<u8>>) -> Result<Footer> {
        if let Some(bytes) = kept.filter(|bytes| crate::id::Hash::of(bytes) == pack.footer) {
            return Footer::decode(&bytes, pack.pack, self.id(), pack.bytes);
        }
        let (footer, bytes) = self.read_footer(pack)?;
        self.catalog().put_footer(pack, &bytes);
        Ok(footer)
    }

    /// The footer of a pack, from the pack.
    pub(crate) fn read_footer(&self, pack: &PackRow) -> Result<(Footer, Vec<u8>)> {
        let damaged = |why: &str| Error::damaged(Key::pack(pack.pack).as_str(), why);
        if pack.state != PackState::Live {
            return Err(Error::Stale { what: format!("pack {}", pack.pack) });
        }
        let object = self.backend().open(&Key::pack(pack.pack))?;
        if object.bytes() != pack.bytes || pack.bytes < pack::HEADER_BYTES + pack::TRAILER_BYTES {
            return Err(damaged(&format!("it is {} bytes long, not {}", object.bytes(), pack.bytes)));
        }
        let mut trailer = [0; pack::TRAILER_BYTES as usize];
        object.read_exact_at(&mut trailer, pack.bytes - pack::TRAILER_BYTES)?;
        let (length, hash) = pack::decode_trailer(&trailer, pack.pack, pack.bytes)?;
        let mut bytes = vec![0; length as usize];
        object.read_exact_at(&mut bytes, pack.bytes - pack::TRAILER_BYTES - length)?;
        if hash != pack.footer || crate::id::Hash::of(&bytes) != hash {
            return Err(damaged("its footer is not the one that the log names"));
        }
        Ok((Footer::decode(&bytes, pack.pack, self.id(), pack.bytes)?, bytes))
    }
}

impl PackSet {
    fn add(&mut self, pack: PackRow, footer: &Footer, bad: &HashSet<ChunkId>) {
        let number = self.packs.len() as u32;
        self.packs.push(pack);
        self.copies.reserve(footer.rows.len());
        for row in &footer.rows {
            let place = Place { bad: bad.contains(&row.chunk), ..Place::of(number, row) };
            match self.copies.entry(row.chunk) {
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(Copies::One(place));
                }
                std::collections::hash_map::Entry::Occupied(mut taken) => taken.get_mut().add(place, &self.packs),
            }
        }
    }

    /// Drops the copies whose bases are nowhere in the set: frames of checkpoints that need other packs besides. What is
    /// left has for each base a copy of smaller depth, so every chain ends.
    fn drop_loose(&mut self) {
        let mut with_bases: Vec<(u8, ChunkId)> = Vec::new();
        for (chunk, copies) in &self.copies {
            let depths = copies.places().iter().filter(|place| !place.bases.is_empty()).map(|place| place.depth);
            with_bases.extend(depths.map(|depth| (depth, *chunk)));
        }
        // Whether a copy is loose depends on copies of smaller depth alone.
        with_bases.sort_unstable();
        with_bases.dedup();
        for (depth, chunk) in with_bases {
            let hangs = |place: &Place| {
                let below = |base: &ChunkId| self.best(*base).is_some_and(|base| base.depth < place.depth);
                place.depth != depth || place.bases.iter().all(below)
            };
            let Some(copies) = self.copies.get(&chunk) else { continue };
            let kept: Vec<Place> = copies.places().iter().filter(|place| hangs(place)).cloned().collect();
            if kept.is_empty() {
                self.copies.remove(&chunk);
            } else if kept.len() < copies.places().len() {
                self.copies.insert(chunk, Copies::Many(kept));
            }
        }
    }

    /// True if the chunk is here, in a copy that is not known to be damaged, and neither are its bases.
    pub(crate) fn contains(&self, chunk: ChunkId) -> bool {
        self.best(chunk).is_some_and(|place| !place.bad && place.bases.iter().all(|&base| self.contains(base)))
    }

    /// The pack from which a chunk is read.
    pub(crate) fn pack_of(&self, chunk: ChunkId) -> Option<PackId> {
        self.best(chunk).map(|place| self.packs[place.pack as usize].pack)
    }

    /// How a chunk is stored.
    pub(crate) fn how_stored(&self, chunk: ChunkId) -> Option<HowStored> {
        self.best(chunk).map(|place| HowStored {
            pack: self.packs[place.pack as usize].pack,
            codec: place.codec,
            depth: place.depth,
            frame_bytes: place.frame_bytes,
            chunk_bytes: place.chunk_bytes,
        })
    }

    /// The chunks on which the chosen frame of this one rests.
    pub(crate) fn bases_of(&self, chunk: ChunkId) -> &[ChunkId] {
        self.best(chunk).map_or(&[], |place| &place.bases)
    }

    /// True if no copy of the chunk, or of one of its bases, is good.
    pub(crate) fn is_lost(&self, chunk: ChunkId, is_bad: &dyn Fn(PackId, ChunkId) -> bool) -> bool {
        chunk != ChunkId::of(b"") && self.is_lost_below(chunk, u8::MAX, is_bad)
    }

    /// Looks at the copies that [`PackSet::read_below`] would try: deeper ones may rest on each other.
    fn is_lost_below(&self, chunk: ChunkId, depth_limit: u8, is_bad: &dyn Fn(PackId, ChunkId) -> bool) -> bool {
        let Some(copies) = self.copies.get(&chunk) else { return true };
        copies.places().iter().filter(|place| place.depth < depth_limit).all(|place| {
            let pack = self.packs[place.pack as usize].pack;
            is_bad(pack, chunk) || place.bases.iter().any(|&base| self.is_lost_below(base, place.depth, is_bad))
        })
    }

    /// The copy that is read first. Its bases have copies of smaller depth.
    fn best(&self, chunk: ChunkId) -> Option<&Place> {
        self.copies.get(&chunk)?.places().first()
    }

    /// Fills `out`, which is as long as the chunk, with its bytes. Nothing but bytes of that hash is ever returned.
    pub(crate) fn read(&self, chunk: ChunkId, tool: &mut ChunkTool, out: &mut [u8]) -> Result<()> {
        if out.is_empty() && chunk == ChunkId::of(b"") {
            return Ok(());
        }
        if let Some(now) = self.moved.get() {
            return now.read(chunk, tool, out);
        }
        match self.read_here(chunk, tool, out) {
            Err(error @ Error::ObjectMissing { .. }) => self.look_again(error)?.read(chunk, tool, out),
            read => read,
        }
    }

    /// The set after a collection wrote some of these packs anew, of which one was found to be gone.
    fn look_again(&self, gone: Error) -> Result<&PackSet> {
        let Some(slot) = self.of else { return Err(gone) };
        self.store.refresh()?;
        let kept = self.store.catalog().checkpoint(slot)?.is_some_and(|row| row.status != Status::Forgotten);
        let now = self.store.catalog().packs_of(slot)?;
        let needed: HashSet<PackId> = now.iter().map(|pack| pack.pack).collect();
        // If all are still needed, the one that is gone is lost.
        if !kept || self.packs.iter().all(|pack| needed.contains(&pack.pack)) {
            return Err(gone);
        }
        let now = PackSet { of: Some(slot), ..self.store.pack_set(now)? };
        Ok(self.moved.get_or_init(|| Arc::new(now)))
    }

    fn read_here(&self, chunk: ChunkId, tool: &mut ChunkTool, out: &mut [u8]) -> Result<()> {
        let best = self.best(chunk).ok_or(Error::ChunkMissing { chunk })?;
        // Of a chain only the end is hashed. If that is wrong, every link is looked at, and other copies are tried.
        match self.read_place(chunk, best, Links::Trusted, tool, out) {
            Ok(()) => Ok(()),
            Err(error) if best.bases.is_empty() && matches!(self.copies.get(&chunk), Some(Copies::One(_))) => {
                Err(error)
            }
            Err(_) => self.read_below(chunk, u8::MAX, tool, out),
        }
    }

    /// Fills `out` from the copy in this pack, and returns that copy's frame.
    pub(crate) fn read_copy<'t>(
        &self,
        chunk: ChunkId,
        pack: PackId,
        tool: &'t mut ChunkTool,
        out: &mut [u8],
    ) -> Result<&'t [u8]> {
        let copies = self.copies.get(&chunk).ok_or(Error::ChunkMissing { chunk })?;
        let place = copies.places().iter().find(|place| self.packs[place.pack as usize].pack == pack);
        let place = place.ok_or(Error::ChunkMissing { chunk })?;
        self.read_place(chunk, place, Links::Checked, tool, out)?;
        Ok(&tool.frame[..place.frame_bytes as usize])
    }

    /// From the first good copy whose depth is below the limit.
    fn read_below(&self, chunk: ChunkId, depth_limit: u8, tool: &mut ChunkTool, out: &mut [u8]) -> Result<()> {
        let copies = self.copies.get(&chunk).ok_or(Error::ChunkMissing { chunk })?;
        let mut failed = Error::ChunkMissing { chunk };
        for place in copies.places().iter().filter(|place| place.depth < depth_limit) {
            match self.read_place(chunk, place, Links::Checked, tool, out) {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Decodes this copy and checks its hash. A base has a smaller depth than what rests on it, so this ends.
    fn read_place(
        &self,
        chunk: ChunkId,
        place: &Place,
        links: Links,
        tool: &mut ChunkTool,
        out: &mut [u8],
    ) -> Result<()> {
        self.decode_place(chunk, place, links, tool, out)?;
        if ChunkId::of(out) != chunk {
            return Err(self.damaged(chunk, place, "its bytes have another hash"));
        }
        Ok(())
    }

    fn decode_place(
        &self,
        chunk: ChunkId,
        place: &Place,
        links: Links,
        tool: &mut ChunkTool,
        out: &mut [u8],
    ) -> Result<()> {
        if out.len() != place.chunk_bytes as usize {
            let why = format!("it is {} bytes long, not {}", place.chunk_bytes, out.len());
            return Err(self.damaged(chunk, place, &why));
        }
        // A base of the same length is decoded where the chunk is to be: a chain takes one buffer.
        let mut apart = Vec::new();
        let base = match *place.bases {
            [] => Base::None,
            [base, ..] => {
                let length = self.best(base).map_or(0, |place| place.chunk_bytes as usize);
                if length == out.len() {
                    self.read_link(base, place.depth, links, tool, out)?;
                    Base::InPlace
                } else {
                    apart.resize(length, 0);
                    self.read_link(base, place.depth, links, tool, &mut apart)?;
                    Base::Bytes(&apart)
                }
            }
        };
        let object = self.object(self.packs[place.pack as usize].pack)?;
        let frame = codec::at_least(&mut tool.frame, place.frame_bytes as usize);
        object.read_exact_at(frame, place.offset)?;
        let body = pack::frame_body(frame, &place.row(chunk)).map_err(|e| self.damaged(chunk, place, &e.0))?;
        codec::decode(place.codec, body, base, &mut tool.scratch, out)
            .map_err(|e| self.damaged(chunk, place, &e.to_string()))
    }

    fn read_link(&self, base: ChunkId, depth: u8, links: Links, tool: &mut ChunkTool, out: &mut [u8]) -> Result<()> {
        match (links, self.best(base)) {
            (Links::Trusted, Some(place)) => self.decode_place(base, place, links, tool, out),
            _ => self.read_below(base, depth, tool, out),
        }
    }

    fn damaged(&self, chunk: ChunkId, place: &Place, why: &str) -> Error {
        Error::ChunkDamaged { chunk, pack: self.packs[place.pack as usize].pack, why: why.into() }
    }

    /// The bytes of a chunk whose length is in its row.
    pub(crate) fn read_whole(&self, chunk: ChunkId, tool: &mut ChunkTool) -> Result<Vec<u8>> {
        let length = match self.best(chunk) {
            Some(place) => place.chunk_bytes as usize,
            None if chunk == ChunkId::of(b"") => 0,
            None => return Err(Error::ChunkMissing { chunk }),
        };
        let mut bytes = vec![0; length];
        self.read(chunk, tool, &mut bytes)?;
        Ok(bytes)
    }

    /// The chunks of a stored byte string.
    pub(crate) fn recipe(&self, stored: &Stored, tool: &mut ChunkTool) -> Result<Recipe> {
        if stored.recipe {
            return Recipe::decode(&self.read_whole(stored.id, tool)?, stored.bytes);
        }
        let length = u32::try_from(stored.bytes).ok().filter(|&n| n as usize <= chunk::MAX);
        let length = length.ok_or_else(|| Error::damaged("a manifest", "a chunk that is too long"))?;
        Ok(Recipe(if length == 0 { Vec::new() } else { vec![(stored.id, length)] }))
    }

    /// A stored byte string, whole. For the small ones: headers, schemas, states.
    pub(crate) fn read_stored(&self, stored: &Stored, tool: &mut ChunkTool) -> Result<Vec<u8>> {
        let recipe = self.recipe(stored, tool)?;
        // The sum of lengths that lie in packs: nothing is allocated on a manifest's word alone.
        let mut bytes = Vec::new();
        for (chunk, length) in recipe.0 {
            let start = bytes.len();
            if self.best(chunk).map(|place| place.chunk_bytes) != Some(length) {
                return Err(Error::ChunkMissing { chunk });
            }
            bytes.resize(start + length as usize, 0);
            self.read(chunk, tool, &mut bytes[start..])?;
        }
        Ok(bytes)
    }

    fn object(&self, pack: PackId) -> Result<Arc<dyn Object>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(object) = open.get(&pack) {
            return Ok(object.clone());
        }
        let object = self.store.backend().open(&Key::pack(pack))?;
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(pack, object.clone());
        Ok(object)
    }

    /// The packs in which these chunks lie, and those of their bases.
    pub(crate) fn packs_for(&self, chunks: impl IntoIterator<Item = ChunkId>) -> Result<BTreeSet<PackId>> {
        let mut packs = BTreeSet::new();
        let mut todo: Vec<ChunkId> = chunks.into_iter().collect();
        let mut seen = BTreeSet::new();
        let empty = ChunkId::of(b"");
        while let Some(chunk) = todo.pop() {
            if chunk == empty || !seen.insert(chunk) {
                continue;
            }
            packs.insert(self.pack_of(chunk).ok_or(Error::ChunkMissing { chunk })?);
            todo.extend(self.bases_of(chunk));
        }
        Ok(packs)
    }
}

/// Whether the bases of a chunk are hashed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Trusted,
    Checked,
}

impl Copies {
    /// The smallest depth first.
    fn places(&self) -> &[Place] {
        match self {
            Copies::One(place) => std::slice::from_ref(place),
            Copies::Many(places) => places,
        }
    }

    fn add(&mut self, place: Place, packs: &[PackRow]) {
        let order = |place: &Place| (place.bad, place.depth, packs[place.pack as usize].pack, place.offset);
        let mut places = match std::mem::replace(self, Copies::Many(Vec::new())) {
            Copies::One(first) => vec![first],
            Copies::Many(places) => places,
        };
        places.push(place);
        places.sort_by_key(order);
        *self = Copies::Many(places);
    }
}

impl Place {
    fn of(pack: u32, row: &Row) -> Place {
        Place {
            pack,
            offset: row.offset,
            frame_bytes: row.frame_bytes,
            chunk_bytes: row.chunk_bytes,
            crc: row.crc,
            codec: row.codec,
            depth: row.depth,
            bases: row.bases.clone().into_boxed_slice(),
            bad: false,
        }
    }

    fn row(&self, chunk: ChunkId) -> Row {
        Row {
            chunk,
            offset: self.offset,
            frame_bytes: self.frame_bytes,
            chunk_bytes: self.chunk_bytes,
            crc: self.crc,
            codec: self.codec,
            depth: self.depth,
            bases: self.bases.to_vec(),
        }
    }
}
