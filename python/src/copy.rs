//! Copies of much memory at once.

/// A thread copies at least this much: less is copied faster than a thread starts.
const SHARE_BYTES: usize = 8 << 20;
/// Threads that copy, at most: memory is no faster for more.
const THREADS_MAX: usize = 4;
/// What is shorter is copied as usual.
const LONG_BYTES: usize = 16 << 10;

/// Copies each piece, on several threads if it is much.
pub(crate) fn all(pieces: Vec<(&mut [u8], &[u8])>) {
    let total: usize = pieces.iter().map(|(_, from)| from.len()).sum();
    let threads = (total / SHARE_BYTES).clamp(1, crate::cores().min(THREADS_MAX));
    let mut shares = share_out(pieces, total.div_ceil(threads)).into_iter();
    // The caller's thread takes the first share.
    let own = shares.next();
    std::thread::scope(|scope| {
        shares.for_each(|share| drop(scope.spawn(move || copy_each(share))));
        own.into_iter().for_each(copy_each);
    });
}

/// The pieces in shares of so many bytes.
fn share_out<'a>(pieces: Vec<(&'a mut [u8], &'a [u8])>, share_bytes: usize) -> Vec<Vec<(&'a mut [u8], &'a [u8])>> {
    let mut shares = Vec::new();
    let (mut share, mut room) = (Vec::new(), share_bytes);
    for (mut to, mut from) in pieces {
        while from.len() > room {
            let (begin, end) = std::mem::take(&mut to).split_at_mut(room);
            share.push((begin, &from[..room]));
            (to, from, room) = (end, &from[room..], share_bytes);
            shares.push(std::mem::take(&mut share));
        }
        room -= from.len();
        share.push((to, from));
    }
    shares.push(share);
    shares
}

fn copy_each(pieces: Vec<(&mut [u8], &[u8])>) {
    pieces.into_iter().for_each(|(to, from)| past_caches(to, from));
}

/// Copies what will not be read again soon: without reading first what is overwritten, and without putting it where a
/// training has its own.
fn past_caches(to: &mut [u8], from: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if from.len() >= LONG_BYTES && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX.
        #[expect(unsafe_code, reason = "stores that pass by the caches exist as intrinsics alone")]
        return unsafe { x86::past_caches(to, from) };
    }
    to.copy_from_slice(from);
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "as above")]
mod x86 {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};

    const WIDTH: usize = size_of::<__m256i>();

    #[target_feature(enable = "avx")]
    pub(super) fn past_caches(to: &mut [u8], from: &[u8]) {
        // SAFETY: any bytes are a vector.
        let (begin, vectors, end) = unsafe { to.align_to_mut::<__m256i>() };
        let (first, rest) = from.split_at(begin.len());
        let (blocks, last) = rest.split_at(vectors.len() * WIDTH);
        begin.copy_from_slice(first);
        end.copy_from_slice(last);
        for (vector, block) in vectors.iter_mut().zip(blocks.chunks_exact(WIDTH)) {
            // SAFETY: a block has the width of a vector, and a vector is aligned as such a store wants it.
            unsafe { _mm256_stream_si256(vector, _mm256_loadu_si256(block.as_ptr().cast())) };
        }
        // Such stores are not ordered with others: whoever hears of the copy must see it.
        _mm_sfence();
    }
}
