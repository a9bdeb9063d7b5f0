//! Saves by several processes. Named after their rows in docs/DURABILITY.md.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use treering::disk::SimulatedDisk;
use treering::format::entry::NewPack;
use treering::format::receipt::Receipt;
use treering::gc::GcOptions;
use treering::id::{ChunkId, SaveId};
use treering::restore::{RestoreOptions, Window};
use treering::save::{BoxOf, Inputs, JointPart, JointSave, MemoryTensor, SaveOptions, SaveOutcome, SaveReport};
use treering::tensor::{DType, TensorMeta};
use treering::verify::Depth;
use treering::{Error, ErrorKind, Store};

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{Tensor, at, floats, options};
use crate::sim::open_on;
use crate::sim::{self, Fate};

const RANKS: u32 = 3;
/// Rows of the tensor that is shared out, and elements of one.
const ROWS: u64 = 90;
const ROW: u64 = 40;

/// The checkpoint as one process would save it: a tensor that all have rows of, and one for each rank.
fn whole(seed: u64) -> Vec<Tensor> {
    let mut tensors = vec![floats("model.shared", (ROWS * ROW) as usize, seed)];
    tensors[0].shape = vec![ROWS, ROW];
    tensors.extend((0..RANKS).map(|rank| floats(&format!("optimizer.{rank}"), 50, 1 + seed + u64::from(rank))));
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

fn first_row(rank: u32, ranks: u32) -> u64 {
    ROWS * u64::from(rank) / u64::from(ranks)
}

/// What a rank gives: its rows, and its own tensor.
fn store_part(store: &Store, part: &JointPart, tensors: &[Tensor], options: &SaveOptions) -> treering::Result<()> {
    let mut given = Vec::new();
    for tensor in tensors {
        let (begin, end) = (first_row(part.rank, part.ranks), first_row(part.rank + 1, part.ranks));
        let row_bytes = (ROW * 4) as usize;
        let (shape, bytes, of) = match tensor.name.as_str() {
            "model.shared" => (
                vec![end - begin, ROW],
                &tensor.bytes[begin as usize * row_bytes..end as usize * row_bytes],
                Some(BoxOf { shape: tensor.shape.clone(), offsets: vec![begin, 0] }),
            ),
            name if name.ends_with(&format!(".{}", part.rank)) => (tensor.shape.clone(), &tensor.bytes[..], None),
            _ => continue,
        };
        let name = tensor.name.clone();
        let meta = TensorMeta { name, dtype: DType::new(tensor.dtype), shape, bytes: bytes.len() as u64 };
        given.push((None, MemoryTensor { meta, bytes }, of));
    }
    store.save_part(part, &Inputs::shares(given)?, options, &format!("note of {}", part.rank)).map(|_| ())
}

fn part(joint: &JointSave, rank: u32) -> JointPart {
    JointPart { save: joint.id(), rank, ranks: RANKS }
}

/// All of a joint save, rank after rank, each with a store that it opened itself.
fn save(disk: &SimulatedDisk, fate: &Fate, tensors: &[Tensor], options: &SaveOptions) -> treering::Result<SaveReport> {
    let store = sim::open(disk, fate)?;
    let mut joint = store.begin_joint()?;
    for rank in 0..RANKS {
        store_part(&sim::open(disk, fate)?, &part(&joint, rank), tensors, options)?;
    }
    let notes = joint.wait(RANKS, Duration::ZERO)?;
    assert_eq!(notes, ["note of 0", "note of 1", "note of 2"]);
    joint.commit(options)
}

fn fresh() -> (SimulatedDisk, Fate) {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(1));
    // Files are as young as they are: what has no place of its own any more lies for a day before it is collected.
    fate.pass(0, &disk);
    drop(sim::create(&disk, &fate).unwrap());
    (disk, fate)
}

fn files(disk: &SimulatedDisk, folder: &str) -> Vec<PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with(folder)).collect()
}

fn gc(disk: &SimulatedDisk, fate: &Fate) {
    sim::open(disk, fate).unwrap().gc(&GcOptions::default()).unwrap();
}

