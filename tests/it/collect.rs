//! Collection frees what nobody needs, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use treering::Store;
use treering::catalog::Filter;
use treering::disk::RealDisk;
use treering::gc::{GcOptions, GcReport};
use treering::id::{PackId, SaveId};
use treering::save::{Inputs, SaveOptions};
use treering::store::Options;

use crate::faulty::{Act, FaultyDisk, Say};
use crate::helpers::{Place, Tensor, at, floats, hours_later, metrics, options};

/// A large frozen part, and a small one that changes.
fn lora(place: &Place, seed: u64) -> PathBuf {
    let tensors = [
        floats("model.base", 300_000, 1),
        floats("model.adapter", 3_000, seed),
        floats("optimizer.moments", 90_000, 1000 + seed),
    ];
    place.file(&format!("lora-{seed}.safetensors"), &tensors)
}

fn dense(place: &Place, seed: u64) -> PathBuf {
    place.file(&format!("dense-{seed}.safetensors"), &[floats("model.a", 50_000, seed)])
}

#[test]
fn keeping_two_of_twenty_costs_what_two_cost() {
    let place = Place::new();
    for step in 1..=20 {
        place.save("r", step, &dense(&place, step));
    }
    place.policy("r", &["keep-last 2"]);
    place.gc();
    let alone = Place::new();
    for step in [19, 20] {
        alone.save("r", step, &dense(&alone, step));
    }
    // The log stays whole: an entry a save is not a matter of tensors.
    let packs = |place: &Place| place.packs().iter().map(|p| std::fs::metadata(p).unwrap().len()).sum::<u64>();
    assert!(packs(&place) as f64 <= 1.001 * packs(&alone) as f64);
    assert!(place.bytes() as f64 <= 1.05 * alone.bytes() as f64, "{} and {}", place.bytes(), alone.bytes());
    for step in [19, 20] {
        place.assert_restores(&format!("r@{step}"), &dense(&place, step));
    }
}

#[test]
fn forgetting_and_collecting_frees_space() {
    let place = Place::new();
    for step in 1..=3 {
        place.save("r", step, &dense(&place, step));
    }
    let before = place.bytes();
    place.forget("r@2");
    let planned = place.store.gc(&GcOptions { dry_run: true, ..GcOptions::default() }).unwrap();
    let report = place.gc();
    assert_eq!((report.packs_deleted, report.bytes_freed), (1, planned.bytes_freed));
    assert!(report.bytes_freed > 100_000 && before - place.bytes() > 100_000, "{report:?}");
    for step in [1, 3] {
        place.assert_restores(&format!("r@{step}"), &dense(&place, step));
    }
    assert!(place.store.verify(treering::verify::Depth::Deep).unwrap().is_sound());
}

#[test]
fn packs_that_others_share_survive() {
    let place = Place::new();
    let one = dense(&place, 1);
    place.save("r", 1, &one);
    place.save("other", 1, &one);
    place.forget("r@1");
    assert_eq!(place.gc().packs_deleted, 0);
    place.assert_restores("other@1", &one);
}

#[test]
fn a_frozen_base_survives_and_dead_frames_go() {
    let place = Place::new();
    let files: Vec<PathBuf> = (0..=5).map(|seed| lora(&place, seed)).collect();
    for step in 1..=5 {
        place.save("r", step, &files[step as usize]);
    }
    // The first save's pack holds the base for all, and its own adapter and moments.
    place.forget("r@1");
    let report = place.gc();
    assert_eq!(report.packs_rewritten, 1, "{report:?}");
    assert!(report.bytes_freed > 200_000, "{report:?}");
    for step in 2..=5 {
        place.assert_restores(&format!("r@{step}"), &files[step as usize]);
    }
    let packs = place.packs();
    let again = place.gc();
    assert_eq!((again.packs_deleted, again.packs_rewritten, again.bytes_freed), (0, 0, 0));
    assert_eq!(place.packs(), packs);
    assert!(place.store.verify(treering::verify::Depth::Deep).unwrap().is_sound());
}

