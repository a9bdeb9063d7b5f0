//! The end of a save: where it belongs in the history, and the entry that makes it a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{OnConflict, Prepared, SaveOptions, SaveOutcome, SaveReport};
use crate::catalog::{Catalog, CheckpointRow, Position};
use crate::error::{Error, Result};
use crate::format::entry::{Annotate, Body, Commit, Needs};
use crate::id::PackId;
use crate::store::{Published, Store, needs_from};

/// Where a save belongs.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    pub(super) parent: Option<CheckpointRow>,
    /// Steps, with their slots, that the save leaves behind.
    pub(super) superseded: Vec<(u64, u64)>,
    /// The checkpoint that has this step and is not left behind.
    pub(super) existing: Option<CheckpointRow>,
}

/// Finds it, or says why the step cannot be saved.
pub(super) fn lineage(catalog: &Catalog, parent: &Option<CheckpointRow>, options: &SaveOptions) -> Result<Lineage> {
    let step = options.step;
    let _view = catalog.view()?;
    let Some(run) = catalog.run(&options.run)? else {
        return Ok(Lineage { parent: parent.clone(), ..Lineage::default() });
    };
    let existing = catalog.checkpoint_at(&run, step)?.filter(|row| row.status == crate::catalog::Status::Kept);
    if let Some(parent) = parent {
        let mut lineage = Lineage { parent: Some(parent.clone()), ..Lineage::default() };
        if parent.run == options.run {
            if parent.step >= step {
                return Err(Error::invalid(
                    format!("step {step}"),
                    format!("not above its parent's, {}", parent.address()),
                ));
            }
            lineage.superseded = catalog.steps_above(&run, parent.step)?;
        } else {
            lineage.existing = existing;
        }
        return Ok(lineage);
    }
    let above = catalog.steps_above(&run, step)?;
    if let (Some((latest, _)), None, false) = (above.last(), &existing, options.backfill) {
        let why = format!(
            "below the run's latest, {latest}; --backfill adds it, --parent {}@STEP goes back and continues from there",
            options.run
        );
        return Err(Error::invalid(format!("step {step} of {}", options.run), why));
    }
    if existing.is_some() && options.on_conflict == OnConflict::Error && options.dry_run {
        return Err(Error::StepExists { run: options.run.clone(), step });
    }
    let parent = catalog.below(&run, step)?;
    Ok(Lineage { parent, superseded: Vec::new(), existing })
}

impl Store {
    pub(super) fn commit(
        &self,
        prepared: Prepared,
        options: &SaveOptions,
        begin: u64,
        started: Instant,
    ) -> Result<SaveReport> {
        let Prepared { save, manifest, schema, sizes, needs, packs, others, tensors, components, bases_in_memory } =
            prepared;
        if options.dry_run {
            return Ok(self.planned(&packs, sizes, tensors, options, started));
        }
        // Nothing new to store: it may be the very checkpoint that is there.
        let parent = self.parent_of(options)?;
        let before = lineage(&self.catalog(), &parent, options)?;
        if let Some(existing) = before.existing.as_ref().filter(|row| row.manifest == manifest) {
            self.add_metrics(existing, options)?;
            self.heal_identical(save, packs, others)?;
            return Ok(self.report_existing(existing, SaveOutcome::Identical, sizes, started));
        }
        self.check_conflict(&self.catalog(), &before, options)?;
        let mut commit = Commit {
            run: options.run.clone(),
            step: options.step,
            parent: None,
            manifest,
            schema,
            packs: others.iter().map(|(pack, _)| *pack).collect(),
            needs: Needs::default(),
            tensors,
            sizes,
            components,
            dropped: Vec::new(),
            metrics: options.metrics.clone(),
            tags: options.tags.clone(),
            note: options.note.clone(),
            config: options.config.clone(),
            provenance: options.provenance.clone(),
            supersedes: Vec::new(),
            replaces: None,
        };
        let (mut seen, mut found) = fill_in(&mut commit, &self.catalog(), &parent, &needs, options)?;
        let mut published = publish(packs, &commit)?;
        published.add(others);
        commit.packs.clone_from(&published.packs);
        commit.sizes.stored = commit.packs.iter().map(|pack| pack.bytes).sum();

        let mut superseded = Vec::new();
        let mut identical = None;
        let slot = self.append(save, begin, |catalog| {
            if catalog.is_aborted(save)? {
                return Err(Error::Stale { what: format!("save {save}") });
            }
            if catalog.position()? != seen {
                let before = lineage(catalog, &parent, options)?;
                // Somebody else has just saved the very same.
                identical = before.existing.filter(|row| row.manifest == manifest);
                if identical.is_some() {
                    return Ok(None);
                }
                (seen, found) = fill_in(&mut commit, catalog, &parent, &needs, options)?;
            }
            self.check_conflict(catalog, &found, options)?;
            superseded = found.superseded.iter().map(|&(step, _)| step).collect();
            Ok(Some(Body::Commit(commit.clone())))
        })?;
        if let Some(existing) = identical {
            self.add_metrics(&existing, options)?;
            return Ok(self.report_existing(&existing, SaveOutcome::Identical, sizes, started));
        }
        let slot = slot.ok_or_else(|| Error::Bug("a commit without an entry".into()))?;
        let (new_bytes, new_objects) = (commit.sizes.stored, commit.packs.len() as u64);
        self.remember(save, &published);
        // The checkpoint is there; what it heals beside is not its affair.
        if let Err(error) = self.heal_with(&published) {
            self.monitor().warn(&format!("damaged copies of what was saved are not healed: {error}"));
        }
        published.committed();
        let entry_bytes = Body::Commit(commit.clone()).encode().len() as u64 + 176;
        Ok(SaveReport {
            run: commit.run,
            step: commit.step,
            slot: Some(slot),
            outcome: SaveOutcome::Saved,
            sizes: commit.sizes,
            tensors: commit.tensors,
            new_bytes: new_bytes + entry_bytes,
            new_objects: new_objects + 1,
            superseded,
            seconds: started.elapsed().as_secs_f64(),
            space_left: self.space_left(),
            bases_in_memory,
        })
    }

