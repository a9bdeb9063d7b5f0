//! Damage to any object of a small store: never taken for good, found by `verify` with exactly what it costs, and
//! repaired as far as anything in the store still says what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use treering::disk::SimulatedDisk;
use treering::gc::GcOptions;
use treering::verify::{Depth, VerifyReport};
use treering::{Error, ErrorKind, Store};

use crate::helpers::{Tensor, at, floats, options, trained};
use crate::sim::{self, Fate};

/// One bit of each byte is turned; with `TREERING_ALL_BITS`, every bit.
fn bits(at: usize) -> Vec<u8> {
    if std::env::var_os("TREERING_ALL_BITS").is_some() { (0..8).collect() } else { vec![(at % 8) as u8] }
}

/// A sound store, and all that was saved.
struct Sound {
    disk: SimulatedDisk,
    saved: BTreeMap<String, Vec<Tensor>>,
}

/// Two checkpoints that share a tensor, a third that has all of its own, and a tag.
fn sound() -> Sound {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(3));
    let store = sim::create(&disk, &fate).unwrap();
    let saved: BTreeMap<String, Vec<Tensor>> = [
        ("r@1".to_string(), vec![floats("model.a", 40, 1), floats("model.b", 30, 2)]),
        ("r@2".to_string(), vec![floats("model.a", 40, 1), floats("model.b", 30, 3)]),
        ("s@1".to_string(), vec![floats("model.c", 20, 4)]),
    ]
    .into();
    for (address, tensors) in &saved {
        let (run, step) = address.split_once('@').unwrap();
        sim::save(&store, tensors, &options(run, step.parse().unwrap())).unwrap();
    }
    store.tag(&at("r@1"), &["t".into()], &[]).unwrap();
    drop(store);
    Sound { disk: disk.settled(), saved }
}

/// A run of differences, each resting on the one before, and another run that shares the middle and has a little more.
fn chained() -> Sound {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(3));
    let store = sim::create(&disk, &fate).unwrap();
    let mut saved: BTreeMap<String, Vec<Tensor>> =
        [("r@0", 0), ("r@1", 1), ("r@2", 2), ("s@1", 1)].map(|(at, step)| (at.to_string(), trained(step))).into();
    saved.get_mut("s@1").unwrap().insert(2, floats("model.z", 20, 5));
    for (address, tensors) in &saved {
        let (run, step) = address.split_once('@').unwrap();
        sim::save(&store, tensors, &options(run, step.parse().unwrap())).unwrap();
    }
    let how = |address: &str| store.checkpoint(&at(address)).unwrap().tensors().unwrap();
    let codecs: BTreeSet<String> = how("r@2").into_iter().flat_map(|t| t.encodings).map(|(name, _)| name).collect();
    assert_eq!(codecs, ["cast", "delta", "patch"].map(String::from).into(), "differences of every kind");
    assert!(how("r@2").iter().any(|tensor| tensor.depth >= 2));
    // Something comes after the last save: that the newest entry was deleted, nobody could tell.
    store.tag(&at("r@1"), &["t".into()], &[]).unwrap();
    drop(store);
    Sound { disk: disk.settled(), saved }
}

impl Sound {
    fn packs(&self) -> Vec<PathBuf> {
        self.objects().into_iter().filter(|path| path.starts_with("/store/packs")).collect()
    }

    /// All objects: what is written once and read for the truth.
    fn objects(&self) -> Vec<PathBuf> {
        self.disk.files().into_iter().filter(|path| !path.starts_with("/store/tmp")).collect()
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        self.disk.content(path).unwrap()
    }

    fn damaged(&self, damage: &[(&PathBuf, Option<Vec<u8>>)]) -> SimulatedDisk {
        let disk = self.disk.settled();
        damage.iter().for_each(|(path, content)| disk.damage(path, content.clone()));
        disk
    }

    /// Whatever was done to this disk is found, nothing false is read, and what cannot be read is just what is named.
    fn check(&self, what: &str, disk: &SimulatedDisk) -> Option<VerifyReport> {
        let store = match sim::open(disk, &Fate::new(5)) {
            Ok(store) => store,
            Err(error) => {
                // Without its description a store is none; anything else opens.
                assert!(what.contains("treering.json"), "{what}: it does not open: {error}");
                assert!(typed(&error), "{what}: {error:?}");
                return None;
            }
        };
        let report = store.verify(Depth::Deep).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(!report.is_sound(), "{what}: nothing was found");
        self.check_reading(what, &store, &report.affected);
        Some(report)
    }

