//! What each kind of entry does to the catalog.
//!
//! The fold never reads a clock and never fails for a sound log: an entry that makes no sense here is damage.

use std::collections::BTreeSet;
use std::ops::Deref;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::gather::Gathered;
use super::packs::{PackRef, PackRow, PackState};
use super::seal::{self, Table};
use super::{Catalog, broken, packs};
use crate::env::Time;
use crate::error::{Error, Result};
use crate::format::entry::{Amend, Bad, Body, Commit, Entry, Heal, Metrics, Needs, NewPack, Repack, Void};
use crate::format::keys::Key;
use crate::id::{ChunkId, Hash, PackId, SaveId};

impl Catalog {
    /// Adds the entry of the next slot, whose hash is `hash`. The caller has checked the chain.
    pub fn apply(&mut self, entry: &Entry, hash: Hash) -> Result<()> {
        self.apply_all(std::iter::once((entry, hash)))
    }

    /// Adds several, in one transaction.
    pub fn apply_all<'a>(&mut self, entries: impl Iterator<Item = (&'a Entry, Hash)>) -> Result<()> {
        let mut tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut next: u64 = tx.prepare_cached("SELECT next FROM position")?.query_row([], |row| row.get(0))?;
        let mut gathered = Gathered::default();
        let mut head = None;
        for (entry, hash) in entries {
            match entry.slot.cmp(&next) {
                // Another process that shares this file has been here.
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Greater => return Err(broken("it moved back")),
                std::cmp::Ordering::Equal => {}
            }
            apply_known(&mut tx, &mut gathered, entry, self.lenient)?;
            (next, head) = (entry.slot + 1, Some(hash));
        }
        gathered.write(&tx)?;
        if let Some(head) = head {
            advance(&tx, next, head)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// From now on, entries that speak of what is not there are passed: void slots may have said it.
    pub(crate) fn be_lenient(&mut self) {
        self.lenient = true;
    }

    /// Passes a slot that a later entry puts out of effect, and that nothing takes the place of.
    pub fn pass_void(&mut self, slot: u64, hash: Hash) -> Result<()> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        advance(&tx, slot + 1, hash)?;
        tx.commit()?;
        Ok(())
    }

    /// True if a void entry that was folded names this slot.
    pub fn is_void(&self, slot: u64) -> Result<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM voids WHERE slot = ?")?.exists([slot])?)
    }

    /// True if anything in the log was put out of effect.
    pub fn has_voids(&self) -> Result<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM voids LIMIT 1")?.exists([])?)
    }

    /// Passes a slot that cannot be read. Its hash is what its successor gives, or zeros if that cannot be known.
    pub fn pass_damaged(&mut self, slot: u64, hash: Hash, why: &str) -> Result<()> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", params![slot, why])?;
        advance(&tx, slot + 1, hash)?;
        tx.commit()?;
        Ok(())
    }
}

/// A transaction in which entries are folded, with what is not in the tables yet.
struct Fold<'a> {
    tx: &'a Connection,
    gathered: &'a mut Gathered,
}

impl Deref for Fold<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.tx
    }
}

impl Fold<'_> {
    /// Seals a checkpoint's row, which was checked and then changed.
    fn renew_seal(&mut self, slot: u64) -> Result<()> {
        let (old, new) = seal::renew(self.tx, slot)?;
        self.gathered.reseal(Table::Checkpoints, slot as i64, old, new);
        Ok(())
    }

    /// The checkpoints that need any of these packs, each with all that it needs.
    fn users_of(&mut self, packs: &BTreeSet<PackRef>) -> Result<Vec<(u64, BTreeSet<PackRef>)>> {
        self.gathered.write(self.tx)?;
        packs::users_of(self.tx, packs)
    }
}

/// An entry may speak of what an entry says that could not be read: it is passed like that one.
fn apply_known(tx: &mut Transaction<'_>, gathered: &mut Gathered, entry: &Entry, lenient: bool) -> Result<()> {
    if !lenient && !tx.prepare_cached("SELECT 1 FROM damaged LIMIT 1")?.exists([])? {
        return apply_body(&mut Fold { tx, gathered }, entry);
    }
    gathered.write(tx)?;
    let save = tx.savepoint()?;
    // What it gathers goes with it if it is passed.
    let mut own = Gathered::default();
    let applied = apply_body(&mut Fold { tx: &save, gathered: &mut own }, entry);
    match applied.and_then(|()| own.write(&save)) {
        Err(error @ Error::ObjectDamaged { .. }) => {
            drop(save);
            tx.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?)", params![entry.slot, error.to_string()])?;
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => Ok(save.commit()?),
    }
}

