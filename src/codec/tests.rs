//! What holds for every codec, and what the choice between them promises.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const F32: Layout = Layout::Float { width: 4, mantissa_bits: 23 };
const BF16: Layout = Layout::Float { width: 2, mantissa_bits: 7 };
const LAYOUTS: [Layout; 9] = [
    Layout::Bytes,
    Layout::Integer { width: 2 },
    Layout::Integer { width: 4 },
    Layout::Integer { width: 8 },
    Layout::Float { width: 1, mantissa_bits: 3 },
    BF16,
    Layout::Float { width: 2, mantissa_bits: 10 },
    F32,
    Layout::Float { width: 8, mantissa_bits: 52 },
];
const CODECS: [&dyn Codec; 3] = [&Raw, &Planes, &Zstd];

proptest! {
    #[test]
    fn any_bytes_come_back(bytes in chunks(), layout in select(&LAYOUTS[..])) {
        let mut scratch = Scratch::new();
        let input = Input { bytes: &bytes, layout, base: None, small: false };
        for codec in CODECS {
            let mut body = b"before".to_vec();
            codec.encode(input, &mut scratch, &mut body);
            let mut out = vec![0xa5; bytes.len()];
            prop_assert_eq!(codec.decode(body.strip_prefix(b"before").unwrap(), Base::None, &mut scratch, &mut out), Ok(()));
            prop_assert_eq!(&out, &bytes);
        }
        let mut body = Vec::new();
        let id = encode(input, &mut scratch, &mut body);
        prop_assert!(body.len() <= bytes.len());
        let mut out = vec![0xa5; bytes.len()];
        prop_assert_eq!(decode(id, &body, Base::None, &mut scratch, &mut out), Ok(()));
        prop_assert_eq!(&out, &bytes);
    }

    #[test]
    fn differences_come_back(
        base in chunks(), flips in vec((any::<Index>(), any::<u8>()), 0..200), layout in select(&LAYOUTS[..]),
    ) {
        let mut bytes = base.clone();
        for (at, flip) in flips.iter().filter(|_| !base.is_empty()) {
            bytes[at.index(base.len())] ^= flip;
        }
        let mut scratch = Scratch::new();
        let input = Input { bytes: &bytes, layout, base: Some(&base), small: false };
        let (mut body, mut again) = (Vec::new(), Vec::new());
        Delta.encode(input, &mut scratch, &mut body);
        Delta.encode(input, &mut Scratch::new(), &mut again);
        prop_assert_eq!(&body, &again);
        for (with, mut out) in [(Base::Bytes(&base), vec![0xa5; bytes.len()]), (Base::InPlace, base.clone())] {
            prop_assert_eq!(Delta.decode(&body, with, &mut scratch, &mut out), Ok(()));
            prop_assert_eq!(&out, &bytes);
        }
        body.clear();
        Patch.encode(input, &mut scratch, &mut body);
        let mut out = vec![0xa5; bytes.len()];
        prop_assert_eq!(Patch.decode(&body, Base::Bytes(&base), &mut scratch, &mut out), Ok(()));
        prop_assert_eq!(&out, &bytes);
        body.clear();
        let id = encode(input, &mut scratch, &mut body);
        prop_assert!(body.len() <= bytes.len());
        let mut out = base.clone();
        prop_assert_eq!(decode(id, &body, Base::InPlace, &mut scratch, &mut out), Ok(()));
        prop_assert_eq!(&out, &bytes);
    }

    #[test]
    fn damaged_differences_are_survived(
        base in chunks(), other in chunks(), layout in select(&LAYOUTS[..]),
        flips in vec((any::<Index>(), 0u8..8), 1..4), cut: Index,
    ) {
        let mut scratch = Scratch::new();
        let mut bytes = other.clone();
        bytes.resize(base.len(), 7);
        let mut body = Vec::new();
        let input = Input { bytes: &bytes, layout, base: Some(&base), small: true };
        Delta.encode(input, &mut scratch, &mut body);
        let cut = cut.index(body.len());
        prop_assert!(Delta.decode(&body[..cut], Base::InPlace, &mut scratch, &mut base.clone()).is_err());
        let mut decoded = |body: &[u8], base: &[u8]| {
            let mut out = base.to_vec();
            let _ = Patch.decode(body, Base::InPlace, &mut scratch, &mut base.to_vec());
            Delta.decode(body, Base::InPlace, &mut scratch, &mut out).map(|()| out)
        };
        let _ = decoded(&body, &other);
        for (at, bit) in &flips {
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
        }
        let _ = decoded(&body, &base);
    }

    #[test]
    fn a_body_depends_on_its_input_alone(chunks in vec((chunks(), select(&LAYOUTS[..])), 1..6)) {
        let mut used = Scratch::new();
        for _ in 0..2 {
            for (bytes, layout) in &chunks {
                let input = Input { bytes, layout: *layout, base: None, small: false };
                let (mut once, mut again) = (Vec::new(), Vec::new());
                prop_assert_eq!(encode(input, &mut used, &mut once), encode(input, &mut Scratch::new(), &mut again));
                prop_assert_eq!(once, again);
            }
        }
    }

    #[test]
    fn damaged_bodies_are_survived(
        bytes in chunks(),
        layout in select(&LAYOUTS[..]),
        flips in vec((any::<Index>(), 0u8..8), 1..4),
        cut: Index,
        other in 0usize..6000,
    ) {
        let mut scratch = Scratch::new();
        for codec in CODECS {
            let mut body = Vec::new();
            codec.encode(Input { bytes: &bytes, layout, base: None, small: false }, &mut scratch, &mut body);
            if !body.is_empty() {
                let short = &body[..cut.index(body.len())];
                prop_assert!(guarded(codec, short, bytes.len(), &mut scratch).is_err(), "{:?} cut", codec.id());
                for (at, bit) in &flips {
                    let at = at.index(body.len());
                    body[at] ^= 1 << bit;
                }
                let _ = guarded(codec, &body, bytes.len(), &mut scratch);
            }
            let _ = guarded(codec, &body, other, &mut scratch);
        }
        // And a scratch that met all this is as good as new.
        let mut body = Vec::new();
        Planes.encode(Input { bytes: &bytes, layout, base: None, small: false }, &mut scratch, &mut body);
        let mut out = vec![0; bytes.len()];
        prop_assert_eq!(Planes.decode(&body, Base::None, &mut scratch, &mut out), Ok(()));
        prop_assert_eq!(out, bytes);
    }

    #[test]
    fn arbitrary_bodies_are_survived(
        body in vec(any::<u8>(), 0..200),
        shape in select(&[1u8, 2, 4, 8, 0x82, 0x84, 0x88][..]),
        modes in select(&[0u16, 1, 2, 0b0110, 0b1010_0001, 0b10_0000_0000][..]),
        len in 0usize..100,
    ) {
        let mut scratch = Scratch::new();
        for codec in CODECS {
            let _ = guarded(codec, &body, len, &mut scratch);
        }
        let mut headed = vec![shape];
        headed.extend(modes.to_le_bytes());
        headed.extend(&body);
        let _ = guarded(&Planes, &headed, len, &mut scratch);
    }
}

