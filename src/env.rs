//! The only clock and the only source of chance.
//!
//! Everything else is handed an [`Env`], so that a test can make time jump and chance repeat.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: nanoseconds since the Unix epoch. For people and for ages, never for order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// This many seconds later, or the end of time.
    pub fn plus_secs(self, secs: u64) -> Time {
        Time(self.0.saturating_add(i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)))
    }

    /// Seconds from `earlier` to this, 0 if it is not earlier.
    pub fn secs_since(self, earlier: Time) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0) / 1_000_000_000).unwrap_or(0)
    }

    /// This many seconds earlier, or the beginning of time.
    pub fn minus_secs(self, secs: u64) -> Time {
        Time(self.0.saturating_sub(i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)))
    }

    /// How far another time is away, whichever came first.
    pub fn distance(self, other: Time) -> Duration {
        Duration::from_nanos(self.0.abs_diff(other.0))
    }

    /// RFC 3339 in UTC, to the second: `2026-01-31T12:00:00Z`.
    pub fn to_rfc3339(self) -> String {
        let secs = self.0.div_euclid(1_000_000_000);
        jiff::Timestamp::from_second(secs).map_or_else(|_| format!("@{secs}"), |t| t.to_string())
    }
}

/// Where time and chance come from.
pub trait Source: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Time;
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
    /// Lets this much time go by.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A handle on a [`Source`].
#[derive(Clone, Debug)]
pub struct Env(Arc<dyn Source>);

impl Env {
    /// The clock and the chance of the operating system.
    pub fn system() -> Env {
        Env(Arc::new(System))
    }

    /// Those of a test.
    pub fn new(source: impl Source + 'static) -> Env {
        Env(Arc::new(source))
    }

    /// The time now.
    pub fn now(&self) -> Time {
        self.0.now()
    }

    /// Lets this much time go by.
    pub fn sleep(&self, time: Duration) {
        self.0.sleep(time);
    }

    /// 16 random bytes.
    pub fn random(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.0.fill(&mut bytes);
        bytes
    }
}

#[derive(Debug)]
struct System;

impl Source for System {
    fn now(&self) -> Time {
        let signed = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        Time(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => signed(after),
            Err(before) => -signed(before.duration()),
        })
    }

    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system always has random bytes");
    }
}
