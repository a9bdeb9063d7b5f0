//! What a checkpoint is made of: a root, a schema and blocks of tensor ids, all of them ordinary deduplicated chunks.
//!
//! The schema says what the tensors are and stays the same from step to step; the blocks say which bytes they have, 256
//! tensors to a block and none across a component's border, so that one changed tensor rewrites one block. Names of
//! files and their original headers stand in the root.
//!
//! ```text
//! stored   (a byte string, wherever it is referred to) flag u8 (0: one chunk; 1: id names a recipe) · id 32 · length varint
//! recipe   "TRRC" · version u8 · count varint · for each chunk: length varint, id 32
//! root     "TRMR" · version u8 · folder u8 (0: one file; 1: a folder) · schema: stored
//!          · count of components varint · for each: flag u8 (0: dropped; 1: present), count of blocks varint, block ids 32
//!          · count of files varint · for each: name, header u8 (0: none; 1: then stored)
//!          · count of side files varint · for each: name, stored
//!          · state u8 (0: none; 1: then stored)
//! schema   "TRMS" · version u8 · count of components varint · names · count of files varint
//!          · count of dtypes varint · names
//!          · count of tensors varint · for each: component varint, file varint, name, dtype varint, rank varint,
//!            dimensions varint, length in bytes varint, alias varint (0: none; n: the same bytes as tensor n - 1),
//!            boxes, in version 1
//! boxes    count varint · for each: offsets varint, one for each dimension, lengths varint, likewise
//! block    "TRMB" · version u8 · count varint · for each tensor: flag u8, id 32
//! ```
//! Tensors are sorted by component, then file, then place in the file; a name is UTF-8 behind its length (varint).
//!
//! A tensor's bytes are in row-major order. One that processes had sharded otherwise than by rows has boxes: its byte string
//! is that of the first box, in row-major order, then that of the next; together they hold each element once. A schema
//! has version 1 if some tensor has boxes, and else version 0. Elements of a tensor with boxes are whole bytes.

use crate::chunk;
use crate::error::{Error, Result};
use crate::format::names;
use crate::id::ChunkId;
use crate::tensor::boxes::{self, TensorBox};
use crate::tensor::{DType, TensorMeta};
use crate::wire::{Reader, WireError, Write};

/// Tensors in a block.
pub const BLOCK_TENSORS: usize = 256;
const VERSION: u8 = 0;
/// The version of a schema with boxes.
const VERSION_BOXES: u8 = 1;
const RANK_MAX: usize = 4096;

type Parsed<T> = std::result::Result<T, WireError>;

/// A byte string in the store: one chunk, or several under a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// The id of the chunk, or of the recipe.
    pub id: ChunkId,
    /// It is a recipe's.
    pub recipe: bool,
    /// The length of the byte string.
    pub bytes: u64,
}

/// The lengths and ids of a byte string's chunks, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipe(pub Vec<(ChunkId, u32)>);

/// The top of a manifest; its id names the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// It was a folder, or several files, and comes back as a folder.
    pub folder: bool,
    /// What the tensors are.
    pub schema: Stored,
    /// For each component of the schema the blocks with its tensors' ids, or `None` if it was dropped.
    pub components: Vec<Option<Vec<ChunkId>>>,
    /// The safetensors files.
    pub files: Vec<File>,
    /// Other files, by relative path.
    pub side_files: Vec<(String, Stored)>,
    /// The JSON-like values saved with the tensors.
    pub state: Option<Stored>,
}

/// A safetensors file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path within the folder.
    pub name: String,
    /// Its first bytes, up to the first tensor; none for tensors that came from memory.
    pub header: Option<Stored>,
}

/// What the tensors of a checkpoint are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// The components' names.
    pub components: Vec<String>,
    /// How many files there are.
    pub files: u32,
    /// All tensors, sorted by component.
    pub tensors: Vec<SchemaTensor>,
}

