//! What is fuzzed: one function for each thing that is made of bytes from outside. None may panic, whatever the bytes,
//! and what it takes for good must come back.
//!
//! `cargo fuzz` calls them by way of `fuzz/fuzz_targets`, and `tests/fuzz` with the seeds and with small changes of them.

use std::cell::RefCell;
use std::path::{Component, Path};

use treering::catalog::{Catalog, Filter};
use treering::codec::{self, Base, Codec, CodecId, Scratch};
use treering::disk::SimulatedDisk;
use treering::env::Time;
use treering::format::config::Config;
use treering::format::entry::{Decoded, Entry};
use treering::format::manifest::{Block, Recipe, Root, Schema};
use treering::format::pack::{Footer, Row};
use treering::format::policy::Rule;
use treering::format::receipt::Receipt;
use treering::format::{duration, names, safetensors};
use treering::id::{ChunkId, Hash, PackId, SaveId, StoreId};
use treering::store::Address;
use treering::tensor::Layout;
use treering::verify::Depth;
use treering::{Error, ErrorKind};

use crate::helpers::{options, trained};
use crate::sim::{self, Fate};

/// A target: its name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("codec_frame", codec_frame),
    ("codec_round", codec_round),
    ("config", config),
    ("fold", fold),
    ("log_entry", log_entry),
    ("manifest", manifest),
    ("names", names),
    ("pack_footer", pack_footer),
    ("receipt", receipt),
    ("safetensors", safetensors),
    ("state", state),
    ("whole_log", whole_log),
    ("whole_pack", whole_pack),
];

const STORE: StoreId = StoreId([1; 16]);
const CODECS: [CodecId; 6] =
    [CodecId::RAW, CodecId::PLANES, CodecId::ZSTD, CodecId::DELTA, CodecId::CAST, CodecId::PATCH];

/// Damage and nonsense are told; a mistake of ours is not an answer.
fn typed<T>(result: treering::Result<T>) -> Option<T> {
    result.inspect_err(|error| assert!(error.kind() != ErrorKind::Bug, "{error:?}")).ok()
}

/// The first bytes as small numbers, and the rest.
fn split<const N: usize>(data: &[u8]) -> Option<([u8; N], &[u8])> {
    data.split_first_chunk().map(|(head, rest)| (*head, rest))
}

fn layout(of: u8) -> Layout {
    let width = 1 << (of & 3);
    match of >> 2 & 3 {
        0 => Layout::Bytes,
        1 => Layout::Integer { width },
        _ => Layout::Float { width, mantissa_bits: [3, 7, 23, 52][usize::from(of & 3)] },
    }
}

/// A body of any codec, with any base, for a chunk of any length.
pub fn codec_frame(data: &[u8]) {
    let Some(([codec, how, length, base], rest)) = split(data) else { return };
    let base = rest.len() * usize::from(base) / 255;
    let (base, body) = rest.split_at(base);
    // As long as the base, or not.
    let length = if how & 1 == 0 { base.len() } else { usize::from(length) * 8 };
    let id = CODECS[usize::from(codec) % CODECS.len()];
    let mut scratch = Scratch::new();
    let mut out = vec![0; length];
    let apart = codec::decode(id, body, Base::Bytes(base), &mut scratch, &mut out);
    let _ = codec::decode(id, body, Base::None, &mut scratch, &mut vec![0; length]);
    // A cast's base is twice as long as its chunk. No chunk is empty: the only one that could be cast in place.
    if length == base.len() && length > 0 {
        let mut in_place = base.to_vec();
        let done = codec::decode(id, body, Base::InPlace, &mut scratch, &mut in_place);
        assert_eq!((apart.is_ok(), apart.is_ok().then_some(&out)), (done.is_ok(), done.is_ok().then_some(&in_place)));
    }
    let _ = codec::layout_of(id, body);
}

