use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::format::policy::Rule;

/// A checkpoint in a few characters: `STEP[:LOSS][@MINUTE][FLAGS]`, saved at the minute of its step unless said.
/// Flags: `s` superseded, `t` tagged, `l` leased, `o` without its optimizer.
fn candidate(slot: usize, text: &str) -> Candidate {
    let (text, flags) = text.split_at(text.find(['s', 't', 'l', 'o']).unwrap_or(text.len()));
    let (text, minute) = text.split_once('@').map_or((text, None), |(text, minute)| (text, Some(minute)));
    let (step, loss) = text.split_once(':').map_or((text, None), |(step, loss)| (step, Some(loss)));
    let (whole, lost) = (["model", "optimizer"], flags.contains('o'));
    Candidate {
        slot: slot as u64,
        step: step.parse().unwrap(),
        created: minute_of(minute.unwrap_or(step)),
        superseded: flags.contains('s'),
        tags: flags.contains('t').then(|| "release".to_string()).into_iter().collect(),
        metrics: loss.map(|loss| ("loss".to_string(), loss.parse().unwrap())).into_iter().collect(),
        pinned: flags.contains('l'),
        components: whole.iter().take(if lost { 1 } else { 2 }).map(|it| it.to_string()).collect(),
        thinned: whole.iter().skip(if lost { 1 } else { 2 }).map(|it| it.to_string()).collect(),
    }
}

fn candidates(texts: &str) -> Vec<Candidate> {
    texts.split_whitespace().enumerate().map(|(slot, text)| candidate(slot, text)).collect()
}

fn minute_of(text: &str) -> Time {
    Time(text.parse::<i64>().unwrap() * 60_000_000_000)
}

/// Rules between commas.
fn policy(rules: &str) -> Policy {
    rules.split(", ").filter(|rule| !rule.is_empty()).map(|rule| rule.parse::<Rule>().unwrap()).collect()
}

fn modes(of: &[(&str, Mode)]) -> BTreeMap<String, Mode> {
    of.iter().map(|(metric, mode)| (metric.to_string(), *mode)).collect()
}

fn planned(candidates: &[Candidate], policy: &Policy, modes: &BTreeMap<String, Mode>, now: Time) -> RetainPlan {
    plan(&Request { run: "run", candidates, policy, modes, now }).unwrap()
}

/// The steps that stay, with `-` where the optimizer goes now.
fn stays(plan: &RetainPlan) -> String {
    let stay = plan.verdicts.iter().filter(|verdict| verdict.stays());
    stay.map(|it| format!("{}{}", it.step, if it.thin.is_empty() { "" } else { "-" })).collect::<Vec<_>>().join(" ")
}

/// Each case: what it shows, the checkpoints, the rules, what stays. It is minute 100; a small loss is better.
#[track_caller]
fn assert_cases(cases: &[[&str; 4]]) {
    for [shows, texts, rules, stay] in cases {
        let plan = planned(&candidates(texts), &policy(rules), &modes(&[("loss", Mode::Min)]), minute_of("100"));
        assert_eq!(stays(&plan), *stay, "{shows}: {texts} under {rules:?}");
    }
}

#[test]
fn each_rule_keeps_what_it_says() {
    assert_cases(&[
        ["no policy, no loss", "1 2s 3", "", "1 2 3"],
        ["nothing saved, nothing kept", "", "keep-last 1", ""],
        ["the last", "1 2 3 4", "keep-last 2", "3 4"],
        ["one was asked for, one stays", "1 2 3 4", "keep-last 1", "4"],
        ["more than there are", "1 2", "keep-last 18446744073709551615", "1 2"],
        ["the order of saving is not the order of steps", "4 1 3 2", "keep-last 2", "3 4"],
        ["two saves of one step: the later one is the newest", "5@9 5@1", "keep-last 1", "5"],
        ["the best, and the newest", "1:3 2:1 3:2 4:5", "keep-best loss:2", "2 3 4"],
        ["every", "0 5 10 12 20 21", "keep-every 10", "0 10 20 21"],
        ["every duration", "0 4 8 12 16 20 24 25", "keep-every-duration 10m", "0 12 24 25"],
        ["every duration, from the first on", "3 12 13 14 23", "keep-every-duration 10m", "3 13 23"],
        ["within", "10 94 95 96 99", "keep-within 5m", "95 96 99"],
        ["nothing within: the newest all the same", "10 20", "keep-within 5m", "20"],
        ["named", "1 2 3 4", "keep-step 2, keep-step 9", "2 4"],
        ["tagged", "1 2t 3 4", "keep-tagged", "2 4"],
        ["a tag alone keeps nothing", "1 2t 3 4", "keep-last 1", "4"],
        ["leased", "1 2l 3 4", "keep-last 1", "2 4"],
        ["a union", "0 1:1 2 3:9 4t 5 6:9 7:9", "keep-last 2, keep-best loss:1, keep-tagged", "1 4 6 7"],
    ]);
}

