//! `RUN@STEP` and its kin: how people name a checkpoint.

use std::fmt;
use std::str::FromStr;

use super::Store;
use crate::catalog::{CheckpointRow, Filter, RunRow, Status};
use crate::error::{Error, Result};
use crate::format::names;
use crate::format::policy::Mode;

/// The name of a checkpoint: a run and a point in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The run.
    pub run: String,
    /// Which of its checkpoints.
    pub point: Point,
}

/// A point in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// The checkpoint of this step.
    Step(u64),
    /// The highest step that was not superseded: `latest`.
    Latest,
    /// The highest of these of which no component was dropped, from which training can resume: `latest:complete`.
    Complete,
    /// The best by a metric: `best:METRIC`, `best:METRIC:max`.
    Best {
        /// The metric.
        metric: String,
        /// Its direction, if it is not to be the run's.
        mode: Option<Mode>,
    },
    /// The checkpoint with this tag.
    Tag(String),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        let bad = |why: &str| Error::invalid(format!("address {:?}", names::printable(text)), why);
        let (run, point) =
            text.split_once('@').ok_or_else(|| bad("write RUN@STEP, RUN@latest, RUN@best:METRIC or RUN@TAG"))?;
        names::check_run(run)?;
        let point = match point {
            "latest" => Point::Latest,
            "latest:complete" => Point::Complete,
            _ if point.starts_with("latest:") => return Err(bad("write RUN@latest or RUN@latest:complete")),
            "best" => return Err(bad("write RUN@best:METRIC")),
            _ if point.starts_with("best:") => best(&point[5..])
                .ok_or_else(|| bad("write RUN@best:METRIC, with :min or :max behind it if you like"))?,
            _ if !point.is_empty() && point.bytes().all(|b| b.is_ascii_digit()) => {
                Point::Step(point.parse().map_err(|_| bad("a step is a number below 2^64"))?)
            }
            tag => {
                names::check_tag(tag)?;
                Point::Tag(tag.to_string())
            }
        };
        Ok(Address { run: run.to_string(), point })
    }
}

fn best(text: &str) -> Option<Point> {
    let (metric, mode) = match text.rsplit_once(':') {
        None => (text, None),
        Some((metric, "min")) => (metric, Some(Mode::Min)),
        Some((metric, "max")) => (metric, Some(Mode::Max)),
        Some(_) => return None,
    };
    names::check_metric(metric).ok()?;
    Some(Point::Best { metric: metric.to_string(), mode })
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Step(step) => write!(f, "{step}"),
            Point::Latest => f.write_str("latest"),
            Point::Complete => f.write_str("latest:complete"),
            Point::Best { metric, mode: None } => write!(f, "best:{metric}"),
            Point::Best { metric, mode: Some(Mode::Min) } => write!(f, "best:{metric}:min"),
            Point::Best { metric, mode: Some(Mode::Max) } => write!(f, "best:{metric}:max"),
            Point::Tag(tag) => f.write_str(tag),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.run, self.point)
    }
}

impl Store {
    /// The run of this name, or an error that names others.
    pub(crate) fn run_row(&self, name: &str) -> Result<RunRow> {
        let catalog = self.catalog();
        match catalog.run(name)? {
            Some(run) => Ok(run),
            None => {
                let near =
                    catalog.runs()?.into_iter().map(|run| names::printable(&run.name).into_owned()).take(10).collect();
                Err(Error::RunUnknown { run: names::printable(name).into_owned(), near })
            }
        }
    }

    /// The direction of a metric: `mode` if it is given, else what the run's settings say.
    pub(crate) fn mode_of(&self, run: &RunRow, metric: &str, mode: Option<Mode>) -> Result<Mode> {
        let known = self.catalog().modes(run)?.get(metric).copied();
        mode.or(known).ok_or_else(|| Error::DirectionUnset { run: run.name.clone(), metric: metric.into() })
    }

    /// The checkpoint of an address.
    pub(crate) fn resolve(&self, address: &Address) -> Result<CheckpointRow> {
        self.refresh()?;
        let run = self.run_row(&address.run)?;
        let found = match &address.point {
            Point::Step(step) => self.catalog().checkpoint_at(&run, *step)?,
            Point::Latest => self.catalog().latest(&run, false)?,
            Point::Complete => self.catalog().latest(&run, true)?,
            Point::Tag(tag) => self.catalog().tagged(&run, tag)?.filter(|row| row.status != Status::Forgotten),
            Point::Best { metric, mode } => {
                let mode = self.mode_of(&run, metric, *mode)?;
                self.catalog().best(&run, metric, mode, 1)?.pop()
            }
        };
        match found {
            Some(checkpoint) => Ok(checkpoint),
            None => Err(self.not_found(&run, address)?),
        }
    }

    fn not_found(&self, run: &RunRow, address: &Address) -> Result<Error> {
        let catalog = self.catalog();
        let near = match &address.point {
            Point::Step(step) => {
                if catalog.forgotten_at(run, *step)?.is_some() {
                    return Ok(Error::Forgotten { checkpoint: address.to_string() });
                }
                let filter = Filter { run: Some(run.name.clone()), ..Filter::default() };
                let nearest =
                    catalog.checkpoints(&filter)?.into_iter().map(|c| c.step).min_by_key(|&s| s.abs_diff(*step));
                nearest.map_or("the run has no checkpoints".into(), |step| format!("nearest: {}@{step}", run.name))
            }
            Point::Complete if catalog.latest(run, false)?.is_some() => {
                "of every checkpoint a component was dropped".into()
            }
            Point::Latest | Point::Complete => "the run has no checkpoints".into(),
            Point::Best { .. } => {
                let known = catalog.metric_names(run)?;
                if known.is_empty() {
                    "the run has no metrics".into()
                } else {
                    format!("metrics here: {}", known.join(", "))
                }
            }
            Point::Tag(tag) => {
                if catalog.tagged(run, tag)?.is_some() {
                    return Ok(Error::Forgotten { checkpoint: address.to_string() });
                }
                let filter = Filter { run: Some(run.name.clone()), ..Filter::default() };
                let tags: Vec<String> =
                    catalog.checkpoints(&filter)?.into_iter().flat_map(|c| c.tags).take(20).collect();
                if tags.is_empty() { "the run has no tags".into() } else { format!("tags here: {}", tags.join(", ")) }
            }
        };
        Ok(Error::CheckpointUnknown { run: run.name.clone(), what: address.point.to_string(), near })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in [
            "gpt@100",
            "a/b c@latest",
            "r@latest:complete",
            "r@best:val_loss",
            "r@best:val_loss:max",
            "r@before-the-spike",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for text in [
            "gpt",
            "@5",
            "r@",
            "r@best",
            "r@best:",
            "r@best:a:up",
            "r@a/b",
            "r@latest:best",
            "r@a@b",
            "r@99999999999999999999",
            "../x@1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
