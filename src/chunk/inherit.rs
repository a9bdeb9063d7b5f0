//! The cuts of a tensor that grew or shrank: its old chunks are looked for at both ends.
//!
//! A vocabulary that got new rows keeps its old ones in front; a buffer that lost its oldest rows keeps its newest at the
//! back. What lies between is cut by content.

use crate::error::Result;
use crate::id::ChunkId;

/// The id of so many bytes at an offset.
type IdAt<'a> = &'a dyn Fn(u64, usize) -> Result<ChunkId>;

/// How many of the old chunks, from the first on, are at the front of the new bytes, which are `total` long.
pub fn match_front(id_at: IdAt<'_>, old: &[(ChunkId, u32)], total: u64) -> Result<usize> {
    let mut offset = 0;
    for (n, &(id, length)) in old.iter().enumerate() {
        if offset + u64::from(length) > total || id_at(offset, length as usize)? != id {
            return Ok(n);
        }
        offset += u64::from(length);
    }
    Ok(old.len())
}

/// How many of the old chunks, from the last on, are at the back of the new bytes, which are `total` long and of which the
/// last `free` are not matched yet.
pub fn match_back(id_at: IdAt<'_>, old: &[(ChunkId, u32)], free: u64, total: u64) -> Result<usize> {
    let mut matched = 0u64;
    for (n, &(id, length)) in old.iter().rev().enumerate() {
        let end = matched + u64::from(length);
        if end > free || id_at(total - end, length as usize)? != id {
            return Ok(n);
        }
        matched = end;
    }
    Ok(old.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: &[u8], lengths: &[usize]) -> Vec<(ChunkId, u32)> {
        let mut rest = bytes;
        lengths
            .iter()
            .map(|&n| {
                let (chunk, after) = rest.split_at(n);
                rest = after;
                (ChunkId::of(chunk), n as u32)
            })
            .collect()
    }

    #[test]
    fn ends_are_matched_and_never_overlap() {
        let old = b"aaaabbbbccccdddd";
        let parent = chunks(old, &[4, 4, 4, 4]);
        for (new, front, back) in [
            (&b"aaaabbbbccccddddeeee"[..], 4, 0),
            (b"zzaaaabbbbccccdddd", 0, 4),
            (b"aaaabbbbXXccccdddd", 2, 2),
            (b"aaaadddd", 1, 1),
            (b"aaaa", 1, 0),
            (b"", 0, 0),
            (b"xyz", 0, 0),
        ] {
            let total = new.len() as u64;
            let id_at = |offset: u64, length: usize| Ok(ChunkId::of(&new[offset as usize..offset as usize + length]));
            let found = match_front(&id_at, &parent, total).unwrap();
            assert_eq!(found, front, "{new:?}");
            let free = total - 4 * found as u64;
            assert_eq!(match_back(&id_at, &parent[found..], free, total).unwrap(), back, "{new:?}");
        }
    }
}