#[test]
fn the_newest_and_the_best_stay_whatever_is_asked() {
    assert_cases(&[
        ["the best does not evict the newest", "1:1 2:2 3:3", "keep-best loss:1", "1 3"],
        ["the newest does not evict the best", "1:1 2:2 3:3", "keep-last 1", "1 3"],
        ["no rule for the metric: its best stays", "1:2 2:1 3:3", "keep-every 100", "2 3"],
        ["every does not evict the newest", "10 20 21", "keep-every 10", "10 20 21"],
        ["a partial newest: also the newest to resume from", "1 2 3o 4o", "keep-last 1", "2 4"],
        ["nothing is complete", "1o 2o", "keep-last 1", "2"],
    ]);
}

#[test]
fn scores_come_late_tie_and_fail() {
    assert_cases(&[
        ["NaN is never best", "1:2 2:NaN 3:3", "keep-best loss:2", "1 3"],
        ["nothing but NaN", "1:NaN 2:NaN 3:NaN", "keep-best loss:2", "3"],
        ["infinity is a number", "1:inf 2:5 3:6 4:7", "keep-best loss:1", "2 4"],
        ["minus infinity too", "1:-inf 2:5 3:6", "keep-best loss:1", "1 3"],
        ["of equals the earlier", "1:1 2:1 3:1 4:1", "keep-best loss:2", "1 2 4"],
        ["the zeros are equal", "1:0 2:-0 3:1", "keep-best loss:1", "1 3"],
        ["more places than scores", "1:1 2 3:1 4:2", "keep-best loss:9", "1 3 4"],
        ["awaiting evaluation", "1:1 2 3:2 4 5 6", "keep-best loss:1", "1 4 5 6"],
        ["nothing scored yet", "1 2 3", "keep-best loss:1", "1 2 3"],
        ["a NaN is a score: what came before it waits no more", "1:1 2 3:NaN 4", "keep-best loss:1", "1 4"],
        ["only a best rule waits", "1:1 2 3", "keep-last 1", "1 3"],
    ]);
}

#[test]
fn superseded_steps_count_for_nothing() {
    assert_cases(&[
        ["not the newest, not the last", "1 2 3 8s 9s", "keep-last 2", "2 3"],
        ["not the best", "1:5 2:6 3:1s", "keep-best loss:1", "1 2"],
        ["not the newest scored", "1:5 2 3:1s", "keep-best loss:1", "1 2"],
        ["not awaiting evaluation", "1:5 2:6 3s", "keep-best loss:1", "1 2"],
        [
            "not by number, age or name",
            "1 10s",
            "keep-every 10, keep-within 7d, keep-step 10, keep-every-duration 1m",
            "1",
        ],
        ["but by a tag", "1 8st 9s", "keep-tagged", "1 8"],
        ["or a lease", "1 8sl 9s", "keep-last 1", "1 8"],
        ["all of them are", "1s 2s", "keep-last 1", ""],
        ["no rule: they can still be brought back", "1s 2s", "thin optimizer:1", "1- 2-"],
    ]);
}

#[test]
fn clocks_jump() {
    assert_cases(&[
        ["what is from the future is young", "1@10 2@500 3@20 4@30", "keep-within 5m", "2 4"],
        ["saved in another order than the steps", "1@30 2@0 3@10 4@40", "keep-every-duration 30m", "1 2 4"],
        ["two at once: the earlier step", "1@0 2@0 3@0 4@0", "keep-every-duration 1m", "1 4"],
    ]);
    let ends: Vec<Candidate> = [i64::MIN, 0, i64::MAX]
        .into_iter()
        .zip(1..)
        .map(|(nanos, step)| Candidate { step, created: Time(nanos), ..Candidate::default() })
        .collect();
    let rules = policy("keep-within 18446744073709551615s, keep-every-duration 18446744073709551615s");
    for now in [i64::MIN, 0, i64::MAX] {
        assert!(planned(&ends, &rules, &modes(&[]), Time(now)).verdicts[2].stays());
    }
}

