//! A pack: an object that holds frames.
//!
//! ```text
//! header   "TRPK" · version u16 · hash u8 (1: BLAKE3) · 0 u8 · store id 16 · save id 16 · index u32 · 0 u32     48 bytes
//! frames   one behind the other
//! footer   version u16 · store id 16 · save id 16 · index u32 · count of frames varint · a row for each
//!          · the commit's body, as JSON without its packs, behind its length (varint)
//! trailer  length of the footer u32 · BLAKE3 of the footer 32 · "TRPE"                                          40 bytes
//!
//! row      chunk id 32 · frame length u32 · chunk length u32 · CRC-32 of the frame u32 · codec u8 · depth u8
//!          · count of bases u8 · base ids 32 each
//! frame    codec u8 · depth u8 · count of bases u8 · base ids 32 each · body
//! ```
//! Numbers are little-endian. The frames fill the space between header and footer exactly, in the order of the rows.
//! The footer's hash stands in the log entry that brought the pack, and the footer names the store, the save and the
//! pack: a pack cannot stand in for another.

use crate::chunk;
use crate::codec::CodecId;
use crate::error::{Error, Result};
use crate::id::{ChunkId, Hash, PackId, SaveId, StoreId};
use crate::wire::{Reader, WireError, Write};

/// Bytes before the first frame.
pub const HEADER_BYTES: u64 = 48;
/// Bytes behind the footer.
pub const TRAILER_BYTES: u64 = 40;
/// A pack is closed once its frames pass this.
pub const TARGET_BYTES: u64 = 64 << 20;
/// A footer is never longer.
pub const FOOTER_MAX: u64 = 256 << 20;
/// Frames to decode before another, at most.
pub const DEPTH_MAX: u8 = 16;
/// Chunks that one frame is a difference to, at most.
pub const BASES_MAX: usize = 4;

/// Where in a frame its depth stands.
pub const DEPTH_AT: usize = 1;

const VERSION: u16 = 0;
const MAGIC: &[u8; 4] = b"TRPK";
const END_MAGIC: &[u8; 4] = b"TRPE";
const HASH_BLAKE3: u8 = 1;
const ROW_BYTES: usize = 32 + 4 + 4 + 4 + 3;

/// What a frame is, beside its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The chunk that it holds.
    pub chunk: ChunkId,
    /// Where it begins in the pack. Not stored: the frames lie end to end.
    pub offset: u64,
    /// Its length in the pack.
    pub frame_bytes: u32,
    /// The length of the chunk.
    pub chunk_bytes: u32,
    /// CRC-32 (IEEE) of the frame: finds damage at disk speed; never identifies anything.
    pub crc: u32,
    /// How the body is coded.
    pub codec: CodecId,
    /// Frames to decode before it.
    pub depth: u8,
    /// The chunks that it is a difference to.
    pub bases: Vec<ChunkId>,
}

/// The end of a pack: what lies in it, and for which commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The store.
    pub store: StoreId,
    /// The pack's own name.
    pub pack: PackId,
    /// Its frames.
    pub rows: Vec<Row>,
    /// The body of the commit that brought it, without its list of packs: an entry can be remade from it.
    pub commit: Vec<u8>,
}

/// The first bytes of a pack.
pub fn header(store: StoreId, pack: PackId) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES as usize);
    out.put(MAGIC);
    out.put_u16(VERSION);
    out.put_u8(HASH_BLAKE3);
    out.put_u8(0);
    out.put(&store.0);
    out.put(&pack.save.0);
    out.put_u32(pack.index);
    out.put_u32(0);
    out
}

/// Appends the frame of a chunk: what it is, then its body.
pub fn put_frame_head(out: &mut Vec<u8>, codec: CodecId, depth: u8, bases: &[ChunkId]) {
    debug_assert!(bases.len() <= BASES_MAX && depth <= DEPTH_MAX);
    out.put_u8(codec.0);
    out.put_u8(depth);
    out.put_u8(bases.len() as u8);
    for base in bases {
        out.put(&base.0);
    }
}

/// The body of a frame that is what its row says; `Err` says how it is not.
pub fn frame_body<'a>(frame: &'a [u8], row: &Row) -> std::result::Result<&'a [u8], WireError> {
    if crc32fast::hash(frame) != row.crc {
        return Err("its checksum is wrong".into());
    }
    let mut head = Vec::with_capacity(3 + 32 * row.bases.len());
    put_frame_head(&mut head, row.codec, row.depth, &row.bases);
    frame.strip_prefix(&head[..]).ok_or_else(|| "its head is not what the footer says".into())
}

impl Footer {
    /// The footer and the trailer, and the hash that the log keeps.
    pub fn encode(&self) -> (Vec<u8>, Hash) {
        let mut out = Vec::with_capacity(64 + self.rows.len() * ROW_BYTES + self.commit.len());
        out.put_u16(VERSION);
        out.put(&self.store.0);
        out.put(&self.pack.save.0);
        out.put_u32(self.pack.index);
        out.put_varint(self.rows.len() as u64);
        for row in &self.rows {
            out.put(&row.chunk.0);
            out.put_u32(row.frame_bytes);
            out.put_u32(row.chunk_bytes);
            out.put_u32(row.crc);
            out.put_u8(row.codec.0);
            out.put_u8(row.depth);
            out.put_u8(row.bases.len() as u8);
            for base in &row.bases {
                out.put(&base.0);
            }
        }
        out.put_counted(&self.commit);
        let hash = Hash::of(&out);
        let length = out.len() as u32;
        out.put_u32(length);
        out.put(&hash.0);
        out.put(END_MAGIC);
        (out, hash)
    }