/// One tensor of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaTensor {
    /// Which component it belongs to.
    pub component: u32,
    /// Which file it came from.
    pub file: u32,
    /// Name, type, shape and length.
    pub meta: TensorMeta,
    /// It is the same tensor as that one.
    pub alias: Option<u32>,
    /// Its boxes, in the order in which they are stored; none if it is stored as a whole.
    pub boxes: Vec<TensorBox>,
}

/// The ids of up to [`BLOCK_TENSORS`] tensors: whether it is a recipe's, and the id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block(pub Vec<(bool, ChunkId)>);

impl Stored {
    /// The empty byte string, which is nowhere.
    pub fn empty() -> Stored {
        Stored { id: ChunkId::of(b""), recipe: false, bytes: 0 }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(self.recipe.into());
        out.put(&self.id.0);
        out.put_varint(self.bytes);
    }

    fn take(from: &mut Reader<'_>) -> Parsed<Stored> {
        let recipe = take_flag(from)?;
        let stored = Stored { recipe, id: ChunkId(from.array()?), bytes: from.varint()? };
        if !recipe && stored.bytes > chunk::MAX as u64 {
            return Err("a chunk that is too long".into());
        }
        Ok(stored)
    }
}

impl Recipe {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.0.len() * 36);
        out.put(b"TRRC\0");
        out.put_varint(self.0.len() as u64);
        for (id, bytes) in &self.0 {
            out.put_varint(u64::from(*bytes));
            out.put(&id.0);
        }
        out
    }

    /// Reads a recipe whose chunks add up to `total` bytes.
    pub fn decode(bytes: &[u8], total: u64) -> Result<Recipe> {
        let parse = || -> Parsed<Recipe> {
            let mut from = open(bytes, b"TRRC")?;
            let count = from.count(33)?;
            let mut chunks = Vec::with_capacity(count);
            let mut sum = 0u64;
            for _ in 0..count {
                let length = from.varint()?;
                if length == 0 || length > chunk::MAX as u64 {
                    return Err("a chunk of no possible length".into());
                }
                sum += length;
                chunks.push((ChunkId(from.array()?), length as u32));
            }
            from.end()?;
            if sum != total { Err(WireError(format!("{sum} bytes, not {total}"))) } else { Ok(Recipe(chunks)) }
        };
        parse().map_err(|e| Error::damaged("a recipe", e.0))
    }
}

impl Root {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put(b"TRMR");
        out.put_u8(VERSION);
        out.put_u8(self.folder.into());
        self.schema.put(&mut out);
        out.put_varint(self.components.len() as u64);
        for component in &self.components {
            out.put_u8(component.is_some().into());
            let blocks = component.as_deref().unwrap_or_default();
            out.put_varint(blocks.len() as u64);
            blocks.iter().for_each(|id| out.put(&id.0));
        }
        out.put_varint(self.files.len() as u64);
        for file in &self.files {
            out.put_counted(file.name.as_bytes());
            put_optional(&mut out, file.header);
        }
        out.put_varint(self.side_files.len() as u64);
        for (name, stored) in &self.side_files {
            out.put_counted(name.as_bytes());
            stored.put(&mut out);
        }
        put_optional(&mut out, self.state);
        out
    }

    /// Reads what [`Root::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Root> {
        let parse = || -> Parsed<Root> {
            let mut from = open(bytes, b"TRMR")?;
            let folder = take_flag(&mut from)?;
            let schema = Stored::take(&mut from)?;
            let components = (0..from.count(2)?)
                .map(|_| {
                    let present = take_flag(&mut from)?;
                    let blocks =
                        (0..from.count(32)?).map(|_| Ok(ChunkId(from.array()?))).collect::<Parsed<Vec<_>>>()?;
                    if !present && !blocks.is_empty() {
                        return Err("blocks of a dropped component".into());
                    }
                    Ok(present.then_some(blocks))
                })
                .collect::<Parsed<_>>()?;
            let files = (0..from.count(2)?)
                .map(|_| Ok(File { name: take_path(&mut from)?, header: take_optional(&mut from)? }))
                .collect::<Parsed<_>>()?;
            let side_files = (0..from.count(35)?)
                .map(|_| Ok((take_path(&mut from)?, Stored::take(&mut from)?)))
                .collect::<Parsed<_>>()?;
            let state = take_optional(&mut from)?;
            from.end()?;
            Ok(Root { folder, schema, components, files, side_files, state })
        };
        parse().map_err(|e| Error::damaged("the root of a manifest", e.0))
    }
}

