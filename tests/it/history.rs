//! What can be said of the history, and what it says.

use std::time::Duration;

use treering::Error;
use treering::catalog::{CheckpointRow, Filter, Order, Status};
use treering::format::policy::Mode;
use treering::gc::GcOptions;
use treering::retain::Reason;
use treering::save::{OnConflict, SaveOptions, SaveOutcome};

use crate::helpers::{Place, at, floats, metrics, options};

fn steps(place: &Place, filter: &Filter) -> Vec<u64> {
    place.store.log(filter).unwrap().iter().map(|row| row.step).collect()
}

fn file(place: &Place, seed: u64) -> std::path::PathBuf {
    place.file(&format!("{seed}.safetensors"), &[floats("model.a", 3000, seed)])
}

#[test]
fn a_step_that_exists_is_an_error_unless_told_otherwise() {
    let place = Place::new();
    let (one, two) = (file(&place, 1), file(&place, 2));
    place.save("r", 1, &one);
    let refused = place.save_with(&two, &options("r", 1));
    assert!(matches!(refused, Err(Error::StepExists { step: 1, .. })), "{refused:?}");
    place.assert_restores("r@1", &one);

    let skip = SaveOptions { on_conflict: OnConflict::Skip, ..options("r", 1) };
    assert_eq!(place.save_with(&two, &skip).unwrap().outcome, SaveOutcome::Skipped);
    place.assert_restores("r@1", &one);

    let replace = SaveOptions { on_conflict: OnConflict::Replace, ..options("r", 1) };
    assert_eq!(place.save_with(&two, &replace).unwrap().outcome, SaveOutcome::Saved);
    place.assert_restores("r@1", &two);
    assert_eq!(steps(&place, &Filter::default()), [1]);
}

#[test]
fn an_identical_save_again_is_a_success_and_adds_its_metrics() {
    let place = Place::new();
    let one = file(&place, 1);
    let first = place.save("r", 1, &one);
    let scored = SaveOptions { metrics: metrics(&[("loss", 0.5)]), ..options("r", 1) };
    let again = place.save_with(&one, &scored).unwrap();
    assert_eq!((again.outcome, again.slot, again.new_bytes), (SaveOutcome::Identical, first.slot, 0));
    let row = place.store.find(&at("r@1")).unwrap();
    assert_eq!(row.metrics["loss"].0, 0.5);
    assert!(place.packs().len() == 1);
}

#[test]
fn a_step_below_the_latest_is_refused_unless_it_is_backfilled() {
    let place = Place::new();
    place.save("r", 10, &file(&place, 1));
    let five = file(&place, 2);
    let refused = place.save_with(&five, &options("r", 5)).unwrap_err();
    assert!(refused.to_string().contains("below the run's latest, 10"), "{refused}");
    place.save_with(&five, &SaveOptions { backfill: true, ..options("r", 5) }).unwrap();
    place.assert_restores("r@5", &five);
    assert_eq!(place.store.find(&at("r@latest")).unwrap().step, 10);
    assert_eq!(steps(&place, &Filter::default()), [10, 5]);
}

#[test]
fn a_parent_goes_back_and_supersedes_what_came_after_it() {
    let place = Place::new();
    let files: Vec<_> = (0..6).map(|seed| file(&place, seed)).collect();
    for step in 1..=4 {
        place.save("r", step, &files[step as usize]);
    }
    let back = SaveOptions { parent: Some(at("r@2")), ..options("r", 3) };
    let report = place.save_with(&files[5], &back).unwrap();
    assert_eq!(report.superseded, [3, 4]);
    assert_eq!(steps(&place, &Filter::default()), [1, 2, 3]);
    assert_eq!(steps(&place, &Filter { superseded: true, ..Filter::default() }), [1, 2, 3, 4, 3]);
    assert_eq!(place.store.find(&at("r@latest")).unwrap().slot, report.slot.unwrap());
    place.assert_restores("r@3", &files[5]);
    // What was left behind can be read, and comes back.
    place.assert_restores("r@4", &files[4]);
    assert_eq!(place.store.find(&at("r@4")).unwrap().status, Status::Superseded);
    assert_eq!(place.store.undo(&at("r@4")).unwrap().status, Status::Kept);
    assert_eq!(place.store.find(&at("r@latest")).unwrap().step, 4);

    let not_above = SaveOptions { parent: Some(at("r@2")), ..options("r", 2) };
    assert!(place.save_with(&files[0], &not_above).is_err());
}