#[test]
fn thinning_drops_a_component_and_its_bytes() {
    let place = Place::new();
    let files: Vec<PathBuf> = (0..=4).map(|seed| lora(&place, seed)).collect();
    for step in 1..=4 {
        place.save("r", step, &files[step as usize]);
    }
    let before = place.bytes();
    place.policy("r", &["thin optimizer:1"]);
    place.gc();
    assert!(before - place.bytes() > 3 * 250_000, "{before} and {}", place.bytes());
    let mut raw = Vec::new();
    for step in 1..=4 {
        let checkpoint = place.store.checkpoint(&at(&format!("r@{step}"))).unwrap();
        assert_eq!(checkpoint.info().dropped.is_empty(), step == 4);
        for tensor in [floats("model.base", 300_000, 1), floats("model.adapter", 3_000, step)] {
            raw.clear();
            checkpoint.read_tensor(&tensor.name, &mut raw).unwrap();
            assert!(raw == tensor.bytes);
        }
        let moments = checkpoint.read_tensor("optimizer.moments", &mut Vec::new());
        assert_eq!(matches!(moments, Err(treering::Error::Thinned { .. })), step < 4, "{moments:?}");
    }
    place.assert_restores("r@4", &files[4]);
    let packs = place.packs();
    place.gc();
    assert_eq!(place.packs(), packs);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_go() {
    let place = Place::new();
    for step in 1..=4 {
        place.save("r", step, &dense(&place, step));
    }
    place.policy("r", &["keep-last 1"]);
    let before = (place.bytes(), place.packs());
    let report = place.store.gc(&GcOptions { dry_run: true, ..GcOptions::default() }).unwrap();
    assert_eq!((place.bytes(), place.packs()), before);
    let going: Vec<u64> = report.checkpoints.iter().filter(|v| v.goes()).map(|v| v.checkpoint.step).collect();
    assert_eq!(going, [1, 2, 3]);
    let done = place.gc();
    assert_foreseen(&report, &done);
    assert_eq!(done.packs_deleted, 3);
}

/// A plan knows all but what the footers of packs take that are written anew.
#[track_caller]
fn assert_foreseen(planned: &GcReport, done: &GcReport) {
    let beyond = planned.bytes_freed - done.bytes_freed;
    assert!(done.bytes_freed > 0 && (0..2000).contains(&beyond), "{planned:?} {done:?}");
}

#[test]
fn a_dry_run_foresees_what_thinning_and_rewriting_free() {
    let place = Place::new();
    for step in 1..=4 {
        place.save("r", step, &lora(&place, step));
    }
    place.policy("r", &["keep-last 3", "thin optimizer:1"]);
    let planned = place.store.gc(&GcOptions { dry_run: true, ..GcOptions::default() }).unwrap();
    let done = place.gc();
    // The base lies in the pack of the step that goes, and moments in those of steps that are thinned.
    assert!(done.packs_rewritten >= 3, "{done:?}");
    assert_foreseen(&planned, &done);
}

#[test]
fn a_root_of_many_chunks_can_be_thinned() {
    let place = Place::new();
    let tensors = [floats("model.w", 1000, 1), floats("optimizer.m", 1000, 2)];
    let input = place.file("1.safetensors", &tensors);
    // Names alone make a root of 5 MB.
    let mut inputs = Inputs::paths(&[(None, input)], false).unwrap();
    for n in 0..1100 {
        let name = format!("{n}/{}", vec!["x".repeat(255); 15].join("/"));
        inputs = inputs.with_side_bytes(&name, vec![n as u8]).unwrap();
    }
    place.store.save(&inputs, &options("r", 1)).unwrap();
    place.save("r", 2, &place.file("2.safetensors", &tensors));
    place.policy("r", &["thin optimizer:1"]);
    place.gc();
    assert_eq!(place.store.find(&at("r@1")).unwrap().dropped, ["optimizer"]);
    let mut found = Vec::new();
    place.store.checkpoint(&at("r@1")).unwrap().read_tensor("model.w", &mut found).unwrap();
    assert!(found == tensors[0].bytes);
    assert!(place.store.verify(treering::verify::Depth::Deep).unwrap().is_sound());
}

/// Two checkpoints. The first is forgotten, and it alone needs a thirtieth of its pack.
fn little_that_is_dead() -> Place {
    let place = Place::new();
    for step in 1..=2 {
        let tensors = [floats("model.base", 300_000, 9), floats("model.head", 10_000, step)];
        place.save("r", step, &place.file("model.safetensors", &tensors));
    }
    place.forget("r@1");
    place
}

#[test]
fn little_that_is_dead_is_left_where_it_is() {
    let place = little_that_is_dead();
    assert_eq!(place.gc().packs_rewritten, 0);
    let all = GcOptions { repack_above: Some(0.0), ..GcOptions::default() };
    assert_eq!(place.store.gc(&all).unwrap().packs_rewritten, 1);
    place.assert_restores("r@2", &place.path("model.safetensors"));
}

#[test]
fn a_collection_ends_with_its_time_and_not_before() {
    let place = little_that_is_dead();
    let within = |time| GcOptions { repack_above: Some(0.0), max_time: Some(time), ..GcOptions::default() };
    assert_eq!(place.store.gc(&within(Duration::ZERO)).unwrap().packs_rewritten, 0);
    assert_eq!(place.store.gc(&within(Duration::from_secs(3600))).unwrap().packs_rewritten, 1);
    place.assert_restores("r@2", &place.path("model.safetensors"));
}

#[test]
fn a_dead_save_is_aborted_and_its_packs_go() {
    let place = Place::new();
    let one = dense(&place, 1);
    place.save("r", 1, &one);
    let dead = SaveId([7; 16]);
    let pack = PackId { save: dead, index: 0 };
    let staging = place.store.root().join("tmp").join(dead.to_hex());
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("lock"), "").unwrap();
    std::fs::write(staging.join("0"), "half a pack").unwrap();
    let linked = place.store.root().join("packs").join(&dead.to_hex()[..2]).join(pack.to_string());
    std::fs::hard_link(staging.join("0"), &linked).unwrap();
    assert_eq!(place.store.verify(Default::default()).unwrap().foreign, [pack]);
    let report = place.gc();
    assert_eq!(report.dead_saves, 1);
    assert!(!linked.exists() && !staging.exists());
    place.assert_restores("r@1", &one);
    assert_eq!(place.gc().dead_saves, 0);
}

