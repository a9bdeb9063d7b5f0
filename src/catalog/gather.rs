//! What entries do to rows that many of them change: gathered, and written once.
//!
//! A checkpoint may need hundreds of packs, and so may the next: who needs a pack would change with every entry, and with
//! each pack the sum of the seals around it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use super::packs::PackRef;
use super::seal::{self, Seal, Table};
use super::{broken, packs};
use crate::error::Result;

/// Changes that are not in the tables yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    users: BTreeMap<PackRef, Change>,
    seals: BTreeMap<(Table, i64), Seal>,
}

/// What becomes of the users of a pack.
#[derive(Debug, Default)]
struct Change {
    by: i64,
    tokens: Seal,
    /// It lost one.
    lost: bool,
}

impl Gathered {
    /// The checkpoint in this slot needs these packs from now on.
    pub(super) fn add_user(&mut self, slot: u64, set: &BTreeSet<PackRef>) {
        self.change_users(slot, set, 1);
    }

    /// It needs them no more, or less of them.
    pub(super) fn remove_user(&mut self, slot: u64, set: &BTreeSet<PackRef>) {
        self.change_users(slot, set, -1);
    }

    fn change_users(&mut self, slot: u64, set: &BTreeSet<PackRef>, by: i64) {
        let token = seal::token(slot);
        for &pack in set {
            let change = self.users.entry(pack).or_default();
            change.by += by;
            seal::xor(&mut change.tokens, token);
            change.lost |= by < 0;
        }
    }

    /// A row with this seal has that one from now on; none counts as zeros.
    pub(super) fn reseal(&mut self, table: Table, id: i64, old: Seal, new: Seal) {
        let sum = self.seals.entry((table, seal::part_of(id))).or_default();
        seal::xor(sum, old);
        seal::xor(sum, new);
    }

    /// Writes all of it. Whoever asks for users, or for the sums of seals, is to see what was gathered.
    pub(super) fn write(&mut self, tx: &Connection) -> Result<()> {
        let mut statement =
            tx.prepare_cached("UPDATE packs SET refs = ?, users = ?, suspect = suspect OR ?, seal = ? WHERE id = ?")?;
        for (pack, change) in std::mem::take(&mut self.users) {
            let mut row = packs::by_row(tx, pack)?;
            let old = seal::of_pack(&row);
            row.refs = row.refs.checked_add_signed(change.by).ok_or_else(|| broken("the users of a pack"))?;
            seal::xor(&mut row.users, change.tokens);
            let new = seal::of_pack(&row);
            statement.execute(params![row.refs, row.users, change.lost, new, pack])?;
            self.reseal(Table::Packs, pack, old, new);
        }
        for ((table, part), change) in std::mem::take(&mut self.seals) {
            seal::change(tx, table, part, change)?;
        }
        Ok(())
    }
}
