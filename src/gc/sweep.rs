//! Condemning what nobody needs, and deleting what was condemned.

use super::{GcOptions, GcReport, PER_ENTRY, is_live};
use crate::catalog::{PackRow, PackState};
use crate::error::Result;
use crate::format::entry::{Body, Condemn, Swept};
use crate::id::{PackId, SaveId};
use crate::store::Store;

impl Store {
    /// Condemns the live packs that no checkpoint needs.
    pub(super) fn condemn_unneeded(&self) -> Result<()> {
        loop {
            let mut more = false;
            let written = self.append(SaveId::default(), 0, |catalog| {
                let unneeded: Vec<PackId> =
                    catalog.collectable()?.iter().filter(|pack| is_live(pack)).map(|pack| pack.pack).collect();
                more = unneeded.len() > PER_ENTRY;
                let packs: Vec<PackId> = unneeded.into_iter().take(PER_ENTRY).collect();
                Ok((!packs.is_empty()).then_some(Body::Condemn(Condemn { packs })))
            })?;
            if written.is_none() || !more {
                return Ok(());
            }
        }
    }

    /// Deletes condemned packs, after the grace. Nobody may use them any more, and a reader that still does loses a
    /// checkpoint that was forgotten, or looks again and finds the pack that took its place.
    pub(super) fn sweep(&self, options: &GcOptions, report: &mut GcReport) -> Result<()> {
        let grace = options.grace.unwrap_or_else(|| self.backend().grace());
        let now = self.env().now();
        // By either clock: one that was years ahead must not keep a pack for as long.
        let waits = |pack: &PackRow| pack.condemned.is_some_and(|then| now.distance(then) < grace);
        let condemned = self.catalog().collectable()?.into_iter().filter(|pack| pack.state == PackState::Condemned);
        let (waiting, condemned): (Vec<PackRow>, Vec<PackRow>) = condemned.partition(waits);
        report.packs_waiting = waiting.len() as u64;
        report.bytes_waiting = waiting.iter().map(|pack| pack.bytes).sum();
        for packs in condemned.chunks(PER_ENTRY) {
            for pack in packs {
                self.check_stop()?;
                self.backend().delete_pack(pack.pack)?;
                report.packs_deleted += 1;
                report.bytes_freed += pack.bytes as i64;
            }
            let packs: Vec<PackId> = packs.iter().map(|pack| pack.pack).collect();
            self.backend().sync_deletions(&packs)?;
            self.append(SaveId::default(), 0, |_| Ok(Some(Body::Swept(Swept { packs: packs.clone() }))))?;
        }
        Ok(())
    }
}
