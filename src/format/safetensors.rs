//! The headers of safetensors files: read strictly, written plainly.
//!
//! The format is that of the `safetensors` library: eight bytes with the header's length, a JSON object that gives each
//! tensor its type, shape and offsets, and the tensors' bytes. This reader refuses what could mean two things (a name given
//! twice, bytes that belong to no tensor or to two) and accepts types that it does not know, since their bytes are known.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::names;
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape, TensorMeta};

/// A header is never longer.
pub const HEADER_MAX: u64 = 256 << 20;
const RANK_MAX: usize = 4096;
const METADATA: &str = "__metadata__";

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the tensors' bytes begin in the file.
    pub data_start: u64,
    /// Sorted by their place in the file; tensors without bytes come where their offset is.
    pub tensors: Vec<Entry>,
    /// The free text of the header.
    pub metadata: Vec<(String, String)>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name, type, shape and length.
    pub meta: TensorMeta,
    /// Its first byte, counted from `data_start`.
    pub begin: u64,
    /// The first byte after it.
    pub end: u64,
}

/// The length of the JSON behind the first eight bytes of a file of `file_bytes`. `what` names the file.
pub fn header_len(first: [u8; 8], file_bytes: u64, what: &str) -> Result<u64> {
    let length = u64::from_le_bytes(first);
    if length > HEADER_MAX {
        return Err(Error::invalid(what, format!("not a safetensors file: a header of {length} bytes")));
    }
    match file_bytes.checked_sub(8 + length) {
        Some(_) => Ok(length),
        None => Err(Error::invalid(
            what,
            format!("truncated: its header ends at byte {}, the file at {file_bytes}", 8 + length),
        )),
    }
}

/// Reads the JSON of a header whose tensors take `data_bytes`. `what` names the file.
pub fn parse(json: &[u8], data_bytes: u64, what: &str) -> Result<Header> {
    let bad = |why: String| Error::invalid(what, why);
    if json.first() != Some(&b'{') {
        return Err(bad("not a safetensors file: its header is no JSON object".into()));
    }
    let raw: RawHeader =
        serde_json::from_slice(json).map_err(|e| bad(format!("its header: {}", names::printable(&e.to_string()))))?;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        tensors.push(checked(name, entry).map_err(bad)?);
    }
    tensors.sort_by_key(|entry| (entry.begin, entry.end));
    cover(&tensors, data_bytes).map_err(bad)?;
    Ok(Header { data_start: 8 + json.len() as u64, tensors, metadata: raw.metadata })
}

fn checked(name: String, entry: RawEntry) -> Result<Entry, String> {
    let shown = || names::printable(&name).chars().take(80).collect::<String>();
    names::check_tensor(&name).map_err(|e| e.to_string())?;
    let RawEntry { dtype, shape, data_offsets: [begin, end] } = entry;
    if dtype.is_empty() || dtype.len() > 64 || !dtype.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("tensor {}: a type that is no name", shown()));
    }
    if shape.len() > RANK_MAX {
        return Err(format!("tensor {}: {} dimensions", shown(), shape.len()));
    }
    let bytes = end.checked_sub(begin).ok_or_else(|| format!("tensor {}: it ends before it begins", shown()))?;
    let dtype = DType::new(dtype);
    if dtype.bits().is_some() {
        match TensorMeta::expected_bytes(&dtype, &shape) {
            Some(expected) if expected == bytes => {}
            Some(expected) => {
                return Err(format!("tensor {}: {bytes} bytes where type and shape ask for {expected}", shown()));
            }
            None => return Err(format!("tensor {}: a shape of no possible size", shown())),
        }
    }
    Ok(Entry { meta: TensorMeta { name, dtype, shape, bytes }, begin, end })
}

/// Every byte belongs to exactly one tensor.
fn cover(tensors: &[Entry], data_bytes: u64) -> Result<(), String> {
    let mut end = 0;
    for entry in tensors {
        let name = || names::printable(&entry.meta.name).chars().take(80).collect::<String>();
        if entry.begin < end {
            return Err(format!("tensor {} overlaps the one before it at byte {}", name(), entry.begin));
        }
        if entry.begin > end {
            return Err(format!("{} bytes before tensor {} belong to nothing", entry.begin - end, name()));
        }
        end = entry.end;
    }
    match data_bytes {
        found if found < end => Err(format!("truncated: its tensors take {end} bytes, and {found} are there")),
        found if found > end => Err(format!("{} bytes after its last tensor", found - end)),
        _ => Ok(()),
    }
}

struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<RawHeader, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a tensor under each name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut seen = HashSet::new();
                let mut header = RawHeader { tensors: Vec::new(), metadata: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("{name:?} is given twice")));
                    }
                    if name == METADATA {
                        header.metadata = map.next_value::<Strings>()?.0;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        from.deserialize_map(Object)
    }
}

/// An object whose values are strings, and no key twice.
struct Strings(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Strings, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings as __metadata__")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings, A::Error> {
                let (mut seen, mut pairs) = (HashSet::new(), Vec::new());
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("{key:?} is given twice in __metadata__")));
                    }
                    pairs.push((key, value));
                }
                Ok(Strings(pairs))
            }
        }
        from.deserialize_map(Object)
    }
}

/// The first bytes of a file with these tensors, one behind the other: length and JSON, padded to a multiple of 8.
pub fn write_header(tensors: &[TensorMeta], metadata: &[(String, String)]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Out<'a> {
        dtype: &'a str,
        shape: &'a [u64],
        data_offsets: [u64; 2],
    }
    let mut json = String::from("{");
    let text = |value: &str| serde_json::to_string(value).expect("text always has a JSON form");
    if !metadata.is_empty() {
        let pairs: BTreeMap<&str, &str> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        json.push_str(&format!(
            "\"{METADATA}\":{}",
            serde_json::to_string(&pairs).expect("text always has a JSON form")
        ));
    }
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.bytes;
        let out = Out { dtype: tensor.dtype.name(), shape: &tensor.shape, data_offsets: [begin, end] };
        let separator = if json.len() > 1 { "," } else { "" };
        let value = serde_json::to_string(&out).expect("plain fields always have a JSON form");
        json.push_str(&format!("{separator}{}:{value}", text(&tensor.name)));
        begin = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json.into_bytes());
    out
}

/// Which tensors go into which file, if none is to have more than `max_bytes` of them: in order, and a larger tensor alone.
pub fn plan_shards(tensors: &[TensorMeta], max_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (n, tensor) in tensors.iter().enumerate() {
        if n > start && bytes.saturating_add(tensor.bytes) > max_bytes {
            shards.push(start..n);
            (start, bytes) = (n, 0);
        }
        bytes = bytes.saturating_add(tensor.bytes);
    }
    shards.push(start..tensors.len());
    shards
}

/// The name of the shard `number`, counted from 0, of `count`.
pub fn shard_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1)
}

/// The index that goes with shards: which file has which tensor.
pub fn write_index(shards: &[(String, &[TensorMeta])]) -> Vec<u8> {
    let total: u64 = shards.iter().flat_map(|(_, tensors)| tensors.iter()).map(|tensor| tensor.bytes).sum();
    let map: BTreeMap<&str, &str> =
        shards.iter().flat_map(|(file, tensors)| tensors.iter().map(|t| (t.name.as_str(), file.as_str()))).collect();
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    let mut bytes = serde_json::to_vec_pretty(&index).expect("plain fields always have a JSON form");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;