/// A chunk, with a base that is like it: comes back, and is never larger.
pub fn codec_round(data: &[u8]) {
    let Some(([how, small, ..], rest)) = split::<4>(data) else { return };
    let (base, bytes) = rest.split_at(rest.len() / 2);
    let bytes = &bytes[..base.len()];
    let mut scratch = Scratch::new();
    for base in [None, Some(base)] {
        let input = codec::Input { bytes, layout: layout(how), base, small: small & 1 == 1 };
        let mut body = Vec::new();
        let id = codec::encode(input, &mut scratch, &mut body);
        assert!(body.len() <= bytes.len());
        let mut out = vec![0; bytes.len()];
        let given = base.map_or(Base::None, Base::Bytes);
        assert!(codec::decode(id, &body, given, &mut scratch, &mut out).is_ok() && out == bytes);
        if base.is_some() {
            body.clear();
            codec::Delta.encode(input, &mut scratch, &mut body);
            assert!(codec::Delta.decode(&body, given, &mut scratch, &mut out).is_ok() && out == bytes);
        }
    }
}

/// The description of a store.
pub fn config(data: &[u8]) {
    if let Some(config) = typed(Config::decode(data, Path::new("store"))) {
        assert_eq!(Config::decode(&config.encode(), Path::new("store")).unwrap(), config);
    }
}

/// What another process says that it stored; and the same with the right hash.
pub fn receipt(data: &[u8]) {
    let hashed = [data, &Hash::of(data).0].concat();
    for bytes in [data, &hashed] {
        if let Some(receipt) = typed(Receipt::decode(bytes)) {
            assert_eq!(Receipt::decode(&receipt.encode()).unwrap(), receipt);
        }
    }
}

/// An entry as it lies there; and one whose frame is right and whose body is anything.
pub fn log_entry(data: &[u8]) {
    let slot = 7;
    for bytes in [data.to_vec(), framed(data, STORE, slot, Hash([2; 32]))] {
        if let Some(Decoded::Entry(entry, hash)) = typed(Entry::decode(&bytes, STORE, slot)) {
            // One meaning has one spelling.
            assert_eq!(entry.encode(STORE).unwrap(), (bytes, hash));
        }
    }
}

/// An entry around a body, of the kind that the first byte says.
fn framed(data: &[u8], store: StoreId, slot: u64, previous: Hash) -> Vec<u8> {
    let (kind, body) = data.split_first().map_or((0, data), |(kind, body)| (*kind, body));
    let mut out = b"TRLG\0\0".to_vec();
    out.extend(u16::from(kind % 20).to_le_bytes());
    out.extend(store.0);
    out.extend(slot.to_le_bytes());
    out.extend(previous.0);
    out.extend([3; 16 + 16]);
    out.extend(slot.to_le_bytes());
    out.extend(slot.to_le_bytes());
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    let hash = Hash::of(&out);
    out.extend(hash.0);
    out
}

/// The parts of a manifest.
pub fn manifest(data: &[u8]) {
    if let Some(root) = typed(Root::decode(data)) {
        assert_eq!(Root::decode(&root.encode()).unwrap(), root);
    }
    if let Some(schema) = typed(Schema::decode(data)) {
        assert_eq!(Schema::decode(&schema.encode()).unwrap(), schema);
        (0..schema.components.len()).for_each(|n| assert!(schema.of_component(n).end <= schema.tensors.len()));
    }
    if let Some(block) = typed(Block::decode(data)) {
        assert_eq!(Block::decode(&block.encode()).unwrap(), block);
    }
    let Some((total, recipe)) = split::<8>(data) else { return };
    let total = u64::from_le_bytes(total);
    if let Some(recipe) = typed(Recipe::decode(recipe, total)) {
        assert_eq!(recipe.0.iter().map(|(_, length)| u64::from(*length)).sum::<u64>(), total);
        assert_eq!(Recipe::decode(&recipe.encode(), total).unwrap(), recipe);
    }
}

