//! What a policy makes of the checkpoints of one run: a pure function, printed by a dry run and carried out by gc.
//!
//! # What always holds
//! * The keeps are a union: no rule can drop what another keeps, so one more rule never drops more.
//! * Without a keep rule every checkpoint stays.
//! * The newest step, the newest that no thin has touched, the best so far of every metric with a direction, and
//!   whatever is leased stay under any policy. The two newest keep all their components.
//! * Superseded checkpoints count for nothing: no rule but `keep-tagged` and a lease keeps them, and they take no place
//!   of a step that is still part of the run.
//! * Planning again on what stayed, at the same time, changes nothing more.

use std::collections::BTreeMap;
use std::fmt;

use crate::env::Time;
use crate::error::{Error, Result};
use crate::format::policy::{Keep, Mode, Policy, Thin};

/// A checkpoint as a policy sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// The place of its commit in the log; tells two saves of one step apart.
    pub slot: u64,
    /// Its step.
    pub step: u64,
    /// When it was saved, by the clock of whoever saved it.
    pub created: Time,
    /// Whether a later save continued from a step below it.
    pub superseded: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its metrics, those that are no number included.
    pub metrics: BTreeMap<String, f64>,
    /// Whether a lease that has not expired protects it.
    pub pinned: bool,
    /// The components that it still has.
    pub components: Vec<String>,
    /// The components that it has lost to a thin rule.
    pub thinned: Vec<String>,
}

/// What to plan for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The run's name, for messages.
    pub run: &'a str,
    /// The checkpoints of the run that are not forgotten, in any order.
    pub candidates: &'a [Candidate],
    /// The run's policy.
    pub policy: &'a Policy,
    /// The directions of the run's metrics, where they are known.
    pub modes: &'a BTreeMap<String, Mode>,
    /// The time now.
    pub now: Time,
}

/// What stays, what goes, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetainPlan {
    /// One for each candidate, by step, then slot.
    pub verdicts: Vec<Verdict>,
}

/// What becomes of one checkpoint. As text: why it stays or goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The place of its commit in the log.
    pub slot: u64,
    /// Its step.
    pub step: u64,
    /// Whether it was superseded, and so out of reach of most rules.
    pub superseded: bool,
    /// What keeps it. If nothing does, it goes.
    pub keeps: Vec<Reason>,
    /// The components that it is to lose now, though it stays.
    pub thin: Vec<String>,
}

/// Why a checkpoint stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the policy keeps it.
    Rule(Keep),
    /// It might be the best: it is newer than the newest step that has this metric, and a best rule waits for it.
    Unscored(String),
    /// It is the newest step.
    Newest,
    /// It is the newest step that still has all its components, from which training can resume.
    NewestComplete,
    /// It is the best step so far by this metric.
    BestSoFar(String),
    /// Somebody holds a lease on it.
    Pinned,
    /// The policy has no rule that keeps, so everything stays.
    NoPolicy,
}

/// Decides what the policy keeps, and what the kept checkpoints lose.
///
/// Fails with [`Error::DirectionUnset`] if a best rule is about a metric whose direction is not known: nothing is
/// dropped on a guess.
pub fn plan(request: &Request<'_>) -> Result<RetainPlan> {
    let mut board = Board::new(request);
    board.keep_by_rules()?;
    board.keep_always();
    board.thin();
    Ok(RetainPlan { verdicts: board.verdicts })
}

impl RetainPlan {
    /// The checkpoints that go.
    pub fn going(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.stays())
    }

    /// The checkpoints that stay and lose components.
    pub fn thinning(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.thin.is_empty())
    }

    /// Whether there is nothing to do.
    pub fn is_noop(&self) -> bool {
        self.going().next().is_none() && self.thinning().next().is_none()
    }
}

impl Verdict {
    /// Whether the checkpoint stays.
    pub fn stays(&self) -> bool {
        !self.keeps.is_empty()
    }

    fn is_best(&self) -> bool {
        self.keeps.iter().any(|reason| matches!(reason, Reason::BestSoFar(_) | Reason::Rule(Keep::Best { .. })))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keeps.split_first() {
            Some((first, rest)) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|reason| write!(f, ", {reason}"))
            }
            None if self.superseded => f.write_str("superseded"),
            None => f.write_str("no rule keeps it"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Rule(keep) => keep.fmt(f),
            Reason::Unscored(metric) => write!(f, "newer than the newest step with {metric}"),
            Reason::Newest => f.write_str("newest"),
            Reason::NewestComplete => f.write_str("newest complete"),
            Reason::BestSoFar(metric) => write!(f, "best {metric} so far"),
            Reason::Pinned => f.write_str("leased"),
            Reason::NoPolicy => f.write_str("no policy"),
        }
    }
}

/// The verdicts while they are being reached. A row is the place of a candidate by step, then slot.
struct Board<'a> {
    request: &'a Request<'a>,
    rows: Vec<&'a Candidate>,
    /// The rows that are not superseded: the run as it is now.
    live: Vec<usize>,
    /// One for each row.
    verdicts: Vec<Verdict>,
}