impl Schema {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut dtypes: Vec<&str> = self.tensors.iter().map(|t| t.meta.dtype.name()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        let mut out = Vec::with_capacity(64 * self.tensors.len());
        out.put(b"TRMS");
        let has_boxes = self.tensors.iter().any(|t| !t.boxes.is_empty());
        out.put_u8(if has_boxes { VERSION_BOXES } else { VERSION });
        out.put_varint(self.components.len() as u64);
        self.components.iter().for_each(|name| out.put_counted(name.as_bytes()));
        out.put_varint(self.files.into());
        out.put_varint(dtypes.len() as u64);
        dtypes.iter().for_each(|name| out.put_counted(name.as_bytes()));
        out.put_varint(self.tensors.len() as u64);
        for tensor in &self.tensors {
            let dtype = dtypes.binary_search(&tensor.meta.dtype.name()).expect("the list holds every tensor's");
            out.put_varint(tensor.component.into());
            out.put_varint(tensor.file.into());
            out.put_counted(tensor.meta.name.as_bytes());
            out.put_varint(dtype as u64);
            out.put_varint(tensor.meta.shape.len() as u64);
            tensor.meta.shape.iter().for_each(|&d| out.put_varint(d));
            out.put_varint(tensor.meta.bytes);
            out.put_varint(tensor.alias.map_or(0, |n| u64::from(n) + 1));
            if has_boxes {
                put_boxes(&tensor.boxes, &mut out);
            }
        }
        out
    }

    /// Reads what [`Schema::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Schema> {
        parse_schema(bytes).map_err(|e| Error::damaged("the schema of a manifest", e.0))
    }

    /// The tensors of one component, as a range of `tensors`.
    pub fn of_component(&self, component: usize) -> std::ops::Range<usize> {
        let place = |n: usize| self.tensors.partition_point(|t| (t.component as usize) < n);
        place(component)..place(component + 1)
    }
}

fn parse_schema(bytes: &[u8]) -> Parsed<Schema> {
    let (mut from, version) = open_version(bytes, b"TRMS")?;
    if version > VERSION_BOXES {
        return Err("of a version that is not known".into());
    }
    let components = (0..from.count(1)?).map(|_| Ok(from.str()?.to_string())).collect::<Parsed<Vec<_>>>()?;
    let files = u32::try_from(from.varint()?).map_err(|_| WireError::from("too many files"))?;
    let dtypes = (0..from.count(1)?).map(|_| Ok(DType::new(from.str()?))).collect::<Parsed<Vec<_>>>()?;
    let count = from.count(7)?;
    let mut tensors = Vec::with_capacity(count);
    for n in 0..count {
        let component = take_below(&mut from, components.len(), "component")? as u32;
        let file = take_below(&mut from, files as usize, "file")? as u32;
        let name = from.str()?.to_string();
        let dtype = dtypes[take_below(&mut from, dtypes.len(), "dtype")?].clone();
        let rank = from.count(1)?;
        if rank > RANK_MAX {
            return Err("too many dimensions".into());
        }
        let shape = (0..rank).map(|_| from.varint()).collect::<Parsed<_>>()?;
        let bytes = from.varint()?;
        let alias = match take_below(&mut from, n + 1, "alias")? {
            0 => None,
            other => Some(other as u32 - 1),
        };
        let boxes = if version == VERSION_BOXES { take_boxes(&mut from, rank)? } else { Vec::new() };
        if tensors.last().is_some_and(|before: &SchemaTensor| before.component > component) {
            return Err("tensors that are not sorted by component".into());
        }
        let meta = TensorMeta { name, dtype, shape, bytes };
        if !meta.fits() {
            return Err("a shape that does not fit its bytes".into());
        }
        if !boxes.is_empty() && !boxes::tile(&boxes, &meta) {
            return Err("boxes that are not all of a tensor, each element once".into());
        }
        tensors.push(SchemaTensor { component, file, meta, alias, boxes });
    }
    from.end()?;
    Ok(Schema { components, files, tensors })
}

