//! A store whose bytes were made by somebody with bad intent: all sums and hashes fit, and what they say is a lie.
//! Named after their rows in docs/DURABILITY.md.

use std::path::Path;

use treering::codec::CodecId;
use treering::disk::SimulatedDisk;
use treering::format::entry::{Body, Decoded, Entry, Upgrade};
use treering::gc::GcOptions;
use treering::id::{ChunkId, Hash, StoreId};
use treering::verify::Depth;
use treering::{Error, ErrorKind, Store};

use crate::helpers::{Tensor, at, floats, options, trained};
use crate::sim::{self, Fate, Frames};

/// Two checkpoints; the second is a few differences.
fn chained() -> SimulatedDisk {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    for step in [0, 1] {
        sim::save(&store, &table(step), &options("r", step)).unwrap();
    }
    drop(store);
    disk.settled()
}

/// A table of which a little changes.
fn table(step: u64) -> Vec<Tensor> {
    trained(step).into_iter().filter(|tensor| tensor.name == "model.table").collect()
}

/// The newest checkpoint's table cannot be read, and `verify` says just that; the one before can. Returns the error.
#[track_caller]
fn told(disk: &SimulatedDisk) -> Error {
    let store = sim::open(disk, &Fate::new(2)).unwrap();
    let checkpoint = store.checkpoint(&at("r@1")).unwrap();
    let mut sink = Vec::new();
    let error = checkpoint.read_tensor("model.table", &mut sink).unwrap_err();
    assert!(error.kind() == ErrorKind::Damaged && sink.is_empty(), "{error:?}");
    store.checkpoint(&at("r@0")).unwrap().read_tensor("model.table", &mut sink).unwrap();
    assert!(sink == table(0)[0].bytes);
    let report = store.verify(Depth::Deep).unwrap();
    let lost: Vec<_> = report.affected.iter().map(|one| (one.checkpoint.address(), one.lost.clone())).collect();
    assert_eq!(lost, [("r@1".to_string(), vec!["model.table".to_string()])]);
    error
}

/// Changes the frame of the newest table: the only one that has a base.
fn change_difference(disk: &SimulatedDisk, change: impl FnOnce(usize, &mut Frames)) {
    sim::forge(disk, |frames| {
        let at = frames.iter().position(|(row, _)| row.chunk == ChunkId::of(&table(1)[0].bytes)).unwrap();
        assert!(frames[at].0.codec == CodecId::PATCH && frames[at].0.depth == 1);
        change(at, frames);
    });
}

#[test]
fn forging_nothing_changes_nothing() {
    let disk = chained();
    change_difference(&disk, |_, _| {});
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    assert_eq!(sim::observe(&store).unwrap()["r@1"], sim::content_of(&table(1)));
}

#[test]
fn f081_a_chunk_that_rests_on_itself_is_refused() {
    let disk = chained();
    change_difference(&disk, |at, frames| frames[at].0.bases = vec![frames[at].0.chunk]);
    told(&disk);
}

#[test]
fn f081_chunks_that_rest_on_each_other_are_refused() {
    // Of the same depth, of growing depths, and with copies of the same chunks that are sound but deeper.
    for depths in [[1, 1], [1, 2], [2, 1], [16, 16]] {
        let disk = chained();
        change_difference(&disk, |at, frames| {
            let (mine, other) = (frames[at].0.chunk, ChunkId::of(b"another"));
            frames[at].0.bases = vec![other];
            frames[at].0.depth = depths[0];
            let mut circle = frames[at].clone();
            (circle.0.chunk, circle.0.bases, circle.0.depth) = (other, vec![mine], depths[1]);
            frames.push(circle);
        });
        told(&disk);
    }
}

/// Each chunk of a circle has a second copy that is damaged: whoever asks whether the chunk is lost goes round.
#[test]
fn f081_a_circle_behind_damaged_copies_comes_to_an_end() {
    let disk = chained();
    change_difference(&disk, |at, frames| {
        let (mine, other) = (frames[at].0.chunk, ChunkId::of(b"another"));
        let mut keyed = frames[at].clone();
        (keyed.0.bases, keyed.0.depth, keyed.0.codec) = (vec![], 0, CodecId::RAW);
        keyed.1 = vec![0; keyed.0.chunk_bytes as usize];
        let mut other_keyed = keyed.clone();
        other_keyed.0.chunk = other;
        let (mut there, mut back) = (frames[at].clone(), frames[at].clone());
        (there.0.bases, there.0.depth) = (vec![other], 1);
        (back.0.chunk, back.0.bases, back.0.depth) = (other, vec![mine], 1);
        frames.remove(at);
        frames.extend([there, back, keyed, other_keyed]);
    });
    told(&disk);
}