#[test]
fn thins_take_components_from_what_is_kept() {
    assert_cases(&[
        ["the newest two keep it", "1 2 3 4", "thin optimizer:2", "1- 2- 3 4"],
        ["of kept steps only", "1 2 3 4", "keep-every 2, thin optimizer:1", "2- 4"],
        ["those without it take no place", "1 2 3o 4", "thin optimizer:2", "1- 2 3 4"],
        ["the newest keeps it whatever is asked", "1 2", "thin optimizer:0", "1- 2"],
        ["the newest to resume from keeps it", "1 2 3o 4o", "thin optimizer:0", "1- 2 3 4"],
        ["tagged and leased keep it", "1t 2l 3 4 5", "thin optimizer:1", "1 2 3- 4- 5"],
        ["best loses it", "1:1 2:2 3:3", "keep-best loss:2, thin optimizer:1", "1- 2- 3"],
        ["unless said", "1:1 2:2 3:3", "keep-best loss:2, thin optimizer:1+best", "1 2 3"],
        ["the best so far counts as best", "1:1 2:2 3:3", "thin optimizer:1+best", "1 2- 3"],
        ["superseded take no place", "1 2 3 9s", "thin optimizer:2", "1- 2 3 9-"],
        ["a component that nobody has", "1 2 3", "thin ema:1", "1 2 3"],
    ]);
    let both = planned(&candidates("1 2 3"), &policy("thin optimizer:1, thin model:2"), &modes(&[]), minute_of("9"));
    let thin: Vec<_> = both.verdicts.iter().map(|it| it.thin.join(" ")).collect();
    assert_eq!(thin, ["optimizer model", "optimizer", ""]);
    assert_eq!(both.thinning().count(), 2);
}

#[test]
fn a_larger_metric_can_be_better() {
    let texts = candidates("1:3 2:9 3:9 4:1");
    let best = |mode| stays(&planned(&texts, &policy("keep-best loss:1"), &modes(&[("loss", mode)]), minute_of("9")));
    assert_eq!(best(Mode::Max), "2 4");
    assert_eq!(best(Mode::Min), "4");
}

#[test]
fn nothing_goes_on_a_guess_which_way_a_metric_is_better() {
    let (candidates, policy) = (candidates("1:1 2:2"), policy("keep-last 1, keep-best loss:1"));
    let modes = modes(&[("accuracy", Mode::Max)]);
    let error =
        plan(&Request { run: "pretrain", candidates: &candidates, policy: &policy, modes: &modes, now: Time(0) });
    let Err(Error::DirectionUnset { run, metric }) = error else { panic!("{error:?}") };
    assert_eq!((run.as_str(), metric.as_str()), ("pretrain", "loss"));
}

#[test]
fn every_verdict_says_why() {
    let why = |texts: &str, rules: &str| -> Vec<String> {
        let plan = planned(&candidates(texts), &policy(rules), &modes(&[("loss", Mode::Min)]), minute_of("100"));
        plan.verdicts.iter().map(|verdict| format!("{}: {verdict}", verdict.step)).collect()
    };
    assert_eq!(
        why("1:1 2l 3:9 4s 5t 6 7o", "keep-last 1, keep-best loss:1, keep-tagged"),
        [
            "1: keep-best loss:1, best loss so far",
            "2: leased",
            "3: no rule keeps it",
            "4: superseded",
            "5: newer than the newest step with loss, keep-tagged",
            "6: newer than the newest step with loss, newest complete",
            "7: keep-last 1, newer than the newest step with loss, newest",
        ]
    );
    assert_eq!(why("1 2", ""), ["1: no policy", "2: no policy, newest"]);
}

#[test]
fn verdicts_are_by_step_then_slot() {
    let plan = planned(&candidates("7 5s 5 1"), &policy("keep-last 1"), &modes(&[]), minute_of("9"));
    let order: Vec<_> = plan.verdicts.iter().map(|it| (it.step, it.slot)).collect();
    assert_eq!(order, [(1, 3), (5, 1), (5, 2), (7, 0)]);
    assert_eq!(plan.going().count(), 3);
    assert!(!plan.is_noop());
    assert!(planned(&candidates("1"), &policy("keep-last 1"), &modes(&[]), minute_of("9")).is_noop());
}

