//! How fast the codecs are, on one thread, beside copying and hashing the same bytes.
//!
//! `cargo bench --bench codec`: for each kind of chunk the codec chosen, the size of the bodies and the median speed in
//! GB of plain bytes a second, beside that of a copy of the same bytes, measured in between. Chunks of 1 MiB are taken in
//! turn from more memory than the caches hold. Decoding a difference begins with a copy of the base.
//!
//! The last rows are of the difference codec by itself, as it works in a save: the chunk was just read, and the base just
//! decoded, so both are in a cache; what is decoded takes the base's place. Neither that nor the choice of the codec
//! counts there.

use std::hint::black_box;
use std::time::Instant;

use treering::codec::{self, CodecId, Input, Scratch};
use treering::tensor::{DType, Layout};

const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 48;
const ROUNDS: usize = 9;

fn main() {
    let floats = gaussians(CHUNKS * CHUNK / 4, 0);
    let noise = noise(CHUNKS * CHUNK, 0);
    println!(
        "{:<28} {:<6} {:>7} {:>8} {:>8} {:>9}",
        "chunks of 1 MiB", "codec", "% raw", "enc GB/s", "dec GB/s", "copy GB/s"
    );

    copy_and_hash(&floats);
    codecs("F32 weights", "F32", &floats);
    codecs("F32, half of it zero", "F32", &half_zero(&floats));
    codecs("F32, every other row zero", "F32", &rows_zero(&floats));
    codecs("F32 from BF16", "F32", &upcast(&floats));
    codecs("F32 all zero", "F32", &vec![0; floats.len()]);
    codecs("BF16 weights", "BF16", &bf16(&floats));
    codecs("F16 weights", "F16", &f16(&floats));
    codecs("F64 weights", "F64", &f64(&floats, &noise));
    codecs("F8_E4M3 weights", "F8_E4M3", &f8(&floats));
    codecs("I64 token ids", "I64", &tokens(&noise));
    codecs("F32 noise", "F32", &noise);
    codecs("bytes: noise", "U8", &noise);
    codecs("bytes: text", "U8", &text(&noise));
    for (name, dtype) in [("2 planes of noise", "I16"), ("4 planes of noise", "I32"), ("8 planes of noise", "I64")] {
        one(name, CodecId::PLANES, DType::new(dtype).layout(), &noise);
    }
    for (name, dtype) in [("2 planes, rotated", "BF16"), ("4 planes, rotated", "F32"), ("8 planes, rotated", "F64")] {
        one(name, CodecId::PLANES, DType::new(dtype).layout(), &noise);
    }
    let step = steps_on(&floats, 3e-4, 1);
    differences("F32, some steps on", "F32", &floats, &step);
    differences("F32, a row in 16 moved", "F32", &floats, &some_rows(&floats, &step, 16));
    differences("F32, a weight in 256 moved", "F32", &floats, &some_floats(&floats, &step, 256));
    differences("BF16, some steps on", "BF16", &bf16(&floats), &bf16(&steps_on(&floats, 2e-5, 10)));
    differences("BF16, one small step on", "BF16", &bf16(&floats), &bf16(&steps_on(&floats, 1e-6, 1)));
    difference_alone("F32, some steps on", "F32", &floats, &step);
    difference_alone("BF16, some steps on", "BF16", &bf16(&floats), &bf16(&steps_on(&floats, 2e-5, 10)));
}

fn copy_and_hash(bytes: &[u8]) {
    let mut out = vec![0; CHUNK];
    let copy = speed(bytes.len(), || {
        for chunk in bytes.chunks_exact(CHUNK) {
            out.copy_from_slice(chunk);
            black_box(&out);
        }
    });
    let hash = speed(bytes.len(), || {
        for chunk in bytes.chunks_exact(CHUNK) {
            black_box(blake3::hash(chunk));
        }
    });
    println!("{:<28} {:<6} {:>7} {copy:>8.2}", "memory copy", "", "");
    println!("{:<28} {:<6} {:>7} {hash:>8.2}", "BLAKE3", "", "");
}

/// The codec that is chosen.
fn codecs(name: &str, dtype: &str, bytes: &[u8]) {
    let layout = DType::new(dtype).layout();
    measure(name, bytes, None, |bytes, _, scratch, out| {
        codec::encode(Input { bytes, layout, base: None, small: false }, scratch, out)
    });
}

/// The codec that is chosen when there is a base.
fn differences(name: &str, dtype: &str, base: &[u8], bytes: &[u8]) {
    let layout = DType::new(dtype).layout();
    measure(name, bytes, Some(base), |bytes, base, scratch, out| {
        codec::encode(Input { bytes, layout, base, small: false }, scratch, out)
    });
}