/// Names, addresses, rules and durations, and what a terminal is shown of them.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = names::printable(&text);
    assert!(!shown.contains(char::is_control) && names::printable(&shown) == shown);
    let checks = [
        names::check_run(&text),
        names::check_tag(&text),
        names::check_metric(&text),
        names::check_component(&text),
        names::check_tensor(&text),
        names::check_side_file(&text),
    ];
    for error in checks.into_iter().filter_map(Result::err) {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
    if let Ok(path) = names::check_output_name(&text) {
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    }
    if let Some(address) = typed(text.parse::<Address>()) {
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }
    if let Some(rule) = typed(text.parse::<Rule>()) {
        assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
    }
    if let Some(seconds) = typed(duration::parse(&text)) {
        assert_eq!(duration::parse(&duration::words(seconds)).unwrap(), seconds);
    }
}

/// The end of a pack.
pub fn pack_footer(data: &[u8]) {
    let pack = PackId { save: SaveId([4; 16]), index: 0 };
    // In its own words, and with what a footer of this pack begins with.
    let mut begun = 0u16.to_le_bytes().to_vec();
    begun.extend(STORE.0);
    begun.extend(pack.save.0);
    begun.extend(pack.index.to_le_bytes());
    begun.extend(data);
    for bytes in [data, &begun] {
        let Some(tail) = bytes.last_chunk::<8>() else { continue };
        for total in [u64::from_le_bytes(*tail), 88 + bytes.len() as u64 + u64::from(tail[0])] {
            if let Some(footer) = typed(Footer::decode(bytes, pack, STORE, total)) {
                assert_eq!(footer.frames_bytes() + 48 + 40 + bytes.len() as u64, total);
                assert_eq!(footer.encode().0[..bytes.len()], *bytes);
            }
        }
    }
}

/// The header of a file, and the index of several.
pub fn safetensors(data: &[u8]) {
    let Some((length, header)) = split::<8>(data) else { return };
    let data_bytes = u64::from_le_bytes(length);
    let _ = safetensors::header_len("f", length, data_bytes);
    let header = typed(safetensors::parse("f", header, data_bytes));
    if let Some(header) = header {
        let metas: Vec<_> = header.tensors.iter().map(|entry| entry.meta.clone()).collect();
        if metas.iter().all(|meta| names::check_tensor(&meta.name).is_ok()) {
            let written = safetensors::write_header(&metas, &[]);
            let again = safetensors::parse("f", &written[8..], data_bytes).unwrap();
            assert!(again.tensors.iter().map(|entry| &entry.meta).eq(&metas));
        }
    }
    let _ = typed(safetensors::Index::parse("i", data));
}

/// The values that are kept beside the tensors: what was read is written the same way for ever.
pub fn state(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let text = value.to_string();
    let again: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(again.to_string(), text);
}

/// A row of entries, each a line: the fold takes them or says why not, and two folds of the same are the same.
pub fn fold(data: &[u8]) {
    let mut catalogs = [(); 2].map(|()| Catalog::in_memory(STORE, Hash([0; 32])).unwrap());
    let mut slot = 0;
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let bytes = framed(line, STORE, slot, Hash([2; 32]));
        let Ok(Decoded::Entry(entry, hash)) = Entry::decode(&bytes, STORE, slot) else { continue };
        // Time and save are taken from the slot: entries of one save id are not what is looked for here.
        let entry = Entry { save: SaveId([slot as u8; 16]), time: Time(slot as i64), ..*entry };
        let done = catalogs.each_mut().map(|catalog| typed(catalog.apply(&entry, hash)).is_some());
        assert_eq!(done[0], done[1]);
        slot += u64::from(done[0]);
    }
    let seen = catalogs.map(|catalog| {
        let all = Filter { superseded: true, forgotten: true, ..Filter::default() };
        format!("{:?} {:?} {:?}", catalog.checkpoints(&all), catalog.packs(), catalog.runs())
    });
    assert_eq!(seen[0], seen[1]);
}

thread_local! {
    /// Three steps of a training, the last two as differences, made once.
    static STORE_OF_THREE: RefCell<SimulatedDisk> = {
        let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
        let store = sim::create(&disk, &fate).unwrap();
        for step in 0..3 {
            sim::save(&store, &trained(step), &options("r", step)).unwrap();
        }
        RefCell::new(disk.settled())
    };
}

