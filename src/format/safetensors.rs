//! Safetensors files: their headers, and the index of a model that is spread over several.
//!
//! The reader is strict: what it accepts covers the data exactly once, and everything it refuses has a reason that
//! names the file and the tensor. The writer makes what the reader, and the `safetensors` crate, accept. Both are
//! functions of slices: where the bytes lie, and which copy of a header is kept, is the caller's.
//!
//! # What always holds
//! * The tensors of a [`Header`] follow each other without a hole from 0 to the end of the data, under different names.
//! * A type of known size has exactly the bytes of its shape. Types that this version does not know are accepted, with
//!   the bytes that the offsets say.
//! * Memory stays a small multiple of the header, however it was made, and no header exhausts the stack.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::format::names;
use crate::tensor::{DType, Shape, TensorMeta};

/// The bytes before the header: its length.
pub const PREFIX_BYTES: u64 = 8;
/// The longest header: some 2 million tensors. More is taken for damage.
pub const HEADER_BYTES_MAX: u64 = 256 << 20;
/// The most dimensions of a tensor.
pub const RANK_MAX: usize = 4096;
/// The most keys of the metadata. Each takes far more memory than its bytes in the header.
pub const METADATA_KEYS_MAX: usize = 1 << 16;
/// The most tensors of an index.
pub const INDEX_TENSORS_MAX: usize = 4 << 20;
/// The longest name of a type.
pub const DTYPE_BYTES_MAX: usize = 64;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the data begins in the file.
    pub data_start: u64,
    /// In the order of their bytes; of tensors without bytes at the same place, in the order of the header.
    pub tensors: Vec<Entry>,
    /// The `__metadata__`, in the order of the header.
    pub metadata: Vec<(String, String)>,
}

/// A tensor and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub meta: TensorMeta,
    /// Its first byte, counted from [`Header::data_start`].
    pub begin: u64,
    /// The byte after its last.
    pub end: u64,
}

/// The length of the header of a file called `what`, from its first bytes and its own length.
pub fn header_len(what: &str, first8: [u8; 8], file_len: u64) -> Result<u64> {
    let len = u64::from_le_bytes(first8);
    let why = match file_len.checked_sub(PREFIX_BYTES) {
        None => format!("no safetensors file: only {file_len} bytes long"),
        Some(_) if len > HEADER_BYTES_MAX => {
            format!("no safetensors file: a header of {len} bytes, over the limit of {HEADER_BYTES_MAX}")
        }
        Some(rest) if len > rest => format!("truncated: {rest} bytes left for a header of {len}"),
        Some(_) => return Ok(len),
    };
    Err(Error::invalid(what, why))
}

/// Reads the header of a file called `what`: the JSON and its padding, without the length before it. `data_len` is how
/// many bytes follow it in the file.
pub fn parse(what: &str, header_bytes: &[u8], data_len: u64) -> Result<Header> {
    let Fields { mut tensors, metadata } = serde_json::from_slice(header_bytes)
        .map_err(|error| Error::invalid(what, format!("bad header: {}", names::brief_message(&error.to_string()))))?;
    check_unique(what, &tensors)?;
    // By both ends, so that a tensor without bytes comes before the one that begins where it lies. The sort is stable.
    tensors.sort_by_key(|entry| (entry.begin, entry.end));
    check_cover(what, &tensors, data_len)?;
    Ok(Header { data_start: PREFIX_BYTES + header_bytes.len() as u64, tensors, metadata })
}

fn check_unique(what: &str, tensors: &[Entry]) -> Result<()> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|entry| !seen.insert(entry.meta.name.as_str())) {
        Some(twice) => Err(Error::invalid(what, format!("tensor {}: twice in the header", shown(twice)))),
        None => Ok(()),
    }
}

/// Each tensor begins where the one before it ends, the last one ends with the data, and each has the bytes of its
/// shape.
fn check_cover(what: &str, tensors: &[Entry], data_len: u64) -> Result<()> {
    let mut at = 0;
    for entry in tensors {
        cover_verdict(entry, at, data_len)
            .and_then(|()| size_verdict(&entry.meta))
            .map_err(|why| Error::invalid(what, format!("tensor {}: {why}", shown(entry))))?;
        at = entry.end;
    }
    match data_len - at {
        0 => Ok(()),
        trailing => Err(Error::invalid(what, format!("{trailing} bytes after the last tensor"))),
    }
}

fn cover_verdict(entry: &Entry, at: u64, data_len: u64) -> Result<(), String> {
    let Entry { begin, end, .. } = *entry;
    match () {
        () if end > data_len => Err(format!("truncated: its bytes end at {end}, the data at {data_len}")),
        () if begin < at => Err(format!("overlaps the tensor before it: begins at {begin}, before {at}")),
        () if begin > at => Err(format!("a hole of {} bytes before it", begin - at)),
        () => Ok(()),
    }
}

