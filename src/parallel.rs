//! Work on many threads whose results come out in the order of the input.
//!
//! The one way in which this crate uses threads for data: a source that is asked in turn, workers, and a sink that sees
//! the results in the source's order. No more than `window` items are between source and sink, which bounds the memory.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use crate::error::{Error, Result};

struct State<O> {
    /// Items handed out.
    taken: u64,
    /// Items that went through the sink.
    delivered: u64,
    /// Results that wait for an earlier one.
    waiting: BTreeMap<u64, O>,
    /// Somebody is at the sink.
    sinking: bool,
    /// The thread at the source waits for the sink to move on. To wake nobody is a system call all the same.
    asleep: bool,
    /// The source has no more.
    dry: bool,
    failed: Option<Error>,
}

struct Shared<O> {
    state: Mutex<State<O>>,
    moved: Condvar,
}

impl<O> Shared<O> {
    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        self.lock().failed.get_or_insert(error);
        self.moved.notify_all();
    }
}

/// Takes items from `next` until it has no more, works on each, and hands the results to `sink` in order. Every thread
/// works with a tool of its own. The first error stops everything and is returned; so does a panic, as a `Bug`.
pub(crate) fn ordered<I: Send, O: Send, T>(
    threads: usize,
    window: usize,
    next: impl FnMut() -> Result<Option<I>> + Send,
    tool: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, I) -> Result<O> + Sync,
    sink: impl FnMut(O) -> Result<()> + Send,
) -> Result<()> {
    ordered_with(threads, || 0, window, next, tool, work, sink)
}

/// The same, on more threads as soon as `helpers` says how many: on no more than the window has items for, as each has a
/// tool, and so memory.
pub(crate) fn ordered_with<I: Send, O: Send, T>(
    threads: usize,
    helpers: impl Fn() -> usize + Sync,
    window: usize,
    next: impl FnMut() -> Result<Option<I>> + Send,
    tool: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, I) -> Result<O> + Sync,
    sink: impl FnMut(O) -> Result<()> + Send,
) -> Result<()> {
    let state = State {
        taken: 0,
        delivered: 0,
        waiting: BTreeMap::new(),
        sinking: false,
        asleep: false,
        dry: false,
        failed: None,
    };
    let shared = Shared { state: Mutex::new(state), moved: Condvar::new() };
    let (next, sink) = (Mutex::new(next), Mutex::new(sink));
    let window = window.max(1) as u64;

    let worker = |between: &mut dyn FnMut()| {
        let _guard = FailOnPanic(&shared);
        let mut tool = tool();
        while let Some((number, item)) = take(&shared, &next, window) {
            between();
            match work(&mut tool, item) {
                Ok(result) => deliver(&shared, &sink, number, result),
                Err(error) => return shared.fail(error),
            }
        }
    };
    let panicked = std::thread::scope(|scope| {
        // Where no more threads are to be had, fewer do the work.
        let begin = |_| Builder::new().spawn_scoped(scope, || worker(&mut || ())).ok();
        let spawn = |count: usize| (0..count).filter_map(begin).collect::<Vec<_>>();
        let mut others = spawn(threads.saturating_sub(1));
        // This thread is the first worker, and the one that asks for helpers: they join once.
        let mut helped = false;
        let mut ask = || {
            let count = if helped { 0 } else { helpers() };
            helped |= count > 0;
            let count = count.min((window as usize).saturating_sub(threads));
            others.extend(spawn(count));
        };
        let first = catch_unwind(AssertUnwindSafe(|| worker(&mut ask)));
        others.into_iter().map(|other| other.join().is_err()).fold(first.is_err(), |any, one| any | one)
    });
    if panicked {
        shared.fail(Error::Bug("a worker panicked".into()));
    }
    let failed = shared.lock().failed.take();
    failed.map_or(Ok(()), Err)
}

/// Does `work` on each item, in no order.
pub(crate) fn for_each<I: Send, T>(
    threads: usize,
    items: impl IntoIterator<Item = I, IntoIter: Send>,
    tool: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, I) -> Result<()> + Sync,
) -> Result<()> {
    let mut items = items.into_iter();
    ordered(threads, threads * 4, || Ok(items.next()), tool, work, |()| Ok(()))
}