#[test]
fn best_ignores_nan_and_gives_ties_to_the_earlier_step() {
    let place = Place::new();
    let one = file(&place, 1);
    for (step, loss) in [(1, f64::NAN), (2, 0.5), (3, 0.25), (4, 0.25), (5, 0.75)] {
        place.save_with(&one, &SaveOptions { metrics: metrics(&[("loss", loss)]), ..options("r", step) }).unwrap();
    }
    let asked = place.store.find(&at("r@best:loss"));
    assert!(matches!(asked, Err(Error::DirectionUnset { .. })), "{asked:?}");
    assert_eq!(place.store.find(&at("r@best:loss:max")).unwrap().step, 5);
    place.store.set_mode("r", "loss", Mode::Min).unwrap();
    assert_eq!(place.store.find(&at("r@best:loss")).unwrap().step, 3);
    let all: Vec<u64> = place.store.best("r", "loss", None, 10).unwrap().iter().map(|row| row.step).collect();
    assert_eq!(all, [3, 4, 2, 5]);
    let unknown = place.store.find(&at("r@best:acc:max"));
    assert!(matches!(unknown, Err(Error::CheckpointUnknown { .. })), "{unknown:?}");
}

#[test]
fn a_tag_is_of_one_checkpoint_at_a_time() {
    let place = Place::new();
    let one = file(&place, 1);
    place.save_with(&one, &SaveOptions { tags: vec!["good".into()], ..options("r", 1) }).unwrap();
    place.save("r", 2, &file(&place, 2));
    assert_eq!(place.store.find(&at("r@good")).unwrap().step, 1);
    assert_eq!(place.store.tag(&at("r@2"), &["good".into()], &[]).unwrap().tags, ["good"]);
    assert_eq!(place.store.find(&at("r@good")).unwrap().step, 2);
    assert!(place.store.find(&at("r@1")).unwrap().tags.is_empty());
    place.store.tag(&at("r@2"), &[], &["good".into()]).unwrap();
    assert!(matches!(place.store.find(&at("r@good")), Err(Error::CheckpointUnknown { .. })));
    assert!(place.store.tag(&at("r@2"), &[], &["good".into()]).is_err());
}

#[test]
fn annotations_are_kept() {
    let place = Place::new();
    place.save("r", 1, &file(&place, 1));
    place.store.annotate(&at("r@1"), metrics(&[("loss", 1.5)]), Some("a note".into())).unwrap();
    let row = place.reopened().find(&at("r@1")).unwrap();
    assert_eq!((row.metrics["loss"].0, row.note.as_deref()), (1.5, Some("a note")));
    assert!(place.store.annotate(&at("r@1"), metrics(&[("a b", 1.0)]), None).is_err());
}

#[test]
fn what_was_forgotten_comes_back_until_it_is_collected() {
    let place = Place::new();
    let (one, two) = (file(&place, 1), file(&place, 2));
    place.save("r", 1, &one);
    place.save("r", 2, &two);
    place.forget("r@1");
    let gone = place.store.find(&at("r@1"));
    assert!(matches!(gone, Err(Error::Forgotten { .. })), "{gone:?}");
    place.store.undo(&at("r@1")).unwrap();
    place.assert_restores("r@1", &one);

    place.forget("r@1");
    place.gc();
    let late = place.store.undo(&at("r@1"));
    assert!(matches!(late, Err(Error::CheckpointUnknown { .. })), "{late:?}");
    place.assert_restores("r@2", &two);
}

#[test]
fn an_undo_does_not_take_the_place_of_another() {
    let place = Place::new();
    let two = file(&place, 2);
    place.save("r", 1, &file(&place, 1));
    place.save_with(&two, &SaveOptions { on_conflict: OnConflict::Replace, ..options("r", 1) }).unwrap();
    assert!(place.store.undo(&at("r@1")).is_err());
    place.assert_restores("r@1", &two);
}

#[test]
fn a_fork_shares_what_it_was_forked_from() {
    let place = Place::new();
    let one = file(&place, 1);
    place.save("r", 1, &one);
    let packs = place.packs();
    place.store.fork("f/new", &at("r@1")).unwrap();
    assert_eq!(place.packs(), packs);
    place.assert_restores("f/new@1", &one);
    let taken = place.store.fork("f/new", &at("r@1"));
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    let why = place.store.why(&at("r@1")).unwrap();
    assert_eq!(why.needed_by, ["f/new@1"]);
    // It stands on its own: the first may go.
    place.forget("r@1");
    place.gc();
    place.assert_restores("f/new@1", &one);
}