fn size_verdict(meta: &TensorMeta) -> Result<(), String> {
    let product = |n: u64, &d: &u64| n.checked_mul(d);
    let elements = meta.shape.iter().try_fold(1, product).ok_or("its shape has more than 2^64 elements")?;
    let Some(bits) = meta.dtype.bits() else { return Ok(()) };
    let bits = elements.checked_mul(bits.into()).ok_or("its shape has more than 2^64 bits")?;
    match (bits / 8, bits % 8) {
        (bytes, 0) if bytes == meta.bytes => Ok(()),
        (bytes, 0) => Err(format!("{} bytes, where {} and its shape ask for {bytes}", meta.bytes, meta.dtype)),
        _ => Err(format!("{elements} elements of {} do not fill whole bytes", meta.dtype)),
    }
}

fn shown(entry: &Entry) -> String {
    format!("\"{}\"", names::brief(&entry.meta.name))
}

/// The header of a file with these tensors, in this order and without holes: its length, JSON, and spaces up to a
/// multiple of 8 bytes. Names are unique and pass [`names::check_tensor`].
pub fn write_header(tensors: &[TensorMeta], metadata: &[(String, String)]) -> Vec<u8> {
    const PREFIX: usize = PREFIX_BYTES as usize;
    let mut out = vec![0; PREFIX];
    serde_json::to_writer(&mut out, &HeaderOut { tensors, metadata }).expect("strings and numbers into memory");
    out.resize(out.len().next_multiple_of(PREFIX), b' ');
    let len = (out.len() - PREFIX) as u64;
    out[..PREFIX].copy_from_slice(&len.to_le_bytes());
    out
}

/// The `model.safetensors.index.json` of a model in several files: which tensor lies in which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// From the name of a tensor to the name of its file, beside the index.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the index called `what`. What it says beside the weight map is passed over.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Index> {
        let index: Index = serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid(what, format!("bad index: {}", names::brief_message(&error.to_string())))
        })?;
        for (tensor, file) in &index.weight_map {
            names::check_tensor(tensor)
                .and_then(|()| names::check_side_file(file))
                .map_err(|error| Error::invalid(what, format!("bad index: {error}")))?;
        }
        Ok(index)
    }
}

/// The index of these files and their tensors.
pub fn write_index(shards: &[(String, &[TensorMeta])]) -> Vec<u8> {
    let total = shards.iter().flat_map(|(_, tensors)| *tensors).fold(0u64, |sum, meta| sum.saturating_add(meta.bytes));
    let pairs =
        shards.iter().flat_map(|(file, tensors)| tensors.iter().map(move |meta| (meta.name.as_str(), file.as_str())));
    let index = IndexOut { metadata: Total { total_size: total }, weight_map: pairs.collect() };
    let mut out = serde_json::to_vec_pretty(&index).expect("strings and numbers into memory");
    out.push(b'\n');
    out
}

/// Which tensors go together into a file of at most `max_bytes` of data, in order. A larger tensor has a file to
/// itself.
pub fn plan_shards(tensors: &[TensorMeta], max_bytes: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut bytes) = (Vec::new(), 0, 0u64);
    for (at, meta) in tensors.iter().enumerate() {
        match bytes.checked_add(meta.bytes) {
            Some(with_it) if with_it <= max_bytes || at == start => bytes = with_it,
            _ => {
                shards.push(start..at);
                (start, bytes) = (at, meta.bytes);
            }
        }
    }
    if start < tensors.len() {
        shards.push(start..tensors.len());
    }
    shards
}

/// The end of the name of an index, behind the stem that its shards have.
pub const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// The name of shard `i`, counted from 0, of `n`: `model-00001-of-00003.safetensors`.
pub fn shard_name(stem: &str, i: usize, n: usize) -> String {
    format!("{stem}-{:05}-of-{n:05}.safetensors", i + 1)
}

// -- JSON in. Visitors of our own, since derived ones take the last of two equal keys, and hold more than a header has.

/// A header as it stands there.
struct Fields {
    tensors: Vec<Entry>,
    metadata: Vec<(String, String)>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fields, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let (mut tensors, mut metadata) = (Vec::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            if name == names::METADATA_KEY {
                let Pairs::<METADATA_KEYS_MAX>(pairs) = map.next_value()?;
                if metadata.replace(pairs).is_some() {
                    return Err(A::Error::custom("two objects of metadata"));
                }
                continue;
            }
            names::tensor_verdict(&name)
                .map_err(|why| A::Error::custom(format!("tensor \"{}\": {why}", names::brief(&name))))?;
            let Info { dtype, shape, begin, end } = map.next_value()?;
            let Some(bytes) = end.checked_sub(begin) else {
                let name = names::brief(&name);
                return Err(A::Error::custom(format!("tensor \"{name}\": begins at {begin}, after its end at {end}")));
            };
            tensors.push(Entry { meta: TensorMeta { name, dtype, shape, bytes }, begin, end });
        }
        Ok(Fields { tensors, metadata: metadata.unwrap_or_default() })
    }
}