impl<'a> Board<'a> {
    fn new(request: &'a Request<'a>) -> Board<'a> {
        let mut rows: Vec<&Candidate> = request.candidates.iter().collect();
        rows.sort_by_key(|candidate| (candidate.step, candidate.slot));
        let verdict = |candidate: &&Candidate| Verdict {
            slot: candidate.slot,
            step: candidate.step,
            superseded: candidate.superseded,
            keeps: Vec::new(),
            thin: Vec::new(),
        };
        Board {
            request,
            live: (0..rows.len()).filter(|&row| !rows[row].superseded).collect(),
            verdicts: rows.iter().map(verdict).collect(),
            rows,
        }
    }

    fn keep_by_rules(&mut self) -> Result<()> {
        for rule in &self.request.policy.keeps {
            let kept = self.kept_by(rule)?;
            self.keep(kept, Reason::Rule(rule.clone()));
            if let Keep::Best { metric, .. } = rule {
                self.keep(self.unscored(metric), Reason::Unscored(metric.clone()));
            }
        }
        if self.request.policy.keeps.is_empty() {
            self.keep((0..self.rows.len()).collect(), Reason::NoPolicy);
        }
        Ok(())
    }

    /// What stays under any policy.
    fn keep_always(&mut self) {
        let newest = self.newest();
        self.keep(newest.into_iter().collect(), Reason::Newest);
        let complete = self.newest_complete().filter(|row| Some(*row) != newest);
        self.keep(complete.into_iter().collect(), Reason::NewestComplete);
        for (metric, mode) in self.request.modes {
            self.keep(self.best(metric, *mode, 1), Reason::BestSoFar(metric.clone()));
        }
        self.keep((0..self.rows.len()).filter(|&row| self.rows[row].pinned).collect(), Reason::Pinned);
    }

    fn thin(&mut self) {
        let whole = [self.newest(), self.newest_complete()];
        for rule in &self.request.policy.thins {
            for row in self.stripped_by(rule) {
                let thin = &mut self.verdicts[row].thin;
                if !whole.contains(&Some(row)) && !thin.contains(&rule.component) {
                    thin.push(rule.component.clone());
                }
            }
        }
    }

    fn keep(&mut self, rows: Vec<usize>, reason: Reason) {
        for row in rows {
            self.verdicts[row].keeps.push(reason.clone());
        }
    }

    fn kept_by(&self, rule: &Keep) -> Result<Vec<usize>> {
        let live = |keeps: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
            self.live.iter().copied().filter(|&row| keeps(self.rows[row])).collect()
        };
        Ok(match rule {
            Keep::Last(n) => self.live.iter().rev().take(at_most(*n)).copied().collect(),
            Keep::Best { metric, n } => self.best(metric, self.mode(metric)?, at_most(*n)),
            Keep::Every(n) => live(&|it| it.step.is_multiple_of(*n)),
            Keep::EveryDuration(secs) => self.every_duration(*secs),
            // What lies in the future, since a clock jumped back, is not old.
            Keep::Within(secs) => live(&|it| it.created.plus_secs(*secs) >= self.request.now),
            Keep::Step(step) => live(&|it| it.step == *step),
            // A tag is somebody's word: it holds for superseded checkpoints too.
            Keep::Tagged => (0..self.rows.len()).filter(|&row| !self.rows[row].tags.is_empty()).collect(),
        })
    }

    fn mode(&self, metric: &str) -> Result<Mode> {
        self.request
            .modes
            .get(metric)
            .copied()
            .ok_or_else(|| Error::DirectionUnset { run: self.request.run.into(), metric: metric.into() })
    }

    /// The best `n` rows by a metric; of equal ones the earlier step is better.
    fn best(&self, metric: &str, mode: Mode, n: usize) -> Vec<usize> {
        let score = |row: usize| self.rows[row].metrics.get(metric).copied().filter(|score| !score.is_nan());
        let mut scored: Vec<(f64, usize)> = self.live.iter().filter_map(|&row| Some((score(row)?, row))).collect();
        let better = |a: &(f64, usize), b: &(f64, usize)| mode.compare(a.0, b.0).then(a.1.cmp(&b.1));
        if (1..scored.len()).contains(&n) {
            scored.select_nth_unstable_by(n - 1, better);
        }
        scored.into_iter().take(n).map(|(_, row)| row).collect()
    }

    /// The rows that a metric may yet reach: an evaluation that comes late finds its step. A NaN is a score too.
    fn unscored(&self, metric: &str) -> Vec<usize> {
        let without = |row: &usize| !self.rows[*row].metrics.contains_key(metric);
        self.live.iter().rev().copied().take_while(without).collect()
    }

    /// The earliest row, and from each chosen one on the first that is at least `secs` later. Dropping others changes
    /// nothing about this choice.
    fn every_duration(&self, secs: u64) -> Vec<usize> {
        let mut by_time = self.live.clone();
        by_time.sort_by_key(|&row| self.rows[row].created);
        let mut next = Time(i64::MIN);
        by_time.retain(|&row| {
            let due = self.rows[row].created >= next;
            if due {
                next = self.rows[row].created.plus_secs(secs);
            }
            due
        });
        by_time
    }

    fn newest(&self) -> Option<usize> {
        self.live.last().copied()
    }

    fn newest_complete(&self) -> Option<usize> {
        self.live.iter().rev().copied().find(|&row| self.rows[row].thinned.is_empty())
    }

    /// The kept rows that have the rule's component, except those to which the rule leaves it.
    fn stripped_by(&self, rule: &Thin) -> Vec<usize> {
        let mut places = rule.newest;
        let mut strips = |row: usize| {
            let (candidate, verdict) = (self.rows[row], &self.verdicts[row]);
            if !verdict.stays() || !candidate.components.contains(&rule.component) {
                return false;
            }
            let among_newest = !candidate.superseded && places > 0;
            if among_newest {
                places -= 1;
            }
            let protected = candidate.pinned || !candidate.tags.is_empty() || rule.best && verdict.is_best();
            !among_newest && !protected
        };
        (0..self.rows.len()).rev().filter(|&row| strips(row)).collect()
    }
}

fn at_most(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