/// That codec, whether or not it would be chosen.
fn one(name: &str, id: CodecId, layout: Layout, bytes: &[u8]) {
    let codec = codec::by_id(id).expect("a codec of ours");
    measure(name, bytes, None, |bytes, _, scratch, out| {
        codec.encode(Input { bytes, layout, base: None, small: false }, scratch, out);
        id
    });
}

/// The difference codec by itself, chunk and base in a cache.
fn difference_alone(name: &str, dtype: &str, base: &[u8], bytes: &[u8]) {
    let (layout, codec) = (DType::new(dtype).layout(), codec::by_id(CodecId::DELTA).expect("a codec of ours"));
    let (mut chunk, mut other, mut body) = (vec![0; CHUNK], vec![0; CHUNK], Vec::with_capacity(2 * CHUNK));
    let mut scratch = Scratch::new();
    let mut rounds = [[0.0; 3]; ROUNDS + 1];
    for seconds in &mut rounds {
        let mut timed = |what: usize, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            seconds[what] += start.elapsed().as_secs_f64();
        };
        for (bytes, base) in bytes.chunks_exact(CHUNK).zip(base.chunks_exact(CHUNK)) {
            chunk.copy_from_slice(bytes);
            other.copy_from_slice(base);
            body.clear();
            timed(0, &mut || {
                let input = Input { bytes: &chunk, layout, base: Some(&other), small: false };
                codec.encode(input, &mut scratch, &mut body);
            });
            timed(1, &mut || {
                codec.decode(&body, codec::Base::InPlace, &mut scratch, &mut other).expect("a body of ours");
            });
            assert!(other == chunk, "other bytes came back");
            timed(2, &mut || other.copy_from_slice(black_box(&chunk)));
        }
    }
    // The first round does not count.
    let of = |what: usize| rounds[1..].iter().map(|seconds| seconds[what]).collect::<Vec<f64>>();
    let [encoding, decoding, copying] = [0, 1, 2].map(|what| bytes.len() as f64 / median(&of(what)) / 1e9);
    println!("{name:<28} {:<6} {:>7} {encoding:>8.2} {decoding:>8.2} {copying:>9.2}", "alone", "");
}

fn measure(
    name: &str,
    bytes: &[u8],
    base: Option<&[u8]>,
    encode: impl Fn(&[u8], Option<&[u8]>, &mut Scratch, &mut Vec<u8>) -> CodecId,
) {
    let mut scratch = Scratch::new();
    let base_of = |n: usize| base.map(|base| &base[n * CHUNK..bytes.len().min((n + 1) * CHUNK)]);
    let mut bodies: Vec<(CodecId, Vec<u8>)> =
        bytes.chunks(CHUNK).map(|_| (CodecId::RAW, Vec::with_capacity(CHUNK + 1024))).collect();
    let encoding = speed(bytes.len(), || {
        for (n, (chunk, (id, body))) in bytes.chunks(CHUNK).zip(&mut bodies).enumerate() {
            body.clear();
            *id = encode(chunk, base_of(n), &mut scratch, body);
        }
    });
    let mut out = vec![0; CHUNK];
    let copying = speed(bytes.len(), || {
        for chunk in bytes.chunks(CHUNK) {
            out[..chunk.len()].copy_from_slice(chunk);
            black_box(&out);
        }
    });
    let mut decode = |n: usize, out: &mut [u8]| {
        let (id, body) = &bodies[n];
        let base = base_of(n).map_or(codec::Base::None, codec::Base::Bytes);
        codec::decode(*id, body, base, &mut scratch, out).expect("a body of ours");
    };
    let decoding = speed(bytes.len(), || {
        for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
            decode(n, &mut out[..chunk.len()]);
            black_box(&out);
        }
    });
    for (n, chunk) in bytes.chunks(CHUNK).enumerate() {
        decode(n, &mut out[..chunk.len()]);
        assert!(out[..chunk.len()] == *chunk, "other bytes came back");
    }
    let codec = codec::name_of(bodies[0].0);
    let share = 100.0 * bodies.iter().map(|(_, body)| body.len()).sum::<usize>() as f64 / bytes.len() as f64;
    println!("{name:<28} {codec:<6} {share:>7.2} {encoding:>8.2} {decoding:>8.2} {copying:>9.2}");
}

/// GB/s, the median of some rounds behind one that does not count.
fn speed(bytes: usize, mut round: impl FnMut()) -> f64 {
    round();
    let seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_secs_f64()
        })
        .collect();
    bytes as f64 / median(&seconds) / 1e9
}