/// One checkpoint that is there, and nothing else: what the other save left is collected.
#[track_caller]
fn only_first_is_left(disk: &SimulatedDisk, fate: &Fate) {
    gc(disk, fate);
    let store = sim::open(disk, fate).unwrap();
    let seen = sim::observe(&store).unwrap();
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["r@1"]);
    assert_eq!(seen["r@1"], sim::content_of(&whole(1)));
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    let first = store.find(&at("r@1")).unwrap().save.to_string();
    let other: Vec<_> = files(disk, "/store/packs");
    assert!(other.iter().all(|path| path.to_string_lossy().contains(&first)), "{other:?}");
    assert_eq!(files(disk, "/store/parts"), [] as [PathBuf; 0]);
}

/// Whoever commits may be on another machine, whose syncs say nothing of what this one has named.
#[test]
fn f036_the_packs_of_a_part_are_durable_before_its_receipt() {
    let (disk, fate) = fresh();
    let joint = sim::open(&disk, &fate).unwrap().begin_joint().unwrap();
    let acts: Arc<Mutex<Vec<(Act, PathBuf)>>> = Arc::default();
    let seen = acts.clone();
    let watched = FaultyDisk::new(disk.clone(), move |act, path| {
        seen.lock().unwrap().push((act, path.to_path_buf()));
        Say::Go
    });
    store_part(&open_on(watched, &disk, &fate).unwrap(), &part(&joint, 0), &whole(1), &options("r", 1)).unwrap();
    let acts = acts.lock().unwrap();
    let links = |(act, path): &(Act, PathBuf), folder: &str| *act == Act::Link && path.starts_with(folder);
    let last_pack = acts.iter().rposition(|act| links(act, "/store/packs")).unwrap();
    let receipt = acts.iter().position(|act| links(act, "/store/parts")).unwrap();
    let folder = acts[last_pack].1.parent().unwrap();
    let synced = |(act, path): &(Act, PathBuf)| *act == Act::SyncFolder && path == folder;
    assert!(acts[last_pack..receipt].iter().any(synced), "{acts:?}");
}

#[test]
fn what_several_processes_save_is_one_checkpoint() {
    let (disk, fate) = fresh();
    let first = save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    assert_eq!((first.tensors, first.sizes.raw), (1 + u64::from(RANKS), ROWS * ROW * 4 + u64::from(RANKS) * 200));
    let store = sim::open(&disk, &fate).unwrap();
    assert_eq!(sim::observe(&store).unwrap()["r@1"], sim::content_of(&whole(1)));
    let checkpoint = store.checkpoint(&at("r@1")).unwrap();
    assert_eq!(checkpoint.tensors().unwrap()[0].meta.shape, [ROWS, ROW]);
    // The same again, by these processes, costs its entry; and so it does by one.
    let continued =
        SaveOptions { parent: Some(at("r@1")), state: Some(serde_json::json!({"epoch": 2})), ..options("r", 2) };
    let again = save(&disk, &fate, &whole(1), &continued).unwrap();
    assert_eq!(store.checkpoint(&at("r@2")).unwrap().state().unwrap(), continued.state);
    assert_eq!((again.sizes.unchanged, again.sizes.encoded), (first.sizes.raw, 11));
    let tensors = whole(1);
    let alone = store.save(&sim::inputs(&tensors), &options("r", 3)).unwrap();
    assert_eq!(alone.sizes.unchanged, first.sizes.raw);
    // By one whose cuts are its own, and then by several.
    let changed = store.save(&sim::inputs(&whole(2)), &options("s", 1)).unwrap();
    let shared = save(&disk, &fate, &whole(2), &options("s", 2)).unwrap();
    assert_eq!(sim::observe(&store).unwrap()["s@2"], sim::content_of(&whole(2)));
    assert!(changed.sizes.encoded > 0 && shared.sizes.unchanged > 0);
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
    assert_eq!(files(&disk, "/store/tmp"), [PathBuf::from("/store/tmp/reserve")]);
    assert_eq!(files(&disk, "/store/parts"), [] as [PathBuf; 0]);
}

/// The bytes of a box, element by element.
fn bytes_of(tensor: &Tensor, offsets: &[u64], lengths: &[u64]) -> Vec<u8> {
    let mut elements = vec![0];
    for ((offset, length), all) in offsets.iter().zip(lengths).zip(&tensor.shape) {
        elements = elements.iter().flat_map(|at| (*offset..offset + length).map(move |i| at * all + i)).collect();
    }
    elements.iter().flat_map(|&at| &tensor.bytes[4 * at as usize..][..4]).copied().collect()
}

