//! Brings a catalog's tables up to date: the files of `migrations/`, in order, each in a transaction of its own.

use rusqlite::Connection;

use super::broken;
use crate::error::Result;

/// Once released, only ever added to.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_catalog.sql"),
    include_str!("../../migrations/0002_upgrades.sql"),
    include_str!("../../migrations/0003_condemned.sql"),
];

pub(super) fn run(db: &mut Connection) -> Result<()> {
    let version = |db: &Connection| db.pragma_query_value(None, "user_version", |row| row.get::<_, usize>(0));
    if version(db)? == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Somebody else may have been faster.
    let done = version(&transaction)?;
    if done > MIGRATIONS.len() {
        return Err(broken("it was made by a newer version"));
    }
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    // What an older version passed, since it did not know the kind, this one may know.
    if transaction.prepare("SELECT 1 FROM damaged")?.exists([])? {
        return Err(broken("it was made by an older version, which did not know all of the log"));
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    transaction.commit()?;
    Ok(())
}