#[test]
fn a_lease_keeps_what_the_policy_would_drop() {
    let place = Place::new();
    let files: Vec<_> = (0..4).map(|seed| file(&place, seed)).collect();
    for step in 1..=3 {
        place.save("r", step, &files[step as usize]);
    }
    place.policy("r", &["keep-last 1"]);
    place.store.lease(&at("r@1"), Duration::from_secs(3600), "evaluation").unwrap();
    let why = place.store.why(&at("r@1")).unwrap();
    assert!(why.keeps.contains(&Reason::Pinned) && why.leases.len() == 1, "{why:?}");
    assert!(place.store.why(&at("r@2")).unwrap().keeps.is_empty());
    place.gc();
    assert_eq!(steps(&place, &Filter::default()), [1, 3]);
    place.assert_restores("r@1", &files[1]);

    place.store.lease(&at("r@1"), Duration::ZERO, "over at once").unwrap();
    assert_eq!(place.store.why(&at("r@1")).unwrap().leases.len(), 2);
}

#[test]
fn a_lease_that_ended_keeps_nothing() {
    let place = Place::new();
    place.save("r", 1, &file(&place, 1));
    place.save("r", 2, &file(&place, 2));
    place.policy("r", &["keep-last 1"]);
    place.store.lease(&at("r@1"), Duration::ZERO, "over at once").unwrap();
    place.store.gc(&GcOptions::default()).unwrap();
    assert_eq!(steps(&place, &Filter::default()), [2]);
}

