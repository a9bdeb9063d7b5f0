//! Writing packs anew without the frames that nobody needs.
//!
//! Frames are copied as they are, after their bytes were decoded and hashed: damage is never copied as good. The old
//! packs stay until the entry that brings the new ones is durable, and that entry condemns them.

use super::mark::Marked;
use super::{Deadline, GcOptions, GcReport, is_live};
use crate::catalog::PackRow;
use crate::error::Result;
use crate::format::entry::{Body, Repack};
use crate::format::pack::{Footer, HEADER_BYTES, Row, TARGET_BYTES};
use crate::id::{PackId, SaveId};
use crate::monitor::Unit;
use crate::store::{ChunkTool, FrameInfo, PackWriter, Store};

/// The share of a pack that may be dead without it being rewritten, when a collection is asked for.
const DEAD_SHARE: f64 = 0.02;
/// Live bytes that are rewritten by one entry.
const BATCH_BYTES: u64 = 4 * TARGET_BYTES;

/// A pack with frames that nobody needs.
struct Candidate {
    pack: PackRow,
    footer: Footer,
    keep: Vec<usize>,
    live_bytes: u64,
}

impl Store {
    pub(super) fn repack(
        &self,
        options: &GcOptions,
        _thinned: &[PackId],
        deadline: Deadline,
        report: &mut GcReport,
    ) -> Result<()> {
        let share = options.repack_above.unwrap_or(DEAD_SHARE);
        let (candidates, marked) = self.candidates(share)?;
        if candidates.is_empty() {
            return Ok(());
        }
        self.monitor().begin("rewriting packs", Some(candidates.iter().map(|c| c.live_bytes).sum()), Unit::Bytes);
        let mut batch: Vec<Candidate> = Vec::new();
        let mut bytes = 0;
        for candidate in candidates {
            if deadline.passed() {
                break;
            }
            bytes += candidate.live_bytes;
            batch.push(candidate);
            if bytes >= BATCH_BYTES {
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

    /// Live packs of which enough is dead. Only packs whose needed share can have changed are looked at.
    fn candidates(&self, share: f64) -> Result<(Vec<Candidate>, Marked)> {
        let suspects = self.catalog().suspects()?;
        let marked = self.mark(&suspects)?;
        let mut candidates = Vec::new();
        for pack in suspects {
            let Some(needed) = marked.of(pack.pack) else { continue };
            let footer = self.footer(&pack)?;
            let keep: Vec<usize> = (0..footer.rows.len()).filter(|&n| needed.contains(&footer.rows[n].chunk)).collect();
            let live_bytes: u64 = keep.iter().map(|&n| u64::from(footer.rows[n].frame_bytes)).sum();
            let dead = footer.frames_bytes() - live_bytes;
            if dead as f64 > share * pack.bytes as f64 {
                candidates.push(Candidate { pack, footer, keep, live_bytes });
            } else {
                self.catalog().set_checked(&pack)?;
            }
        }
        Ok((candidates, marked))
    }

    fn rewrite(&self, batch: &[Candidate], marked: &Marked, report: &mut GcReport) -> Result<()> {
        let save = SaveId(self.env().random());
        let mut writer = PackWriter::new(self, save);
        for candidate in batch {
            self.copy_frames(candidate, &mut writer)?;
        }
        let replaces: Vec<PackId> = batch.iter().map(|candidate| candidate.pack.pack).collect();
        let rows = batch.iter().map(|candidate| candidate.pack.row).collect();
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

    fn copy_frames(&self, candidate: &Candidate, writer: &mut PackWriter) -> Result<()> {
        let set = self.pack_set(vec![candidate.pack.clone()])?;
        let object = self.backend().open(&crate::format::keys::Key::pack(candidate.pack.pack))?;
        let mut tool = ChunkTool::default();
        let (mut chunk, mut frame) = (Vec::new(), Vec::new());
        for &n in &candidate.keep {
            self.check_stop()?;
            let row: &Row = &candidate.footer.rows[n];
            debug_assert!(row.offset >= HEADER_BYTES);
            if row.bases.is_empty() {
                chunk.resize(row.chunk_bytes as usize, 0);
                set.read(row.chunk, &mut tool, &mut chunk)?;
            }
            frame.resize(row.frame_bytes as usize, 0);
            object.read_exact_at(&mut frame, row.offset)?;
            let info = FrameInfo {
                chunk: row.chunk,
                chunk_bytes: row.chunk_bytes,
                codec: row.codec,
                depth: row.depth,
                bases: row.bases.clone(),
            };
            writer.put(info, &frame)?;
            self.monitor().advance(row.frame_bytes.into());
        }
        Ok(())
    }
}