/// Offsets and lengths.
type Cut = (Vec<u64>, Vec<u64>);

/// Saves a tensor, a box of it from each rank.
fn save_boxes(store: &Store, tensor: &Tensor, boxes: &[Cut], options: &SaveOptions) -> treering::Result<SaveReport> {
    let mut joint = store.begin_joint()?;
    for (rank, (offsets, lengths)) in (0..).zip(boxes) {
        let bytes = bytes_of(tensor, offsets, lengths);
        let (name, dtype) = (tensor.name.clone(), DType::new(tensor.dtype));
        let meta = TensorMeta { name, dtype, shape: lengths.clone(), bytes: bytes.len() as u64 };
        let of = BoxOf { shape: tensor.shape.clone(), offsets: offsets.clone() };
        let given = vec![(None, MemoryTensor { meta, bytes: &bytes }, Some(of))];
        let part = JointPart { save: joint.id(), rank, ranks: boxes.len() as u32 };
        store.save_part(&part, &Inputs::shares(given)?, options, "")?;
    }
    joint.wait(boxes.len() as u32, Duration::ZERO)?;
    joint.commit(options)
}

/// A grid of boxes, cut at these places of each dimension.
fn grid(cuts: &[&[u64]]) -> Vec<Cut> {
    let mut boxes = vec![(Vec::new(), Vec::new())];
    for ends in cuts {
        let further = |(offsets, lengths): Cut| {
            ends.windows(2)
                .map(move |pair| ([&offsets[..], &[pair[0]]].concat(), [&lengths[..], &[pair[1] - pair[0]]].concat()))
        };
        boxes = boxes.into_iter().flat_map(further).collect();
    }
    boxes
}

#[test]
fn boxes_of_any_kind_are_read_as_the_tensor() {
    let (disk, fate) = fresh();
    let store = sim::open(&disk, &fate).unwrap();
    let tensor = |change: u8| {
        let mut tensor = floats("model.w", (ROWS * ROW * 2) as usize, 1);
        tensor.bytes.chunks_exact_mut(4).for_each(|element| element[0] ^= change);
        Tensor { shape: vec![ROWS, ROW / 4, 8], ..tensor }
    };
    let all: &[u64] = &[0, ROWS];
    let cases = [
        ("rows", grid(&[&[0, 7, 7, ROWS], &[0, 10], &[0, 8]]), false),
        ("columns", grid(&[all, &[0, 3, 10], &[0, 8]]), true),
        ("elements", grid(&[all, &[0, 10], &[0, 1, 2, 3, 8]]), true),
        ("blocks", grid(&[&[0, 30, ROWS], &[0, 10], &[0, 4, 8]]), true),
        ("all three", grid(&[&[0, 1, ROWS], &[0, 5, 10], &[0, 4, 8]]), true),
    ];
    for (run, boxes, boxed) in cases {
        for step in 1..=3 {
            // The same again, and then all of it changed.
            let report = save_boxes(&store, &tensor((step / 3) as u8), &boxes, &options(run, step)).unwrap();
            let raw = ROWS * ROW * 8;
            assert_eq!((report.sizes.raw, report.tensors), (raw, 1), "{run}");
            if step == 2 {
                assert_eq!(report.sizes.unchanged, raw, "{run}");
            }
        }
        let address = format!("{run}@3");
        let checkpoint = store.checkpoint(&at(&address)).unwrap();
        assert_eq!(!checkpoint.boxes(0).is_empty(), boxed, "{run}");
        let info = &checkpoint.tensors().unwrap()[0];
        assert_eq!(info.boxes, checkpoint.boxes(0), "{run}");
        assert_eq!((info.meta.shape.as_slice(), info.depth), (&[ROWS, ROW / 4, 8][..], 1), "{run}: {info:?}");
        // All of it, a stretch that begins and ends anywhere, and one box.
        let expected = tensor(1).bytes;
        let (mut whole, mut part) = (vec![0; expected.len()], vec![0; 12_345]);
        checkpoint.read_into(vec![Window { tensor: 0, start: 0, bytes: &mut whole }]).unwrap();
        checkpoint.read_into(vec![Window { tensor: 0, start: 777, bytes: &mut part }]).unwrap();
        assert!(whole == expected && part == expected[777..777 + 12_345], "{run}");
        let mut streamed = Vec::new();
        checkpoint.read_tensor("model.w", &mut streamed).unwrap();
        assert!(streamed == expected, "{run}");
        if let [first, second, ..] = checkpoint.boxes(0) {
            let mut bytes = bytes_of(&tensor(1), &second.offsets, &second.lengths);
            let expected = bytes.clone();
            bytes.fill(0);
            let start = 4 * first.lengths.iter().product::<u64>();
            checkpoint.read_boxes_into(vec![Window { tensor: 0, start, bytes: &mut bytes }]).unwrap();
            assert!(bytes == expected, "{run}");
        }
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.safetensors");
        checkpoint.restore(&output, &RestoreOptions::default()).unwrap();
        let file = std::fs::read(&output).unwrap();
        let found = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(found.tensor("model.w").unwrap().data() == expected, "{run}");
        for (start, length) in [(expected.len() as u64, 1), (u64::MAX, 1), (0, expected.len() + 1)] {
            let mut bytes = vec![0; length];
            assert!(checkpoint.read_into(vec![Window { tensor: 0, start, bytes: &mut bytes }]).is_err());
        }
    }
    // Shared out otherwise, it is no difference to what was there.
    save_boxes(&store, &tensor(2), &grid(&[all, &[0, 5, 10], &[0, 8]]), &options("columns", 4)).unwrap();
    let how = store.encodings_of(&store.checkpoint(&at("columns@4")).unwrap()).unwrap();
    assert_eq!(how[0][0].why.as_ref().unwrap().to_string(), "sharded otherwise than in columns@3");
    // The same bytes in another order are another tensor.
    let one = Tensor { shape: vec![2, 2], ..floats("model.w", 4, 1) };
    let other = Tensor {
        bytes: [&one.bytes[..4], &one.bytes[8..12], &one.bytes[4..8], &one.bytes[12..]].concat(),
        ..one.clone()
    };
    save_boxes(&store, &one, &grid(&[&[0, 1, 2], &[0, 1, 2]]), &options("ids", 1)).unwrap();
    save_boxes(&store, &other, &grid(&[&[0, 2], &[0, 1, 2]]), &options("ids", 2)).unwrap();
    let id = |step: u64| store.checkpoint(&at(&format!("ids@{step}"))).unwrap().ids().next().unwrap().unwrap();
    assert_ne!(id(1), id(2));
    assert!(store.verify(Depth::Deep).unwrap().is_sound());
}

