//! Several writers on one store, each with a handle of its own.

use std::sync::Barrier;

use treering::Error;
use treering::catalog::Filter;
use treering::save::{Inputs, SaveOutcome, SaveReport};

use crate::helpers::{Place, floats, options};

/// Saves each file as the same step, all at once.
fn race(place: &Place, files: &[std::path::PathBuf]) -> Vec<treering::Result<SaveReport>> {
    let barrier = Barrier::new(files.len());
    std::thread::scope(|scope| {
        let savers: Vec<_> = files
            .iter()
            .map(|file| {
                let (store, barrier) = (place.reopened(), &barrier);
                scope.spawn(move || {
                    let inputs = Inputs::paths(&[(None, file.clone())], false).unwrap();
                    barrier.wait();
                    store.save(&inputs, &options("r", 1))
                })
            })
            .collect();
        savers.into_iter().map(|saver| saver.join().unwrap()).collect()
    })
}

#[test]
fn f034_many_writers_make_one_history_without_gaps() {
    let place = Place::new();
    let file = |writer: u64, step: u64| floats("model.a", 2000, 100 * writer + step);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (store, place) = (place.reopened(), &place);
            scope.spawn(move || {
                for step in 0..10 {
                    let path = place.file(&format!("{writer}-{step}.safetensors"), &[file(writer, step)]);
                    let inputs = Inputs::paths(&[(None, path)], false).unwrap();
                    store.save(&inputs, &options(&format!("w{writer}"), step)).unwrap();
                }
            });
        }
    });
    let store = place.reopened();
    let slots: Vec<u64> = store.log(&Filter::default()).unwrap().iter().map(|row| row.slot).collect();
    assert_eq!(slots, (0..80).collect::<Vec<_>>());
    for writer in 0..8 {
        for step in 0..10 {
            place.assert_restores(&format!("w{writer}@{step}"), &place.path(&format!("{writer}-{step}.safetensors")));
        }
    }
}

#[test]
fn f033_of_two_savers_of_one_step_one_wins() {
    for _ in 0..5 {
        let place = Place::new();
        let files = [1, 2].map(|n| place.file(&format!("{n}.safetensors"), &[floats("model.a", 2000, n)]));
        let results = race(&place, &files);
        let winner = results.iter().position(|result| result.is_ok()).unwrap();
        let loser = &results[1 - winner];
        assert!(matches!(loser, Err(Error::StepExists { .. })), "{loser:?}");
        place.assert_restores("r@1", &files[winner]);
    }
}

#[test]
fn savers_of_the_same_all_succeed() {
    for _ in 0..5 {
        let place = Place::new();
        let file = place.file("1.safetensors", &[floats("model.a", 2000, 1)]);
        let results = race(&place, &vec![file.clone(); 3]);
        let outcomes: Vec<SaveOutcome> = results.into_iter().map(|result| result.unwrap().outcome).collect();
        assert_eq!(outcomes.iter().filter(|&&outcome| outcome == SaveOutcome::Saved).count(), 1, "{outcomes:?}");
        place.assert_restores("r@1", &file);
    }
}
