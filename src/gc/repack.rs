//! Writing packs anew without the frames that nobody needs.
//!
//! Frames are copied as they are, after their bytes were decoded and hashed: damage is never copied as good. A frame
//! that hangs on a dead base is *rebased*: encoded again as a difference to the nearest live chunk of its chain, or to
//! the heir of its root, which is encoded without a base. Its depth never grows by that, and every checkpoint that needs
//! it has the packs of its new base: they were those of its chain, or are among the new ones, which take the place of the
//! old ones together. The old packs stay until the entry that brings the new ones is durable, and that entry
//! condemns them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::mark::{Fate, Marked};
use super::{Deadline, GcOptions, GcReport, GcVerdict, is_live};
use crate::catalog::PackRow;
use crate::codec;
use crate::error::{Error, Result};
use crate::format::entry::{Body, Repack};
use crate::format::pack::{self, Footer, Row, TARGET_BYTES};
use crate::id::{PackId, SaveId};
use crate::monitor::Unit;
use crate::parallel;
use crate::store::{ChunkTool, FrameBase, FrameInfo, PackSet, PackWriter, Store, encode_frame};

/// The share of a pack that may be dead without it being rewritten.
const DEAD_SHARE: f64 = 0.02;
/// The share of bytes that may be dead without any pack being rewritten, when a collection is asked for: rewriting at
/// every collection would write everything again and again.
const WASTE_SHARE: f64 = 0.05;
/// A rewritten pack is closed behind the frames of an old one once it is that large: frames that came together go
/// together.
const BORDER_BYTES: u64 = 1 << 20;
/// The share of bytes that may be held as dead bases. To let go of them costs encoding what hangs on them, and most of it
/// would have to be let go again soon by the next collection.
const HELD_SHARE: f64 = 0.1;
/// Live bytes that are rewritten by one entry. What is rebased is rewritten by one, however much it is: until then the
/// dead bases are needed.
const BATCH_BYTES: u64 = 4 * TARGET_BYTES;
/// Checkpoints that are kept open while frames are copied.
const SETS_MAX: usize = 8;

/// A pack with frames that nobody needs, or that hang.
struct Candidate {
    pack: PackRow,
    footer: Footer,
    keep: Vec<(usize, Fate)>,
    live_bytes: u64,
}

/// What is to be rewritten.
struct Candidates {
    packs: Vec<Candidate>,
    marked: Marked,
    /// Dead bases are let go.
    rebase: bool,
}

