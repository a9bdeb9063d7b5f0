//! The street map of a store: which object lies under which key.

use std::fmt;

use crate::id::{PackId, SaveId};

/// The name of an object inside a store: a relative path with `/`, made only here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The folder of the log.
pub const LOG: &str = "log";
/// The folder of the packs.
pub const PACKS: &str = "packs";
/// The folder of temporary files.
pub const TMP: &str = "tmp";
/// The folder of receipts.
pub const PARTS: &str = "parts";
/// Space put aside, so that a full disk can be freed.
pub const RESERVE: &str = "tmp/reserve";
/// The local catalog.
pub const CATALOG: &str = "catalog.sqlite";
/// How many folders share the packs.
pub const PACK_FOLDERS: u32 = 256;

impl Key {
    /// The store's own description.
    pub fn config() -> Key {
        Key("treering.json".into())
    }

    /// The entry in this slot of the log.
    pub fn entry(slot: u64) -> Key {
        Key(format!("{LOG}/{slot:020}"))
    }

    /// A pack. The packs of one save share a folder.
    pub fn pack(id: PackId) -> Key {
        Key(format!("{PACKS}/{:02x}/{id}", id.save.0[0]))
    }

    /// The receipt of one process of a joint save.
    pub fn receipt(save: SaveId, rank: u32) -> Key {
        Key(format!("{PARTS}/{save}/{rank}"))
    }

    /// The path relative to the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The folders that a new store has.
pub fn folders() -> impl Iterator<Item = String> {
    let packs = (0..PACK_FOLDERS).map(|n| format!("{PACKS}/{n:02x}"));
    [LOG.to_string(), PACKS.to_string(), TMP.to_string()].into_iter().chain(packs)
}

/// The slot that the name of a file in the log's folder stands for; `None` for a foreign name.
pub fn slot_of(name: &str) -> Option<u64> {
    let slot = name.parse().ok()?;
    (Key::entry(slot).0.strip_prefix("log/") == Some(name)).then_some(slot)
}

/// The pack that a key stands for; `None` for that of something else.
pub fn pack_of(key: &str) -> Option<PackId> {
    let pack = key.strip_prefix(PACKS)?.rsplit('/').next()?.parse().ok()?;
    (Key::pack(pack).0 == key).then_some(pack)
}

/// The folder of a save's temporary files.
pub fn tmp_folder(save: SaveId) -> String {
    format!("{TMP}/{save}")
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_slots() {
        assert_eq!(slot_of("00000000000000000042"), Some(42));
        for foreign in ["42", "+0000000000000000042", "00000000000000000042~", "99999999999999999999", ""] {
            assert_eq!(slot_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn only_our_own_names_are_packs() {
        let pack = PackId { save: SaveId([0x3f; 16]), index: 12 };
        let key = Key::pack(pack);
        assert_eq!(pack_of(key.as_str()), Some(pack));
        for foreign in [&key.as_str()[1..], &key.as_str().replace("/3f/", "/40/"), "packs/3f", "packs", "log/0"] {
            assert_eq!(pack_of(foreign), None, "{foreign}");
        }
    }
}