#[test]
fn f081_a_depth_beyond_the_limit_is_refused() {
    let disk = chained();
    change_difference(&disk, |at, frames| frames[at].0.depth = 17);
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    assert!(store.checkpoint(&at("r@1")).is_err_and(|e| e.kind() == ErrorKind::Damaged));
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.damage.iter().any(|damage| damage.why.contains("out of bounds")), "{:?}", report.damage);
}

#[test]
fn f083_a_difference_that_gives_other_bytes_is_an_error() {
    let disk = chained();
    change_difference(&disk, |at, frames| *frames[at].1.last_mut().unwrap() ^= 1);
    assert!(told(&disk).to_string().contains("hash") || matches!(told(&disk), Error::ChunkDamaged { .. }));
}

#[test]
fn f085_a_size_that_lies_is_an_error() {
    for bytes in [0, 1, 239, 241, 4 << 20] {
        let disk = chained();
        change_difference(&disk, |at, frames| frames[at].0.chunk_bytes = bytes);
        told(&disk);
    }
    // Of more than a chunk may have the footer is not read at all.
    let disk = chained();
    change_difference(&disk, |at, frames| frames[at].0.chunk_bytes = u32::MAX);
    let store = sim::open(&disk, &Fate::new(2)).unwrap();
    assert!(store.checkpoint(&at("r@1")).is_err_and(|e| e.kind() == ErrorKind::Damaged));
}

#[test]
fn f117_a_chunk_that_is_not_what_its_id_says_is_an_error() {
    let disk = chained();
    change_difference(&disk, |at, frames| {
        let row = &mut frames[at].0;
        (row.codec, row.depth, row.bases) = (CodecId::RAW, 0, vec![]);
        frames[at].1 = vec![7; row.chunk_bytes as usize];
    });
    told(&disk);
}

#[test]
fn f090_compressed_bytes_that_lie_are_an_error() {
    let text = b"the same again and again, ".repeat(40);
    let whole = zstd::bulk::compress(&text, 3).unwrap();
    let mut unsized_frame = zstd::Encoder::new(Vec::new(), 3).unwrap();
    std::io::Write::write_all(&mut unsized_frame, &text).unwrap();
    let lies: [(&str, Vec<u8>); 5] = [
        ("more than it says", zstd::bulk::compress(&text.repeat(2), 3).unwrap()),
        ("less than it says", zstd::bulk::compress(&text[1..], 3).unwrap()),
        ("no size", unsized_frame.finish().unwrap()),
        ("another frame behind", [&whole[..], &zstd::bulk::compress(b"", 3).unwrap()].concat()),
        ("bytes behind", [&whole[..], b"\0"].concat()),
    ];
    let decode = |body: &[u8]| {
        let mut out = vec![0; text.len()];
        let decoded = treering::codec::decode(
            CodecId::ZSTD,
            body,
            treering::codec::Base::None,
            &mut treering::codec::Scratch::new(),
            &mut out,
        );
        decoded.map(|()| out)
    };
    assert_eq!(decode(&whole).unwrap(), text);
    for (what, body) in lies {
        assert!(decode(&body).is_err(), "{what}");
    }
}

#[test]
fn f118_chunks_with_the_same_checksum_are_two_and_another_hash_is_refused() {
    // CRC-32 is affine: eight bytes of any chunk can be chosen so that a second one has the same sum.
    let (a, b) = same_crc();
    assert!(a != b && crc32fast::hash(&a) == crc32fast::hash(&b));
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    let store = sim::create(&disk, &fate).unwrap();
    let tensor = |name: &str, bytes: &[u8]| Tensor {
        name: name.into(),
        dtype: "U8",
        shape: vec![bytes.len() as u64],
        bytes: bytes.to_vec(),
    };
    let tensors = [tensor("model.a", &a), tensor("model.b", &b)];
    sim::save(&store, &tensors, &options("r", 1)).unwrap();
    assert_eq!(sim::observe(&store).unwrap()["r@1"], sim::content_of(&tensors));
    drop(store);

    let config = Path::new("/store/treering.json");
    let text = String::from_utf8(disk.content(config).unwrap()).unwrap();
    disk.damage(config, Some(text.replace("blake3", "md5").into_bytes()));
    let refused = sim::open(&disk, &fate).unwrap_err();
    assert!(refused.kind() == ErrorKind::Unsupported && refused.to_string().contains("md5"), "{refused}");
}

