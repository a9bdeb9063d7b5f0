//! How much memory a save and a restore take, whatever the size of the checkpoint.
//!
//! `cargo bench --bench memory`: a generated file of 2,000 tensors, 1 GB together; `TREERING_BENCH_BYTES=8000000000` makes
//! it larger. The peak is the kernel's own, reset before each journey, minus what the process had before.

mod kit;

use std::borrow::Cow;

use treering::restore::RestoreOptions;

const TENSORS: usize = 2000;
const LIMIT: u64 = 256 << 20;

fn main() {
    let bytes = std::env::var("TREERING_BENCH_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1 << 30);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, restored) = (folder.path().join("large.safetensors"), folder.path().join("restored.safetensors"));
    let metas: Vec<_> = (0..TENSORS).map(|n| kit::meta(format!("t.{n:04}"), bytes / TENSORS / 4 * 4)).collect();
    let tensor = |n: usize| {
        // One exponent in two, and mantissas of noise: as dense as floats come.
        let mut bytes = kit::noise(n as u64, metas[n].bytes as usize);
        bytes.chunks_exact_mut(4).for_each(|float| float[3] = float[3] & 0x80 | 0x3c);
        Cow::Owned(bytes)
    };
    kit::write_file(&file, &metas, (0..TENSORS).map(tensor));
    let store = kit::create(&folder.path().join("store"), None);
    measure("first save", bytes, || assert!(kit::save(&store, &file, 1, false).slot.is_some()));
    measure("unchanged save", bytes, || assert!(kit::save(&store, &file, 2, false).slot.is_some()));
    measure("restore", bytes, || {
        store.restore(&kit::step(2), &restored, &RestoreOptions::default()).expect("a restore");
    });
    kit::assert_same(&file, &restored);
}

fn measure(what: &str, bytes: usize, journey: impl FnOnce()) {
    // Where it may not be reset, the peak is that of all journeys so far: still a bound.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = status("VmRSS:");
    let seconds = kit::seconds(journey);
    let peak = status("VmHWM:").saturating_sub(before);
    println!(
        "{what:<16} {:.2} GB, {seconds:>6.1} s, {:>5.0} MB/s, peak {:.0} MiB beyond the start (at most 256)",
        bytes as f64 / 1e9,
        bytes as f64 / seconds / 1e6,
        peak as f64 / f64::from(1 << 20)
    );
    assert!(peak <= LIMIT);
}

fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