#[test]
fn a_follower_sees_each_checkpoint_once() {
    let place = Place::new();
    let (mut next, mut seen) = (0, Vec::new());
    for step in 1..=5 {
        place.save("r", step, &file(&place, step));
        place.save("other", step, &file(&place, 100));
        place.store.annotate(&at(&format!("r@{step}")), metrics(&[("loss", 1.0)]), None).unwrap();
        if step != 3 {
            let (rows, after) = place.store.since("r", next).unwrap();
            seen.extend(rows.iter().map(|row| row.step));
            next = after;
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert!(place.store.since("r", next).unwrap().0.is_empty());
}

#[test]
fn runs_add_up() {
    let place = Place::new();
    let one = file(&place, 1);
    let bytes = std::fs::metadata(&one).unwrap().len();
    place.save("b", 1, &one);
    place.save("b", 2, &one);
    place.save("a", 7, &one);
    let runs = place.store.runs().unwrap();
    let told: Vec<_> = runs.iter().map(|run| (run.run.name.as_str(), run.checkpoints, run.raw_bytes)).collect();
    assert_eq!(told, [("a", 1, bytes), ("b", 2, 2 * bytes)]);
    assert_eq!(runs[1].latest.as_ref().unwrap().step, 2);
    let unknown = place.store.run("c");
    assert!(matches!(&unknown, Err(Error::RunUnknown { near, .. }) if near.len() == 2), "{unknown:?}");
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let one = file(&place, 1);
    let plan = SaveOptions { dry_run: true, ..options("r", 1) };
    let report = place.save_with(&one, &plan).unwrap();
    assert_eq!((report.outcome, report.slot), (SaveOutcome::Planned, None));
    assert!(place.packs().is_empty() && !place.entry(0).exists());
}

#[test]
fn a_zero_keeps_its_sign() {
    let place = Place::new();
    let scored = |value: f64| SaveOptions { metrics: metrics(&[("gain", value)]), ..options("r", 1) };
    place.save_with(&file(&place, 1), &scored(-0.0)).unwrap();
    for store in [&place.store, &place.reopened()] {
        let gain = store.find(&at("r@1")).unwrap().metrics["gain"].0;
        assert!(gain == 0.0 && gain.is_sign_negative(), "{gain}");
    }
    place.store.annotate(&at("r@1"), metrics(&[("gain", 0.0)]), None).unwrap();
    assert!(place.store.find(&at("r@1")).unwrap().metrics["gain"].0.is_sign_positive());
}

#[test]
fn what_comes_back_has_the_tags_that_nobody_took() {
    let place = Place::new();
    let tagged = SaveOptions { tags: vec!["good".into(), "taken".into()], ..options("r", 1) };
    place.save_with(&file(&place, 1), &tagged).unwrap();
    place.save("r", 2, &file(&place, 2));
    place.forget("r@1");
    let gone = place.store.find(&at("r@good"));
    assert!(matches!(gone, Err(Error::Forgotten { .. })), "{gone:?}");
    place.store.tag(&at("r@2"), &["taken".into()], &[]).unwrap();
    assert_eq!(place.store.undo(&at("r@good")).unwrap().tags, ["good"]);
    place.delete_catalog();
    assert_eq!(place.reopened().find(&at("r@good")).unwrap().step, 1);
    assert_eq!(place.reopened().find(&at("r@taken")).unwrap().step, 2);
}

#[test]
fn what_is_leased_is_forgotten_only_by_force() {
    let place = Place::new();
    let slots: Vec<u64> = (1..=2).map(|step| place.save("r", step, &file(&place, step)).slot.unwrap()).collect();
    place.store.lease(&at("r@2"), Duration::ZERO, "over at once").unwrap();
    place.store.lease(&at("r@1"), Duration::from_secs(3600), "evaluation").unwrap();
    let refused = place.store.forget(&slots).unwrap_err();
    let said = refused.to_string();
    assert!(said.starts_with("r@1 is leased until 2") && said.ends_with("for evaluation"), "{said}");
    assert_eq!(steps(&place, &Filter::default()), [1, 2], "all or none");
    let replace = SaveOptions { on_conflict: OnConflict::Replace, backfill: true, ..options("r", 1) };
    let replaced = place.save_with(&file(&place, 9), &replace);
    assert!(matches!(replaced, Err(Error::Leased { .. })), "{replaced:?}");
    assert_eq!(place.store.forget(&slots[1..]).unwrap().len(), 1);
    assert_eq!(place.store.forget_leased(&slots[..1]).unwrap().len(), 1);
}

#[test]
fn training_resumes_from_what_is_complete() {
    let place = Place::new();
    let both = |seed| {
        let tensors = [floats("model.w", 3000, seed), floats("optimizer.m", 3000, 100 + seed)];
        place.file(&format!("both-{seed}.safetensors"), &tensors)
    };
    for step in 1..=3 {
        place.save("r", step, &both(step));
    }
    place.policy("r", &["thin optimizer:1"]);
    place.gc();
    assert_eq!(place.store.find(&at("r@latest:complete")).unwrap().step, 3);
    place.forget("r@3");
    assert_eq!(place.store.find(&at("r@latest")).unwrap().step, 2);
    let none = place.store.find(&at("r@latest:complete"));
    assert!(matches!(none, Err(Error::CheckpointUnknown { .. })), "{none:?}");

    // A fork of a part is a part.
    place.store.fork("s", &at("r@2")).unwrap();
    for store in [&place.store, &place.reopened()] {
        assert_eq!(store.find(&at("s@latest")).unwrap().dropped, ["optimizer"]);
        assert!(store.run("s").unwrap().latest_complete.is_none());
    }
    place.save("s", 5, &both(5));
    place.store.undo(&at("r@3")).unwrap();
    place.store.fork("whole", &at("r@3")).unwrap();
    assert_eq!(place.store.find(&at("whole@latest:complete")).unwrap().step, 3);
    assert_eq!(place.store.run("s").unwrap().latest_complete.unwrap().step, 5);
}

#[test]
fn the_last_of_an_order_are_given() {
    let place = Place::new();
    let one = file(&place, 1);
    for (run, step) in [("b", 1), ("a", 5), ("b", 9), ("a", 7)] {
        place.save(run, step, &one);
    }
    let late = SaveOptions { backfill: true, ..options("b", 4) };
    place.save_with(&file(&place, 2), &late).unwrap();
    let list = |filter: Filter| {
        let rows = place.store.log(&filter).unwrap();
        assert_eq!(
            place.store.count(&Filter { newest: None, ..filter.clone() }).unwrap(),
            5 - 2 * u64::from(filter.run.is_some())
        );
        rows.iter().map(CheckpointRow::address).collect::<Vec<_>>()
    };
    let by_step = Filter { order: Order::Step, ..Filter::default() };
    assert_eq!(list(by_step.clone()), ["a@5", "a@7", "b@1", "b@4", "b@9"]);
    assert_eq!(list(Filter { newest: Some(2), ..by_step.clone() }), ["b@4", "b@9"]);
    assert_eq!(list(Filter { newest: Some(2), run: Some("b".into()), ..by_step }), ["b@4", "b@9"]);
    assert_eq!(list(Filter { newest: Some(2), ..Filter::default() }), ["a@7", "b@4"]);
}
