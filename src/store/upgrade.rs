//! The format of a store that was made by an older version, and what a newer one may ask of whoever uses it.
//!
//! `treering.json` is written once. What a store needs beyond it stands in its log, where a writer cannot miss it: who
//! takes a slot has folded all before.

use super::Store;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::config::{FORMAT, check_features};
use crate::format::entry::{Body, Upgrade};
use crate::id::SaveId;

impl Store {
    /// The format of its objects: that of `treering.json`, or what an upgrade made of it.
    pub fn format(&self) -> Result<u32> {
        self.refresh()?;
        self.format_in(&self.catalog())
    }

    /// Raises the store to the newest format. From then on, versions that do not know it can no longer write to it.
    /// Returns the format before; nothing is done if that is the newest.
    pub fn upgrade(&self) -> Result<u32> {
        let mut before = FORMAT;
        self.append(SaveId::default(), 0, |catalog| {
            before = self.format_in(catalog)?;
            let upgrade = Upgrade { format: FORMAT, readers: Vec::new(), writers: Vec::new() };
            Ok((before < FORMAT).then_some(Body::Upgrade(upgrade)))
        })?;
        Ok(before)
    }

    fn format_in(&self, catalog: &Catalog) -> Result<u32> {
        let upgraded = catalog.upgrades()?.into_iter().map(|upgrade| upgrade.format);
        Ok(upgraded.fold(self.config().format, u32::max))
    }

    /// Fails if this version does not know what a reader must know from an upgrade on.
    pub(super) fn check_readable(&self, upgrade: &Upgrade) -> Result<()> {
        if upgrade.format > FORMAT {
            return Err(Error::StoreNewer { path: self.root().into(), found: upgrade.format, known: FORMAT });
        }
        check_features(&upgrade.readers, "reads")
    }

    /// Fails if this version does not know what a writer must know.
    pub(super) fn check_writer(&self, catalog: &Catalog) -> Result<()> {
        catalog.upgrades()?.iter().try_for_each(|upgrade| check_features(&upgrade.writers, "writes to"))
    }
}