fn take<I, O>(shared: &Shared<O>, next: &Mutex<impl FnMut() -> Result<Option<I>>>, window: u64) -> Option<(u64, I)> {
    // Held while the source is asked, so that numbers and items agree.
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    let mut state = shared.lock();
    while state.failed.is_none() && state.taken >= state.delivered + window {
        state.asleep = true;
        state = shared.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.asleep = false;
    }
    if state.dry || state.failed.is_some() {
        return None;
    }
    drop(state);
    match next() {
        Ok(Some(item)) => {
            let mut state = shared.lock();
            state.taken += 1;
            Some((state.taken - 1, item))
        }
        Ok(None) => {
            shared.lock().dry = true;
            None
        }
        Err(error) => {
            shared.fail(error);
            None
        }
    }
}

/// Whoever brings the result that the sink waits for carries on until one is missing.
fn deliver<O>(shared: &Shared<O>, sink: &Mutex<impl FnMut(O) -> Result<()>>, number: u64, result: O) {
    let mut state = shared.lock();
    state.waiting.insert(number, result);
    if state.sinking {
        return;
    }
    state.sinking = true;
    loop {
        let due = state.delivered;
        let Some(result) = state.waiting.remove(&due) else { break };
        drop(state);
        let sunk = (sink.lock().unwrap_or_else(PoisonError::into_inner))(result);
        if let Err(error) = sunk {
            shared.fail(error);
        }
        state = shared.lock();
        if state.failed.is_some() {
            break;
        }
        state.delivered += 1;
        if state.asleep {
            shared.moved.notify_all();
        }
    }
    state.sinking = false;
}

struct FailOnPanic<'a, O>(&'a Shared<O>);

impl<O> Drop for FailOnPanic<'_, O> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Bug("a worker panicked".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(threads: usize, window: usize, fail_at: Option<u32>) -> (Result<()>, Vec<u32>) {
        let (mut n, mut out) = (0, Vec::new());
        let next = || {
            n += 1;
            Ok((n <= 500).then_some(n))
        };
        let work = |_: &mut (), n: u32| {
            std::hint::black_box((0..n % 7 * 1000).sum::<u32>());
            if Some(n) == fail_at { Err(Error::Interrupted) } else { Ok(n) }
        };
        let sink = |n| {
            out.push(n);
            Ok(())
        };
        let done = ordered(threads, window, next, || (), work, sink);
        (done, out)
    }

    #[test]
    fn results_come_in_order() {
        for (threads, window) in [(1, 1), (2, 1), (4, 3), (8, 100)] {
            let (done, out) = run(threads, window, None);
            done.unwrap();
            assert_eq!(out, (1..=500).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_stops_everything() {
        for threads in [1, 4] {
            let (done, out) = run(threads, 8, Some(200));
            assert!(matches!(done, Err(Error::Interrupted)));
            assert!(out.len() < 200 && out.iter().zip(1..).all(|(&n, i)| n == i));
        }
    }

    /// Each of the first two items waits for the other: one thread alone would wait in vain.
    #[test]
    fn helpers_join() {
        let (met, mut n) = (Mutex::new(0), 0);
        let both = Condvar::new();
        let next = || {
            n += 1;
            Ok((n <= 2).then_some(n))
        };
        let work = |_: &mut (), n: u32| {
            let mut here = met.lock().unwrap();
            *here += 1;
            both.notify_all();
            let (_here, waited) =
                both.wait_timeout_while(here, std::time::Duration::from_secs(30), |here| *here < 2).unwrap();
            if waited.timed_out() { Err(Error::Interrupted) } else { Ok(n) }
        };
        let mut out = Vec::new();
        let sink = |n| {
            out.push(n);
            Ok(())
        };
        ordered_with(1, || 1, 2, next, || (), work, sink).unwrap();
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn no_more_help_than_there_is_to_do() {
        let (tools, mut n) = (std::sync::atomic::AtomicUsize::new(0), 0);
        let next = || {
            n += 1;
            Ok((n <= 100).then_some(n))
        };
        let tool = || tools.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ordered_with(2, || 1000, 5, next, tool, |_, n: u32| Ok(n), |_| Ok(())).unwrap();
        assert!((2..=5).contains(&tools.into_inner()));
    }

    #[test]
    fn a_panic_is_an_error_and_not_a_hang() {
        let mut n = 0;
        let next = || {
            n += 1;
            Ok(Some(n))
        };
        let done =
            ordered(3, 2, next, || (), |(), n: u32| if n == 50 { panic!("on purpose") } else { Ok(n) }, |_| Ok(()));
        assert!(matches!(done, Err(Error::Bug(_))));
    }
}
