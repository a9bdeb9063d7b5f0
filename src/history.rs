//! Looking at the history, and changing what is said of it: everything that moves no tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::catalog::{Catalog, CheckpointRow, Filter, Lease, RunRow, Status};
use crate::env::Time;
use crate::error::{Error, Result};
use crate::format::entry::{Annotate, Body, Commit, Forget, Metrics, Needs, Pin, Settings, Sizes, Tag, Undo};
use crate::format::names;
use crate::format::policy::{Mode, Policy};
use crate::id::{PackId, SaveId};
use crate::retain::Reason;
use crate::store::{Address, Point, Store};

/// Slots in one entry.
const PER_ENTRY: usize = 8192;

/// A run and what it adds up to.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// The run.
    pub run: RunRow,
    /// Directions of its metrics.
    pub modes: BTreeMap<String, Mode>,
    /// Kept checkpoints.
    pub checkpoints: u64,
    /// Superseded ones.
    pub superseded: u64,
    /// The kept one of the highest step.
    pub latest: Option<CheckpointRow>,
    /// The same among those of which no component was dropped: from it training can resume.
    pub latest_complete: Option<CheckpointRow>,
    /// The sum of the raw bytes of the kept ones.
    pub raw_bytes: u64,
}

/// Why a checkpoint is still there.
#[derive(Clone, Debug)]
pub struct Why {
    /// The checkpoint.
    pub checkpoint: CheckpointRow,
    /// What keeps it under the run's policy; empty: the next collection takes it.
    pub keeps: Vec<Reason>,
    /// Its leases.
    pub leases: Vec<Lease>,
    /// Its packs: name, length, and how many checkpoints need it.
    pub packs: Vec<(PackId, u64, u64)>,
    /// Other checkpoints that need one of its own packs, as addresses; the first few.
    pub needed_by: Vec<String>,
}

impl Store {
    /// All runs, by name.
    pub fn runs(&self) -> Result<Vec<RunSummary>> {
        self.refresh()?;
        let runs = self.catalog().runs()?;
        runs.into_iter().map(|run| self.summary(run)).collect()
    }

    /// One run.
    pub fn run(&self, name: &str) -> Result<RunSummary> {
        self.refresh()?;
        let run = self.run_row(name)?;
        self.summary(run)
    }

    fn summary(&self, run: RunRow) -> Result<RunSummary> {
        let catalog = self.catalog();
        let (counts, raw_bytes) = catalog.totals_of(&run)?;
        Ok(RunSummary {
            modes: catalog.modes(&run)?,
            checkpoints: counts[0],
            superseded: counts[1],
            latest: catalog.latest(&run, false)?,
            latest_complete: catalog.latest(&run, true)?,
            raw_bytes,
            run,
        })
    }

    /// Checkpoints, in the order in which they were saved if nothing else is asked for.
    pub fn log(&self, filter: &Filter) -> Result<Vec<CheckpointRow>> {
        self.refresh()?;
        if let Some(run) = &filter.run {
            self.run_row(run)?;
        }
        self.catalog().checkpoints(filter)
    }