#[test]
fn boxes_that_overlap_or_leave_a_gap_are_refused() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let store = sim::open(&disk, &fate).unwrap();
    let tensor = Tensor { shape: vec![4, 6], ..floats("model.x", 24, 1) };
    for moved in [0, 2] {
        let mut boxes = grid(&[&[0, 2, 4], &[0, 3, 6]]);
        boxes[3].0 = vec![moved, 3];
        let saved = save_boxes(&store, &tensor, &boxes, &options("r", 2));
        match moved {
            2 => assert!(saved.is_ok()),
            _ => {
                let error = saved.unwrap_err().to_string();
                assert!(error.contains("model.x") && error.contains("4 boxes"), "{error}");
                only_first_is_left(&disk, &fate);
            }
        }
    }
    // Three times is as odd as once.
    let mut boxes = grid(&[&[0, 4], &[0, 3, 6]]);
    boxes.extend([boxes[0].clone(), boxes[0].clone()]);
    let error = save_boxes(&store, &tensor, &boxes, &options("r", 3)).unwrap_err().to_string();
    assert!(error.contains("model.x") && error.contains("4 boxes"), "{error}");
}

/// A commit is for ever: what a receipt names has to be there.
#[test]
fn f039_a_receipt_that_names_what_nobody_has() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    for which in 0..4 {
        let store = sim::open(&disk, &fate).unwrap();
        let mut joint = store.begin_joint().unwrap();
        (0..RANKS).for_each(|rank| store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap());
        let path = PathBuf::from(format!("/store/parts/{}/1", joint.id()));
        let mut receipt = Receipt::decode(&disk.content(&path).unwrap()).unwrap();
        match which {
            0 => receipt.tensors[0].chunks[0].0 = ChunkId([7; 32]),
            1 => receipt.packs.clear(),
            2 => {
                // A tensor that is a little shorter than its chunk, which is there.
                let own = receipt.tensors.iter_mut().find(|share| share.name == "optimizer.1").unwrap();
                (own.shape, own.lengths, own.bytes) = (vec![49], vec![49], 196);
                own.chunks[0].1 = 196;
            }
            _ => receipt.packs[0].footer = treering::id::Hash::of(b"another"),
        }
        disk.damage(&path, Some(receipt.encode()));
        joint.wait(RANKS, Duration::ZERO).unwrap();
        let error = joint.commit(&options("r", 2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{which}: {error}");
        // Nothing of it stays, and nobody has to wait for that.
        only_first_is_left(&disk, &fate);
    }
}

#[test]
fn f012_f039_every_bit_of_a_receipt() {
    let (disk, fate) = fresh();
    let store = sim::open(&disk, &fate).unwrap();
    let mut joint = store.begin_joint().unwrap();
    (0..RANKS).for_each(|rank| store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap());
    let path = PathBuf::from(format!("/store/parts/{}/0", joint.id()));
    let receipt = disk.content(&path).unwrap();
    for bit in 0..receipt.len() * 8 {
        let mut bytes = receipt.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        disk.damage(&path, Some(bytes));
        let error = joint.wait(RANKS, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "bit {bit}: {error}");
    }
    disk.damage(&path, Some(receipt));
    joint.wait(RANKS, Duration::ZERO).unwrap();
    joint.commit(&options("r", 2)).unwrap();
}

/// A step that is there already is refused when all parts are stored: they go with the next collection.
#[test]
fn a_commit_that_is_refused_leaves_nothing() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let refused = save(&disk, &fate, &whole(2), &options("r", 1)).unwrap_err();
    assert!(matches!(refused, Error::StepExists { .. }), "{refused}");
    only_first_is_left(&disk, &fate);
    let same = save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    assert_eq!(same.outcome, SaveOutcome::Identical);
    only_first_is_left(&disk, &fate);
}

