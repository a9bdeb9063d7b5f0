//! The catalog: what the log adds up to, in SQLite.
//!
//! A cache and nothing else: deleting it changes no answer. It lies in a file beside the log, in a cache folder, or in
//! memory, with the same tables. Applying an entry is one transaction that also moves the position, so a catalog is
//! always the fold of some prefix of the log.
//!
//! It knows nothing of objects: entries are handed to it. Whether an entry may be written is for its writer to decide,
//! with the questions that `history` and `packs` answer.

mod fold;
mod gather;
mod history;
mod lookup;
mod migrate;
mod packs;
mod seal;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::error::{Error, Result};
use crate::format::entry::Upgrade;
use crate::id::{Hash, StoreId};

pub use history::{CheckpointRow, Filter, Lease, Order, RunRow, Status};
pub(crate) use lookup::Runs;
pub(crate) use packs::Kept;
pub use packs::{PackRow, PackState};

/// The fold of a prefix of one store's log.
#[derive(Debug)]
pub struct Catalog {
    db: Connection,
    /// Where it lies; nowhere if in memory.
    path: Option<PathBuf>,
    /// Entries may speak of what void slots said.
    lenient: bool,
}

/// How far the log was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first slot that was not.
    pub next: u64,
    /// The hash of the entry before it, or of `treering.json`.
    pub head: Hash,
}

impl Catalog {
    /// Opens or makes the catalog at `path`. One that cannot be used, or is another store's, is replaced by an empty
    /// one.
    pub fn open(path: &Path, store: StoreId, origin: Hash) -> Result<Catalog> {
        match Catalog::try_open(path, store, origin) {
            Err(e) if is_broken(&e) => {
                Catalog::remove(path);
                Catalog::try_open(path, store, origin)
            }
            opened => opened,
        }
    }

    /// A catalog in memory.
    pub fn in_memory(store: StoreId, origin: Hash) -> Result<Catalog> {
        let mut catalog = Catalog { db: Connection::open_in_memory()?, path: None, lenient: false };
        catalog.prepare(store, origin)?;
        Ok(catalog)
    }

    /// Removes the files of a catalog; that there are none is fine.
    pub fn remove(path: &Path) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(PathBuf::from(name));
        }
    }

    fn try_open(path: &Path, store: StoreId, origin: Hash) -> Result<Catalog> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(std::time::Duration::from_millis(1000))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // The log is the truth: a catalog that a power loss rolled back only has to catch up.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        // So a command does not wait for syncs when it ends; the next ones read the journal, until it is long.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let mut catalog = Catalog { db, path: Some(path.to_path_buf()), lenient: false };
        catalog.check_unplanted()?;
        catalog.prepare(store, origin)?;
        Ok(catalog)
    }

    /// We make tables and indices alone. Views and triggers are somebody else's, and might do anything to a row.
    fn check_unplanted(&self) -> Result<()> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type NOT IN ('table', 'index')";
        if self.db.prepare(sql)?.exists([])? { Err(broken("it has triggers or views")) } else { Ok(()) }
    }

    fn prepare(&mut self, store: StoreId, origin: Hash) -> Result<()> {
        self.db.pragma_update(None, "trusted_schema", false)?;
        self.db.pragma_update(None, "mmap_size", 0)?;
        // Else a cached statement is parsed anew whenever a value is bound on which its plan may depend.
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        self.db.set_prepared_statement_cache_capacity(64);
        migrate::run(&mut self.db)?;
        let found = self.db.query_row("SELECT store FROM position", [], |row| row.get::<_, Vec<u8>>(0)).optional()?;
        match found {
            Some(found) if found == store.0 => Ok(()),
            Some(_) => Err(broken("it belongs to another store")),
            None => {
                let row = (store.0.as_slice(), 0, origin.0.as_slice());
                self.db.execute("INSERT OR IGNORE INTO position (one, store, next, head) VALUES (1, ?, ?, ?)", row)?;
                Ok(())
            }
        }
    }

    /// Where it lies, or `None` for memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// How far the log was folded.
    pub fn position(&self) -> Result<Position> {
        let mut statement = self.db.prepare_cached("SELECT next, head FROM position")?;
        let (next, head) = statement.query_row([], |row| Ok((row.get::<_, u64>(0)?, row.get(1)?)))?;
        Ok(Position { next, head: Hash(head) })
    }

    /// Entries that could not be read.
    pub fn damaged(&self) -> Result<Vec<(u64, String)>> {
        self.rows("SELECT slot, why FROM damaged ORDER BY slot", [], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// What the log says that whoever uses the store must know, in the order of the log.
    pub fn upgrades(&self) -> Result<Vec<Upgrade>> {
        let bodies: Vec<String> = self.rows("SELECT body FROM upgrades ORDER BY slot", [], |row| row.get(0))?;
        bodies.iter().map(|body| serde_json::from_str(body).map_err(|_| broken("an upgrade without sense"))).collect()
    }

    /// One view for several questions, whatever others fold meanwhile, until it is dropped. Without it, each question takes
    /// the lock of the file once more. Within another view it is that one.
    pub(crate) fn view(&self) -> Result<View<'_>> {
        let begun = self.db.is_autocommit();
        Ok(View(begun.then(|| self.db.unchecked_transaction()).transpose()?))
    }

    fn rows<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        map: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(parameters, map)?.collect::<rusqlite::Result<_>>()?;
        Ok(rows)
    }
}

/// Until it is dropped, a catalog's answers are of one time.
#[must_use]
pub(crate) struct View<'a>(
    #[expect(dead_code, reason = "it ends when it is dropped")] Option<rusqlite::Transaction<'a>>,
);

/// A catalog that has to be thrown away, as SQLite says it.
fn broken(why: &str) -> Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Error::Catalog { source: rusqlite::Error::SqliteFailure(code, Some(why.into())) }
}

/// True for an error that a new catalog cures.
pub(crate) fn is_broken(error: &Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SchemaChanged, TypeMismatch, Unknown};
    match error {
        Error::Catalog { source: rusqlite::Error::SqliteFailure(e, _) } => {
            matches!(e.code, DatabaseCorrupt | NotADatabase | SchemaChanged | TypeMismatch | Unknown)
        }
        Error::Catalog { source } => matches!(
            source,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::QueryReturnedNoRows
                | rusqlite::Error::Utf8Error(..)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    /// Versions from 3.7.0 to 3.51.2 may lose a transaction when the write-ahead log begins anew, but for two that were
    /// mended.
    #[test]
    fn f049_the_bundled_sqlite_is_none_of_those_with_a_known_bug() {
        let version = rusqlite::version_number();
        assert!(version > 3_051_002 || [3_044_006, 3_050_007].contains(&version), "{}", rusqlite::version());
    }
}
