//! How far a journey is, on standard error; and ctrl-c, which stops it cleanly.
//!
//! # What always holds
//! * Nothing is drawn in the first moments: what is over by then needs no progress.
//! * Nothing is drawn where standard error is no terminal, or with `--quiet`; warnings are printed all the same.
//! * The first ctrl-c asks the journey to stop, the second ends the process. Both leave the store whole.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use treering::monitor::{Monitor, Unit};

use super::printable;

/// So long a journey may take before it is worth a line.
const PATIENCE: Duration = Duration::from_millis(300);

/// How often a line is drawn anew although nothing advanced.
const TICK: Duration = Duration::from_millis(200);

static STOP: AtomicBool = AtomicBool::new(false);

/// The [`Monitor`] of the command line.
#[derive(Debug)]
pub(crate) struct Progress {
    visible: bool,
    started: Instant,
    stage: Mutex<Option<Stage>>,
}

#[derive(Debug)]
struct Stage {
    bar: ProgressBar,
    drawn: bool,
}

impl Progress {
    /// Listens to ctrl-c from now on. `visible` false: no lines, but still that.
    pub(crate) fn new(visible: bool) -> Progress {
        listen();
        Progress { visible: visible && super::stderr_is_terminal(), started: Instant::now(), stage: Mutex::new(None) }
    }

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw_when_due(&self, stage: &mut Stage) {
        if self.visible && !stage.drawn && self.started.elapsed() >= PATIENCE {
            stage.drawn = true;
            stage.bar.set_draw_target(ProgressDrawTarget::stderr());
            stage.bar.enable_steady_tick(TICK);
        }
    }
}

impl Monitor for Progress {
    fn begin(&self, stage: &'static str, total: Option<u64>, unit: Unit) {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        bar.set_style(style(total.is_some(), unit));
        bar.set_prefix(stage);
        let mut next = Stage { bar, drawn: false };
        self.draw_when_due(&mut next);
        if let Some(last) = self.stage().replace(next) {
            last.bar.finish_and_clear();
        }
    }

    fn advance(&self, amount: u64) {
        if let Some(stage) = self.stage().as_mut() {
            stage.bar.inc(amount);
            self.draw_when_due(stage);
        }
    }

    fn end(&self) {
        if let Some(stage) = self.stage().take() {
            stage.bar.finish_and_clear();
        }
    }

    fn warn(&self, message: &str) {
        let line = || super::tell(format_args!("{} {}", super::yellow("warning:"), printable(message)));
        match self.stage().as_ref() {
            Some(stage) => stage.bar.suspend(line),
            None => line(),
        }
    }

    fn interrupted(&self) -> bool {
        STOP.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn style(total_known: bool, unit: Unit) -> ProgressStyle {
    let template = match (total_known, unit) {
        (true, Unit::Bytes) => {
            "{prefix:>10} {bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        }
        (false, Unit::Bytes) => "{prefix:>10} {spinner} {decimal_bytes}  {decimal_bytes_per_sec}",
        (true, Unit::Things) => "{prefix:>10} {bar:24} {human_pos}/{human_len}  {per_sec}  {eta} left",
        (false, Unit::Things) => "{prefix:>10} {spinner} {human_pos}  {per_sec}",
    };
    ProgressStyle::with_template(template).expect("the templates above are well-formed").progress_chars("━╸─")
}

/// Once per process. Where no handler can be set, ctrl-c ends the process as ever, which no store minds.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                // Terminals show the line that was drawn last, so leave it.
                let _ = io::Write::write_all(&mut io::stderr(), b"\n");
                std::process::exit(130);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_is_well_formed() {
        for unit in [Unit::Bytes, Unit::Things] {
            style(true, unit);
            style(false, unit);
        }
    }

    #[test]
    fn stages_follow_each_other_whoever_forgets_to_end_one() {
        let progress = Progress::new(false);
        progress.advance(1);
        progress.begin("reading", Some(10), Unit::Bytes);
        progress.advance(4);
        progress.begin("writing", None, Unit::Things);
        progress.advance(2);
        assert_eq!(progress.stage().as_ref().map(|s| s.bar.position()), Some(2));
        progress.end();
        progress.end();
        assert!(progress.stage().is_none());
    }
}