/// Decodes into the middle of a buffer, and checks that its ends were not touched.
fn guarded(codec: &dyn Codec, body: &[u8], len: usize, scratch: &mut Scratch) -> Result<(), CodecError> {
    let mut out = vec![0x5a; len + 64];
    let result = codec.decode(body, Base::None, scratch, &mut out[32..][..len]);
    assert!(out[..32].iter().chain(&out[32 + len..]).all(|byte| *byte == 0x5a));
    result
}

/// Chunks of every character, with ragged ends; long enough for whole blocks and sampled pieces.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let floats = select(
        &[
            [0, 0, 0, 0x80],          // -0.0
            [1, 0, 0, 0],             // the smallest denormal
            [1, 0, 0x80, 0x7f],       // a signalling NaN
            [0x34, 0x12, 0xc0, 0xff], // a NaN with a payload and a sign
            [0, 0, 0x80, 0xff],       // -infinity
            [0xff, 0xff, 0x7f, 0x7f], // the largest
            [0, 0, 0x80, 0x3f],       // 1.0
        ][..],
    );
    prop_oneof![
        vec(any::<u8>(), 0..200),
        (any::<u64>(), 0usize..6000).prop_map(|(seed, len)| noise(seed, len)),
        (any::<u64>(), 30_000usize..90_000).prop_map(|(seed, len)| noise(seed, len)),
        (any::<u64>(), 0usize..40_000, 0usize..8).prop_map(|(seed, len, tail)| {
            let mut bytes = gaussians(seed, len / 4);
            bytes.extend(noise(seed, tail));
            bytes
        }),
        (any::<u8>(), 0usize..9000).prop_map(|(value, len)| vec![value; len]),
        (any::<[u8; 8]>(), 0usize..9000).prop_map(|(value, len)| value.into_iter().cycle().take(len).collect()),
        (vec(floats, 0..1500), 0usize..4).prop_map(|(floats, tail)| {
            let mut bytes = floats.concat();
            bytes.truncate(bytes.len().saturating_sub(tail));
            bytes
        }),
        (any::<u64>(), 0usize..9000, any::<Index>()).prop_map(|(seed, len, at)| {
            let mut bytes = noise(seed, len);
            let zeros = at.index(len + 1);
            bytes[zeros..].fill(0);
            bytes
        }),
    ]
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Weights as a layer has them at the start: standard deviation 0.02.
fn gaussians(seed: u64, count: usize) -> Vec<u8> {
    let uniform = |bytes: &[u8]| (f64::from(u32::from_le_bytes(bytes.try_into().unwrap())) + 0.5) / 2f64.powi(32);
    let normal = |pair: &[u8]| {
        let (radius, angle) = (uniform(&pair[..4]), uniform(&pair[4..]));
        (0.02 * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
    };
    noise(seed, count * 8).chunks_exact(8).flat_map(|pair| normal(pair).to_le_bytes()).collect()
}

/// The upper halves of floats.
fn halves(floats: &[u8]) -> Vec<u8> {
    floats.chunks_exact(4).flat_map(|float| [float[2], float[3]]).collect()
}

#[track_caller]
fn encoded(bytes: &[u8], layout: Layout) -> (CodecId, Vec<u8>) {
    let mut body = Vec::new();
    let id = encode(Input { bytes, layout, base: None, small: false }, &mut Scratch::new(), &mut body);
    let mut out = vec![0xa5; bytes.len()];
    decode(id, &body, Base::None, &mut Scratch::new(), &mut out).unwrap();
    assert!(out == bytes, "other bytes came back");
    (id, body)
}

#[test]
fn weights_shrink_as_far_as_their_exponents_allow() {
    let floats = gaussians(1, 1 << 18);
    let (id, body) = encoded(&floats, F32);
    assert_eq!(id, CodecId::PLANES);
    assert!(body.len() * 100 <= floats.len() * 84, "{} of {}", body.len(), floats.len());
    let halves = halves(&floats);
    let (id, body) = encoded(&halves, BF16);
    assert_eq!(id, CodecId::PLANES);
    assert!(body.len() * 100 <= halves.len() * 68, "{} of {}", body.len(), halves.len());
}

#[test]
fn noise_is_left_alone() {
    for layout in LAYOUTS {
        for len in [0, 1, 7, 1000, 100_001, 1 << 20] {
            assert_eq!(encoded(&noise(2, len), layout).0, CodecId::RAW, "{layout:?}, {len} bytes");
        }
    }
}

#[test]
fn what_is_all_the_same_costs_nothing() {
    for layout in LAYOUTS {
        for element in [[0; 8], [0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f]] {
            let bytes = element.repeat(1 << 17);
            let (_, body) = encoded(&bytes, layout);
            assert!(body.len() <= 200, "{layout:?}: {}", body.len());
        }
    }
    assert_eq!(encoded(&[0; 1 << 20], F32).1.len(), 7);
}

#[test]
fn zero_regions_cost_nothing() {
    let mut floats = gaussians(3, 1 << 18);
    let whole = encoded(&floats, F32).1.len();
    floats[100_000..624_288].fill(0);
    let half = encoded(&floats, F32).1.len();
    assert!(half * 100 < whole * 52, "{half} of {whole}");
}

#[test]
fn text_shrinks() {
    let text = "the loss of step 12 is 3.25\n".repeat(20_000);
    // Short or long, and in whatever type of integers somebody keeps it.
    for text in [&text[..3000], &text] {
        for layout in [Layout::Bytes, Layout::Integer { width: 1 }, Layout::Integer { width: 4 }] {
            let (id, body) = encoded(text.as_bytes(), layout);
            assert_eq!(id, CodecId::ZSTD, "{layout:?}");
            assert!(body.len() * 40 < text.len(), "{layout:?}: {} of {}", body.len(), text.len());
        }
    }
}

#[test]
fn the_longest_chunks_come_back() {
    let longest = gaussians(4, 1 << 20);
    for layout in LAYOUTS {
        encoded(&longest, layout);
        encoded(&longest[1..], layout);
    }
}

/// The documented bytes, written by hand.
#[test]
fn planes_are_as_documented() {
    let mut scratch = Scratch::new();
    // 1.0 three times and -1.0 as bf16, and one byte more: rotated, 0x7f00 and 0x7f01.
    let mut out = [0; 9];
    let body = [0x82, 0b0100, 0, 0xee, 0, 0, 0, 1, 0x7f];
    Planes.decode(&body, Base::None, &mut scratch, &mut out).unwrap();
    assert_eq!(out, [0x80, 0x3f, 0x80, 0x3f, 0x80, 0x3f, 0x80, 0xbf, 0xee]);
    // Not rotated, with the upper plane first a frame, then constant, as the encoder does it.
    let mut out = [0; 8];
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 4, 0x21, 0, 0, 1, 2, 3, 4];
    let body = [&[2, 0b1001, 0, 9, 13, 0, 0, 0], &frame[..]].concat();
    Planes.decode(&body, Base::None, &mut scratch, &mut out).unwrap();
    assert_eq!(out, [9, 1, 9, 2, 9, 3, 9, 4]);

    let mut body = Vec::new();
    let input = Input { bytes: &[0xff; 9], layout: BF16, base: None, small: false };
    Planes.encode(input, &mut scratch, &mut body);
    assert_eq!(body, [0x82, 0b0101, 0, 0xff, 0xff, 0xff]);
}

