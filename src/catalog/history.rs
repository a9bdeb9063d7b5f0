//! Runs and checkpoints: what is asked of the history.

use std::collections::BTreeMap;

use rusqlite::types::Value as Sql;
use rusqlite::{OptionalExtension, Row, params};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Catalog, broken};
use crate::env::Time;
use crate::error::Result;
use crate::format::entry::{Metrics, Number, Sizes};
use crate::format::manifest::Stored;
use crate::format::policy::{Mode, Policy};
use crate::id::{ChunkId, SaveId};

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    pub(crate) id: i64,
    /// Its name.
    pub name: String,
    /// When its first entry was written.
    pub created: Time,
    /// Its configuration, as it was last given.
    pub config: Option<serde_json::Value>,
    /// Where its last save with another provenance came from.
    pub provenance: Option<serde_json::Value>,
    /// What it keeps.
    pub policy: Policy,
}

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Part of the history.
    Kept,
    /// Left behind by a save that continued an earlier step.
    Superseded,
    /// Nobody wants it; it may be collected.
    Forgotten,
}

/// A checkpoint, as the log tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRow {
    /// The slot of its commit: its place in history.
    pub slot: u64,
    /// The name of its run.
    pub run: String,
    /// The trainer's number.
    pub step: u64,
    /// Its id.
    pub save: SaveId,
    /// The slot of the checkpoint that it continues.
    pub parent: Option<u64>,
    /// When it was committed.
    pub created: Time,
    /// Where it stands.
    pub status: Status,
    /// The root of its manifest.
    pub manifest: Stored,
    /// The id of its schema.
    pub schema: ChunkId,
    /// How many tensors it was saved with.
    pub tensors: u64,
    /// What the save cost.
    pub sizes: Sizes,
    /// Raw bytes of each component.
    pub components: BTreeMap<String, u64>,
    /// Components that were dropped since.
    pub dropped: Vec<String>,
    /// Its metrics.
    pub metrics: Metrics,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its note.
    pub note: Option<String>,
    /// Why it was forgotten.
    pub reason: Option<String>,
}

impl CheckpointRow {
    /// `RUN@STEP`.
    pub fn address(&self) -> String {
        format!("{}@{}", self.run, self.step)
    }
}

/// A lease on a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The slot of its pin.
    pub pin: u64,
    /// The checkpoint's slot.
    pub slot: u64,
    /// When it ends.
    pub until: Time,
    /// For whom or what.
    pub purpose: String,
}

/// Which checkpoints to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this run alone.
    pub run: Option<String>,
    /// Superseded ones too.
    pub superseded: bool,
    /// Forgotten ones too.
    pub forgotten: bool,
    /// How they are ordered.
    pub order: Order,
    /// The last N of that order alone.
    pub newest: Option<u64>,
    /// Those whose slot is at least this.
    pub from_slot: u64,
}

/// How checkpoints are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were saved.
    #[default]
    Slot,
    /// By the name of the run, then the step; those of one step as they were saved.
    Step,
}

const COLUMNS: &str = "c.slot, r.name, c.step, c.save, c.parent, c.created, c.status, c.manifest, c.recipe, c.manifest_bytes,
    c.schema, c.tensors, c.raw, c.unchanged, c.deduplicated, c.encoded, c.stored, c.components, c.dropped, c.note, c.reason";

fn checkpoint(row: &Row<'_>) -> rusqlite::Result<CheckpointRow> {
    let status = match row.get(6)? {
        0 => Status::Kept,
        1 => Status::Superseded,
        2 => Status::Forgotten,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(6, other)),
    };
    Ok(CheckpointRow {
        slot: row.get(0)?,
        run: row.get(1)?,
        step: row.get(2)?,
        save: SaveId(row.get(3)?),
        parent: row.get(4)?,
        created: Time(row.get(5)?),
        status,
        manifest: Stored { id: ChunkId(row.get(7)?), recipe: row.get(8)?, bytes: row.get(9)? },
        schema: ChunkId(row.get(10)?),
        tensors: row.get(11)?,
        sizes: Sizes {
            raw: row.get(12)?,
            unchanged: row.get(13)?,
            deduplicated: row.get(14)?,
            encoded: row.get(15)?,
            stored: row.get(16)?,
        },
        components: from_json(row, 17)?,
        dropped: from_json(row, 18)?,
        metrics: Metrics::new(),
        tags: Vec::new(),
        note: row.get(19)?,
        reason: row.get(20)?,
    })
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e)))
}