/// What ranks store anew, because it is damaged where it was, heals those who need it.
#[test]
fn parts_heal_what_is_damaged() {
    for step in [1, 2] {
        let (disk, fate) = fresh();
        save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
        let pack = files(&disk, "/store/packs").remove(0);
        let mut bytes = disk.content(&pack).unwrap();
        bytes[60] ^= 1;
        disk.damage(&pack, Some(bytes));
        let store = sim::open(&disk, &fate).unwrap();
        assert_eq!(store.repair(false).unwrap().gone.len(), 1);
        save(&disk, &fate, &whole(1), &options("r", step)).unwrap();
        let store = sim::open(&disk, &fate).unwrap();
        assert_eq!(sim::observe(&store).unwrap()["r@1"], sim::content_of(&whole(1)), "step {step}");
    }
}

#[test]
fn f035_a_rank_that_dies_before_its_part() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let store = sim::open(&disk, &fate).unwrap();
    let mut joint = store.begin_joint().unwrap();
    for rank in [0, 2] {
        store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap();
    }
    let error = joint.wait(RANKS, Duration::from_millis(30)).unwrap_err();
    assert_eq!(error.to_string(), "rank 1 of 3 has not stored its part after 0 s");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(matches!(joint.commit(&options("r", 2)), Err(Error::PartMissing { rank: 1, .. })));
    only_first_is_left(&disk, &fate);
}

