//! Cuts taken over from a parent.
//!
//! A tensor of the parent's length takes the parent's cuts as they are. One that grew or shrank takes as many of the
//! parent's chunks as are found unchanged at its front and at its back; what lies between is cut by content. The caller
//! brings the ids of bytes: nothing here reads or hashes.

use std::ops::Range;

use super::MAX;
use crate::error::Result;
use crate::id::ChunkId;

/// The id of that many bytes of a tensor from that offset.
pub type IdAt<'a> = dyn Fn(u64, usize) -> Result<ChunkId> + 'a;

/// Whether a tensor of `total` bytes can be cut into these lengths.
pub fn lengths_fit(lengths: &[u32], total: u64) -> bool {
    if total == 0 {
        return matches!(lengths, [] | [0]);
    }
    let in_bounds = lengths.iter().all(|&length| 0 < length && length as usize <= MAX);
    in_bounds && lengths.iter().try_fold(0u64, |sum, &length| sum.checked_add(length.into())) == Some(total)
}

/// What a tensor shares with its parent at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// How many of the parent's first chunks are its first.
    pub front: usize,
    /// How many of the parent's last chunks are its last. None is counted twice.
    pub back: usize,
    /// The bytes of the tensor between the two: what is to be cut by content.
    pub middle: Range<u64>,
}

/// Matches a tensor of `total` bytes with its parent's chunks from both ends.
pub fn match_ends(id_at: &IdAt<'_>, parent: &[(ChunkId, u32)], total: u64) -> Result<Ends> {
    let front = match_front(id_at, parent, total)?;
    let (matched, rest) = parent.split_at(front);
    let start: u64 = matched.iter().map(|&(_, length)| u64::from(length)).sum();
    let back = match_back(id_at, rest, start, total)?;
    let tail: u64 = rest[rest.len() - back..].iter().map(|&(_, length)| u64::from(length)).sum();
    Ok(Ends { front, back, middle: start..total - tail })
}

/// How many of the parent's first chunks the tensor begins with.
pub fn match_front(id_at: &IdAt<'_>, parent: &[(ChunkId, u32)], total: u64) -> Result<usize> {
    let mut at = 0u64;
    for (count, &(id, length)) in parent.iter().enumerate() {
        if total - at < u64::from(length) || id_at(at, length as usize)? != id {
            return Ok(count);
        }
        at += u64::from(length);
    }
    Ok(parent.len())
}

/// How many of the parent's last chunks the tensor ends with; nothing before offset `start` is looked at.
pub fn match_back(id_at: &IdAt<'_>, parent: &[(ChunkId, u32)], start: u64, total: u64) -> Result<usize> {
    let mut end = total;
    for (count, &(id, length)) in parent.iter().rev().enumerate() {
        if end.saturating_sub(start) < u64::from(length) || id_at(end - u64::from(length), length as usize)? != id {
            return Ok(count);
        }
        end -= u64::from(length);
    }
    Ok(parent.len())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_fit_a_tensor_that_they_add_up_to() {
        assert!(lengths_fit(&[3, 4], 7));
        assert!(lengths_fit(&[MAX as u32], MAX as u64));
        assert!(lengths_fit(&[], 0) && lengths_fit(&[0], 0));
        for (lengths, total) in [(&[3, 4][..], 8), (&[3, 4], 6), (&[], 1), (&[7, 0], 7), (&[0, 0], 0), (&[1], 0)] {
            assert!(!lengths_fit(lengths, total), "{lengths:?} {total}");
        }
        assert!(!lengths_fit(&[MAX as u32 + 1], MAX as u64 + 1));
    }

    fn parent(bytes: &[u8], lengths: &[usize]) -> Vec<(ChunkId, u32)> {
        let mut rest = bytes;
        lengths
            .iter()
            .map(|&length| {
                let (chunk, tail) = rest.split_at(length);
                rest = tail;
                (ChunkId::of(chunk), length as u32)
            })
            .collect()
    }

    fn ends(parent: &[(ChunkId, u32)], new: &[u8]) -> Ends {
        let id_at = |at: u64, length: usize| Ok(ChunkId::of(&new[at as usize..][..length]));
        match_ends(&id_at, parent, new.len() as u64).unwrap()
    }

    #[test]
    fn a_grown_vocabulary_keeps_what_it_had() {
        let parent = parent(b"aaabbbccc", &[3, 3, 3]);
        assert_eq!(ends(&parent, b"aaabbbcccdd"), Ends { front: 3, back: 0, middle: 9..11 });
        assert_eq!(ends(&parent, b"ddaaabbbccc"), Ends { front: 0, back: 3, middle: 0..2 });
        assert_eq!(ends(&parent, b"aaadbbbccc"), Ends { front: 1, back: 2, middle: 3..4 });
        assert_eq!(ends(&parent, b"aaabbb"), Ends { front: 2, back: 0, middle: 6..6 });
        assert_eq!(ends(&parent, b"bbbccc"), Ends { front: 0, back: 2, middle: 0..0 });
        assert_eq!(ends(&parent, b""), Ends { front: 0, back: 0, middle: 0..0 });
    }

    #[test]
    fn front_and_back_do_not_share_bytes() {
        let parent = parent(b"aaaaaa", &[2, 2, 2]);
        assert_eq!(ends(&parent, b"aaaaa"), Ends { front: 2, back: 0, middle: 4..5 });
    }

    #[test]
    fn a_failure_to_read_is_passed_on() {
        let fails = |_: u64, _: usize| Err(crate::Error::Interrupted);
        assert!(match_ends(&fails, &[(ChunkId::default(), 1)], 1).is_err());
    }

    proptest! {
        #[test]
        fn front_middle_and_back_make_up_the_tensor(
            lengths in vec(1usize..4, 0..8), old in vec(0u8..2, 32), new in vec(0u8..2, 0..32),
        ) {
            let parent = parent(&old, &lengths);
            let found = ends(&parent, &new);
            let total: usize = lengths.iter().sum();
            let front: usize = lengths[..found.front].iter().sum();
            let back: usize = lengths[lengths.len() - found.back..].iter().sum();
            prop_assert!(found.front + found.back <= lengths.len());
            prop_assert_eq!(&new[..front], &old[..front]);
            prop_assert_eq!(&new[new.len() - back..], &old[total - back..total]);
            prop_assert_eq!(found.middle, front as u64..(new.len() - back) as u64);
        }
    }
}