/// Whoever writes an entry holds no lock: what is new may be about to be linked.
#[test]
fn a_file_of_an_entry_stays_for_an_hour() {
    let place = Place::new();
    place.save("r", 1, &dense(&place, 1));
    let writing = place.store.root().join("tmp").join(format!("entry-{}", SaveId([5; 16]).to_hex()));
    std::fs::write(&writing, "half an entry").unwrap();
    place.gc();
    assert!(writing.exists());
    let options = Options { env: hours_later(2), ..Options::default() };
    Store::open(place.store.root(), options).unwrap().gc(&GcOptions::default()).unwrap();
    assert!(!writing.exists());
}

#[test]
fn a_living_save_is_left_alone() {
    let place = Place::new();
    place.save("r", 1, &dense(&place, 1));
    let staging = place.store.root().join("tmp").join(SaveId([9; 16]).to_hex());
    std::fs::create_dir(&staging).unwrap();
    let lock = std::fs::File::create(staging.join("lock")).unwrap();
    lock.lock().unwrap();
    place.gc();
    assert!(staging.exists());
}

#[test]
fn f070_what_a_killed_collection_condemned_is_swept_by_the_next() {
    let place = Place::new();
    for step in 1..=2 {
        place.save("r", step, &dense(&place, step));
    }
    let kept = std::fs::read(&place.packs()[0]).unwrap();
    let name = place.packs()[0].clone();
    let first: SaveId = name.file_name().unwrap().to_str().unwrap()[..32].parse().unwrap();
    let rows = place.store.log(&Filter::default()).unwrap();
    let step = rows.iter().find(|row| row.save == first).unwrap().step;
    place.forget(&format!("r@{step}"));
    let slot = place.store.stats().unwrap().entries;
    place.gc();
    // As if it had died before it deleted: the pack is there, and nothing of what followed the condemn entry is said.
    std::fs::write(&name, kept).unwrap();
    std::fs::remove_file(place.entry(slot + 1)).unwrap();
    place.delete_catalog();
    let reopened = place.reopened();
    assert_eq!(reopened.gc(&GcOptions::default()).unwrap().packs_deleted, 1);
    assert!(!name.exists());
    place.assert_restores(&format!("r@{}", 3 - step), &dense(&place, 3 - step));
}