#[test]
fn f036_a_rank_that_fails_late_and_alone() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let mut failures = 0;
    for number in 0.. {
        let disk = disk.settled();
        let store = sim::open(&disk, &fate).unwrap();
        let mut joint = store.begin_joint().unwrap();
        for rank in [0, 2] {
            store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap();
        }
        let before = disk.operations();
        disk.fail_at(before + number, std::io::ErrorKind::StorageFull);
        match store_part(&store, &part(&joint, 1), &whole(2), &options("r", 2)) {
            Ok(()) if disk.operations() <= before + number => break,
            Ok(()) => continue, // what failed need not succeed
            Err(_) => failures += 1,
        }
        assert!(joint.wait(RANKS, Duration::ZERO).is_err(), "operation {number}");
        drop(joint);
        only_first_is_left(&disk, &fate);
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn f037_leavings_of_an_earlier_attempt_at_the_same_step() {
    let (disk, fate) = fresh();
    let store = sim::open(&disk, &fate).unwrap();
    let given_up = store.begin_joint().unwrap();
    store_part(&store, &part(&given_up, 0), &whole(1), &options("r", 1)).unwrap();
    drop(given_up);
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    only_first_is_left(&disk, &fate);
}

#[test]
fn f038_a_part_of_an_earlier_attempt_is_refused() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let store = sim::open(&disk, &fate).unwrap();
    let mut old = store.begin_joint().unwrap();
    let late = part(&old, 1);
    store_part(&store, &part(&old, 0), &whole(2), &options("r", 2)).unwrap();
    assert!(old.wait(RANKS, Duration::ZERO).is_err());
    drop(old);
    // Its receipt comes while the attempt lies there still: nobody waits for it, and nobody takes it for his own.
    store_part(&store, &late, &whole(2), &options("r", 2)).unwrap();
    let mut new = store.begin_joint().unwrap();
    for rank in [0, 2] {
        store_part(&store, &part(&new, rank), &whole(2), &options("r", 2)).unwrap();
    }
    assert!(new.wait(RANKS, Duration::ZERO).is_err());
    let receipt = |save: SaveId, rank: u32| PathBuf::from(format!("/store/parts/{save}/{rank}"));
    let stolen = disk.content(&receipt(late.save, 1)).unwrap();
    disk.damage(&receipt(new.id(), 1), Some(stolen));
    let refused = new.wait(RANKS, Duration::ZERO).unwrap_err().to_string();
    assert!(refused.contains("rank 1") && refused.contains(&late.save.to_string()), "{refused}");
    drop(new);
    // Once a collection has ended the attempt, there is no place for it any more.
    only_first_is_left(&disk, &fate);
    let refused = store_part(&store, &late, &whole(2), &options("r", 2)).unwrap_err();
    assert!(matches!(refused, Error::Stale { .. }), "{refused:?}");
    only_first_is_left(&disk, &fate);
}

/// A rank sleeps between any two operations, while the others give up and a collection takes what there is: what it
/// brings later is taken too.
#[test]
fn f038_a_rank_that_wakes_after_the_collection() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    for number in 0.. {
        let disk = disk.settled();
        let store = sim::open(&disk, &fate).unwrap();
        let joint = store.begin_joint().unwrap();
        let late = part(&joint, 1);
        let slept = std::sync::Arc::new(std::sync::Mutex::new(Some(joint)));
        let (bed, other_disk, other_fate) = (slept.clone(), disk.clone(), fate.clone());
        let sleeping = crate::faulty::FaultyDisk::meanwhile(disk.clone(), number, move || {
            drop(bed.lock().unwrap().take());
            gc(&other_disk, &other_fate);
        });
        let rank = crate::sim::open_on(sleeping, &disk, &fate).unwrap();
        let stored = store_part(&rank, &late, &whole(2), &options("r", 2));
        if slept.lock().unwrap().is_some() {
            assert!(stored.is_ok() && number > 5);
            return;
        }
        fate.pass(2 * 86_400, &disk);
        only_first_is_left(&disk, &fate);
    }
}

/// A collection sleeps between any two operations, while a rank of the attempt that it ends stores its part.
#[test]
fn f038_a_rank_that_wakes_in_the_middle_of_the_collection() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let mut stored = 0;
    for number in 0.. {
        let disk = disk.settled();
        let store = sim::open(&disk, &fate).unwrap();
        let joint = store.begin_joint().unwrap();
        store_part(&store, &part(&joint, 0), &whole(2), &options("r", 2)).unwrap();
        let (late, rank, told) = (part(&joint, 1), store.clone(), std::sync::Arc::new(std::sync::Mutex::new(None)));
        drop(joint);
        let asked = told.clone();
        let sleeping = crate::faulty::FaultyDisk::meanwhile(disk.clone(), number, move || {
            *asked.lock().unwrap() = Some(store_part(&rank, &late, &whole(2), &options("r", 2)));
        });
        let collector = crate::sim::open_on(sleeping, &disk, &fate).unwrap();
        collector.gc(&GcOptions::default()).unwrap_or_else(|e| panic!("operation {number}: {e}"));
        match told.lock().unwrap().take() {
            None => break,
            Some(Ok(())) => stored += 1,
            Some(Err(error)) => assert!(matches!(error, Error::Stale { .. } | Error::Io { .. }), "{error:?}"),
        }
        // What was made behind the collector's back goes with the next one, or the one after a while.
        fate.pass(2 * 86_400, &disk);
        only_first_is_left(&disk, &fate);
    }
    assert!(stored > 2, "{stored}");
}