    fn check_reading(&self, what: &str, store: &Store, affected: &[treering::verify::Affected]) {
        let named: BTreeMap<String, BTreeSet<String>> =
            affected.iter().map(|one| (one.checkpoint.address(), one.lost.iter().cloned().collect())).collect();
        for (address, tensors) in &self.saved {
            let lost = lost(store, address, tensors).unwrap_or_else(|e| panic!("{what}: {address}: {e}"));
            match (lost, named.get(address)) {
                (Lost::Nothing, None) => {}
                (Lost::Everything, Some(_)) => {}
                // Where its entry and its pack are gone at once, nothing says that it ever was: that much was lost.
                (Lost::Everything, None) if what.contains(ITS_OWN_PACK) => {}
                (Lost::Tensors(lost), Some(named)) => assert_eq!(&lost, named, "{what}: {address}"),
                (lost, named) => panic!("{what}: of {address} {lost:?} is lost, and verify says {named:?}"),
            }
        }
    }

    /// Repair makes it a store that can be written, and what it does not name as gone is there. Saving again heals.
    fn check_repair(&self, what: &str, disk: &SimulatedDisk) -> usize {
        let fate = Fate::new(6);
        let Ok(store) = sim::open(disk, &fate) else { return 0 };
        let report = store.repair(false).unwrap_or_else(|e| panic!("{what}: repair: {e}"));
        for store in [store, sim::open(disk, &fate).unwrap()] {
            self.check_reading(&format!("{what}, repaired"), &store, &report.gone);
        }
        let store = sim::open(disk, &fate).unwrap();
        let gone = report.gone.len();
        for (address, tensors) in &self.saved {
            let (run, step) = address.split_once('@').unwrap();
            sim::save(&store, tensors, &options(run, step.parse().unwrap()))
                .unwrap_or_else(|e| panic!("{what}, repaired: {address} cannot be saved again: {e}"));
        }
        let after = store.verify(Depth::Deep).unwrap();
        assert!(after.affected.is_empty(), "{what}, saved again: {:?}", after.affected);
        assert!(after.damage.iter().all(|damage| damage.why.contains("header")), "{what}: {:?}", after.damage);
        self.check_reading(&format!("{what}, saved again"), &store, &[]);
        store.gc(&GcOptions::default()).unwrap_or_else(|e| panic!("{what}, repaired: gc: {e}"));
        self.check_reading(&format!("{what}, collected"), &sim::open(disk, &fate).unwrap(), &[]);
        gone
    }
}

#[derive(Debug)]
enum Lost {
    Nothing,
    Tensors(BTreeSet<String>),
    Everything,
}

/// What of a checkpoint cannot be read. What is read is what was saved.
fn lost(store: &Store, address: &str, tensors: &[Tensor]) -> treering::Result<Lost> {
    let checkpoint = match store.checkpoint(&at(address)) {
        Ok(checkpoint) => checkpoint,
        Err(error) if typed(&error) => return Ok(Lost::Everything),
        Err(error) => return Err(error),
    };
    let mut lost = BTreeSet::new();
    for tensor in tensors {
        let mut bytes = Vec::new();
        match checkpoint.read_tensor(&tensor.name, &mut bytes) {
            Ok(_) => assert!(bytes == tensor.bytes, "{address}: {} is not what was saved", tensor.name),
            Err(error) if error.kind() == ErrorKind::Damaged => drop(lost.insert(tensor.name.clone())),
            Err(error) => return Err(error),
        }
    }
    Ok(if lost.is_empty() { Lost::Nothing } else { Lost::Tensors(lost) })
}

fn typed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Invalid)
}

