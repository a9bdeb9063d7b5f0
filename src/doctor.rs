//! What about this machine, file system and store limits a promise.

use crate::error::Result;
use crate::format::config::FORMAT;
use crate::store::{Durability, Store};

/// Less space than this is worth a word.
const LOW_BYTES: u64 = 5_000_000_000;

/// Something that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// Nothing to worry about.
    pub fine: bool,
    /// What was found, in a line.
    pub says: String,
}

impl Store {
    /// Looks at what a store depends on. Writes nothing.
    pub fn examine(&self) -> Result<Vec<Finding>> {
        self.refresh()?;
        Ok(vec![
            self.medium(),
            self.space(),
            self.place_of_catalog(),
            self.known_format()?,
            self.entries()?,
            self.temporary()?,
            self.garbage()?,
        ])
    }

    fn medium(&self) -> Finding {
        let network = crate::store::is_network(self.root());
        let (fine, says) = match self.durability() {
            Durability::Process => {
                (false, "a file system in memory: a save survives any process, and no power loss".to_string())
            }
            Durability::Local if network => {
                (false, "a network file system: what is collected, or left by dead savers, is freed late".into())
            }
            Durability::Local => (true, "a local file system: a save survives a power loss".into()),
        };
        Finding { what: "durability", fine, says }
    }

    fn space(&self) -> Finding {
        let left = self.space_left();
        let says = left.map_or("unknown".into(), |left| format!("{:.1} GB left", left as f64 / 1e9));
        Finding { what: "space", fine: left.is_none_or(|left| left >= LOW_BYTES), says }
    }

    fn place_of_catalog(&self) -> Finding {
        let path = self.catalog().path().map(|path| path.display().to_string());
        let fine = path.is_some();
        let says = path.unwrap_or("in memory: every command reads the whole log".into());
        Finding { what: "catalog", fine, says }
    }

    fn known_format(&self) -> Result<Finding> {
        let format = self.format()?;
        let says = match format {
            FORMAT => format!("{format}, the newest"),
            _ => format!("{format}; this version writes {FORMAT}: treering upgrade"),
        };
        Ok(Finding { what: "format", fine: format == FORMAT, says })
    }

    fn entries(&self) -> Result<Finding> {
        let damaged = self.catalog().damaged()?;
        let says = match damaged.first() {
            None => format!("{} entries, all readable", self.catalog().position()?.next),
            Some((slot, why)) => format!("{} unreadable entries, the first in slot {slot}: {why}", damaged.len()),
        };
        Ok(Finding { what: "log", fine: damaged.is_empty(), says })
    }

    fn temporary(&self) -> Result<Finding> {
        let (files, bytes) = self.backend().temporary()?;
        let says =
            format!("{files} temporary files, {:.1} MB; those of dead saves go with the next gc", bytes as f64 / 1e6);
        Ok(Finding { what: "temporary", fine: files == 0, says })
    }

    fn garbage(&self) -> Result<Finding> {
        let bytes: u64 = self.catalog().collectable()?.iter().map(|pack| pack.bytes).sum();
        Ok(Finding {
            what: "garbage",
            fine: bytes == 0,
            says: format!("{:.1} MB that gc would free", bytes as f64 / 1e6),
        })
    }
}