#[test]
fn a_hundred_thousand_checkpoints_are_planned_at_once() {
    // Steps that only ever go up, with a loss that only ever goes down, and the reverse.
    let many = |up: bool| -> Vec<Candidate> {
        let text = |i: i64| format!("{i}:{}", if up { 100_000 - i } else { i });
        (0..100_000).map(|i| candidate(i as usize, &text(if up { i } else { 99_999 - i }))).collect()
    };
    let rules = policy(
        "keep-last 50000, keep-best loss:50000, keep-every 10, keep-every-duration 2h, keep-within 7d, keep-step 5, \
         keep-tagged, thin optimizer:1000+best",
    );
    for candidates in [many(true), many(false)] {
        let modes = modes(&[("loss", Mode::Min)]);
        let start = Instant::now();
        let plan = planned(&candidates, &rules, &modes, minute_of("100000"));
        let took = start.elapsed();
        println!("{took:?}");
        assert_eq!(plan.verdicts.len(), 100_000);
        // Many times what it takes, and far less than any loop within a loop would.
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// What is left after a plan was carried out.
fn survivors(candidates: &[Candidate], plan: &RetainPlan) -> Vec<Candidate> {
    let verdicts: BTreeMap<u64, &Verdict> = plan.verdicts.iter().map(|it| (it.slot, it)).collect();
    let after = |candidate: &Candidate| {
        let verdict = verdicts[&candidate.slot];
        let mut after = candidate.clone();
        after.components.retain(|it| !verdict.thin.contains(it));
        after.thinned.extend(verdict.thin.iter().cloned());
        verdict.stays().then_some(after)
    };
    candidates.iter().filter_map(after).collect()
}

fn slots(plan: &RetainPlan) -> Vec<u64> {
    plan.verdicts.iter().filter(|it| it.stays()).map(|it| it.slot).collect()
}

fn any_history() -> impl Strategy<Value = Vec<Candidate>> {
    let score = prop_oneof![Just(f64::NAN), Just(0.0), Just(-0.0), (0..6_i32).prop_map(f64::from)];
    let metrics = prop::collection::btree_map("loss|accuracy", score, 0..3);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.15), prop::bool::weighted(0.1), 0..4_u8);
    let one = (0..40_u64, 0..60_i64, flags, metrics);
    let one = one.prop_map(|(step, minute, (superseded, tagged, pinned, lost), metrics)| {
        let whole = ["model", "optimizer"].map(String::from).into_iter();
        let (thinned, components) = whole.partition(|it| lost == 0 && it == "optimizer" || lost == 1 && step % 7 == 0);
        let tags = if tagged { vec!["tag".to_string()] } else { vec![] };
        let created = Time(minute * 60_000_000_000);
        Candidate { slot: 0, step, created, superseded, tags, metrics, pinned, components, thinned }
    });
    prop::collection::vec(one, 0..24).prop_map(|mut all| {
        all.iter_mut().zip(0..).for_each(|(candidate, slot)| candidate.slot = slot);
        all
    })
}