fn advance(tx: &Transaction<'_>, next: u64, head: Hash) -> Result<()> {
    tx.prepare_cached("UPDATE position SET next = ?, head = ?")?.execute(params![next, head.0])?;
    Ok(())
}

fn apply_body(tx: &mut Fold<'_>, entry: &Entry) -> Result<()> {
    match &entry.body {
        Body::Commit(body) => commit(tx, entry, body),
        Body::Amend(body) => amend(tx, entry, body),
        Body::Annotate(body) => {
            let run = run_of(tx, entry, body.slot)?;
            put_metrics(tx, run, body.slot, &body.metrics)?;
            if let Some(note) = &body.note {
                tx.execute("UPDATE checkpoints SET note = ? WHERE slot = ?", params![note, body.slot])?;
            }
            Ok(())
        }
        Body::Tag(body) => {
            let run = run_of(tx, entry, body.slot)?;
            for tag in &body.remove {
                tx.execute("DELETE FROM tags WHERE run = ? AND tag = ? AND slot = ?", params![run, tag, body.slot])?;
            }
            put_tags(tx, run, body.slot, &body.add)
        }
        Body::Settings(body) => {
            let run = put_run(tx, &body.run, entry)?;
            if let Some(policy) = &body.policy {
                tx.execute("UPDATE runs SET policy = ? WHERE id = ?", params![json(policy), run])?;
            }
            for (metric, mode) in &body.modes {
                tx.execute("INSERT OR REPLACE INTO modes VALUES (?, ?, ?)", params![run, metric, json(mode)])?;
            }
            Ok(())
        }
        Body::Pin(body) => {
            run_of(tx, entry, body.slot)?;
            let row = params![entry.slot, body.slot, body.until.0, body.purpose];
            tx.execute("INSERT INTO pins VALUES (?, ?, ?, ?)", row)?;
            Ok(())
        }
        Body::Unpin(body) => {
            for pin in &body.pins {
                tx.execute("DELETE FROM pins WHERE slot = ?", [pin])?;
            }
            Ok(())
        }
        Body::Forget(body) => body.slots.iter().try_for_each(|&slot| forget(tx, entry, slot, &body.reason)),
        Body::Undo(body) => body.slots.iter().try_for_each(|&slot| undo(tx, entry, slot)),
        Body::Condemn(body) => body.packs.iter().try_for_each(|&pack| condemn(tx, pack, Some(entry.time))),
        Body::Swept(body) => body.packs.iter().try_for_each(|&pack| sweep(tx, pack)),
        Body::Repack(body) => repack(tx, entry, body),
        Body::Abort(body) => {
            tx.execute("INSERT OR IGNORE INTO aborted VALUES (?)", params![entry.save.0])?;
            // Nobody ever read them.
            body.packs.iter().try_for_each(|&pack| condemn(tx, pack, None))
        }
        Body::Void(body) => void(tx, entry, body),
        Body::Bad(body) => bad(tx, entry, body),
        Body::Heal(body) => heal(tx, entry, body),
        Body::Upgrade(body) => {
            tx.execute("INSERT INTO upgrades VALUES (?, ?)", params![entry.slot, json(body)])?;
            Ok(())
        }
    }
}

