//! Names of things: types, never bare arrays or strings.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Its length in bytes.
            pub const BYTES: usize = $bytes;

            /// The bytes as lowercase hexadecimal.
            pub fn to_hex(self) -> String {
                hex(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<$name> {
                let mut bytes = [0; $bytes];
                unhex(text, &mut bytes).ok_or_else(|| {
                    Error::invalid(format!("{text:?}"), format!("not {} hexadecimal digits", 2 * $bytes))
                })?;
                Ok($name(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.to_hex())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type! {
    /// Names a chunk: the BLAKE3 hash of its plain bytes.
    ChunkId, 32
}
id_type! {
    /// Any other BLAKE3 hash: of a log entry, of a pack's footer.
    Hash, 32
}
id_type! {
    /// Names a store: random bits, chosen when it is made.
    StoreId, 16
}
id_type! {
    /// Names one save, and so its checkpoint and its packs: random bits.
    SaveId, 16
}

impl ChunkId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight bytes as a number: how the look-up of any chunk sorts.
    pub(crate) fn prefix(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }
}

/// Names a pack: the save that wrote it, and which of its packs it is. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// The save.
    pub save: SaveId,
    /// Counted from 0 within the save.
    pub index: u32,
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.save, self.index)
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

impl FromStr for PackId {
    type Err = Error;
    fn from_str(text: &str) -> Result<PackId> {
        let bad = || Error::invalid(format!("{text:?}"), "not the name of a pack");
        let (save, index) = text.split_once('-').ok_or_else(bad)?;
        let id = PackId { save: save.parse()?, index: index.parse().map_err(|_| bad())? };
        // One spelling per pack: no leading zeros or signs.
        if id.to_string() == text { Ok(id) } else { Err(bad()) }
    }
}

impl serde::Serialize for PackId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PackId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<PackId, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[(b >> 4) as usize] as char, DIGITS[(b & 15) as usize] as char]).collect()
}

/// Lowercase digits only: an id has one spelling.
fn unhex(text: &str, out: &mut [u8]) -> Option<()> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = SaveId([0xab; 16]);
        assert_eq!(id.to_hex().parse::<SaveId>().unwrap(), id);
        assert!("AB".repeat(16).parse::<SaveId>().is_err());
        let pack = PackId { save: id, index: 7 };
        assert_eq!(pack.to_string().parse::<PackId>().unwrap(), pack);
        for bad in ["07", "+7", "", "4294967296"] {
            assert!(format!("{id}-{bad}").parse::<PackId>().is_err(), "{bad}");
        }
    }
}