impl Store {
    pub(super) fn repack(&self, options: &GcOptions, deadline: Deadline, report: &mut GcReport) -> Result<()> {
        let share = options.repack_above.unwrap_or(WASTE_SHARE);
        let suspects = self.catalog().suspects()?;
        let Candidates { packs, marked, rebase } = self.candidates(suspects, share, &[])?;
        if packs.is_empty() {
            return Ok(());
        }
        self.monitor().begin("rewriting packs", Some(packs.iter().map(|c| c.live_bytes).sum()), Unit::Bytes);
        let mut batch: Vec<Candidate> = Vec::new();
        let mut bytes = 0;
        for candidate in packs {
            if deadline.passed() && !(rebase && bytes > 0) {
                break;
            }
            bytes += candidate.live_bytes;
            batch.push(candidate);
            if bytes >= BATCH_BYTES && !rebase {
                self.rewrite(&std::mem::take(&mut batch), &marked, report)?;
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.rewrite(&batch, &marked, report)?;
        }
        self.monitor().end();
        Ok(())
    }

    /// The bytes that rewriting packs would free if these verdicts were carried out, and those of packs that would only
    /// then be needed by nobody. What the new footers take is left out, and so is what rebasing adds.
    pub(super) fn foresee(&self, options: &GcOptions, verdicts: &[GcVerdict]) -> Result<u64> {
        let share = options.repack_above.unwrap_or(WASTE_SHARE);
        let mut suspects: BTreeMap<i64, PackRow> =
            self.catalog().suspects()?.into_iter().map(|pack| (pack.row, pack)).collect();
        for verdict in verdicts.iter().filter(|verdict| verdict.goes() || !verdict.thin.is_empty()) {
            let needed = self.catalog().packs_of(verdict.checkpoint.slot)?;
            suspects.extend(needed.into_iter().filter(is_live).map(|pack| (pack.row, pack)));
        }
        let Candidates { packs, .. } = self.candidates(suspects.into_values().collect(), share, verdicts)?;
        Ok(packs.iter().map(|candidate| candidate.pack.bytes - candidate.live_bytes).sum())
    }

    /// Live packs of which enough is dead. Only packs whose needed share can have changed are looked at, and those of
    /// frames that hang on them. With verdicts that are only planned, nothing is noted.
    fn candidates(&self, mut suspects: Vec<PackRow>, share: f64, planned: &[GcVerdict]) -> Result<Candidates> {
        let mut marked = self.mark(&suspects, planned)?;
        let (dead, live) = marked.dead_and_live_bytes();
        let rebase = dead as f64 > HELD_SHARE.max(share) * live as f64;
        if rebase {
            let known: BTreeSet<PackId> = suspects.iter().map(|pack| pack.pack).collect();
            for pack in marked.packs_that_hang().difference(&known) {
                suspects.extend(self.catalog().pack(*pack)?);
            }
            marked = self.mark(&suspects, planned)?;
        }
        suspects.retain(|pack| marked.knows(pack.pack));
        // Damage is not copied as good, and what is good beside it is not given up.
        let mut damaged = BTreeSet::new();
        for pack in &suspects {
            if !self.catalog().bad_in(pack)?.is_empty() {
                damaged.insert(pack.pack);
            }
        }
        suspects.retain(|pack| !damaged.contains(&pack.pack));
        if rebase {
            let rewritten: BTreeSet<PackId> = suspects.iter().map(|pack| pack.pack).collect();
            marked.name_heirs(|pack| rewritten.contains(&pack));
        }
        let (mut packs, mut waste) = (Vec::new(), 0);
        for pack in suspects {
            let footer = self.footer(&pack)?;
            let fates = footer.rows.iter().map(|row| marked.fate((pack.pack, row.chunk), rebase));
            let keep: Vec<(usize, Fate)> = fates.enumerate().filter_map(|(n, fate)| Some((n, fate?))).collect();
            let live_bytes: u64 = keep.iter().map(|(n, _)| u64::from(footer.rows[*n].frame_bytes)).sum();
            let dead = footer.frames_bytes() - live_bytes;
            let hangs = keep.iter().any(|(_, fate)| matches!(fate, Fate::Hangs(..)));
            if hangs || dead as f64 > DEAD_SHARE * pack.bytes as f64 {
                waste += dead;
                packs.push(Candidate { pack, footer, keep, live_bytes });
            } else if planned.is_empty() {
                self.catalog().set_checked(&pack)?;
            }
        }
        if !rebase && waste as f64 <= share * live as f64 {
            packs.clear();
        }
        Ok(Candidates { packs, marked, rebase })
    }

    fn rewrite(&self, batch: &[Candidate], marked: &Marked, report: &mut GcReport) -> Result<()> {
        let save = SaveId(self.env().random());
        let mut writer = PackWriter::new(self, save);
        self.write_frames(batch, &mut writer)?;
        let replaces: Vec<PackId> = batch.iter().map(|candidate| candidate.pack.pack).collect();
        let rows: BTreeSet<i64> = batch.iter().map(|candidate| candidate.pack.row).collect();
        let mut repack = Repack { packs: Vec::new(), replaces: replaces.clone() };
        let published = writer.publish(&Body::Repack(repack.clone()).encode())?;
        repack.packs = published.packs.clone();
        let written = self.append(save, 0, |catalog| {
            let usable = |pack: &PackId| matches!(catalog.pack(*pack), Ok(Some(row)) if is_live(&row));
            // New users since the marking may need what was left out.
            let same = marked.is_current(catalog, &rows)?;
            Ok((replaces.iter().all(usable) && same).then(|| Body::Repack(repack.clone())))
        })?;
        if written.is_some() {
            report.packs_rewritten += batch.len() as u64;
            report.bytes_freed -= published.bytes() as i64;
            published.committed();
        }
        Ok(())
    }

    /// Copies and rebases on all threads; the frames come in the order of the old packs.
    fn write_frames(&self, batch: &[Candidate], writer: &mut PackWriter) -> Result<()> {
        let sets = Sets { store: self, open: Mutex::default() };
        let mut last = None;
        let mut frames =
            batch.iter().flat_map(|candidate| candidate.keep.iter().map(move |(n, fate)| (candidate, *n, fate)));
        parallel::ordered(
            self.threads(),
            2 * self.threads(),
            || self.check_stop().map(|()| frames.next()),
            Rewriter::default,
            |rewriter, (candidate, n, fate)| {
                let pack = candidate.pack.pack;
                let (info, frame) = rewriter.frame(&sets, pack, &candidate.footer.rows[n], fate)?;
                Ok((pack, info, frame))
            },
            |(pack, info, frame)| {
                self.monitor().advance(frame.len() as u64);
                if last.replace(pack) != Some(pack) {
                    writer.border(BORDER_BYTES)?;
                }
                writer.put(info, &frame)
            },
        )
    }
}

/// The chunks of checkpoints, opened as they are asked for.
struct Sets<'a> {
    store: &'a Store,
    open: Mutex<HashMap<u64, Arc<PackSet>>>,
}