#[test]
fn f039_ranks_that_disagree() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let refused = |own: &SaveOptions, ranks: u32, tensors: &[Tensor]| {
        let store = sim::open(&disk, &fate).unwrap();
        let mut joint = store.begin_joint().unwrap();
        for rank in 0..2 {
            store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap();
        }
        let last = JointPart { ranks, ..part(&joint, 2) };
        store_part(&store, &last, tensors, own).unwrap();
        let error = match joint.wait(RANKS, Duration::ZERO) {
            Err(error) => {
                drop(joint);
                error
            }
            Ok(_) => joint.commit(&options("r", 2)).unwrap_err(),
        };
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        only_first_is_left(&disk, &fate);
        error.to_string()
    };
    assert!(refused(&options("r", 3), RANKS, &whole(2)).contains("it saved r@3, and not r@2"));
    assert!(refused(&options("s", 2), RANKS, &whole(2)).contains("it saved s@2"));
    assert!(refused(&options("r", 2), 4, &whole(2)).contains("that of 2 of 4, and not of 2 of 3"));
    let mut other = whole(2);
    other.iter_mut().filter(|t| t.name == "model.shared").for_each(|t| t.dtype = "I32");
    assert!(refused(&options("r", 2), RANKS, &other).contains("model.shared is I32"));
    // Packs with numbers of another's, or one twice.
    for packs in [vec![0], vec![1 << 16, 1 << 16], vec![(1 << 16) + 1]] {
        let store = sim::open(&disk, &fate).unwrap();
        let mut joint = store.begin_joint().unwrap();
        (0..RANKS).for_each(|rank| store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap());
        let path = PathBuf::from(format!("/store/parts/{}/1", joint.id()));
        let mut receipt = Receipt::decode(&disk.content(&path).unwrap()).unwrap();
        receipt.packs = packs.iter().map(|&index| NewPack { index, ..receipt.packs[0] }).collect();
        disk.damage(&path, Some(receipt.encode()));
        let error = joint.wait(RANKS, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("rank 1") && error.contains("numbers"), "{packs:?}: {error}");
        drop(joint);
        only_first_is_left(&disk, &fate);
    }
    // Rows that nobody has, between others and at the end, and rows that two have.
    let store = sim::open(&disk, &fate).unwrap();
    for (moved, what) in [(1, "by nobody"), (-1, "twice"), (0, "by nobody")] {
        let mut joint = store.begin_joint().unwrap();
        for rank in 0..RANKS {
            let first = (first_row(rank, RANKS) as i64 + if rank == 1 { moved } else { 0 }) as u64;
            let of = BoxOf { shape: vec![ROWS + 1, 1], offsets: vec![first, 0] };
            let tensor = floats("model.x", (ROWS / 3) as usize, 1);
            let meta = TensorMeta {
                name: "model.x".into(),
                dtype: DType::new("F32"),
                shape: vec![ROWS / 3, 1],
                bytes: 4 * ROWS / 3,
            };
            let given = vec![(None, MemoryTensor { meta, bytes: &tensor.bytes }, Some(of))];
            store.save_part(&part(&joint, rank), &Inputs::shares(given).unwrap(), &options("r", 2), "").unwrap();
        }
        joint.wait(RANKS, Duration::ZERO).unwrap();
        let error = joint.commit(&options("r", 2)).unwrap_err().to_string();
        assert!(error.contains("model.x") && error.contains(what), "{error}");
        only_first_is_left(&disk, &fate);
    }
}