/// What the header says of one tensor.
struct Info {
    dtype: DType,
    shape: Shape,
    begin: u64,
    end: u64,
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Info, D::Error> {
        from.deserialize_map(InfoVisitor)
    }
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Dtype,
    Shape,
    DataOffsets,
}

struct InfoVisitor;

impl<'de> Visitor<'de> for InfoVisitor {
    type Value = Info;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Info, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key()? {
            let twice = match key {
                Key::Dtype => dtype.replace(map.next_value::<DTypeIn>()?.0).map(|_| "dtype"),
                Key::Shape => shape.replace(map.next_value::<Dimensions>()?.0).map(|_| "shape"),
                Key::DataOffsets => offsets.replace(map.next_value::<[u64; 2]>()?).map(|_| "data_offsets"),
            };
            if let Some(key) = twice {
                return Err(A::Error::duplicate_field(key));
            }
        }
        let missing = A::Error::missing_field;
        let [begin, end] = offsets.ok_or_else(|| missing("data_offsets"))?;
        let (dtype, shape) = (dtype.ok_or_else(|| missing("dtype"))?, shape.ok_or_else(|| missing("shape"))?);
        Ok(Info { dtype, shape, begin, end })
    }
}

struct DTypeIn(DType);

impl<'de> Deserialize<'de> for DTypeIn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<DTypeIn, D::Error> {
        let name = String::deserialize(from)?;
        let is_name = |c: char| c.is_ascii_graphic();
        match !name.is_empty() && name.len() <= DTYPE_BYTES_MAX && name.chars().all(is_name) {
            true => Ok(DTypeIn(DType::new(name))),
            false => Err(D::Error::custom(format!("\"{}\" is not the name of a type", names::brief(&name)))),
        }
    }
}

struct Dimensions(Shape);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Dimensions, D::Error> {
        from.deserialize_seq(DimensionsVisitor)
    }
}

struct DimensionsVisitor;

impl<'de> Visitor<'de> for DimensionsVisitor {
    type Value = Dimensions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dimensions, A::Error> {
        let mut shape = Shape::new();
        while let Some(dimension) = seq.next_element()? {
            if shape.len() == RANK_MAX {
                return Err(A::Error::custom(format!("a shape of more than {RANK_MAX} dimensions")));
            }
            shape.push(dimension);
        }
        shape.shrink_to_fit();
        Ok(Dimensions(shape))
    }
}

/// An object of at most `MAX` strings, in order, without equal keys.
struct Pairs<const MAX: usize>(Vec<(String, String)>);

impl<'de, const MAX: usize> Deserialize<'de> for Pairs<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs<MAX>, D::Error> {
        from.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for PairsVisitor<MAX> {
    type Value = Pairs<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<MAX>, A::Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(pair) = map.next_entry()? {
            if pairs.len() == MAX {
                return Err(A::Error::custom(format!("more than {MAX} keys")));
            }
            pairs.push(pair);
        }
        let mut seen = HashSet::with_capacity(pairs.len());
        match pairs.iter().find(|(key, _)| !seen.insert(key.as_str())) {
            Some((key, _)) => Err(A::Error::custom(format!("the key \"{}\" twice", names::brief(key)))),
            None => Ok(Pairs(pairs)),
        }
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Index, D::Error> {
        from.deserialize_map(IndexVisitor)
    }
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = Index;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let mut weight_map = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Pairs::<INDEX_TENSORS_MAX>(pairs) = map.next_value()?;
            if weight_map.replace(pairs).is_some() {
                return Err(A::Error::duplicate_field("weight_map"));
            }
        }
        let pairs = weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))?;
        Ok(Index { weight_map: pairs.into_iter().collect() })
    }
}

// -- JSON out

struct HeaderOut<'a> {
    tensors: &'a [TensorMeta],
    metadata: &'a [(String, String)],
}

impl Serialize for HeaderOut<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(names::METADATA_KEY, &PairsOut(self.metadata))?;
        }
        let mut at = 0u64;
        for TensorMeta { name, dtype, shape, bytes } in self.tensors {
            let end = at.saturating_add(*bytes);
            map.serialize_entry(name, &InfoOut { dtype: dtype.name(), shape, data_offsets: [at, end] })?;
            at = end;
        }
        map.end()
    }
}

struct PairsOut<'a>(&'a [(String, String)]);

impl Serialize for PairsOut<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(serde::Serialize)]
struct InfoOut<'a> {
    dtype: &'a str,
    shape: &'a [u64],
    data_offsets: [u64; 2],
}

#[derive(serde::Serialize)]
struct IndexOut<'a> {
    metadata: Total,
    weight_map: BTreeMap<&'a str, &'a str>,
}

#[derive(serde::Serialize)]
struct Total {
    total_size: u64,
}

#[cfg(test)]
mod tests;