#[test]
fn a_save_whose_base_is_collected_meanwhile_is_done_again() {
    #[derive(Debug)]
    struct Collector {
        other: treering::Store,
        done: std::sync::atomic::AtomicBool,
    }
    impl treering::monitor::Monitor for Collector {
        fn end(&self) {
            // The tensors are packed, the commit is to come.
            if !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let row = self.other.find(&at("r@1")).unwrap();
                self.other.forget(&[row.slot]).unwrap();
                assert_eq!(self.other.gc(&GcOptions::default()).unwrap().packs_deleted, 1);
            }
        }
    }
    let place = Place::new();
    let one = dense(&place, 1);
    place.save("r", 1, &one);
    let collector = std::sync::Arc::new(Collector { other: place.reopened(), done: Default::default() });
    let inputs = Inputs::paths(&[(None, one.clone())], false).unwrap();
    let report = place.store.with_monitor(collector).save(&inputs, &options("r", 2)).unwrap();
    assert_eq!(report.sizes.unchanged, 0);
    place.assert_restores("r@2", &one);
}

#[test]
fn everything_kept_is_there_after_each_of_many_collections() {
    let place = Place::new();
    place.policy("r", &["keep-last 2", "keep-every 4", "keep-best loss:1", "thin optimizer:2"]);
    place.store.set_mode("r", "loss", treering::format::policy::Mode::Min).unwrap();
    let mut files = Vec::new();
    for step in 0..12u64 {
        let file = lora(&place, step / 2);
        let loss = ((step * 7) % 11) as f64;
        let with = SaveOptions { metrics: metrics(&[("loss", loss)]), ..options("r", step) };
        place.save_with(&file, &with).unwrap();
        files.push(file);
        place.gc();
        for row in place.store.log(&Filter::default()).unwrap() {
            if row.dropped.is_empty() {
                place.assert_restores(&row.address(), &files[row.step as usize]);
            } else {
                let expected: Tensor = floats("model.adapter", 3_000, row.step / 2);
                let mut found = Vec::new();
                place.store.checkpoint(&at(&row.address())).unwrap().read_tensor("model.adapter", &mut found).unwrap();
                assert!(found == expected.bytes);
            }
        }
    }
    let kept: Vec<u64> = place.store.log(&Filter::default()).unwrap().iter().map(|row| row.step).collect();
    assert!([0, 4, 8, 10, 11].iter().all(|step| kept.contains(step)) && kept.len() <= 6, "{kept:?}");
}

#[test]
fn an_inspection_finds_a_pack_that_belongs_to_nobody() {
    let place = Place::new();
    (1..=5).for_each(|step| drop(place.save("r", step, &dense(&place, step))));
    // Another store of the same name goes on, and its pack comes here: as if a power loss had taken all else of a save.
    let other = Place::new();
    std::fs::remove_dir_all(other.store.root()).unwrap();
    copy_folder(place.store.root(), other.store.root());
    let (before, sixth) = (other.packs(), dense(&other, 6));
    let inputs = Inputs::paths(&[(None, sixth)], false).unwrap();
    other.reopened().save(&inputs, &options("r", 6)).unwrap();
    let orphan = other.packs().into_iter().find(|pack| !before.contains(pack)).unwrap();

    let packs = place.store.root().join("packs");
    let folders_read = |hours| {
        let looked = Arc::new(AtomicUsize::new(0));
        let (count, packs) = (looked.clone(), packs.clone());
        let disk = FaultyDisk::new(RealDisk::new(None), move |act, path: &Path| {
            count.fetch_add(usize::from(act == Act::List && path.parent() == Some(&packs)), Ordering::Relaxed);
            Say::Go
        });
        let options = Options { disk: Some(Arc::new(disk)), env: hours_later(hours), ..Options::default() };
        Store::open(place.store.root(), options).unwrap().gc(&GcOptions::default()).unwrap();
        looked.load(Ordering::Relaxed)
    };
    assert_eq!((folders_read(25), folders_read(25)), (256, 0));
    let there = place.store.root().join(orphan.strip_prefix(other.store.root()).unwrap());
    std::fs::copy(orphan, &there).unwrap();
    assert_eq!(folders_read(25), 0);
    assert!(there.exists());
    assert_eq!(folders_read(27), 256);
    assert!(!there.exists());
    assert_eq!(place.packs().len(), 5);
    // A clock that went back is no reason to wait.
    assert_eq!(folders_read(1), 256);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy_folder(&path, &to.join(name))
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