/// Two byte strings of one CRC-32, found among so many that two must be alike.
fn same_crc() -> (Vec<u8>, Vec<u8>) {
    let mut seen = std::collections::HashMap::new();
    for seed in 0..1_000_000u64 {
        let bytes = Hash::of(&seed.to_le_bytes()).0.to_vec();
        if let Some(other) = seen.insert(crc32fast::hash(&bytes), bytes.clone()) {
            return (other, bytes);
        }
    }
    unreachable!("a million values of 32 bits");
}

/// An entry of a kind that only a later version knows appears while an older one is at work.
#[test]
fn f108_a_writer_of_an_older_version_stops_when_a_newer_one_has_written() {
    let disk = chained();
    let older = sim::open(&disk, &Fate::new(2)).unwrap();
    let store = older.config().store;
    let mut bytes = behind_the_last(&disk, store, |_| ()).encode(store).unwrap().0;
    bytes[6..8].copy_from_slice(&999u16.to_le_bytes());
    let end = bytes.len() - 32;
    let hash = Hash::of(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash.0);
    disk.damage(Path::new(NEXT), Some(bytes));
    assert_only_read(&older, &disk, "update treering");
    assert!(matches!(older.repair(false), Err(Error::EntryUnknown { slot: 2, kind: 999 })));
}

/// The same where the newer version said what a writer must know.
#[test]
fn f108_a_writer_without_a_feature_that_writers_must_know_stops() {
    let disk = chained();
    let older = sim::open(&disk, &Fate::new(2)).unwrap();
    upgrade(&disk, Upgrade { format: 1, readers: vec![], writers: vec!["time-travel".into()] });
    assert_only_read(&older, &disk, "\"time-travel\"");
    assert_only_read(&sim::open(&disk, &Fate::new(3)).unwrap(), &disk, "\"time-travel\"");
    // Nor does it repair anything.
    disk.damage(Path::new("/store/log/00000000000000000001"), Some(b"nothing".to_vec()));
    let refused = sim::open(&disk, &Fate::new(4)).unwrap().repair(false).map(drop).unwrap_err();
    assert!(matches!(refused, Error::FeatureUnknown { .. }), "{refused}");
}

#[test]
fn f093_a_reader_without_a_feature_or_a_format_that_readers_must_know_stops() {
    for (upgraded, word) in [
        (Upgrade { format: 1, readers: vec!["time-travel".into()], writers: vec![] }, "\"time-travel\""),
        (Upgrade { format: 2, readers: vec![], writers: vec![] }, "format 2"),
    ] {
        let disk = chained();
        let older = sim::open(&disk, &Fate::new(2)).unwrap();
        upgrade(&disk, upgraded);
        let refused = [older.refresh().unwrap_err(), sim::open(&disk, &Fate::new(3)).unwrap_err()];
        for error in refused {
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(word), "{error}");
            assert_eq!(error.hint().as_deref(), Some("update treering"));
        }
    }
}

const NEXT: &str = "/store/log/00000000000000000002";

/// What a writer would put behind the last entry of [`chained`].
fn behind_the_last(disk: &SimulatedDisk, store: StoreId, change: impl FnOnce(&mut Entry)) -> Entry {
    let last = disk.content(Path::new("/store/log/00000000000000000001")).unwrap();
    let Ok(Decoded::Entry(mut entry, hash)) = Entry::decode(&last, store, 1) else { panic!() };
    (entry.slot, entry.previous) = (2, hash);
    change(&mut entry);
    *entry
}

fn upgrade(disk: &SimulatedDisk, upgrade: Upgrade) {
    let store = sim::store_id(disk);
    let entry = behind_the_last(disk, store, |entry| entry.body = Body::Upgrade(upgrade));
    disk.damage(Path::new(NEXT), Some(entry.encode(store).unwrap().0));
}

/// It says so to whoever writes or collects, and goes on reading.
fn assert_only_read(store: &Store, disk: &SimulatedDisk, word: &str) {
    let tensors = [floats("model.a", 40, 1)];
    let refused = [
        sim::save(store, &tensors, &options("s", 1)).unwrap_err(),
        sim::save(store, &tensors, &options("r", 2)).unwrap_err(),
        store.forget(&[0]).unwrap_err(),
        store.tag(&at("r@1"), &["t".into()], &[]).map(drop).unwrap_err(),
        store.gc(&GcOptions::default()).map(drop).unwrap_err(),
    ];
    for error in refused {
        let said = format!("{error}; {}", error.hint().unwrap_or_default());
        assert!(error.kind() == ErrorKind::Unsupported && said.contains(word), "{said}");
    }
    assert_eq!(sim::slots(disk), [0, 1, 2]);
    assert_eq!(sim::observe(store).unwrap()["r@1"], sim::content_of(&table(1)));
}
