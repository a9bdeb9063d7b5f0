//! Looking for a chunk anywhere in the store.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Store;
use super::pack_reader::WHOLE;
use crate::catalog::PackRow;
use crate::error::Result;
use crate::format::keys::Key;
use crate::format::pack::Row;
use crate::id::ChunkId;
use crate::monitor::Unit;

/// Footers kept at a time while a save asks.
const FOOTERS_MAX: usize = 64;

/// A series of questions by one save.
#[derive(Debug)]
pub(crate) struct Lookup {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    runs: crate::catalog::Runs,
    footers: HashMap<i64, HashMap<ChunkId, Found>>,
}

/// A frame of a pack.
#[derive(Clone, Debug)]
struct Found {
    chunk_bytes: u32,
    depth: u8,
    bases: Vec<ChunkId>,
}

impl Store {
    /// Makes the chunks of every live pack known to the look-up.
    pub(crate) fn index_packs(&self) -> Result<()> {
        let missing = self.catalog().not_indexed()?;
        if missing.is_empty() {
            return Ok(());
        }
        let told = missing.len() > 1000;
        if told {
            self.monitor().begin("reading footers", Some(missing.len() as u64), Unit::Things);
        }
        for packs in missing.chunks(512) {
            let mut chunks = Vec::new();
            for pack in packs {
                self.check_stop()?;
                // A pack that cannot be read is verify's to report; it only is no target here.
                if let Ok(footer) = self.footer(pack) {
                    chunks.extend(footer.rows.iter().map(|row| (row.chunk, pack.row)));
                }
            }
            self.catalog().add_lookup(chunks.into_iter())?;
            if told {
                self.monitor().advance(packs.len() as u64);
            }
        }
        if told {
            self.monitor().end();
        }
        Ok(())
    }
}

impl Lookup {
    pub(crate) fn new(store: &Store) -> Lookup {
        Lookup { store: store.clone(), state: Mutex::default() }
    }

    /// The live packs that have this chunk, of this length, and the chunks that it rests on.
    pub(crate) fn find(&self, chunk: ChunkId, bytes: u32) -> Result<Option<Vec<PackRow>>> {
        let mut packs = Vec::new();
        let mut todo = vec![(chunk, Some(bytes), u8::MAX)];
        while let Some((chunk, bytes, below)) = todo.pop() {
            let fits = |found: &Found| bytes.is_none_or(|bytes| bytes == found.chunk_bytes) && found.depth < below;
            let Some((pack, found)) = self.find_one(chunk, &fits)? else { return Ok(None) };
            todo.extend(found.bases.iter().map(|base| (*base, None, found.depth)));
            packs.push(pack);
        }
        Ok(Some(packs))
    }

    fn find_one(&self, chunk: ChunkId, fits: &dyn Fn(&Found) -> bool) -> Result<Option<(PackRow, Found)>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { runs, footers } = &mut *state;
        let candidates = self.store.catalog().look_up(runs, chunk)?;
        for row in candidates {
            let Some(pack) = self.store.catalog().pack_by_row(row)? else { continue };
            if !footers.contains_key(&row) {
                let Some(chunks) = self.chunks_of(&pack)? else { continue };
                if footers.len() >= FOOTERS_MAX {
                    footers.clear();
                }
                footers.insert(row, chunks);
            }
            if let Some(found) = footers.get(&row).and_then(|chunks| chunks.get(&chunk)).filter(|found| fits(found)) {
                return Ok(Some((pack, found.clone())));
            }
        }
        Ok(None)
    }

    /// The chunks of a pack that new checkpoints may rely on; `None` if there can be none.
    fn chunks_of(&self, pack: &PackRow) -> Result<Option<HashMap<ChunkId, Found>>> {
        let bad = self.store.catalog().bad_in(pack)?;
        // The catalog may know the footer of a pack that is gone.
        let there = self.store.backend().open(&Key::pack(pack.pack)).is_ok_and(|object| object.bytes() == pack.bytes);
        if bad.contains(&WHOLE) || !there {
            return Ok(None);
        }
        let Ok(footer) = self.store.footer(pack) else { return Ok(None) };
        let found = |row: Row| (row.chunk, Found { chunk_bytes: row.chunk_bytes, depth: row.depth, bases: row.bases });
        Ok(Some(footer.rows.into_iter().filter(|row| !bad.contains(&row.chunk)).map(found).collect()))
    }
}