#[test]
fn f012_every_bit_that_turns_is_found() {
    let sound = sound();
    let mut turned = 0;
    for path in sound.objects() {
        let content = sound.content(&path);
        for at in 0..content.len() {
            for bit in bits(at) {
                let mut bytes = content.clone();
                bytes[at] ^= 1 << bit;
                sound.check(&format!("bit {bit} of byte {at} of {path:?}"), &sound.damaged(&[(&path, Some(bytes))]));
                turned += 1;
            }
        }
    }
    println!("{turned} bits turned, all found");
}

#[test]
fn f012_zeroed_ranges_are_found() {
    let sound = sound();
    for path in sound.objects() {
        let content = sound.content(&path);
        for from in (0..content.len()).step_by(64) {
            let mut bytes = content.clone();
            let to = (from + 64).min(bytes.len());
            bytes[from..to].fill(0);
            sound.check(&format!("zeros at {from} of {path:?}"), &sound.damaged(&[(&path, Some(bytes))]));
        }
    }
}

#[test]
fn f013_an_object_cut_at_any_length_or_longer_is_found() {
    let sound = sound();
    for path in sound.objects() {
        let content = sound.content(&path);
        for length in 0..content.len() {
            let cut = content[..length].to_vec();
            sound.check(&format!("{path:?} cut to {length}"), &sound.damaged(&[(&path, Some(cut))]));
        }
        for more in [&b"\0"[..], b"more", &content] {
            let longer = [&content[..], more].concat();
            sound.check(&format!("{path:?} with {} bytes more", more.len()), &sound.damaged(&[(&path, Some(longer))]));
        }
    }
}

/// What is said of a damage that hits an entry and a pack of the same save.
const ITS_OWN_PACK: &str = ", an entry with its own pack";

/// True if the pack at that path is of the save that an entry names.
fn is_its_own_pack(entry: &[u8], path: &Path) -> bool {
    let save: String = entry.iter().skip(80).take(16).map(|byte| format!("{byte:02x}")).collect();
    entry.starts_with(b"TRLG") && path.starts_with("/store/packs") && path.to_string_lossy().contains(&save)
}

#[test]
fn f014_any_two_objects_in_each_others_place_are_found() {
    let sound = sound();
    let objects = sound.objects();
    for (n, a) in objects.iter().enumerate() {
        for b in &objects[n + 1..] {
            let swapped = [(a, Some(sound.content(b))), (b, Some(sound.content(a)))];
            let own = if is_its_own_pack(&sound.content(a), b) { ITS_OWN_PACK } else { "" };
            sound.check(&format!("{a:?} and {b:?} swapped{own}"), &sound.damaged(&swapped));
            sound.check(&format!("{a:?} replaced by {b:?}"), &sound.damaged(&swapped[..1]));
        }
    }
}

#[test]
fn f106_any_object_that_is_deleted_is_found() {
    let sound = sound();
    let newest = sim::slots(&sound.disk).into_iter().max().unwrap();
    for path in sound.objects().iter().filter(|path| !path.ends_with(format!("{newest:020}"))) {
        sound.check(&format!("{path:?} deleted"), &sound.damaged(&[(path, None)]));
    }
}

/// Damage to the packs of a chain: each checkpoint that rests on what was hit is named, with the tensors that are lost.
#[test]
fn f012_f080_every_bit_that_turns_in_a_chain_is_found() {
    let sound = chained();
    let mut turned = 0;
    // A look at a chain takes long: each third byte, if not every bit is asked for.
    let step = 5 - 2 * bits(0).len().min(2);
    for path in sound.packs() {
        let content = sound.content(&path);
        for at in (0..content.len()).step_by(step) {
            for bit in bits(at) {
                let mut bytes = content.clone();
                bytes[at] ^= 1 << bit;
                sound.check(&format!("bit {bit} of byte {at} of {path:?}"), &sound.damaged(&[(&path, Some(bytes))]));
                turned += 1;
            }
        }
    }
    println!("{turned} bits turned in chains, all found");
}

