//! How the library speaks to its caller: it never prints.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Hears how far a journey is, and may stop it. All methods may be called from any thread.
pub trait Monitor: fmt::Debug + Send + Sync {
    /// A stage begins: what it does ("reading", "writing") and how many bytes or things it will count, if known.
    fn begin(&self, stage: &'static str, total: Option<u64>, unit: Unit) {
        let _ = (stage, total, unit);
    }
    /// So much more of the stage is done.
    fn advance(&self, amount: u64) {
        let _ = amount;
    }
    /// The stage is over.
    fn end(&self) {}
    /// Something that the person should know, and that did not stop the journey. One line.
    fn warn(&self, message: &str) {
        let _ = message;
    }
    /// How many threads may join those that the journey has: asked again and again while it works, until they are more than
    /// none. For somebody who had it done in the background, and now waits for it.
    fn helpers(&self) -> usize {
        0
    }
    /// True once the journey should stop. It then ends with `Interrupted` and leaves nothing behind.
    fn interrupted(&self) -> bool {
        false
    }
}

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Entries, checkpoints, packs.
    Things,
}

/// Hears nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Monitor for Silent {}

/// Stops the journey once [`Stop::stop`] was called.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Asks the journey to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Monitor for Stop {
    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives the journey more threads once [`Hurry::hurry`] was called.
#[derive(Debug, Default)]
pub struct Hurry(AtomicUsize);

impl Hurry {
    /// So many threads may join.
    pub fn hurry(&self, helpers: usize) {
        self.0.store(helpers, Ordering::Relaxed);
    }
}

impl Monitor for Hurry {
    fn helpers(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