fn median(seconds: &[f64]) -> f64 {
    let mut seconds = seconds.to_vec();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Weights as a layer has them at the start: standard deviation 0.02.
fn gaussians(count: usize, seed: u8) -> Vec<u8> {
    let uniform = |bytes: &[u8]| (f64::from(u32::from_le_bytes(array(bytes))) + 0.5) / 2f64.powi(32);
    let normal = |pair: &[u8]| {
        let (radius, angle) = (uniform(&pair[..4]), uniform(&pair[4..]));
        (0.02 * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
    };
    noise(count * 8, seed).chunks_exact(8).flat_map(|pair| normal(pair).to_le_bytes()).collect()
}

/// Weights after steps as AdamW takes them: each moves every weight by about the rate, whatever its size, this way or
/// that, and lets it decay a little.
fn steps_on(floats: &[u8], rate: f32, steps: u8) -> Vec<u8> {
    let far = rate * f32::from(steps).sqrt() / 0.02;
    let decay = 1.0 - 0.01 * rate * f32::from(steps);
    let moved = |(float, way): (&[u8], &[u8])| {
        (f32::from_le_bytes(array(float)) * decay - far * f32::from_le_bytes(array(way))).to_le_bytes()
    };
    floats.chunks_exact(4).zip(gaussians(floats.len() / 4, steps).chunks_exact(4)).flat_map(moved).collect()
}

/// One row of 4 KiB in so many is that of `step`, as in an embedding.
fn some_rows(floats: &[u8], step: &[u8], one_in: usize) -> Vec<u8> {
    let mut bytes = floats.to_vec();
    let rows = bytes.chunks_mut(4096).zip(step.chunks(4096)).step_by(one_in);
    rows.for_each(|(row, step)| row.copy_from_slice(step));
    bytes
}

/// One weight in so many is that of `step`.
fn some_floats(floats: &[u8], step: &[u8], one_in: usize) -> Vec<u8> {
    let mut bytes = floats.to_vec();
    let some = bytes.chunks_exact_mut(4).zip(step.chunks_exact(4)).step_by(one_in);
    some.for_each(|(float, step)| float.copy_from_slice(step));
    bytes
}

fn half_zero(floats: &[u8]) -> Vec<u8> {
    let mut bytes = floats.to_vec();
    bytes.chunks_mut(CHUNK).for_each(|chunk| chunk[CHUNK / 2..].fill(0));
    bytes
}

fn rows_zero(floats: &[u8]) -> Vec<u8> {
    let mut bytes = floats.to_vec();
    bytes.chunks_mut(2 * 4096).for_each(|rows| rows[4096..].fill(0));
    bytes
}

fn upcast(floats: &[u8]) -> Vec<u8> {
    floats.chunks_exact(4).flat_map(|float| [0, 0, float[2], float[3]]).collect()
}

fn bf16(floats: &[u8]) -> Vec<u8> {
    floats.chunks_exact(4).flat_map(|float| [float[2], float[3]]).collect()
}

/// Cut off, not rounded; all are normal numbers or, where they would not be, zero.
fn f16(floats: &[u8]) -> Vec<u8> {
    let half = |bits: u32| {
        let exponent = (bits >> 23 & 0xff).saturating_sub(112);
        if exponent == 0 { 0 } else { (bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16 }
    };
    floats.chunks_exact(4).flat_map(|float| half(u32::from_le_bytes(array(float))).to_le_bytes()).collect()
}

fn f64(floats: &[u8], noise: &[u8]) -> Vec<u8> {
    let widen = |(float, noise): (&[u8], &[u8])| {
        let low = u64::from(u32::from_le_bytes(array(noise)) >> 3);
        (f64::from(f32::from_le_bytes(array(float))).to_bits() | low).to_le_bytes()
    };
    floats.chunks_exact(4).zip(noise.chunks_exact(4)).flat_map(widen).collect()
}

fn f8(floats: &[u8]) -> Vec<u8> {
    let eighth = |bits: u32| {
        let exponent = (bits >> 23 & 0xff).saturating_sub(112);
        (bits >> 24 & 0x80 | exponent.min(15) << 3 | bits >> 20 & 7) as u8
    };
    floats.chunks_exact(4).map(|float| eighth(u32::from_le_bytes(array(float)))).collect()
}

fn tokens(noise: &[u8]) -> Vec<u8> {
    noise.chunks_exact(8).flat_map(|bytes| (u64::from_le_bytes(array(bytes)) % 50_257).to_le_bytes()).collect()
}

fn text(noise: &[u8]) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "loss ",
        "of ",
        "step ",
        "is ",
        "not ",
        "a ",
        "number\n",
        "{\"name\": ",
        "\"layer\"",
        ", ",
        "0.02",
        "model.",
        "weight ",
        "bias ",
        "42 ",
    ];
    noise.iter().take(8 << 20).flat_map(|byte| WORDS[usize::from(byte % 16)].bytes()).take(noise.len() / 4).collect()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a slice of that length")
}