    /// Reads the footer (without its trailer) of a pack of `pack_bytes`.
    pub fn decode(bytes: &[u8], expect: PackId, store: StoreId, pack_bytes: u64) -> Result<Footer> {
        parse(bytes, pack_bytes)
            .map_err(|e| e.0)
            .and_then(|footer| {
                if footer.store != store {
                    Err(format!("it belongs to store {}", footer.store))
                } else if footer.pack != expect {
                    Err(format!("it is pack {}", footer.pack))
                } else {
                    Ok(footer)
                }
            })
            .map_err(|why| Error::damaged(format!("pack {expect}"), why))
    }

    /// The sum of the lengths of the frames.
    pub fn frames_bytes(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.frame_bytes)).sum()
    }
}

fn parse(bytes: &[u8], pack_bytes: u64) -> std::result::Result<Footer, WireError> {
    let mut from = Reader::new(bytes);
    if from.u16()? != VERSION {
        return Err("of another version".into());
    }
    let store = StoreId(from.array()?);
    let pack = PackId { save: SaveId(from.array()?), index: from.u32()? };
    let count = from.count(ROW_BYTES)?;
    let mut rows = Vec::with_capacity(count);
    let mut offset = HEADER_BYTES;
    for _ in 0..count {
        let row = parse_row(&mut from, offset)?;
        offset += u64::from(row.frame_bytes);
        rows.push(row);
    }
    let commit = from.counted()?.to_vec();
    from.end()?;
    if offset.checked_add(bytes.len() as u64 + TRAILER_BYTES) != Some(pack_bytes) {
        return Err("the frames do not fill the pack".into());
    }
    Ok(Footer { store, pack, rows, commit })
}

fn parse_row(from: &mut Reader<'_>, offset: u64) -> std::result::Result<Row, WireError> {
    let chunk = ChunkId(from.array()?);
    let (frame_bytes, chunk_bytes, crc) = (from.u32()?, from.u32()?, from.u32()?);
    let (codec, depth, bases) = (CodecId(from.u8()?), from.u8()?, usize::from(from.u8()?));
    if chunk_bytes as usize > chunk::MAX || depth > DEPTH_MAX || bases > BASES_MAX || (bases == 0) != (depth == 0) {
        return Err("a row that is out of bounds".into());
    }
    let bases = (0..bases).map(|_| Ok(ChunkId(from.array()?))).collect::<std::result::Result<_, WireError>>()?;
    Ok(Row { chunk, offset, frame_bytes, chunk_bytes, crc, codec, depth, bases })
}

/// What the trailer says: the footer's length and hash.
pub fn decode_trailer(trailer: &[u8; TRAILER_BYTES as usize], pack: PackId, pack_bytes: u64) -> Result<(u64, Hash)> {
    let mut from = Reader::new(trailer);
    let mut read =
        || -> std::result::Result<_, WireError> { Ok((from.u32()?, Hash(from.array()?), from.array::<4>()?)) };
    let (length, hash, magic) = read().expect("a trailer is as long as its fields");
    let length = u64::from(length);
    if &magic != END_MAGIC || length > FOOTER_MAX || length + HEADER_BYTES + TRAILER_BYTES > pack_bytes {
        return Err(Error::damaged(format!("pack {pack}"), "it does not end as a pack does"));
    }
    Ok((length, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn footer(lengths: &[u16]) -> (Footer, u64) {
        let pack = PackId { save: SaveId([3; 16]), index: 2 };
        let mut offset = HEADER_BYTES;
        let rows = lengths.iter().enumerate().map(|(i, &n)| {
            let depth = (i % 3) as u8;
            let bases = vec![ChunkId([9; 32]); usize::from(depth > 0)];
            let row = Row {
                chunk: ChunkId([i as u8; 32]),
                offset,
                frame_bytes: n.into(),
                chunk_bytes: 7,
                crc: 8,
                codec: CodecId(1),
                depth,
                bases,
            };
            offset += u64::from(n);
            row
        });
        let footer = Footer { store: StoreId([1; 16]), pack, rows: rows.collect(), commit: b"{}".to_vec() };
        let total = offset + footer.encode().0.len() as u64;
        (footer, total)
    }

    proptest! {
        #[test]
        fn a_footer_comes_back(lengths: Vec<u16>) {
            let (footer, total) = footer(&lengths);
            let (bytes, hash) = footer.encode();
            let trailer = bytes[bytes.len() - 40..].try_into().unwrap();
            let (length, found) = decode_trailer(&trailer, footer.pack, total).unwrap();
            prop_assert_eq!((length as usize, found), (bytes.len() - 40, hash));
            let again = Footer::decode(&bytes[..bytes.len() - 40], footer.pack, footer.store, total).unwrap();
            prop_assert_eq!(again, footer);
        }

        #[test]
        fn f087_any_bytes_are_a_footer_or_an_error(bytes: Vec<u8>, total: u64) {
            let _ = parse(&bytes, total);
        }
    }

    #[test]
    fn a_pack_cannot_stand_in_for_another() {
        let (footer, total) = footer(&[5, 6]);
        let bytes = footer.encode().0;
        let body = &bytes[..bytes.len() - 40];
        let other = PackId { index: 3, ..footer.pack };
        assert!(Footer::decode(body, other, footer.store, total).is_err());
        assert!(Footer::decode(body, footer.pack, StoreId([2; 16]), total).is_err());
        assert!(Footer::decode(body, footer.pack, footer.store, total + 1).is_err());
    }
}
