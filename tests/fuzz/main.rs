//! The fuzz targets as ordinary tests: every seed, and small changes of each that are the same in every run. None may
//! panic, and none may take more memory than a fixed multiple of what it is given.
//!
//! `make fuzz` looks further. What it finds becomes a seed. `TREERING_WRITE_SEEDS=1 cargo test --test fuzz write_seeds`
//! writes those that the format itself gives.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has found something")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../it/helpers.rs"]
mod helpers;
mod memory;
mod seeds;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../sim/sim.rs"]
mod sim;
#[allow(unreachable_pub, reason = "shared with the crate that cargo fuzz builds")]
#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::PathBuf;

use crate::targets::TARGETS;

/// Changes of each seed; those that open a store take longer.
const CHANGES: usize = 400;
const CHANGES_OF_STORES: usize = 12;
/// Bytes that a target may take at once: for what it uses whatever it is given, and for each byte that it is given.
const MEMORY_BASE: usize = 24 << 20;
const MEMORY_PER_BYTE: usize = 512;

fn folder_of(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds")).join(target)
}

fn seeds_of(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = helpers::files_below(&folder_of(target)).into_iter();
    files.map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(path).unwrap())).collect()
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = seeds_of(target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let opens_a_store = target.starts_with("whole");
    let changes = if opens_a_store { CHANGES_OF_STORES } else { CHANGES };
    let mut ran = 0;
    for (n, (name, seed)) in seeds.iter().enumerate() {
        let other = &seeds[(n + 1) % seeds.len()].1;
        for change in 0..=changes as u64 {
            let data = if change == 0 { seed.clone() } else { changed(seed, other, change) };
            let peak = memory::peak_of(|| run(&data));
            let most = MEMORY_BASE + MEMORY_PER_BYTE * data.len();
            assert!(peak <= most, "{target}, seed {name}, change {change}: {peak} bytes for {}", data.len());
            ran += 1;
        }
    }
    println!("{target}: {} seeds, {ran} runs", seeds.len());
}

/// A seed with a few bits turned, a part left out, put twice or taken from another seed.
fn changed(seed: &[u8], other: &[u8], number: u64) -> Vec<u8> {
    let mut chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.len() as u64;
    let mut below = move |n: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        (chance >> 11) as usize % n.max(1)
    };
    let mut data = seed.to_vec();
    for _ in 0..1 + below(3) {
        let (at, length) = (below(data.len()), below(16));
        let end = (at + length).min(data.len());
        match below(6) {
            0 if !data.is_empty() => data[at] ^= 1 << below(8),
            1 if !data.is_empty() => data[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            2 => drop(data.drain(at..end)),
            3 => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            4 => {
                let from = below(other.len());
                let taken = &other[from..(from + length).min(other.len())];
                data.splice(at..end, taken.iter().copied());
            }
            _ => data.truncate(at),
        }
    }
    data
}

macro_rules! replayed {
    ($($test:ident: $target:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                replay($target);
            }
        )*

        #[test]
        fn every_target_is_replayed_and_fuzzed() {
            let mut replayed = vec![$($target),*];
            replayed.sort_unstable();
            assert_eq!(replayed, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
            for target in replayed {
                assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in fuzz/Cargo.toml");
            }
        }
    };
}

replayed! {
    f085_f090_any_body_of_any_codec_with_any_base: "codec_frame",
    f083_differences_come_back_whatever_they_are_of: "codec_round",
    f087_any_bytes_as_a_description: "config",
    f087_any_row_of_entries_is_folded_or_told: "fold",
    f087_any_bytes_as_an_entry: "log_entry",
    f087_f088_any_bytes_as_a_manifest: "manifest",
    f089_f112_f116_any_text_as_a_name: "names",
    f087_f088_any_bytes_as_a_footer: "pack_footer",
    f039_f087_any_bytes_as_a_receipt: "receipt",
    f091_any_bytes_as_a_header: "safetensors",
    f087_any_bytes_as_a_state: "state",
    f087_a_log_that_says_anything: "whole_log",
    f081_f087_a_pack_of_any_frames: "whole_pack",
}
