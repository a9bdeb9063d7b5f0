//! The rules by which a run's checkpoints stay or go, as the log stores them and as people write them.
//!
//! This is the stored form only: what a rule does to the checkpoints of a run is decided in `retain`.
//!
//! # What always holds
//! * An empty policy drops nothing.
//! * A rule has one spelling, its [`Display`](fmt::Display), and parses back from it as itself.
//! * In a policy that was merged there is one rule of a kind: one `keep-last`, one `keep-best` per metric, one `thin`
//!   per component. Only `keep-step` may stand there for several steps.

use std::cmp::Ordering;
use std::fmt;
use std::mem::discriminant;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::duration;
use crate::error::{Error, Result};

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The smaller, as of a loss.
    Min,
    /// The larger, as of an accuracy.
    Max,
}

/// What stays of a run. The keeps form a union; then the thins drop components of what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A checkpoint stays if any of these keeps it. Without any, all stay.
    pub keeps: Vec<Keep>,
    /// What kept checkpoints lose.
    pub thins: Vec<Thin>,
}

/// A rule that keeps checkpoints. No rule can drop what another keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keep {
    /// The newest so many steps.
    Last(u64),
    /// The best so many steps by a metric.
    Best {
        /// The metric.
        metric: String,
        /// How many steps.
        n: u64,
    },
    /// The steps that this divides.
    Every(u64),
    /// One checkpoint for each so many seconds.
    EveryDuration(u64),
    /// What was saved in the last so many seconds.
    Within(u64),
    /// This step.
    Step(u64),
    /// Whatever has a tag.
    Tagged,
}

/// A rule that drops a component of all but some kept checkpoints. Tagged ones always keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thin {
    /// The component.
    pub component: String,
    /// How many of the newest kept steps keep it.
    pub newest: u64,
    /// Whether the best kept steps keep it too.
    pub best: bool,
}

/// Any rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A rule that keeps checkpoints.
    Keep(Keep),
    /// A rule that drops a component of kept checkpoints.
    Thin(Thin),
}

impl Mode {
    /// Orders two values, the better one first. A NaN equals everything: callers leave them out.
    pub fn compare(self, a: f64, b: f64) -> Ordering {
        match self {
            Mode::Min => a.partial_cmp(&b),
            Mode::Max => b.partial_cmp(&a),
        }
        .unwrap_or(Ordering::Equal)
    }
}

impl Policy {
    /// Whether it has no rule at all.
    pub fn is_empty(&self) -> bool {
        self.keeps.is_empty() && self.thins.is_empty()
    }

    /// Its rules in order: first the keeps, then the thins.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + '_ {
        self.keeps.iter().cloned().map(Rule::Keep).chain(self.thins.iter().cloned().map(Rule::Thin))
    }

    /// This policy with the rules of another put in: each takes the place of the rule of its kind, or comes last.
    pub fn merge(&self, other: &Policy) -> Policy {
        self.rules().chain(other.rules()).collect()
    }

    /// This policy without a rule: one named in full (`keep-best val_loss:2`), by its kind and what it is about
    /// (`keep-best val_loss`), or all rules of a kind (`keep-best`).
    pub fn remove(&self, rule_text: &str) -> Result<Policy> {
        let (kind, value) = split(rule_text);
        let whole = rule_text.parse::<Rule>().ok();
        let named = |rule: &Rule| {
            whole.as_ref() == Some(rule) || rule.kind() == kind && (value.is_empty() || rule.subject() == Some(value))
        };
        let left: Policy = self.rules().filter(|rule| !named(rule)).collect();
        if left.rules().count() < self.rules().count() {
            return Ok(left);
        }
        let there = self.rules().map(|rule| rule.to_string()).collect::<Vec<_>>().join(", ");
        Err(Error::invalid(
            format!("no rule {rule_text:?} to remove"),
            if there.is_empty() { "the policy has no rules".into() } else { format!("the rules are: {there}") },
        ))
    }

    fn put(&mut self, rule: Rule) {
        match rule {
            Rule::Keep(keep) => put(&mut self.keeps, keep, Keep::is_about_the_same),
            Rule::Thin(thin) => put(&mut self.thins, thin, |a, b| a.component == b.component),
        }
    }
}

fn put<T>(rules: &mut Vec<T>, rule: T, same: impl Fn(&T, &T) -> bool) {
    match rules.iter_mut().find(|there| same(there, &rule)) {
        Some(there) => *there = rule,
        None => rules.push(rule),
    }
}