impl Sets<'_> {
    fn of(&self, slot: u64) -> Result<Arc<PackSet>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = open.get(&slot) {
            return Ok(set.clone());
        }
        if open.len() >= SETS_MAX {
            open.clear();
        }
        let set = Arc::new(self.store.pack_set_of(slot)?);
        open.insert(slot, set.clone());
        Ok(set)
    }
}

/// What a thread needs to make frames: buffers that are used again.
#[derive(Default)]
struct Rewriter {
    tool: ChunkTool,
    chunk: Vec<u8>,
    base: Vec<u8>,
    check: Vec<u8>,
}

impl Rewriter {
    fn frame(&mut self, sets: &Sets<'_>, pack: PackId, row: &Row, fate: &Fate) -> Result<(FrameInfo, Vec<u8>)> {
        let (Fate::Stays(slot) | Fate::Hangs(slot, _)) = fate;
        let set = sets.of(*slot)?;
        self.chunk.resize(row.chunk_bytes as usize, 0);
        let old = set.read_copy(row.chunk, pack, &mut self.tool, &mut self.chunk)?.to_vec();
        let Fate::Hangs(_, new_base) = fate else {
            let Row { chunk, chunk_bytes, codec, depth, ref bases, .. } = *row;
            return Ok((FrameInfo { chunk, chunk_bytes, codec, depth, bases: bases.clone() }, old));
        };
        let body = pack::frame_body(&old, row).map_err(|e| Error::damaged("a frame that was just read", e.0))?;
        let layout = codec::layout_of(row.codec, body);
        let mut base = None;
        if let Some(new) = new_base {
            let set = sets.of(new.slot)?;
            let how = set.how_stored(new.chunk).filter(|how| how.chunk_bytes == row.chunk_bytes);
            if let Some(how) = how {
                self.base.resize(how.chunk_bytes as usize, 0);
                set.read(new.chunk, &mut self.tool, &mut self.base)?;
                let depth = if new.is_heir { 0 } else { how.depth };
                base = Some(FrameBase { chunk: new.chunk, bytes: &mut self.base, depth, small: false });
            }
        }
        let mut frame = Vec::new();
        let Rewriter { tool, chunk, check, .. } = self;
        let info = encode_frame(row.chunk, chunk, layout, base, &mut tool.scratch, check, &mut frame)?;
        Ok((info, frame))
    }
}