#[test]
fn f013_f014_f080_packs_of_a_chain_cut_swapped_or_deleted_are_found() {
    let sound = chained();
    let packs = sound.packs();
    for (n, path) in packs.iter().enumerate() {
        let content = sound.content(path);
        sound.check(&format!("{path:?} deleted"), &sound.damaged(&[(path, None)]));
        for length in (0..content.len()).step_by(11) {
            let cut = content[..length].to_vec();
            sound.check(&format!("{path:?} cut to {length}"), &sound.damaged(&[(path, Some(cut))]));
        }
        for other in &packs[n + 1..] {
            let swapped = [(path, Some(sound.content(other))), (other, Some(content.clone()))];
            sound.check(&format!("{path:?} and {other:?} swapped"), &sound.damaged(&swapped));
            sound.check(&format!("{path:?} replaced by {other:?}"), &sound.damaged(&swapped[..1]));
        }
    }
}

#[test]
fn f045_the_newest_entry_deleted_is_told_by_a_catalog_that_knew_it() {
    let sound = sound();
    let disk = sound.disk.settled();
    let store = sim::open(&disk, &Fate::new(5)).unwrap();
    let newest = sim::slots(&disk).into_iter().max().unwrap();
    disk.damage(&PathBuf::from(format!("/store/log/{newest:020}")), None);
    assert!(matches!(store.verify(Depth::Deep), Err(Error::Diverged { slot }) if slot == newest));
    assert!(matches!(store.forget(&[0]), Err(Error::Diverged { .. })));
}

#[test]
fn damaged_neighbours_and_a_damaged_end_cost_what_they_said() {
    let sound = sound();
    let entries: Vec<PathBuf> = sound.objects().into_iter().filter(|path| path.starts_with("/store/log")).collect();
    let turned = |path: &PathBuf| {
        let mut bytes = sound.content(path);
        bytes[150] ^= 1;
        Some(bytes)
    };
    for from in 0..entries.len() {
        for to in from + 1..=entries.len() {
            let damage: Vec<_> = entries[from..to].iter().map(|path| (path, turned(path))).collect();
            let what = format!("entries {from} to {to}");
            let disk = sound.damaged(&damage);
            let report = sound.check(&what, &disk).unwrap();
            assert_eq!(report.damage.len(), to - from, "{what}: {:?}", report.damage);
            assert_eq!(sound.check_repair(&what, &disk), 0, "{what}");
        }
    }
}

/// Of several commits without a byte left nobody knows which was where: nothing is guessed, and nothing is deleted.
#[test]
fn commits_that_cannot_be_placed_are_not_guessed() {
    let sound = sound();
    let path = |slot: u64| PathBuf::from(format!("/store/log/{slot:020}"));
    let disk = sound.damaged(&[(&path(0), None), (&path(2), Some(Vec::new()))]);
    let store = sim::open(&disk, &Fate::new(6)).unwrap();
    let packs = || disk.files().into_iter().filter(|path| path.starts_with("/store/packs")).count();
    let before = packs();
    let report = store.repair(false).unwrap();
    assert!(report.remade.is_empty() && report.voided.len() >= 2, "{report:?}");
    store.gc(&GcOptions::default()).unwrap();
    assert_eq!(packs(), before);
    // Of the two, and of the one that builds on the first.
    assert_eq!(store.verify(Depth::Deep).unwrap().foreign.len(), 3);
}

#[test]
fn a_lost_commit_is_made_again_from_its_pack() {
    let sound = sound();
    for slot in 0..3 {
        let path = PathBuf::from(format!("/store/log/{slot:020}"));
        let mut bytes = sound.content(&path);
        bytes[200] ^= 1;
        for content in [Some(bytes), Some(Vec::new()), None] {
            let what = format!("entry {slot} as {:?} bytes", content.as_ref().map(Vec::len));
            let disk = sound.damaged(&[(&path, content)]);
            let report = sound.check(&what, &disk).unwrap();
            let addresses: Vec<String> = report.affected.iter().map(|one| one.checkpoint.address()).collect();
            assert!(addresses.contains(sound.saved.keys().nth(slot).unwrap()), "{what}: {addresses:?}");
            let store = sim::open(&disk, &Fate::new(6)).unwrap();
            let repaired = store.repair(false).unwrap();
            assert_eq!((repaired.remade, repaired.gone.len()), (vec![slot as u64], 0), "{what}");
            // Its tag was given by a later entry, which makes sense again.
            assert_eq!(store.find(&at("r@t")).unwrap().step, 1, "{what}");
            assert!(store.verify(Depth::Deep).unwrap().is_sound(), "{what}");
        }
    }
}