impl FromIterator<Rule> for Policy {
    /// Puts the rules in one after the other, so that a later one replaces an earlier one of its kind.
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Policy {
        let mut policy = Policy::default();
        rules.into_iter().for_each(|rule| policy.put(rule));
        policy
    }
}

impl Keep {
    fn is_about_the_same(&self, other: &Keep) -> bool {
        match (self, other) {
            (Keep::Best { metric, .. }, Keep::Best { metric: other, .. }) => metric == other,
            (Keep::Step(step), Keep::Step(other)) => step == other,
            _ => discriminant(self) == discriminant(other),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Keep::Last(_) => "keep-last",
            Keep::Best { .. } => "keep-best",
            Keep::Every(_) => "keep-every",
            Keep::EveryDuration(_) => "keep-every-duration",
            Keep::Within(_) => "keep-within",
            Keep::Step(_) => "keep-step",
            Keep::Tagged => "keep-tagged",
        }
    }
}

impl Rule {
    fn kind(&self) -> &'static str {
        match self {
            Rule::Keep(keep) => keep.kind(),
            Rule::Thin(_) => "thin",
        }
    }

    /// The metric or component that tells it from other rules of its kind.
    fn subject(&self) -> Option<&str> {
        match self {
            Rule::Keep(Keep::Best { metric, .. }) => Some(metric),
            Rule::Thin(thin) => Some(&thin.component),
            Rule::Keep(_) => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Min => "min",
            Mode::Max => "max",
        })
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Keep::Last(n) | Keep::Every(n) | Keep::Step(n) => write!(f, "{kind} {n}"),
            Keep::Best { metric, n } => write!(f, "{kind} {metric}:{n}"),
            Keep::EveryDuration(secs) | Keep::Within(secs) => write!(f, "{kind} {}", duration::words(*secs)),
            Keep::Tagged => f.write_str(kind),
        }
    }
}

impl fmt::Display for Thin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thin {}:{}{}", self.component, self.newest, if self.best { "+best" } else { "" })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Keep(keep) => keep.fmt(f),
            Rule::Thin(thin) => thin.fmt(f),
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mode> {
        match text {
            "min" => Ok(Mode::Min),
            "max" => Ok(Mode::Max),
            _ => Err(Error::invalid(format!("mode {text:?}"), "it is min or max")),
        }
    }
}

impl FromStr for Keep {
    type Err = Error;

    /// Reads `keep-last 3`, also as `--keep-last 3` or `--keep-last=3`.
    fn from_str(text: &str) -> Result<Keep> {
        let (kind, value) = split(text);
        Ok(match kind {
            "keep-last" => Keep::Last(count(text, value)?),
            "keep-best" => {
                let (metric, n) = value.rsplit_once(':').ok_or_else(|| bad(text, "write keep-best METRIC:N"))?;
                Keep::Best { metric: subject(text, metric)?, n: count(text, n)? }
            }
            "keep-every" => Keep::Every(count(text, value)?),
            "keep-every-duration" => Keep::EveryDuration(duration::parse(value)?),
            "keep-within" => Keep::Within(duration::parse(value)?),
            "keep-step" => Keep::Step(number(text, value)?),
            "keep-tagged" if value.is_empty() => Keep::Tagged,
            "keep-tagged" => return Err(bad(text, "keep-tagged takes no value")),
            _ => return Err(unknown(text)),
        })
    }
}

impl FromStr for Thin {
    type Err = Error;

    /// Reads `thin optimizer:2` and `thin optimizer:2+best`, also with `--` in front.
    fn from_str(text: &str) -> Result<Thin> {
        let (kind, value) = split(text);
        if kind != "thin" {
            return Err(unknown(text));
        }
        let (component, newest) = value.rsplit_once(':').ok_or_else(|| bad(text, "write thin COMPONENT:N[+best]"))?;
        let (newest, best) = newest.strip_suffix("+best").map_or((newest, false), |newest| (newest, true));
        Ok(Thin { component: subject(text, component)?, newest: number(text, newest)?, best })
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rule> {
        match split(text).0 {
            "thin" => text.parse().map(Rule::Thin),
            _ => text.parse().map(Rule::Keep),
        }
    }
}

/// The kind of a rule and its value, which may be empty.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let text = text.strip_prefix("--").unwrap_or(text);
    let (kind, value) = text.split_once(|c: char| c.is_whitespace() || c == '=').unwrap_or((text, ""));
    (kind, value.trim())
}