fn put_boxes(boxes: &[TensorBox], out: &mut Vec<u8>) {
    out.put_varint(boxes.len() as u64);
    let numbers = boxes.iter().flat_map(|of| of.offsets.iter().chain(&of.lengths));
    numbers.for_each(|&n| out.put_varint(n));
}

fn take_boxes(from: &mut Reader<'_>, rank: usize) -> Parsed<Vec<TensorBox>> {
    let numbers = |from: &mut Reader<'_>| (0..rank).map(|_| from.varint()).collect::<Parsed<Vec<u64>>>();
    let count = from.count(2 * rank)?;
    (0..count).map(|_| Ok(TensorBox { offsets: numbers(from)?, lengths: numbers(from)? })).collect()
}

impl SchemaTensor {
    /// The id of a tensor with these bytes: equal ids are equal tensors. Bytes in boxes are others than in order.
    pub fn id_of(&self, stored: &Stored) -> ChunkId {
        if self.boxes.is_empty() {
            return stored.id;
        }
        let mut bytes = stored.id.0.to_vec();
        put_boxes(&self.boxes, &mut bytes);
        ChunkId::of(&bytes)
    }
}

impl Block {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 33 * self.0.len());
        out.put(b"TRMB\0");
        out.put_varint(self.0.len() as u64);
        for (recipe, id) in &self.0 {
            out.put_u8((*recipe).into());
            out.put(&id.0);
        }
        out
    }

    /// Reads what [`Block::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Block> {
        let parse = || -> Parsed<Block> {
            let mut from = open(bytes, b"TRMB")?;
            let ids = (0..from.count(33)?)
                .map(|_| Ok((take_flag(&mut from)?, ChunkId(from.array()?))))
                .collect::<Parsed<_>>()?;
            from.end()?;
            Ok(Block(ids))
        };
        parse().map_err(|e| Error::damaged("a block of a manifest", e.0))
    }
}

fn open<'a>(bytes: &'a [u8], magic: &[u8; 4]) -> Parsed<Reader<'a>> {
    match open_version(bytes, magic)? {
        (from, VERSION) => Ok(from),
        _ => Err("of a version that is not known".into()),
    }
}

fn open_version<'a>(bytes: &'a [u8], magic: &[u8; 4]) -> Parsed<(Reader<'a>, u8)> {
    let mut from = Reader::new(bytes);
    if &from.array::<4>()? != magic {
        return Err("not of this kind".into());
    }
    let version = from.u8()?;
    Ok((from, version))
}

fn take_flag(from: &mut Reader<'_>) -> Parsed<bool> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("a flag that is neither 0 nor 1".into()),
    }
}

fn take_below(from: &mut Reader<'_>, bound: usize, what: &str) -> Parsed<usize> {
    let value = from.varint()?;
    usize::try_from(value).ok().filter(|&v| v < bound).ok_or_else(|| WireError(format!("{what} {value} of {bound}")))
}

fn take_path(from: &mut Reader<'_>) -> Parsed<String> {
    let name = from.str()?;
    names::check_side_file(name).map_err(|e| WireError(e.to_string()))?;
    Ok(name.to_string())
}