/// The one who commits dies, all parts being stored, at any point of its commit: it is committed, or it is not.
#[test]
fn f040_the_one_who_commits_dies() {
    let (disk, fate) = fresh();
    save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
    let mut seen = [0; 2];
    for number in 0.. {
        let disk = disk.settled();
        let dying = disk.process(number);
        let Ok(store) = sim::open(&dying, &fate) else { continue };
        let Ok(mut joint) = store.begin_joint() else { continue };
        for rank in 0..RANKS {
            store_part(&sim::open(&disk, &fate).unwrap(), &part(&joint, rank), &whole(2), &options("r", 2)).unwrap();
        }
        joint.wait(RANKS, Duration::ZERO).unwrap();
        let committed = joint.commit(&options("r", 2)).is_ok();
        drop(store);
        if !dying.is_dead() {
            break;
        }
        for disk in disk.crashes(32, number).into_iter().chain([disk.settled()]) {
            fate.pass(2 * 86_400, &disk);
            let there = sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap();
            assert_eq!(there["r@1"], sim::content_of(&whole(1)));
            assert!(!committed || there.contains_key("r@2"));
            seen[usize::from(there.contains_key("r@2"))] += 1;
            match there.get("r@2") {
                None => only_first_is_left(&disk, &fate),
                Some(content) => {
                    assert_eq!(*content, sim::content_of(&whole(2)));
                    gc(&disk, &fate);
                    let store = sim::open(&disk, &fate).unwrap();
                    assert_eq!(sim::observe(&store).unwrap(), there);
                    assert!(store.verify(Depth::Deep).unwrap().is_sound());
                    assert_eq!(files(&disk, "/store/parts"), [] as [PathBuf; 0]);
                }
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 3), "{seen:?}");
}

/// A collection while parts are being stored takes none of them.
#[test]
fn a_collection_beside_a_joint_save() {
    let (disk, fate) = fresh();
    let store = sim::open(&disk, &fate).unwrap();
    let mut joint = store.begin_joint().unwrap();
    for rank in 0..RANKS {
        gc(&disk, &fate);
        store_part(&store, &part(&joint, rank), &whole(2), &options("r", 2)).unwrap();
    }
    fate.pass(3 * 86_400, &disk);
    gc(&disk, &fate);
    joint.wait(RANKS, Duration::ZERO).unwrap();
    joint.commit(&options("r", 2)).unwrap();
    gc(&disk, &fate);
    assert_eq!(sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap()["r@2"], sim::content_of(&whole(2)));
}

/// The log's entry is lost: packs tell what it said, if all of them are there.
#[test]
fn a_joint_commit_is_made_again_from_its_packs() {
    for lost in [false, true] {
        let (disk, fate) = fresh();
        save(&disk, &fate, &whole(1), &options("r", 1)).unwrap();
        disk.damage(&PathBuf::from("/store/log/00000000000000000000"), Some(vec![1; 300]));
        if lost {
            disk.damage(&files(&disk, "/store/packs")[1], None);
        }
        let store = sim::open(&disk, &fate).unwrap();
        store.repair(false).unwrap();
        let seen = sim::observe(&sim::open(&disk, &fate).unwrap()).unwrap();
        assert_eq!(seen.get("r@1"), (!lost).then(|| sim::content_of(&whole(1))).as_ref());
    }
}

#[test]
fn what_is_no_part_is_refused() {
    let (disk, fate) = fresh();
    let store = sim::open(&disk, &fate).unwrap();
    let joint = store.begin_joint().unwrap();
    let tensor = floats("model.x", 8, 1);
    let given = |shape: Vec<u64>, of: BoxOf| {
        let meta = TensorMeta { name: "model.x".into(), dtype: DType::new("F32"), shape, bytes: 32 };
        Inputs::shares(vec![(None, MemoryTensor { meta, bytes: &tensor.bytes }, Some(of))]).map(|_| ())
    };
    assert!(given(vec![4, 2], BoxOf { shape: vec![8, 3], offsets: vec![4, 1] }).is_ok());
    for (shape, whole, offsets) in [
        (vec![4, 2], vec![8, 2], vec![5, 0]),
        (vec![4, 2], vec![8, 3], vec![0, 2]),
        (vec![4, 2], vec![8, 2], vec![0]),
        (vec![8], vec![], vec![]),
        (vec![4, 2], vec![u64::MAX, 2], vec![0, 0]),
        (vec![4, 2], vec![8, 2], vec![u64::MAX, 0]),
    ] {
        let of = BoxOf { shape: whole.clone(), offsets: offsets.clone() };
        assert!(given(shape.clone(), of).is_err(), "{shape:?} of {whole:?} at {offsets:?}");
    }
    let stranger = JointPart { save: SaveId([7; 16]), rank: 0, ranks: 1 };
    assert!(matches!(store_part(&store, &stranger, &whole(1), &options("r", 1)), Err(Error::Stale { .. })));
    let beyond = JointPart { rank: 2, ranks: 2, ..part(&joint, 0) };
    let nothing = Inputs::shares(Vec::new()).unwrap();
    assert_eq!(store.save_part(&beyond, &nothing, &options("r", 1), "").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(joint.commit(&options("r", 1)).is_err());
}