#[test]
fn bodies_that_are_not_as_documented_are_refused() {
    let mut scratch = Scratch::new();
    let mut planes = |body: &[u8]| Planes.decode(body, Base::None, &mut scratch, &mut [0; 4]);
    assert_eq!(planes(&[2, 0b0101, 0, 1, 2]), Ok(()));
    for (body, why) in [
        (&[0, 0, 0, 1, 2, 3, 4][..], "no width"),
        (&[3, 0, 0, 1, 2, 3, 4], "a width of 3"),
        (&[0x12, 0b0101, 0, 1, 2], "a reserved bit"),
        (&[0x81, 1, 0, 1], "rotated bytes"),
        (&[2, 0b0111, 0, 1, 2], "mode 3"),
        (&[2, 0b01_0101, 0, 1, 2, 3], "a mode of a plane that is not there"),
        (&[2, 0b0101, 0x40, 1, 2], "a mode of a plane that is not there"),
        (&[2, 0b0101, 0, 1, 2, 3], "a byte too many"),
        (&[2, 0b0110, 0, 0xff, 0xff, 0xff, 0xff, 2], "a frame that is too long"),
    ] {
        assert!(planes(body).is_err(), "{why}");
    }

    let mut frame = Vec::new();
    Zstd.encode(Input { bytes: b"four", layout: Layout::Bytes, base: None, small: false }, &mut scratch, &mut frame);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let without_size = [0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0x21, 0, 0, 1, 2, 3, 4];
    let mut zstd = |body: &[u8], len| Zstd.decode(body, Base::None, &mut scratch, &mut vec![0; len]);
    assert_eq!(zstd(&frame, 4), Ok(()));
    assert!(zstd(&frame, 3).is_err() && zstd(&frame, 5).is_err(), "another length");
    assert!(zstd(&[&frame[..], &frame[..]].concat(), 8).is_err(), "two frames");
    assert!(zstd(&[&frame[..], &skippable].concat(), 4).is_err(), "a skippable frame behind");
    assert!(zstd(&[&skippable, &frame[..]].concat(), 4).is_err(), "a skippable frame in front");
    assert!(zstd(&skippable, 0).is_err(), "nothing but a skippable frame");
    assert!(zstd(&without_size, 4).is_err(), "no content size");
    assert!(decode(CodecId(255), &[], Base::None, &mut scratch, &mut []).is_err(), "an unknown codec");
}

#[test]
fn ids_find_their_codecs() {
    for codec in CODECS {
        assert_eq!(by_id(codec.id()).map(|found| found.id()), Some(codec.id()));
    }
    assert_eq!(CODECS.map(|codec| codec.id().0), [0, 1, 2]);
}

#[test]
fn a_scratch_can_move_to_a_thread() {
    fn is_send<T: Send>() {}
    is_send::<Scratch>();
}