fn commit(tx: &mut Fold<'_>, entry: &Entry, body: &Commit) -> Result<()> {
    let run = put_run(tx, &body.run, entry)?;
    if let Some(config) = &body.config {
        tx.execute("UPDATE runs SET config = ? WHERE id = ?", params![json(config), run])?;
    }
    if let Some(provenance) = &body.provenance {
        tx.execute("UPDATE runs SET provenance = ? WHERE id = ?", params![json(provenance), run])?;
    }
    let needed = put_needed(tx, entry, &body.packs, &body.needs)?;
    for &slot in &body.supersedes {
        if live_set(tx, slot)?.is_some() {
            tx.prepare_cached("UPDATE checkpoints SET status = 1 WHERE slot = ? AND status = 0")?.execute([slot])?;
            tx.renew_seal(slot)?;
        }
    }
    if let Some(slot) = body.replaces {
        forget(tx, entry, slot, "replaced")?;
    }
    tx.gathered.add_user(entry.slot, &needed);
    let packs = packs::encode_set(&needed);
    let sealed = seal::Sealed {
        slot: entry.slot,
        run,
        step: body.step,
        status: 0,
        manifest: body.manifest.id.0,
        manifest_bytes: body.manifest.bytes,
        packs: &packs,
    };
    let seal = sealed.seal();
    tx.prepare_cached(
        "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
    )?
    .execute(params![
        entry.slot,
        run,
        body.step,
        entry.save.0,
        body.parent,
        entry.time.0,
        body.manifest.id.0,
        body.manifest.recipe,
        body.manifest.bytes,
        body.schema.0,
        body.tensors,
        body.sizes.raw,
        body.sizes.unchanged,
        body.sizes.deduplicated,
        body.sizes.encoded,
        body.sizes.stored,
        json(&body.components),
        json(&body.dropped),
        packs,
        body.note,
        seal,
    ])?;
    tx.gathered.reseal(Table::Checkpoints, entry.slot as i64, seal::Seal::default(), seal);
    put_metrics(tx, run, entry.slot, &body.metrics)?;
    put_tags(tx, run, entry.slot, &body.tags)
}