/// Returns how many checkpoints were beyond repair before they were saved again.
fn damaged_repaired_and_healed(sound: &Sound, places: usize) -> usize {
    let mut gone = 0;
    for path in sound.objects() {
        let content = sound.content(&path);
        let step = content.len() / places + 1;
        for at in (0..content.len()).step_by(step) {
            let mut bytes = content.clone();
            bytes[at] ^= 0x10;
            let disk = sound.damaged(&[(&path, Some(bytes))]);
            gone += sound.check_repair(&format!("byte {at} of {path:?}"), &disk);
        }
        for content in [Some(Vec::new()), None] {
            let disk = sound.damaged(&[(&path, content)]);
            gone += sound.check_repair(&format!("{path:?} emptied or deleted"), &disk);
        }
    }
    gone
}

#[test]
fn repair_saves_what_can_be_saved_and_saving_again_heals() {
    assert!(damaged_repaired_and_healed(&sound(), 24) > 0, "some of that was beyond repair");
}

#[test]
fn f080_a_chain_is_repaired_as_far_as_it_goes_and_saving_again_heals() {
    assert!(damaged_repaired_and_healed(&chained(), 24) > 0, "some of that was beyond repair");
}

/// Of two links that are damaged, the first is healed by a save of the first step alone; then the second one is.
#[test]
fn f080_a_chain_is_healed_link_by_link() {
    let sound = chained();
    let damage: Vec<(PathBuf, Vec<u8>)> = sound.packs()[..3]
        .iter()
        .map(|path| {
            let mut bytes = sound.content(path);
            bytes[90] ^= 1;
            (path.clone(), bytes)
        })
        .collect();
    let damage: Vec<_> = damage.iter().map(|(path, bytes)| (path, Some(bytes.clone()))).collect();
    let (disk, fate) = (sound.damaged(&damage), Fate::new(6));
    let store = sim::open(&disk, &fate).unwrap();
    let lost_of = |store: &Store| {
        let report = store.verify(Depth::Deep).unwrap();
        report.affected.iter().map(|one| one.lost.len()).sum::<usize>()
    };
    assert!(!store.repair(false).unwrap().gone.is_empty());
    let mut left = lost_of(&store);
    for step in 0..3 {
        sim::save(&store, &trained(step), &options("again", step)).unwrap();
        let now = lost_of(&store);
        assert!(now <= left, "step {step}: {now} of {left}");
        left = now;
    }
    assert_eq!(left, 0);
    sound.check_reading("healed link by link", &store, &[]);
}

#[test]
fn another_good_copy_heals() {
    let (disk, fate) = (SimulatedDisk::new(), Fate::new(3));
    let store = sim::create(&disk, &fate).unwrap();
    let tensors = [floats("model.a", 40, 1)];
    let mut disks = Vec::new();
    for run in ["r", "s"] {
        sim::save(&store, &tensors, &options(run, 1)).unwrap();
        disks.push(disk.files().into_iter().filter(|path| path.starts_with("/store/packs")).collect::<BTreeSet<_>>());
    }
    // The second has written nothing new but its manifest root: damage the first.
    let first = disks[0].first().unwrap().clone();
    let mut bytes = disk.content(&first).unwrap();
    bytes[60] ^= 1;
    disk.damage(&first, Some(bytes));
    let store = sim::open(&disk, &fate).unwrap();
    assert_eq!(store.repair(false).unwrap().gone.len(), 2);
    sim::save(&store, &tensors, &options("t", 1)).unwrap();
    let report = store.verify(Depth::Deep).unwrap();
    assert!(report.is_sound() && report.known.len() == 1, "{report:?}");
    for address in ["r@1", "s@1", "t@1"] {
        assert!(matches!(lost(&store, address, &tensors), Ok(Lost::Nothing)), "{address}");
    }
    // Known damage is nobody's target: a fourth save relies on the good copy.
    sim::save(&store, &tensors, &options("u", 1)).unwrap();
    let packs = &store.checkpoint(&at("u@1")).unwrap().tensors().unwrap()[0].packs;
    assert!(packs.iter().all(|pack| !first.ends_with(pack.to_string())), "{packs:?}");
}