fn statuses_of(filter: &Filter) -> String {
    let also = |is: bool, status: &'static str| if is { status } else { "" };
    format!("0{}{}", also(filter.superseded, ", 1"), also(filter.forgotten, ", 2"))
}

fn number(value: Option<f64>, minus: bool) -> Number {
    let value = value.unwrap_or(f64::NAN);
    Number(if minus { -value } else { value })
}

impl Catalog {
    /// All runs, by name.
    pub fn runs(&self) -> Result<Vec<RunRow>> {
        let rows =
            self.rows("SELECT id, name, created, config, provenance, policy FROM runs ORDER BY name", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?;
        rows.into_iter().map(run_row).collect()
    }

    /// The run of this name.
    pub fn run(&self, name: &str) -> Result<Option<RunRow>> {
        let sql = "SELECT id, name, created, config, provenance, policy FROM runs WHERE name = ?";
        let found = self
            .db
            .prepare_cached(sql)?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
            .optional()?;
        found.map(run_row).transpose()
    }

    /// Which way each metric of a run goes, as far as that was said.
    pub fn modes(&self, run: &RunRow) -> Result<BTreeMap<String, Mode>> {
        let rows = self.rows("SELECT metric, mode FROM modes WHERE run = ?", [run.id], |row| {
            Ok((row.get(0)?, from_json(row, 1)?))
        })?;
        Ok(rows.into_iter().collect())
    }

    /// Checkpoints, with metrics and tags.
    pub fn checkpoints(&self, filter: &Filter) -> Result<Vec<CheckpointRow>> {
        let Some((run, mut values)) = self.values_of(filter)? else { return Ok(Vec::new()) };
        // The run first, so that an index has the steps in order; a plus keeps an index from being used.
        let (from, plus, order) = match filter.order {
            Order::Slot => ("checkpoints c JOIN runs r ON r.id = c.run", "+", "c.slot DESC"),
            Order::Step => {
                ("runs r CROSS JOIN checkpoints c ON c.run = r.id", "", "r.name DESC, c.step DESC, c.slot DESC")
            }
        };
        let of_run = match (run, filter.order) {
            (None, _) => "",
            (Some(_), Order::Slot) => "AND c.run = ?",
            (Some(_), Order::Step) => "AND r.id = ?",
        };
        let statuses = statuses_of(filter);
        values.push(Sql::Integer(filter.newest.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX))));
        let sql = format!(
            "SELECT {COLUMNS} FROM {from} WHERE c.slot >= ? {of_run} AND {plus}c.status IN ({statuses})
             ORDER BY {order} LIMIT ?"
        );
        let mut found = self.rows(&sql, rusqlite::params_from_iter(values), checkpoint)?;
        found.reverse();
        self.add_details(&mut found, run)?;
        Ok(found)
    }

    /// How many there would be without a limit.
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        let Some((run, values)) = self.values_of(filter)? else { return Ok(0) };
        let of_run = run.map_or("", |_| "AND run = ?");
        let statuses = statuses_of(filter);
        let sql = format!("SELECT count(*) FROM checkpoints WHERE +slot >= ? {of_run} AND status IN ({statuses})");
        Ok(self.db.prepare_cached(&sql)?.query_row(rusqlite::params_from_iter(values), |row| row.get(0))?)
    }

    /// The filter's run and, for the questions above, its values; `None` if there is no such run.
    fn values_of(&self, filter: &Filter) -> Result<Option<(Option<i64>, Vec<Sql>)>> {
        let mut values = vec![Sql::Integer(filter.from_slot as i64)];
        let run = match &filter.run {
            None => None,
            Some(name) => match self.run(name)? {
                Some(row) => Some(row.id),
                None => return Ok(None),
            },
        };
        values.extend(run.map(Sql::Integer));
        Ok(Some((run, values)))
    }

    /// The checkpoint of this slot.
    pub fn checkpoint(&self, slot: u64) -> Result<Option<CheckpointRow>> {
        self.one("c.slot = ?", params![slot])
    }

    /// The checkpoint of a save.
    pub fn checkpoint_of_save(&self, save: SaveId) -> Result<Option<CheckpointRow>> {
        self.one("c.save = ?", params![save.0])
    }

    /// The newest checkpoint of a run with this step that is not forgotten; a superseded one only if there is no other.
    pub fn checkpoint_at(&self, run: &RunRow, step: u64) -> Result<Option<CheckpointRow>> {
        // Each status by itself: of a range, the index would be read from end to end.
        self.one(
            "c.run = ? AND c.status IN (0, 1) AND c.step = ? ORDER BY c.status, c.slot DESC LIMIT 1",
            params![run.id, step],
        )
    }

    /// The newest forgotten checkpoint of a run with this step.
    pub fn forgotten_at(&self, run: &RunRow, step: u64) -> Result<Option<CheckpointRow>> {
        self.one("c.run = ? AND c.status = 2 AND c.step = ? ORDER BY c.slot DESC LIMIT 1", params![run.id, step])
    }

    /// The highest kept step of a run; with `complete`, of which no component was dropped.
    pub fn latest(&self, run: &RunRow, complete: bool) -> Result<Option<CheckpointRow>> {
        let complete = if complete { "AND c.dropped = '[]'" } else { "" };
        self.one(
            &format!("c.run = ? AND c.status = 0 {complete} ORDER BY c.step DESC, c.slot DESC LIMIT 1"),
            params![run.id],
        )
    }

    /// The highest kept step of a run below `step`.
    pub fn below(&self, run: &RunRow, step: u64) -> Result<Option<CheckpointRow>> {
        self.one(
            "c.run = ? AND c.status = 0 AND c.step < ? ORDER BY c.step DESC, c.slot DESC LIMIT 1",
            params![run.id, step],
        )
    }

    /// The checkpoint of a run that has this tag; one that was forgotten keeps its tags until another gets them.
    pub fn tagged(&self, run: &RunRow, tag: &str) -> Result<Option<CheckpointRow>> {
        let sql = "SELECT slot FROM tags WHERE run = ? AND tag = ?";
        let slot: Option<u64> =
            self.db.prepare_cached(sql)?.query_row(params![run.id, tag], |row| row.get(0)).optional()?;
        slot.map_or(Ok(None), |slot| self.checkpoint(slot))
    }

    /// The best kept checkpoints of a run by a metric, best first; ties go to the earlier step, NaN is nothing.
    pub fn best(&self, run: &RunRow, metric: &str, mode: Mode, count: u64) -> Result<Vec<CheckpointRow>> {
        let order = match mode {
            Mode::Min => "ASC",
            Mode::Max => "DESC",
        };
        let sql = format!(
            "SELECT c.slot FROM metrics m JOIN checkpoints c ON c.slot = m.slot
             WHERE m.run = ? AND m.name = ? AND m.value IS NOT NULL AND c.status = 0 ORDER BY m.value {order}, c.step, c.slot LIMIT ?"
        );
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let slots = self.rows(&sql, params![run.id, metric, count], |row| row.get::<_, u64>(0))?;
        slots.into_iter().filter_map(|slot| self.checkpoint(slot).transpose()).collect()
    }

    /// Names of the metrics of a run.
    pub fn metric_names(&self, run: &RunRow) -> Result<Vec<String>> {
        // A skip scan: one look per name, however many values there are.
        let sql = "WITH RECURSIVE n(name) AS (
                SELECT min(name) FROM metrics WHERE run = ?1
                UNION ALL SELECT (SELECT min(name) FROM metrics WHERE run = ?1 AND name > n.name) FROM n WHERE n.name IS NOT NULL
            ) SELECT name FROM n WHERE name IS NOT NULL";
        self.rows(sql, [run.id], |row| row.get(0))
    }

    /// The kept steps of a run above `step`, with their slots.
    pub fn steps_above(&self, run: &RunRow, step: u64) -> Result<Vec<(u64, u64)>> {
        let sql = "SELECT step, slot FROM checkpoints WHERE run = ? AND status = 0 AND step > ? ORDER BY step";
        self.rows(sql, params![run.id, step], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The newest live checkpoint with this schema.
    pub fn newest_of_schema(&self, schema: ChunkId) -> Result<Option<CheckpointRow>> {
        self.one("c.schema = ? AND c.status < 2 ORDER BY c.slot DESC LIMIT 1", params![schema.0])
    }

    /// The number of a run's checkpoints of each status, and the raw bytes of the kept ones.
    pub fn totals_of(&self, run: &RunRow) -> Result<([u64; 3], u64)> {
        let sql = "SELECT status, count(*), sum(raw) FROM checkpoints WHERE run = ? GROUP BY status";
        let rows = self
            .rows(sql, [run.id], |row| Ok((row.get::<_, usize>(0)?, row.get::<_, u64>(1)?, row.get::<_, u64>(2)?)))?;
        let (mut counts, mut raw) = ([0; 3], 0);
        for (status, count, bytes) in rows {
            *counts.get_mut(status).ok_or_else(|| broken("a status"))? = count;
            raw += if status == 0 { bytes } else { 0 };
        }
        Ok((counts, raw))
    }

    /// The number of checkpoints of each status: kept, superseded, forgotten.
    pub fn count_checkpoints(&self) -> Result<[u64; 3]> {
        let mut counts = [0; 3];
        let rows = self.rows("SELECT status, count(*) FROM checkpoints GROUP BY status", [], |row| {
            Ok((row.get::<_, usize>(0)?, row.get::<_, u64>(1)?))
        })?;
        for (status, count) in rows {
            *counts.get_mut(status).ok_or_else(|| broken("a status"))? = count;
        }
        Ok(counts)
    }

    /// All leases.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.rows("SELECT slot, checkpoint, until, purpose FROM pins", [], |row| {
            Ok(Lease { pin: row.get(0)?, slot: row.get(1)?, until: Time(row.get(2)?), purpose: row.get(3)? })
        })
    }

    fn one(&self, condition: &str, parameters: impl rusqlite::Params) -> Result<Option<CheckpointRow>> {
        let sql = format!("SELECT {COLUMNS} FROM checkpoints c JOIN runs r ON r.id = c.run WHERE {condition}");
        let mut found: Vec<_> =
            self.db.prepare_cached(&sql)?.query_row(parameters, checkpoint).optional()?.into_iter().collect();
        self.add_details(&mut found, None)?;
        Ok(found.pop())
    }

    /// Metrics and tags of these checkpoints: one by one if they are few, else all of the run's, or of the store's.
    fn add_details(&self, checkpoints: &mut [CheckpointRow], run: Option<i64>) -> Result<()> {
        const FEW: usize = 200;
        const METRICS: &str = "SELECT slot, name, value, minus FROM metrics";
        let metric = |row: &Row<'_>| -> rusqlite::Result<(u64, String, Number)> {
            Ok((row.get(0)?, row.get(1)?, number(row.get(2)?, row.get(3)?)))
        };
        let tag = |row: &Row<'_>| -> rusqlite::Result<(u64, String)> { Ok((row.get(0)?, row.get(1)?)) };
        if checkpoints.len() <= FEW {
            for checkpoint in checkpoints {
                let slot = checkpoint.slot;
                for (_, name, value) in self.rows(&format!("{METRICS} WHERE slot = ?"), [slot], metric)? {
                    checkpoint.metrics.insert(name, value);
                }
                let tags = self.rows("SELECT slot, tag FROM tags WHERE slot = ? ORDER BY tag", [slot], tag)?;
                checkpoint.tags = tags.into_iter().map(|(_, tag)| tag).collect();
            }
            return Ok(());
        }
        let place: std::collections::HashMap<u64, usize> =
            checkpoints.iter().enumerate().map(|(i, c)| (c.slot, i)).collect();
        let condition = run.map_or(String::new(), |run| format!("WHERE run = {run}"));
        for (slot, name, value) in self.rows(&format!("{METRICS} {condition}"), [], metric)? {
            if let Some(&i) = place.get(&slot) {
                checkpoints[i].metrics.insert(name, value);
            }
        }
        for (slot, tag) in self.rows(&format!("SELECT slot, tag FROM tags {condition} ORDER BY tag"), [], tag)? {
            if let Some(&i) = place.get(&slot) {
                checkpoints[i].tags.push(tag);
            }
        }
        Ok(())
    }
}

type RawRun = (i64, String, i64, Option<String>, Option<String>, Option<String>);

fn run_row((id, name, created, config, provenance, policy): RawRun) -> Result<RunRow> {
    fn parse<T: DeserializeOwned>(text: Option<String>) -> Result<Option<T>> {
        text.map(|text| serde_json::from_str(&text).map_err(|e| broken(&e.to_string()))).transpose()
    }
    Ok(RunRow {
        id,
        name,
        created: Time(created),
        config: parse(config)?,
        provenance: parse(provenance)?,
        policy: parse(policy)?.unwrap_or_default(),
    })
}