    /// How many checkpoints there are, whatever the filter's limit.
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        self.refresh()?;
        self.catalog().count(filter)
    }

    /// What the log says of a checkpoint.
    pub fn find(&self, address: &Address) -> Result<CheckpointRow> {
        self.resolve(address)
    }

    /// The best checkpoints of a run by a metric, best first.
    pub fn best(&self, run: &str, metric: &str, mode: Option<Mode>, count: u64) -> Result<Vec<CheckpointRow>> {
        self.refresh()?;
        let row = self.run_row(run)?;
        let mode = self.mode_of(&row, metric, mode)?;
        let found = self.catalog().best(&row, metric, mode, count)?;
        if found.is_empty() {
            let known = self.catalog().metric_names(&row)?;
            let near = if known.is_empty() {
                "the run has no metrics".into()
            } else {
                format!("metrics here: {}", known.join(", "))
            };
            return Err(Error::CheckpointUnknown { run: run.into(), what: format!("best:{metric}"), near });
        }
        Ok(found)
    }

    /// Checkpoints committed from this slot on, and the slot to ask for next. For followers: each comes once.
    pub fn since(&self, run: &str, slot: u64) -> Result<(Vec<CheckpointRow>, u64)> {
        self.refresh()?;
        let catalog = self.catalog();
        let filter = Filter { run: Some(run.into()), superseded: true, from_slot: slot, ..Filter::default() };
        Ok((catalog.checkpoints(&filter)?, catalog.position()?.next))
    }

    /// Adds metrics, or a note, to a checkpoint.
    pub fn annotate(&self, address: &Address, metrics: Metrics, note: Option<String>) -> Result<CheckpointRow> {
        metrics.keys().try_for_each(|name| names::check_metric(name))?;
        let row = self.resolve(address)?;
        self.say(|| Body::Annotate(Annotate { slot: row.slot, metrics: metrics.clone(), note: note.clone() }))?;
        self.again(row.slot)
    }

    /// Gives a checkpoint tags, taken from any other of its run that has them, and takes others away.
    pub fn tag(&self, address: &Address, add: &[String], remove: &[String]) -> Result<CheckpointRow> {
        add.iter().try_for_each(|tag| names::check_tag(tag))?;
        let row = self.resolve(address)?;
        if let Some(absent) = remove.iter().find(|tag| !row.tags.contains(tag)) {
            let name = names::printable(absent).into_owned();
            return Err(Error::PartUnknown { what: "tag", name, checkpoint: row.address() });
        }
        self.append(SaveId::default(), row.slot, |catalog| {
            check_live(catalog, &row)?;
            Ok(Some(Body::Tag(Tag { slot: row.slot, add: add.to_vec(), remove: remove.to_vec() })))
        })?;
        self.again(row.slot)
    }

    /// Says once which way a metric of a run goes.
    pub fn set_mode(&self, run: &str, metric: &str, mode: Mode) -> Result<()> {
        names::check_run(run)?;
        names::check_metric(metric)?;
        let modes = BTreeMap::from([(metric.to_string(), mode)]);
        self.say(|| Body::Settings(Settings { run: run.into(), policy: None, modes: modes.clone() }))
    }

    /// Gives a run another policy; directions of metrics may come with it. The run may be new.
    pub fn set_policy(&self, run: &str, policy: &Policy) -> Result<()> {
        names::check_run(run)?;
        self.say(|| Body::Settings(Settings { run: run.into(), policy: Some(policy.clone()), modes: BTreeMap::new() }))
    }

    /// Forgets checkpoints, all or, if one of them is leased, none. Their space is freed by the next collection; until
    /// then `undo` brings them back.
    pub fn forget(&self, slots: &[u64]) -> Result<Vec<CheckpointRow>> {
        self.refresh()?;
        self.check_unleased(&self.catalog(), slots)?;
        self.forget_if(slots, |catalog, slots| self.check_unleased(catalog, slots))
    }

    /// The same whatever leases say.
    pub fn forget_leased(&self, slots: &[u64]) -> Result<Vec<CheckpointRow>> {
        self.forget_if(slots, |_, _| Ok(()))
    }

    fn forget_if(&self, slots: &[u64], check: impl Fn(&Catalog, &[u64]) -> Result<()>) -> Result<Vec<CheckpointRow>> {
        let mut forgotten = Vec::new();
        for some in slots.chunks(PER_ENTRY) {
            let mut now = Vec::new();
            self.append(SaveId::default(), 0, |catalog| {
                check(catalog, some)?;
                let mut live = Vec::new();
                for &slot in some {
                    let row = catalog.checkpoint(slot)?;
                    live.extend(row.filter(|row| row.status != Status::Forgotten));
                }
                let slots: Vec<u64> = live.iter().map(|row| row.slot).collect();
                // Asked again after a lost race, only the last answer counts.
                now = live;
                Ok((!slots.is_empty()).then(|| Body::Forget(Forget { slots, reason: "asked".into() })))
            })?;
            forgotten.append(&mut now);
        }
        Ok(forgotten)
    }

    /// Brings back a forgotten or superseded checkpoint that was not collected yet, with those of its tags that no other
    /// has by now.
    pub fn undo(&self, address: &Address) -> Result<CheckpointRow> {
        self.refresh()?;
        let run = self.run_row(&address.run)?;
        let forgotten = match &address.point {
            Point::Step(step) => self.catalog().forgotten_at(&run, *step)?,
            Point::Tag(tag) => self.catalog().tagged(&run, tag)?.filter(|row| row.status == Status::Forgotten),
            _ => None,
        };
        let row = match self.resolve(address) {
            Ok(row) if row.status == Status::Superseded || forgotten.is_none() => row,
            Ok(taken) => {
                let why = format!("{} has taken its place; forget that first", taken.address());
                return Err(Error::invalid(address.to_string(), why));
            }
            Err(error) => forgotten.ok_or(error)?,
        };
        let slot = row.slot;
        self.append(SaveId::default(), slot, |catalog| {
            let gone = catalog.packs_of(slot)?.into_iter().any(|pack| pack.state != crate::catalog::PackState::Live);
            if gone {
                return Err(Error::CheckpointUnknown {
                    run: row.run.clone(),
                    what: row.step.to_string(),
                    near: "it was forgotten and collected".into(),
                });
            }
            Ok(Some(Body::Undo(Undo { slots: vec![slot] })))
        })?;
        self.again(slot)
    }

    /// Begins a new run with a checkpoint of another: the same bytes, nothing is copied.
    pub fn fork(&self, new_run: &str, address: &Address) -> Result<CheckpointRow> {
        names::check_run(new_run)?;
        let from = self.resolve(address)?;
        let slot = self.append(SaveId(self.env().random()), from.slot, |catalog| {
            if catalog.run(new_run)?.is_some() {
                return Err(Error::NameTaken { what: "run", name: new_run.into() });
            }
            let row = catalog.checkpoint(from.slot)?.filter(|row| row.status != Status::Forgotten);
            let row = row.ok_or_else(|| Error::Forgotten { checkpoint: from.address() })?;
            let run = catalog.run(&row.run)?;
            Ok(Some(Body::Commit(Commit {
                run: new_run.into(),
                step: row.step,
                parent: Some(row.slot),
                manifest: row.manifest,
                schema: row.schema,
                packs: Vec::new(),
                needs: Needs { base: Some(row.slot), ..Needs::default() },
                tensors: row.tensors,
                sizes: Sizes { raw: row.sizes.raw, unchanged: row.sizes.raw, ..Sizes::default() },
                components: row.components,
                dropped: row.dropped,
                metrics: row.metrics,
                tags: Vec::new(),
                note: Some(format!("forked from {}", from.address())),
                config: run.as_ref().and_then(|run| run.config.clone()),
                provenance: run.and_then(|run| run.provenance),
                supersedes: Vec::new(),
                replaces: None,
            })))
        })?;
        self.again(slot.ok_or_else(|| Error::Bug("a fork without an entry".into()))?)
    }

    /// Keeps a checkpoint for a while, whatever the policy says.
    pub fn lease(&self, address: &Address, time: Duration, purpose: &str) -> Result<(CheckpointRow, Time)> {
        let row = self.resolve(address)?;
        let until = self.env().now().plus_secs(time.as_secs());
        self.append(SaveId::default(), row.slot, |catalog| {
            check_live(catalog, &row)?;
            Ok(Some(Body::Pin(Pin { slot: row.slot, until, purpose: purpose.into() })))
        })?;
        Ok((row, until))
    }

    /// What keeps a checkpoint, and who needs its packs.
    pub fn why(&self, address: &Address) -> Result<Why> {
        let row = self.resolve(address)?;
        let keeps = self.reasons(&row)?;
        let catalog = self.catalog();
        let leases = catalog.leases()?.into_iter().filter(|lease| lease.slot == row.slot).collect();
        let packs = catalog.packs_of(row.slot)?;
        let own: BTreeSet<i64> = packs.iter().filter(|pack| pack.pack.save == row.save).map(|pack| pack.row).collect();
        let users = if packs.iter().any(|pack| own.contains(&pack.row) && pack.refs > 1) {
            catalog.users_of(&own)?
        } else {
            Vec::new()
        };
        let others = users.into_iter().map(|(slot, _)| slot).filter(|&slot| slot != row.slot).take(20);
        let mut needed_by = Vec::new();
        for slot in others {
            needed_by.extend(catalog.checkpoint(slot)?.map(|row| row.address()));
        }
        let packs = packs.into_iter().map(|pack| (pack.pack, pack.bytes, pack.refs)).collect();
        Ok(Why { checkpoint: row, keeps, leases, packs, needed_by })
    }

    fn say(&self, body: impl Fn() -> Body) -> Result<()> {
        self.append(SaveId::default(), 0, |_| Ok(Some(body()))).map(|_| ())
    }

    fn again(&self, slot: u64) -> Result<CheckpointRow> {
        self.catalog().checkpoint(slot)?.ok_or_else(|| Error::Bug(format!("checkpoint in slot {slot} vanished")))
    }
}

fn check_live(catalog: &Catalog, row: &CheckpointRow) -> Result<()> {
    match catalog.checkpoint(row.slot)? {
        Some(now) if now.status != Status::Forgotten => Ok(()),
        _ => Err(Error::Forgotten { checkpoint: row.address() }),
    }
}
