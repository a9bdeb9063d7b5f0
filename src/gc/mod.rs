//! Collection: freeing what nobody needs any more.
//!
//! # Why it is safe
//! A pack is deleted only after a condemn entry (or a repack, or an abort) that names it is durable in the log. Whoever
//! writes an entry has folded all before it: a condemn names no pack that a checkpoint of that fold needs, and a commit
//! names no pack that is condemned in its fold. Both take a slot of the log, so one comes first, and the other sees it.
//! No clock, lock or owner decides, and no pack's name is ever used again.
//!
//! # The order of things
//! 1. Saves that died are aborted: their packs are condemned by that.
//! 2. Expired leases end; policies say which checkpoints go and which components are dropped.
//! 3. Packs that no checkpoint needs are condemned.
//! 4. Packs with much that nobody needs are written anew; the old ones are condemned by the entry that brings the new.
//! 5. What is condemned is deleted once the grace for readers is over, and that is noted.
//!
//! Every step may be the last one: the next collection carries on from what the log says.

mod mark;
mod repack;
mod sweep;
mod thin;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::catalog::{CheckpointRow, Filter, PackState, RunRow, Status, is_broken};
use crate::error::{Error, Result};
use crate::format::entry::{Abort, Body, Forget, Unpin};
use crate::format::keys::{self, Key};
use crate::format::pack;
use crate::id::{PackId, SaveId};
use crate::retain::{self, Candidate, Reason, Request};
use crate::store::Store;

/// Slots or packs in one entry: well below the size that an entry may have.
const PER_ENTRY: usize = 8192;

/// Every row of the catalog is checked, and packs that belong to nobody are looked for, so often.
const INSPECTION_SECS: u64 = 3600;
/// Packs that the log does not know and whose save has left nothing else are let lie for so long. Somebody who deleted
/// the newest entry by hand, and notices, can still have it made again from them.
const ORPHAN_SECS: u64 = 24 * 3600;
/// More saves than these are not left like that at once, not by a power loss in the middle of many: it is the log that
/// has lost them.
const ORPHANED_SAVES_MAX: usize = 8;

/// What to collect.
#[derive(Clone, Debug, Default)]
pub struct GcOptions {
    /// Apply the policy of this run alone. Space is freed in the whole store.
    pub run: Option<String>,
    /// Only say what would go.
    pub dry_run: bool,
    /// Stop beginning new work after this long.
    pub max_time: Option<Duration>,
    /// Rewrite packs of which at least this share is not needed; by default, an explicit collection's 2 %.
    pub repack_above: Option<f64>,
    /// Delete packs that no entry explains even if they are many.
    pub unexplained: bool,
    /// Let what is condemned lie for so long, for those who still read it. By default not at all where all readers are on
    /// this machine, and 15 minutes on a network file system.
    pub grace: Option<Duration>,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// For every checkpoint that was looked at: what keeps it, or that nothing does. A run without a policy is looked at
    /// only for a dry run.
    pub checkpoints: Vec<GcVerdict>,
    /// Packs that are gone.
    pub packs_deleted: u64,
    /// Packs that are condemned, and let lie for now: a collection after the grace deletes them.
    pub packs_waiting: u64,
    /// Their bytes.
    pub bytes_waiting: u64,
    /// Packs that were rewritten without what nobody needs.
    pub packs_rewritten: u64,
    /// Bytes that were freed, what was written anew taken off; for a dry run, a little more than would be after the grace.
    pub bytes_freed: i64,
    /// Saves that had died, and left packs behind.
    pub dead_saves: u64,
    /// It ran out of time: collect again.
    pub unfinished: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What became of a checkpoint.
#[derive(Clone, Debug)]
pub struct GcVerdict {
    /// The checkpoint.
    pub checkpoint: CheckpointRow,
    /// What keeps it; empty: it goes.
    pub keeps: Vec<Reason>,
    /// Components that go.
    pub thin: Vec<String>,
    /// Bytes that only it needs: freed if it goes. Packs that several going checkpoints share count for the last of
    /// them.
    pub bytes: u64,
}

impl GcVerdict {
    /// Nothing keeps it.
    pub fn goes(&self) -> bool {
        self.keeps.is_empty()
    }
}

/// The time that a collection may take.
#[derive(Clone, Copy, Debug)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn passed(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }
}