/// Whatever a store is made of, it opens or says why not, is looked through, and gives nothing that was not saved.
fn use_it(disk: &SimulatedDisk) {
    let Some(store) = typed(sim::open(disk, &Fate::new(2))) else { return };
    let report = typed(store.verify(Depth::Deep));
    for step in 0..3 {
        let Some(checkpoint) = typed(store.checkpoint(&format!("r@{step}").parse().unwrap())) else { continue };
        let meant = trained(step);
        for tensor in typed(checkpoint.tensors()).unwrap_or_default() {
            let mut bytes = Vec::new();
            let read = typed(checkpoint.read_tensor(&tensor.meta.name, &mut bytes));
            // The catalog's row may say anything; bytes are those of their hash.
            if let (Some(_), Some(meant)) = (read, meant.iter().find(|meant| meant.name == tensor.meta.name)) {
                assert!(bytes == meant.bytes || report.is_none(), "{step}: {}", tensor.meta.name);
            }
        }
    }
    match store.repair(false) {
        Ok(_) | Err(Error::EntryUnknown { .. }) => {}
        other => drop(typed(other)),
    }
    let _ = typed(store.gc(&Default::default()));
}

/// A log whose newest entry, sound by its hash, says anything.
pub fn whole_log(data: &[u8]) {
    let disk = STORE_OF_THREE.with_borrow(SimulatedDisk::settled);
    let (newest, next) = (entry_path(2), entry_path(3));
    let bytes = disk.content(&newest).unwrap();
    let store = sim::store_id(&disk);
    let Ok(Decoded::Entry(entry, hash)) = Entry::decode(&bytes, store, 2) else { unreachable!() };
    let instead = data.first().is_some_and(|byte| byte & 0x80 != 0);
    let (path, slot, previous) = if instead { (newest, 2, entry.previous) } else { (next, 3, hash) };
    disk.damage(&path, Some(framed(data, store, slot, previous)));
    // An entry may say that a step is something else: only that all of it comes to an end is in question.
    let Some(store) = typed(sim::open(&disk, &Fate::new(2))) else { return };
    let _ = typed(store.verify(Depth::Deep));
    let _ = typed(sim::observe(&store));
    let _ = typed(store.repair(false));
    let _ = typed(store.gc(&Default::default()));
}

fn entry_path(slot: u64) -> std::path::PathBuf {
    Path::new(sim::ROOT).join(treering::format::keys::Key::entry(slot).as_str())
}

/// The newest pack, with other frames: their sums and the footer's hash fit.
pub fn whole_pack(data: &[u8]) {
    let disk = STORE_OF_THREE.with_borrow(SimulatedDisk::settled);
    sim::forge(&disk, |frames| {
        let ids: Vec<ChunkId> = frames.iter().map(|(row, _)| row.chunk).collect();
        let mut data = data;
        while let Some(([act, at, value, more], rest)) = split(data) {
            let at = usize::from(at) % frames.len();
            let taken = usize::from(more).min(rest.len());
            let other = ids[usize::from(value) % ids.len()];
            let (row, body): &mut (Row, Vec<u8>) = &mut frames[at];
            match act % 10 {
                0 => row.codec = CODECS[usize::from(value) % CODECS.len()],
                1 => row.depth = value % 18,
                2 => row.bases = vec![other; usize::from(more % 5)],
                3 => row.chunk_bytes = u32::from(value) << (more % 24),
                4 => row.chunk = other,
                5 => *body = rest[..taken].to_vec(),
                6 if !body.is_empty() => {
                    let at = usize::from(more) % body.len();
                    body[at] ^= value;
                }
                7 => body.truncate(usize::from(value)),
                8 if frames.len() > 1 => drop(frames.remove(at)),
                9 if frames.len() < 64 => {
                    let copy = frames[at].clone();
                    frames.push(copy);
                }
                _ => {}
            }
            data = &rest[taken..];
        }
    });
    use_it(&disk);
}