fn number(text: &str, number: &str) -> Result<u64> {
    number.parse().map_err(|_| bad(text, &format!("{number:?} is not a whole number that fits")))
}

/// A number of things to keep. Who writes 0 means something else than a rule that keeps nothing.
fn count(text: &str, value: &str) -> Result<u64> {
    match number(text, value)? {
        0 => Err(bad(text, "it would keep nothing; to drop the rule, remove it")),
        n => Ok(n),
    }
}

fn subject(text: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.trim() != name {
        Err(bad(text, "the name before the colon is missing"))
    } else {
        Ok(name.into())
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::invalid(format!("rule {text:?}"), why)
}

fn unknown(text: &str) -> Error {
    let known = "the rules are keep-last N, keep-best METRIC:N, keep-every N, keep-every-duration D, keep-within D, \
                 keep-step N, keep-tagged and thin COMPONENT:N[+best]";
    bad(text, known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(rules: &[&str]) -> Policy {
        rules.iter().map(|rule| rule.parse::<Rule>().unwrap()).collect()
    }

    fn words(policy: &Policy) -> Vec<String> {
        policy.rules().map(|rule| rule.to_string()).collect()
    }

    #[test]
    fn the_stored_form_stays() {
        let all = policy(&[
            "keep-last 3",
            "keep-best val_loss:2",
            "keep-every 1000",
            "keep-every-duration 2h",
            "keep-within 7d",
            "keep-step 500",
            "keep-tagged",
            "thin optimizer:2+best",
        ]);
        let stored = concat!(
            r#"{"keeps":[{"last":3},{"best":{"metric":"val_loss","n":2}},{"every":1000},{"every_duration":7200},"#,
            r#"{"within":604800},{"step":500},"tagged"],"#,
            r#""thins":[{"component":"optimizer","newest":2,"best":true}]}"#
        );
        assert_eq!(serde_json::to_string(&all).unwrap(), stored);
        assert_eq!(serde_json::from_str::<Policy>(stored).unwrap(), all);
        assert_eq!(serde_json::to_string(&[Mode::Min, Mode::Max]).unwrap(), r#"["min","max"]"#);
    }

    #[test]
    fn a_stored_form_with_anything_unknown_is_refused() {
        for bad in [
            r#"{"keeps":[]}"#,
            r#"{"keeps":[],"thins":[],"more":1}"#,
            r#"{"keeps":[{"first":3}],"thins":[]}"#,
            r#"{"keeps":[{"last":-3}],"thins":[]}"#,
            r#"{"keeps":[{"best":{"metric":"a","n":1,"mode":"min"}}],"thins":[]}"#,
            r#"{"keeps":[],"thins":[{"component":"a","newest":1,"best":true,"more":1}]}"#,
        ] {
            assert!(serde_json::from_str::<Policy>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_are_read_as_people_write_them() {
        for (text, rule) in [
            ("keep-last 3", "keep-last 3"),
            ("--keep-last 3", "keep-last 3"),
            ("--keep-last=3", "keep-last 3"),
            ("  keep-last   3 ", "keep-last 3"),
            ("keep-best eval/loss:5", "keep-best eval/loss:5"),
            ("keep-best a=b:c:5", "keep-best a=b:c:5"),
            ("keep-within 168h", "keep-within 7d"),
            ("keep-step 0", "keep-step 0"),
            ("--keep-tagged", "keep-tagged"),
            ("--thin optimizer:2", "thin optimizer:2"),
            ("thin optimizer:0+best", "thin optimizer:0+best"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), rule, "{text}");
        }
        for bad in [
            "",
            "3",
            "keep",
            "keep-last",
            "keep-last 0",
            "keep-last x",
            "keep-last -1",
            "keep-last 18446744073709551616",
            "keep-best val_loss",
            "keep-best :2",
            "keep-best val_loss:0",
            "keep-every 0",
            "keep-every-duration 0s",
            "keep-every-duration 5",
            "keep-tagged best",
            "thin optimizer",
            "thin :2",
            "thin optimizer:two",
            "thin optimizer:2+worst",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_merge_replaces_rules_of_the_same_kind() {
        let old = policy(&["keep-last 3", "keep-best a:1", "keep-step 5", "thin optimizer:2"]);
        let new = policy(&[
            "keep-best b:1",
            "keep-last 9",
            "keep-best a:4",
            "keep-step 7",
            "keep-step 5",
            "thin optimizer:1+best",
        ]);
        assert_eq!(
            words(&old.merge(&new)),
            ["keep-last 9", "keep-best a:4", "keep-step 5", "keep-best b:1", "keep-step 7", "thin optimizer:1+best"]
        );
        assert_eq!(old.merge(&Policy::default()), old);
        assert_eq!(Policy::default().merge(&old), old);
    }

    #[test]
    fn rules_are_removed_by_their_words_or_their_kind() {
        let all = [
            "keep-last 3",
            "keep-best a:1",
            "keep-best b:2",
            "keep-within 7d",
            "keep-step 5",
            "keep-step 7",
            "thin o:2",
        ];
        let without = |gone: &[&str]| -> Vec<&str> { all.into_iter().filter(|rule| !gone.contains(rule)).collect() };
        for (text, gone) in [
            ("keep-last 3", &["keep-last 3"][..]),
            ("--keep-last", &["keep-last 3"]),
            ("keep-best", &["keep-best a:1", "keep-best b:2"]),
            ("keep-best b", &["keep-best b:2"]),
            ("keep-best b:2", &["keep-best b:2"]),
            ("keep-within 168h", &["keep-within 7d"]),
            ("keep-step 7", &["keep-step 7"]),
            ("thin", &["thin o:2"]),
            ("thin o", &["thin o:2"]),
        ] {
            assert_eq!(words(&policy(&all).remove(text).unwrap()), without(gone), "{text}");
        }
        for bad in
            ["keep-last 4", "keep-every", "keep-best c", "keep-best b:1", "keep-step 6", "thin o:2+best", "last", ""]
        {
            let error = policy(&all).remove(bad).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("keep-best b:2, keep-within 7d"), "{error}");
        }
        let error = Policy::default().remove("keep-last").unwrap_err().to_string();
        assert_eq!(error, "no rule \"keep-last\" to remove: the policy has no rules");
    }

    #[test]
    fn a_mode_puts_the_better_value_first() {
        assert_eq!(Mode::Min.compare(1.0, 2.0), Ordering::Less);
        assert_eq!(Mode::Max.compare(1.0, 2.0), Ordering::Greater);
        assert_eq!(Mode::Min.compare(0.0, -0.0), Ordering::Equal);
        assert_eq!("max".parse::<Mode>().unwrap().to_string(), "max");
        assert!("Max".parse::<Mode>().is_err());
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let name = "[a-z][a-z0-9_/:=+ ]{0,6}[a-z0-9]";
        prop_oneof![
            (1_u64..).prop_map(|n| Rule::Keep(Keep::Last(n))),
            (name, 1_u64..).prop_map(|(metric, n)| Rule::Keep(Keep::Best { metric, n })),
            (1_u64..).prop_map(|n| Rule::Keep(Keep::Every(n))),
            (1_u64..).prop_map(|secs| Rule::Keep(Keep::EveryDuration(secs))),
            (1_u64..).prop_map(|secs| Rule::Keep(Keep::Within(secs))),
            any::<u64>().prop_map(|step| Rule::Keep(Keep::Step(step))),
            Just(Rule::Keep(Keep::Tagged)),
            (name, any::<u64>(), any::<bool>()).prop_map(|(component, newest, best)| Rule::Thin(Thin {
                component,
                newest,
                best
            })),
        ]
    }

    proptest! {
        #[test]
        fn rules_parse_back(rule in any_rule()) {
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule.clone());
            prop_assert_eq!(format!("--{rule}").parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn policies_come_back_from_the_log(rules in prop::collection::vec(any_rule(), 0..8)) {
            let policy: Policy = rules.into_iter().collect();
            let stored = serde_json::to_vec(&policy).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Policy>(&stored).unwrap(), policy);
        }

        #[test]
        fn what_is_merged_in_can_be_removed(rules in prop::collection::vec(any_rule(), 0..8), rule in any_rule()) {
            let policy: Policy = rules.into_iter().collect();
            let merged = policy.merge(&[rule.clone()].into_iter().collect());
            prop_assert!(merged.rules().any(|there| there == rule));
            let removed = merged.remove(&rule.to_string()).unwrap();
            prop_assert!(removed.rules().all(|there| there != rule));
        }
    }
}