impl Store {
    /// Applies policies and frees space.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        match self.collect(options) {
            // What goes is decided by the catalog's rows: one of them was not what the log says.
            Err(e) if is_broken(&e) => {
                self.remake_catalog(&e)?;
                self.collect(options)
            }
            collected => collected,
        }
    }

    fn collect(&self, options: &GcOptions) -> Result<GcReport> {
        let started = Instant::now();
        let deadline = Deadline(options.max_time.map(|time| started + time));
        self.refresh()?;
        let due = self.is_inspection_due()?;
        if due {
            self.check_catalog()?;
        }
        let mut report = GcReport::default();
        if !options.dry_run {
            report.dead_saves = self.bury_dead(due, options.unexplained)?;
            self.end_leases()?;
        }
        report.checkpoints = self.verdicts(options)?;
        if options.dry_run {
            report.bytes_freed = report.checkpoints.iter().filter(|v| v.goes()).map(|v| v.bytes as i64).sum();
            report.bytes_freed += self.collectable_bytes()? as i64;
            report.bytes_freed += self.foresee(options, &report.checkpoints)? as i64;
        } else {
            self.forget_going(&report.checkpoints)?;
            self.thin(&report.checkpoints, deadline).or_else(|error| self.unless_overtaken(error))?;
            self.condemn_unneeded()?;
            self.sweep(options, &mut report)?;
            if !deadline.passed() {
                self.repack(options, deadline, &mut report).or_else(|error| self.unless_overtaken(error))?;
                self.sweep(options, &mut report)?;
            }
            report.unfinished = deadline.passed();
            self.backend().make_reserve();
        }
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Another collection may have taken what this one was about to read: nothing is lost by that, and what is left to do
    /// is for the next one.
    fn unless_overtaken(&self, error: Error) -> Result<()> {
        if let Error::ObjectMissing { object } = &error
            && let Some(pack) = keys::pack_of(object)
        {
            self.refresh()?;
            if self.catalog().pack(pack)?.is_none_or(|row| !is_live(&row)) {
                self.monitor().end();
                return Ok(());
            }
        }
        Err(error)
    }

    /// Every row and every pack is looked at now and then: a collection has evidence of its own for what it deletes, and
    /// packs that belong to nobody are let lie for longer.
    fn is_inspection_due(&self) -> Result<bool> {
        let (now, last) = (self.env().now(), self.catalog().inspected()?);
        Ok(now < last || now >= last.plus_secs(INSPECTION_SECS))
    }

    /// Ends saves whose process is gone: what they left is condemned, unless they had committed. What left nothing but
    /// packs is looked for if `search`.
    fn bury_dead(&self, search: bool, unexplained: bool) -> Result<u64> {
        let mut dead = 0;
        self.backend().reap(self.env().now(), &mut |save| {
            // It writes nothing any more, or its commit will be refused: what the log says now is final.
            let packs: Vec<PackId> = self.backend().packs_of(save)?.into_iter().map(|(pack, _)| pack).collect();
            if !search && !packs.is_empty() {
                // That no row speaks of them must not be because it is lost.
                self.check_catalog()?;
            }
            dead += self.abort(save, &packs)?;
            Ok(())
        })?;
        if search {
            let orphans = self.orphans()?;
            if !unexplained {
                self.check_explained(&orphans)?;
            }
            for (save, packs) in orphans {
                dead += self.abort(save, &packs)?;
            }
            self.catalog().set_inspected(self.env().now())?;
        }
        Ok(dead)
    }

    /// A log that lost its end, or all of it, looks like one in which nobody ever committed what lies here.
    fn check_explained(&self, orphans: &BTreeMap<SaveId, Vec<PackId>>) -> Result<()> {
        let nothing_known = self.catalog().position()?.next == 0;
        if orphans.len() > ORPHANED_SAVES_MAX || nothing_known && !orphans.is_empty() {
            return Err(Error::Unexplained { packs: orphans.values().map(|packs| packs.len() as u64).sum() });
        }
        Ok(())
    }

    fn abort(&self, save: SaveId, packs: &[PackId]) -> Result<u64> {
        if packs.is_empty() {
            return Ok(0);
        }
        let written = self.append(save, 0, |catalog| {
            let aborted = catalog.is_aborted(save)?;
            if !aborted && catalog.has_packs_of(save)? {
                return Ok(None);
            }
            // A process of a joint save may have brought some after the save was ended for it.
            let unknown = if aborted { catalog.unknown_and_swept(packs)?.0 } else { packs.to_vec() };
            Ok((!unknown.is_empty()).then_some(Body::Abort(Abort { packs: unknown })))
        })?;
        Ok(u64::from(written.is_some()))
    }

    /// Packs that the log does not know, of saves whose place for temporary files is gone: a power loss may keep the
    /// one and take the other. A save that runs has its place until it has committed.
    fn orphans(&self) -> Result<BTreeMap<SaveId, Vec<PackId>>> {
        let lying = self.backend().packs()?;
        // What was committed before it was seen here is known now.
        self.refresh()?;
        let catalog = self.catalog();
        if catalog.has_voids()? {
            // An entry that was lost may have named them, and nobody could tell.
            return Ok(BTreeMap::new());
        }
        let now = self.env().now();
        let old = lying.iter().filter(|lying| lying.since.plus_secs(ORPHAN_SECS) < now);
        let old: Vec<PackId> = old.map(|lying| lying.pack).collect();
        let mut orphans: BTreeMap<SaveId, Vec<PackId>> = BTreeMap::new();
        let (unknown, swept) = catalog.unknown_and_swept(&old)?;
        drop(catalog);
        // A backup, or a file system that forgot, has brought these back.
        swept.iter().try_for_each(|&pack| self.backend().delete_pack(pack))?;
        for pack in unknown {
            orphans.entry(pack.save).or_default().push(pack);
        }
        let mut dead = BTreeMap::new();
        for (save, mut packs) in orphans {
            // What came here from another store is not ours to delete.
            packs.retain(|&pack| self.is_own(pack));
            if !self.backend().is_staged(save)? {
                dead.insert(save, packs);
            }
        }
        Ok(dead)
    }

    fn is_own(&self, pack: PackId) -> bool {
        let mut found = [0; pack::HEADER_BYTES as usize];
        let read = self.backend().open(&Key::pack(pack)).and_then(|object| object.read_exact_at(&mut found, 0));
        read.is_ok() && found[..] == pack::header(self.id(), pack)
    }

    fn end_leases(&self) -> Result<()> {
        let now = self.env().now();
        let expired = |catalog: &crate::catalog::Catalog| -> Result<Vec<u64>> {
            Ok(catalog.leases()?.into_iter().filter(|lease| lease.until < now).map(|lease| lease.pin).collect())
        };
        if expired(&self.catalog())?.is_empty() {
            return Ok(());
        }
        self.append(SaveId::default(), 0, |catalog| {
            let pins: Vec<u64> = expired(catalog)?.into_iter().take(PER_ENTRY).collect();
            Ok((!pins.is_empty()).then_some(Body::Unpin(Unpin { pins })))
        })?;
        Ok(())
    }

    /// What the policies say of every checkpoint that is not forgotten.
    fn verdicts(&self, options: &GcOptions) -> Result<Vec<GcVerdict>> {
        let runs = match &options.run {
            Some(name) => vec![self.run_row(name)?],
            None => self.catalog().runs()?,
        };
        let pinned: BTreeSet<u64> = self.catalog().leases()?.into_iter().map(|lease| lease.slot).collect();
        let mut verdicts = Vec::new();
        // Without a policy nothing goes: a long history need not be read to find that out.
        for run in runs.iter().filter(|run| options.dry_run || !run.policy.is_empty()) {
            verdicts.extend(self.verdicts_of(run, &pinned)?);
        }
        self.count_bytes(&mut verdicts)?;
        Ok(verdicts)
    }

    /// What keeps a checkpoint under its run's policy.
    pub(crate) fn reasons(&self, row: &CheckpointRow) -> Result<Vec<Reason>> {
        let pinned: BTreeSet<u64> = self.catalog().leases()?.into_iter().map(|lease| lease.slot).collect();
        let verdicts = self.verdicts_of(&self.run_row(&row.run)?, &pinned)?;
        let found = verdicts.into_iter().find(|verdict| verdict.checkpoint.slot == row.slot);
        Ok(found.map_or(Vec::new(), |verdict| verdict.keeps))
    }

    fn verdicts_of(&self, run: &RunRow, pinned: &BTreeSet<u64>) -> Result<Vec<GcVerdict>> {
        let filter = Filter { run: Some(run.name.clone()), superseded: true, ..Filter::default() };
        let (rows, modes) = {
            let catalog = self.catalog();
            (catalog.checkpoints(&filter)?, catalog.modes(run)?)
        };
        self.catalog().check_checkpoints(rows.iter().map(|row| row.slot))?;
        let candidates: Vec<Candidate> = rows.iter().map(|row| candidate(row, pinned)).collect();
        let request = Request {
            run: &run.name,
            candidates: &candidates,
            policy: &run.policy,
            modes: &modes,
            now: self.env().now(),
        };
        let plan = retain::plan(&request)?;
        let mut by_slot: BTreeMap<u64, CheckpointRow> = rows.into_iter().map(|row| (row.slot, row)).collect();
        let verdicts = plan.verdicts.into_iter().filter_map(|verdict| {
            let checkpoint = by_slot.remove(&verdict.slot)?;
            Some(GcVerdict { checkpoint, keeps: verdict.keeps, thin: verdict.thin, bytes: 0 })
        });
        Ok(verdicts.collect())
    }

    /// A going checkpoint frees the packs whose every user goes.
    fn count_bytes(&self, verdicts: &mut [GcVerdict]) -> Result<()> {
        let catalog = self.catalog();
        let mut left: BTreeMap<PackId, u64> = BTreeMap::new();
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.goes()) {
            for pack in catalog.packs_of(verdict.checkpoint.slot)? {
                let refs = left.entry(pack.pack).or_insert(pack.refs);
                *refs = refs.saturating_sub(1);
                verdict.bytes += if *refs == 0 { pack.bytes } else { 0 };
            }
        }
        Ok(())
    }

    fn collectable_bytes(&self) -> Result<u64> {
        Ok(self.catalog().collectable()?.iter().map(|pack| pack.bytes).sum())
    }

    /// The policy's forgetting, as entries. What was pinned, tagged or scored since the plan is looked at again.
    fn forget_going(&self, verdicts: &[GcVerdict]) -> Result<()> {
        let going: Vec<&GcVerdict> = verdicts.iter().filter(|verdict| verdict.goes()).collect();
        for some in going.chunks(PER_ENTRY) {
            self.append(SaveId::default(), 0, |catalog| {
                let pinned: BTreeSet<u64> = catalog.leases()?.into_iter().map(|lease| lease.slot).collect();
                let mut slots = Vec::new();
                for verdict in some {
                    let planned = &verdict.checkpoint;
                    let now = catalog.checkpoint(planned.slot)?;
                    let same = now.is_some_and(|now| {
                        now.status == planned.status && now.tags == planned.tags && same_metrics(&now, planned)
                    });
                    if same && !pinned.contains(&planned.slot) {
                        slots.push(planned.slot);
                    }
                }
                Ok((!slots.is_empty()).then(|| Body::Forget(Forget { slots, reason: "policy".into() })))
            })?;
        }
        Ok(())
    }
}

fn same_metrics(a: &CheckpointRow, b: &CheckpointRow) -> bool {
    let bits = |row: &CheckpointRow| row.metrics.iter().map(|(k, v)| (k.clone(), v.0.to_bits())).collect::<Vec<_>>();
    bits(a) == bits(b)
}

fn candidate(row: &CheckpointRow, pinned: &BTreeSet<u64>) -> Candidate {
    Candidate {
        slot: row.slot,
        step: row.step,
        created: row.created,
        superseded: row.status == Status::Superseded,
        tags: row.tags.clone(),
        metrics: row.metrics.iter().map(|(name, value)| (name.clone(), value.0)).collect(),
        pinned: pinned.contains(&row.slot),
        components: row.components.keys().filter(|name| !row.dropped.contains(name)).cloned().collect(),
        thinned: row.dropped.clone(),
    }
}

/// True for a pack that may still be used.
fn is_live(pack: &crate::catalog::PackRow) -> bool {
    pack.state == PackState::Live
}