    /// Footers that were just written need not be read again, and their chunks can be looked up.
    fn remember(&self, save: crate::id::SaveId, published: &Published) {
        let mut catalog = self.catalog();
        let mut chunks = Vec::new();
        for footer in &published.footers {
            debug_assert_eq!(footer.pack.save, save);
            let Ok(Some(pack)) = catalog.pack(footer.pack) else { return };
            let bytes = footer.encode().0;
            catalog.put_footer(&pack, &bytes[..bytes.len() - crate::format::pack::TRAILER_BYTES as usize]);
            chunks.extend(footer.rows.iter().map(|row| (row.chunk, pack.row)));
        }
        // A cache that could not be filled is filled later.
        let _ = catalog.add_lookup(chunks.into_iter());
    }

    /// The step may be there only to be replaced, and not while it is leased.
    fn check_conflict(&self, catalog: &Catalog, lineage: &Lineage, options: &SaveOptions) -> Result<()> {
        match &lineage.existing {
            None => Ok(()),
            Some(existing) if options.on_conflict == OnConflict::Replace => {
                self.check_unleased(catalog, &[existing.slot])
            }
            Some(_) => Err(Error::StepExists { run: options.run.clone(), step: options.step }),
        }
    }

    fn add_metrics(&self, existing: &CheckpointRow, options: &SaveOptions) -> Result<()> {
        let new = options.metrics.iter().filter(|(name, value)| {
            existing.metrics.get(*name).is_none_or(|old| old.0 != value.0 && !(old.0.is_nan() && value.0.is_nan()))
        });
        let metrics: BTreeMap<_, _> = new.map(|(name, value)| (name.clone(), *value)).collect();
        if metrics.is_empty() || options.on_conflict == OnConflict::Skip {
            return Ok(());
        }
        let slot = existing.slot;
        let body = Body::Annotate(Annotate { slot, metrics, note: None });
        self.append(crate::id::SaveId::default(), slot, |_| Ok(Some(body.clone()))).map(|_| ())
    }

    fn planned(
        &self,
        packs: &crate::store::PackWriter,
        mut sizes: crate::format::entry::Sizes,
        tensors: u64,
        options: &SaveOptions,
        started: Instant,
    ) -> SaveReport {
        sizes.stored = packs.stored();
        SaveReport {
            run: options.run.clone(),
            step: options.step,
            slot: None,
            outcome: SaveOutcome::Planned,
            sizes,
            tensors,
            new_bytes: sizes.stored,
            new_objects: 0,
            superseded: Vec::new(),
            seconds: started.elapsed().as_secs_f64(),
            space_left: self.space_left(),
            bases_in_memory: 0,
        }
    }
}

/// Makes the packs durable; one that a save does not need is not made.
fn publish(packs: crate::store::PackWriter, commit: &Commit) -> Result<Published> {
    packs.publish(&Body::Commit(commit.clone()).encode())
}

/// Sets what depends on the head of the log, which it says: lineage, needs, and whether all of it may still be used.
fn fill_in(
    commit: &mut Commit,
    catalog: &Catalog,
    parent: &Option<CheckpointRow>,
    needs: &BTreeSet<PackId>,
    options: &SaveOptions,
) -> Result<(Position, Lineage)> {
    let _view = catalog.view()?;
    let parent = match parent {
        Some(parent) => Some(catalog.checkpoint(parent.slot)?.ok_or_else(|| Error::Stale { what: parent.address() })?),
        None => None,
    };
    let lineage = lineage(catalog, &parent, options)?;
    commit.parent = lineage.parent.as_ref().map(|row| row.slot);
    commit.supersedes = lineage.superseded.iter().map(|&(_, slot)| slot).collect();
    commit.replaces = lineage.existing.as_ref().map(|row| row.slot);
    commit.needs = needs_from(catalog, lineage.parent.as_ref(), needs)?;
    if let Some(run) = catalog.run(&commit.run)? {
        // Kept with the run: said again only when it changed.
        commit.config = options.config.clone().filter(|config| run.config.as_ref() != Some(config));
        commit.provenance = options.provenance.clone().filter(|from| run.provenance.as_ref() != Some(from));
    }
    Ok((catalog.position()?, lineage))
}