fn put_optional(out: &mut Vec<u8>, stored: Option<Stored>) {
    out.put_u8(stored.is_some().into());
    if let Some(stored) = stored {
        stored.put(out);
    }
}

fn take_optional(from: &mut Reader<'_>) -> Parsed<Option<Stored>> {
    Ok(if take_flag(from)? { Some(Stored::take(from)?) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored() -> impl Strategy<Value = Stored> {
        (any::<[u8; 32]>(), any::<bool>(), 0u64..chunk::MAX as u64).prop_map(|(id, recipe, bytes)| Stored {
            id: ChunkId(id),
            recipe,
            bytes,
        })
    }

    prop_compose! {
        fn schema()(
            mut places in proptest::collection::vec((0u32..3, 0u32..2, any::<Vec<u64>>()), 0..20), columns: bool,
        ) -> Schema {
            places.sort();
            let tensors = places.into_iter().enumerate().map(|(i, (component, file, shape))| {
                // A type that is not known may have any shape.
                let n = i as u64;
                let (dtype, shape, bytes) = if i % 2 == 0 { ("F32", vec![n, 1], 4 * n) } else { ("odd", shape, n) };
                let meta = TensorMeta { name: format!("é{i}"), dtype: DType::new(dtype), shape, bytes };
                let row = |i| TensorBox { offsets: vec![i, 0], lengths: vec![1, 1] };
                let boxes = if columns && i == 4 { (0..4).map(row).collect() } else { Vec::new() };
                SchemaTensor { component, file, meta, alias: (i > 3).then_some(2), boxes }
            });
            Schema { components: vec!["model".into(), "o".into(), "x".into()], files: 2, tensors: tensors.collect() }
        }
    }

    prop_compose! {
        fn root()(schema in stored(), stored in proptest::collection::vec(stored(), 0..4), folder: bool, header: bool, ids: Vec<[u8; 32]>) -> Root {
            Root {
                folder,
                schema,
                components: vec![None, Some(ids.into_iter().map(ChunkId).collect())],
                files: vec![File { name: "a.safetensors".into(), header: header.then_some(schema) }],
                side_files: stored.iter().map(|&s| ("sub/file".into(), s)).collect(),
                state: stored.first().copied(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_root_comes_back(root in root()) {
            prop_assert_eq!(Root::decode(&root.encode()).unwrap(), root);
        }

        #[test]
        fn a_schema_comes_back(schema in schema()) {
            prop_assert_eq!(Schema::decode(&schema.encode()).unwrap(), schema);
        }

        #[test]
        fn blocks_and_recipes_come_back(ids: Vec<(bool, [u8; 32])>) {
            let block = Block(ids.iter().map(|&(flag, id)| (flag, ChunkId(id))).collect());
            let recipe = Recipe(ids.iter().map(|&(_, id)| (ChunkId(id), 9)).collect());
            prop_assert_eq!(Block::decode(&block.encode()).unwrap(), block);
            prop_assert_eq!(Recipe::decode(&recipe.encode(), 9 * ids.len() as u64).unwrap(), recipe.clone());
            prop_assert!(Recipe::decode(&recipe.encode(), 9 * ids.len() as u64 + 1).is_err());
        }

        #[test]
        fn damage_is_an_error_or_another_manifest(root in root(), schema in schema(), at: prop::sample::Index, bit in 0u8..8) {
            for bytes in [root.encode(), schema.encode()] {
                let mut flipped = bytes.clone();
                flipped[at.index(bytes.len())] ^= 1 << bit;
                let _ = (Root::decode(&flipped), Schema::decode(&flipped), Block::decode(&flipped));
                let cut = &bytes[..at.index(bytes.len())];
                prop_assert!(Root::decode(cut).is_err() && Schema::decode(cut).is_err());
            }
        }
    }
}