fn amend(tx: &mut Fold<'_>, entry: &Entry, body: &Amend) -> Result<()> {
    let (before, status, dropped) = tx
        .query_row("SELECT packs, status, dropped FROM checkpoints WHERE slot = ?", [body.slot], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u8>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?
        .ok_or_else(|| unknown(entry, body.slot))?;
    seal::check(tx, body.slot)?;
    let needed = put_needed(tx, entry, &body.packs, &body.needs)?;
    if status < 2 {
        tx.gathered.add_user(body.slot, &needed);
        tx.gathered.remove_user(body.slot, &packs::decode_set(&before)?);
    }
    let mut all: BTreeSet<String> = serde_json::from_str(&dropped).map_err(|e| broken(&e.to_string()))?;
    all.extend(body.dropped.iter().cloned());
    let stored: i64 = body.packs.iter().map(|pack| pack.bytes as i64).sum();
    tx.execute(
        "UPDATE checkpoints SET manifest = ?, recipe = ?, manifest_bytes = ?, packs = ?, dropped = ?, stored = stored + ?
         WHERE slot = ?",
        params![
            body.manifest.id.0,
            body.manifest.recipe,
            body.manifest.bytes,
            packs::encode_set(&needed),
            json(&all),
            stored,
            body.slot
        ],
    )?;
    tx.renew_seal(body.slot)
}

/// Whoever needed one of the old packs needs all of the new ones instead.
fn repack(tx: &mut Fold<'_>, entry: &Entry, body: &Repack) -> Result<()> {
    let new = put_packs(tx, entry.save, &body.packs)?;
    let old = body.replaces.iter().map(|&pack| pack_ref(tx, entry, pack)).collect::<Result<BTreeSet<_>>>()?;
    for (slot, before) in tx.users_of(&old)? {
        let after: BTreeSet<PackRef> = before.difference(&old).copied().chain(new.iter().copied()).collect();
        set_needed(tx, slot, &before, &after)?;
    }
    body.replaces.iter().try_for_each(|&pack| condemn(tx, pack, Some(entry.time)))
}

fn set_needed(tx: &mut Fold<'_>, slot: u64, before: &BTreeSet<PackRef>, after: &BTreeSet<PackRef>) -> Result<()> {
    seal::check(tx, slot)?;
    tx.gathered.add_user(slot, after);
    tx.gathered.remove_user(slot, before);
    tx.prepare_cached("UPDATE checkpoints SET packs = ? WHERE slot = ?")?
        .execute(params![packs::encode_set(after), slot])?;
    tx.renew_seal(slot)
}

/// From here on it is as if these slots had never said what they say. The caller has folded them so.
fn void(tx: &Connection, entry: &Entry, body: &Void) -> Result<()> {
    for void in &body.slots {
        if void.slot >= entry.slot {
            return Err(Error::damaged(Key::entry(entry.slot).as_str(), "it speaks of a slot that comes after it"));
        }
        tx.execute("INSERT OR REPLACE INTO voids VALUES (?)", [void.slot])?;
        tx.execute("DELETE FROM damaged WHERE slot = ?", [void.slot])?;
    }
    Ok(())
}

fn bad(tx: &Connection, entry: &Entry, body: &Bad) -> Result<()> {
    let whole = [ChunkId::default()];
    for copies in &body.copies {
        let pack = pack_ref(tx, entry, copies.pack)?;
        for chunk in if copies.chunks.is_empty() { &whole[..] } else { &copies.chunks } {
            tx.prepare_cached("INSERT OR REPLACE INTO bad VALUES (?, ?)")?.execute(params![pack, chunk.0])?;
        }
    }
    Ok(())
}

/// Whoever needs a damaged pack needs those with the good copies, too.
fn heal(tx: &mut Fold<'_>, entry: &Entry, body: &Heal) -> Result<()> {
    let mut good: BTreeSet<PackRef> = put_packs(tx, entry.save, &body.packs)?.into_iter().collect();
    for &pack in &body.with {
        good.insert(pack_ref(tx, entry, pack)?);
    }
    let damaged = body.heals.iter().map(|&pack| pack_ref(tx, entry, pack)).collect::<Result<BTreeSet<_>>>()?;
    for (slot, before) in tx.users_of(&damaged)? {
        let after: BTreeSet<PackRef> = before.union(&good).copied().collect();
        set_needed(tx, slot, &before, &after)?;
    }
    Ok(())
}

fn forget(tx: &mut Fold<'_>, entry: &Entry, slot: u64, reason: &str) -> Result<()> {
    let Some(set) = live_set(tx, slot)? else {
        run_of(tx, entry, slot)?;
        return Ok(());
    };
    tx.gathered.remove_user(slot, &set);
    tx.prepare_cached("UPDATE checkpoints SET status = 2, reason = ? WHERE slot = ?")?
        .execute(params![reason, slot])?;
    tx.renew_seal(slot)?;
    Ok(())
}

fn undo(tx: &mut Fold<'_>, entry: &Entry, slot: u64) -> Result<()> {
    run_of(tx, entry, slot)?;
    seal::check(tx, slot)?;
    if live_set(tx, slot)?.is_none() {
        let set: Vec<u8> = tx.query_row("SELECT packs FROM checkpoints WHERE slot = ?", [slot], |row| row.get(0))?;
        tx.gathered.add_user(slot, &packs::decode_set(&set)?);
    }
    tx.execute("UPDATE checkpoints SET status = 0, reason = NULL WHERE slot = ?", [slot])?;
    tx.renew_seal(slot)
}

fn condemn(tx: &mut Fold<'_>, pack: PackId, at: Option<Time>) -> Result<()> {
    match find_pack(tx, pack)? {
        Some(row) if row.state == PackState::Live => {
            let at = at.map(|at| at.0);
            tx.prepare_cached("UPDATE packs SET condemned = ? WHERE id = ?")?.execute(params![at, row.row])?;
            set_state(tx, &row, PackState::Condemned)
        }
        Some(_) => Ok(()),
        // An orphan of a dead save was never in the log.
        None => {
            let unseen = NewPack { index: pack.index, bytes: 0, footer: Hash::default() };
            put_pack(tx, pack, &unseen, PackState::Condemned).map(|_| ())
        }
    }
}

fn sweep(tx: &mut Fold<'_>, pack: PackId) -> Result<()> {
    let Some(row) = find_pack(tx, pack)? else { return Ok(()) };
    tx.prepare_cached("DELETE FROM footers WHERE pack = ?")?.execute([row.row])?;
    tx.prepare_cached("DELETE FROM bad WHERE pack = ?")?.execute([row.row])?;
    set_state(tx, &row, PackState::Swept)
}

fn find_pack(tx: &Connection, pack: PackId) -> Result<Option<PackRow>> {
    let sql = format!("SELECT {} FROM packs WHERE save = ? AND number = ?", packs::COLUMNS);
    Ok(tx.prepare_cached(&sql)?.query_row(params![pack.save.0, pack.index], packs::pack_row).optional()?)
}

fn set_state(tx: &mut Fold<'_>, row: &PackRow, state: PackState) -> Result<()> {
    let now = PackRow { state, ..row.clone() };
    let sql = "UPDATE packs SET state = ?, seal = ? WHERE id = ?";
    tx.prepare_cached(sql)?.execute(params![state as u8, seal::of_pack(&now), row.row])?;
    tx.gathered.reseal(Table::Packs, row.row, seal::of_pack(row), seal::of_pack(&now));
    Ok(())
}

fn put_pack(tx: &mut Fold<'_>, pack: PackId, new: &NewPack, state: PackState) -> Result<PackRef> {
    let sql = "INSERT INTO packs (save, number, bytes, footer, refs, state) VALUES (?, ?, ?, ?, 0, ?)";
    let row = params![pack.save.0, pack.index, new.bytes, new.footer.0, state as u8];
    let row = PackRow { row: tx.prepare_cached(sql)?.insert(row)?, state, ..PackRow::of_new(pack, new) };
    let seal = seal::of_pack(&row);
    tx.prepare_cached("UPDATE packs SET seal = ? WHERE id = ?")?.execute(params![seal, row.row])?;
    tx.gathered.reseal(Table::Packs, row.row, seal::Seal::default(), seal);
    Ok(row.row)
}

fn put_run(tx: &Connection, name: &str, entry: &Entry) -> Result<i64> {
    tx.prepare_cached("INSERT OR IGNORE INTO runs (name, created) VALUES (?, ?)")?
        .execute(params![name, entry.time.0])?;
    Ok(tx.prepare_cached("SELECT id FROM runs WHERE name = ?")?.query_row([name], |row| row.get(0))?)
}

fn put_metrics(tx: &Connection, run: i64, slot: u64, metrics: &Metrics) -> Result<()> {
    for (name, value) in metrics {
        // SQLite keeps no NaN, for which NULL stands, and no sign of a zero.
        let minus = value.0 == 0.0 && value.0.is_sign_negative();
        let value = Some(value.0).filter(|v| !v.is_nan());
        let row = params![slot, name, run, value, minus];
        tx.prepare_cached("INSERT OR REPLACE INTO metrics (slot, name, run, value, minus) VALUES (?, ?, ?, ?, ?)")?
            .execute(row)?;
    }
    Ok(())
}

fn put_tags(tx: &Connection, run: i64, slot: u64, tags: &[String]) -> Result<()> {
    for tag in tags {
        tx.prepare_cached("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)")?.execute(params![run, tag, slot])?;
    }
    Ok(())
}

fn put_packs(tx: &mut Fold<'_>, save: SaveId, new: &[NewPack]) -> Result<Vec<PackRef>> {
    let put = |pack: &NewPack| put_pack(tx, PackId { save, index: pack.index }, pack, PackState::Live);
    new.iter().map(put).collect()
}

/// The complete set of packs, own ones included, that an entry says a checkpoint needs.
fn put_needed(tx: &mut Fold<'_>, entry: &Entry, new: &[NewPack], needs: &Needs) -> Result<BTreeSet<PackRef>> {
    let mut set = match needs.base {
        Some(slot) => live_set(tx, slot)?.ok_or_else(|| unknown(entry, slot))?,
        None => BTreeSet::new(),
    };
    for &pack in &needs.minus {
        set.remove(&pack_ref(tx, entry, pack)?);
    }
    for &pack in &needs.plus {
        set.insert(pack_ref(tx, entry, pack)?);
    }
    set.extend(put_packs(tx, entry.save, new)?);
    Ok(set)
}

fn pack_ref(tx: &Connection, entry: &Entry, pack: PackId) -> Result<PackRef> {
    tx.prepare_cached("SELECT id FROM packs WHERE save = ? AND number = ?")?
        .query_row(params![pack.save.0, pack.index], |row| row.get(0))
        .optional()?
        .ok_or_else(|| {
            Error::damaged(
                Key::entry(entry.slot).as_str(),
                format!("it speaks of pack {pack}, which the log does not know"),
            )
        })
}

fn live_set(tx: &Connection, slot: u64) -> Result<Option<BTreeSet<PackRef>>> {
    let set: Option<Vec<u8>> = tx
        .prepare_cached("SELECT packs FROM checkpoints WHERE slot = ? AND status < 2")?
        .query_row([slot], |row| row.get(0))
        .optional()?;
    if set.is_some() {
        seal::check(tx, slot)?;
    }
    set.map(|set| packs::decode_set(&set)).transpose()
}

fn run_of(tx: &Connection, entry: &Entry, slot: u64) -> Result<i64> {
    tx.prepare_cached("SELECT run FROM checkpoints WHERE slot = ?")?
        .query_row([slot], |row| row.get(0))
        .optional()?
        .ok_or_else(|| unknown(entry, slot))
}

fn unknown(entry: &Entry, slot: u64) -> Error {
    Error::damaged(Key::entry(entry.slot).as_str(), format!("it speaks of a checkpoint in slot {slot}, which is none"))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain fields always have a JSON form")
}