fn any_keep() -> impl Strategy<Value = Keep> {
    prop_oneof![
        (1..6_u64).prop_map(Keep::Last),
        ("loss|accuracy", 1..5_u64).prop_map(|(metric, n)| Keep::Best { metric, n }),
        (1..12_u64).prop_map(Keep::Every),
        (1..1800_u64).prop_map(Keep::EveryDuration),
        (1..1800_u64).prop_map(Keep::Within),
        (0..40_u64).prop_map(Keep::Step),
        Just(Keep::Tagged),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let thin = ("model|optimizer", 0..5_u64, any::<bool>());
    let thin = thin.prop_map(|(component, newest, best)| Thin { component, newest, best });
    let rules = (prop::collection::vec(any_keep(), 0..4), prop::collection::vec(thin, 0..3));
    // Not merged: a log may hold two rules of a kind, and the plan must bear it.
    rules.prop_map(|(keeps, thins)| Policy { keeps, thins })
}

fn both_modes() -> BTreeMap<String, Mode> {
    modes(&[("loss", Mode::Min), ("accuracy", Mode::Max)])
}

fn now() -> Time {
    minute_of("50")
}

proptest! {
    #[test]
    fn planning_again_changes_nothing(history in any_history(), policy in any_policy()) {
        let first = planned(&history, &policy, &both_modes(), now());
        let left = survivors(&history, &first);
        let second = planned(&left, &policy, &both_modes(), now());
        prop_assert!(second.is_noop(), "{:?}\n{:?}", first, second);
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(history in any_history(), policy in any_policy()) {
        let mut other = history.clone();
        other.reverse();
        prop_assert_eq!(
            planned(&history, &policy, &both_modes(), now()),
            planned(&other, &policy, &both_modes(), now())
        );
    }

    #[test]
    fn the_newest_and_the_best_always_stay(history in any_history(), policy in any_policy()) {
        let plan = planned(&history, &policy, &both_modes(), now());
        let (kept, left) = (slots(&plan), survivors(&history, &plan));
        let live = || history.iter().filter(|it| !it.superseded);
        let whole = |it: &Candidate| left.iter().any(|left| left.slot == it.slot && left.components == it.components);
        if let Some(newest) = live().max_by_key(|it| (it.step, it.slot)) {
            prop_assert!(whole(newest), "the newest is whole");
        }
        if let Some(complete) = live().filter(|it| it.thinned.is_empty()).max_by_key(|it| (it.step, it.slot)) {
            prop_assert!(whole(complete), "there is a step to resume from");
        }
        let scores = |metric: &str| -> Vec<f64> {
            live().filter_map(|it| it.metrics.get(metric).copied()).filter(|it| !it.is_nan()).collect()
        };
        let stays = |metric: &str, best: f64| {
            live().any(|it| it.metrics.get(metric) == Some(&best) && kept.contains(&it.slot))
        };
        if let Some(best) = scores("loss").into_iter().reduce(f64::min) {
            prop_assert!(stays("loss", best));
        }
        if let Some(best) = scores("accuracy").into_iter().reduce(f64::max) {
            prop_assert!(stays("accuracy", best));
        }
        prop_assert!(history.iter().filter(|it| it.pinned).all(whole), "a lease holds all of it");
    }

    #[test]
    fn one_more_rule_never_drops_more(history in any_history(), policy in any_policy(), rule in any_keep()) {
        prop_assume!(!policy.keeps.is_empty());
        let more = Policy { keeps: [policy.keeps.clone(), vec![rule]].concat(), thins: policy.thins.clone() };
        let kept = slots(&planned(&history, &more, &both_modes(), now()));
        for slot in slots(&planned(&history, &policy, &both_modes(), now())) {
            prop_assert!(kept.contains(&slot));
        }
    }

    #[test]
    fn a_larger_number_never_drops_more(history in any_history(), rule in any_keep(), by in 1..4_u64) {
        let larger = match rule.clone() {
            Keep::Last(n) => Keep::Last(n + by),
            Keep::Best { metric, n } => Keep::Best { metric, n: n + by },
            Keep::Within(secs) => Keep::Within(secs + 60 * by),
            // Who names what is kept, or how far apart, promises no such order.
            same => same,
        };
        let of = |rule| slots(&planned(&history, &Policy { keeps: vec![rule], thins: vec![] }, &both_modes(), now()));
        let kept = of(larger);
        for slot in of(rule) {
            prop_assert!(kept.contains(&slot));
        }
    }

    #[test]
    fn a_thin_decides_nothing_about_steps(history in any_history(), policy in any_policy()) {
        let without = Policy { keeps: policy.keeps.clone(), thins: vec![] };
        let with = planned(&history, &policy, &both_modes(), now());
        prop_assert_eq!(slots(&with), slots(&planned(&history, &without, &both_modes(), now())));
        for verdict in with.thinning() {
            prop_assert!(verdict.stays());
        }
    }

    /// Collecting after each save ends where one collection at the end does.
    #[test]
    fn it_does_not_matter_how_often_one_collects(losses in prop::collection::vec(0..9_u32, 1..30), rule in any_keep()) {
        let policy = Policy { keeps: vec![rule], thins: vec![] };
        let all: Vec<Candidate> =
            losses.iter().enumerate().map(|(i, loss)| candidate(i, &format!("{i}:{loss}"))).collect();
        let mut left = Vec::new();
        for saved in &all {
            left.push(saved.clone());
            let plan = planned(&left, &policy, &both_modes(), saved.created);
            left = survivors(&left, &plan);
        }
        let at_once = survivors(&all, &planned(&all, &policy, &both_modes(), all[all.len() - 1].created));
        prop_assert_eq!(left, at_once);
    }
}
