//! `treering.json`: what a store is. Written once, when it is made.

use serde::{Deserialize, Serialize};

use crate::chunk;
use crate::env::Time;
use crate::error::{Error, Result};
use crate::id::StoreId;

/// The format that this version writes, and the newest that it reads. It reads all before.
pub const FORMAT: u32 = 1;

/// What this version knows beyond its format.
const FEATURES: &[&str] = &[];

/// A description is never larger.
pub const BYTES_MAX: usize = 64 << 10;

/// The contents of `treering.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The format of everything in the store.
    pub format: u32,
    /// The store's own id; every object repeats it.
    pub store: StoreId,
    /// The hash that names chunks: `blake3`.
    pub hash: String,
    /// Where chunks are cut that have no earlier cuts to follow.
    pub chunking: Chunking,
    /// What a reader must know beyond the format; it refuses the store for a word that it does not know.
    #[serde(default)]
    pub features: Vec<String>,
    /// Who may read the files; absent: what the umask and the folder say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Shared>,
    /// When it was made.
    pub created: Time,
}

/// Bounds of content-defined chunks, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// The algorithm: `fastcdc-2020`.
    pub method: String,
    /// No chunk but a tensor's last is shorter.
    pub min: u32,
    /// The mean that the algorithm aims at.
    pub average: u32,
    /// No chunk is longer.
    pub max: u32,
}

/// Who else may use the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// The owner and the group of the folder: 0660 and 2770.
    Group,
    /// The owner alone: 0600 and 0700.
    Private,
}

impl Config {
    /// That of a new store.
    pub fn new(store: StoreId, created: Time, shared: Option<Shared>) -> Config {
        let chunking = Chunking {
            method: "fastcdc-2020".into(),
            min: chunk::MIN as u32,
            average: chunk::AVG as u32,
            max: chunk::MAX as u32,
        };
        Config { format: FORMAT, store, hash: "blake3".into(), chunking, features: Vec::new(), shared, created }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("plain fields always have a JSON form");
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`Config::encode`] wrote. `path` is for messages.
    pub fn decode(bytes: &[u8], path: &std::path::Path) -> Result<Config> {
        let damaged = |why: String| Error::damaged("treering.json", why);
        // The format comes first, and alone: a newer one may have changed all the rest.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        if bytes.len() > BYTES_MAX {
            return Err(damaged(format!("{} bytes long", bytes.len())));
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if version.format > FORMAT {
            return Err(Error::StoreNewer { path: path.into(), found: version.format, known: FORMAT });
        }
        let config: Config = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        check_features(&config.features, "reads")?;
        if config.hash != "blake3" {
            return Err(Error::Unsupported { what: format!("the store names chunks by {:?}", config.hash) });
        }
        Ok(config)
    }
}

/// Fails if this version does not know one of these, which whoever so acts on the store must know.
pub(crate) fn check_features(features: &[String], act: &'static str) -> Result<()> {
    match features.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        Some(feature) => Err(Error::FeatureUnknown { feature: feature.clone(), act }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_foreign_store_is_refused_by_name() {
        let path = std::path::Path::new("s");
        let config = Config::new(StoreId([7; 16]), Time(5), Some(Shared::Group));
        assert_eq!(Config::decode(&config.encode(), path).unwrap(), config);
        let newer = br#"{"format": 99, "everything": "else"}"#;
        assert!(matches!(Config::decode(newer, path), Err(Error::StoreNewer { found: 99, .. })));
        let asks = Config { features: vec!["keys".into()], ..config.clone() };
        assert!(matches!(Config::decode(&asks.encode(), path), Err(Error::FeatureUnknown { .. })));
        let older = Config { format: 0, ..config.clone() };
        assert_eq!(Config::decode(&older.encode(), path).unwrap(), older);
        for cut in 0..config.encode().len() - 2 {
            assert!(Config::decode(&config.encode()[..cut], path).is_err());
        }
    }
}
