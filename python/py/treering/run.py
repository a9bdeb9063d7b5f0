"""A run: saving in the background, going on where it stopped.

A save has two halves. The first is short and on the caller's thread: the tree is encoded, and all tensors are copied
into memory of the run. From then on the training may change what it likes. The second half is long and not in the
way: a thread of low priority calls the library, which hashes, encodes and writes without the interpreter, then syncs,
and only then is the step there.

There is one such copy in a run, so one save is under way at a time. With `live_base` there are two, in turns: the other
is what the checkpoint before was made of.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from . import _native, machine
from .cadence import Cadence, Clock
from .checkpoint import Checkpoint
from .errors import (
    ConflictError,
    DamagedError,
    InvalidError,
    NoSpaceError,
    NotFoundError,
    RunExists,
    SaveInProgress,
    TreeringError,
    UnsupportedError,
    WaitTimeout,
)
from .handle import Elsewhere, SaveHandle
from .history import History
from .loading import LoadReport
from .policy import Best, Keep, duration, rules
from .ranks import Ranks, rank
from .staging import Live, Part, Staging, in_place, size
from .tree import Leaf, encode

if TYPE_CHECKING:
    from .store import Store

#: A thread that saves gives way to others as much.
NICENESS = 10
#: A thread that has nothing to do ends after so many seconds.
IDLE_SECONDS = 5.0
#: A collection in the background stops beginning new work after so many seconds.
COLLECT_SECONDS = 5.0
#: A collection in the background rewrites packs of which so much is garbage.
REPACK_ABOVE = 0.25
#: In the mode that warns, so many failures in a row are an error.
FAILURES_MAX = 3


class Resume:
    """Where a run goes on: true if there was something to load.

    Attributes
    ----------
    step : int or None
        The step that was loaded.
    checkpoint : Checkpoint or None
        Its checkpoint.
    state : dict
        What was saved and cannot be filled in place: an epoch, random states.
    skipped : list of (int, str)
        Newer steps that could not be used, and why.
    best : dict of str to (int, float)
        For each metric whose direction is known, the best step so far and its value.
    report : LoadReport or None
        What loading did.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.checkpoint: Checkpoint | None = None
        self.state: dict[str, Any] = {}
        self.skipped: list[tuple[int, str]] = []
        self.best: dict[str, tuple[int, float]] = {}
        self.report: LoadReport | None = None

    def __bool__(self) -> bool:
        return self.checkpoint is not None

    def __repr__(self) -> str:
        return f"<treering.Resume {'nothing to load' if self.checkpoint is None else f'step {self.step}'}>"


class _Job:
    """A save for the thread: what the library is called with, and what keeps memory alive that was not copied."""

    def __init__(self, handle: SaveHandle, arguments: dict[str, Any], owner: object) -> None:
        self.handle = handle
        self.arguments = arguments
        self.owner = owner


class Run:
    """A training in a store. Made by :meth:`Store.run`; a context manager that closes it."""

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        keep: Sequence[Keep] | None,
        thin: Mapping[str, int] | None,
        config: Mapping[str, Any] | None,
        cadence: Cadence | None,
        when_busy: Literal["wait", "skip", "error"],
        on_error: Literal["raise", "warn"],
        memory_limit: int | None,
        threads: int | None,
        gc: bool,
        live_base: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        _one_of("when_busy", when_busy, ("wait", "skip", "error"))
        _one_of("on_error", on_error, ("raise", "warn"))
        if thin is not None and keep is None:
            raise InvalidError("thin without keep", "give both: thinning is part of a policy")
        self.store = store
        self.name = name
        self._config = None if config is None else json.dumps(dict(config), default=str)
        self._clock = Clock(cadence)
        self._when_busy = when_busy
        self._on_error = on_error
        self._memory_limit = memory_limit if memory_limit is not None else machine.quarter_of_memory()
        self._threads = threads if threads is not None else machine.background_threads()
        self._helpers = machine.helpers(threads)
        self._gc = gc
        self._staging = Staging()
        self._live = Live() if live_base else None
        self._turn = threading.Lock()
        self._moved = threading.Condition()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._failed: list[SaveHandle] = []
        self._failures = 0
        self._closed = False
        #: For each signal, the handler and what was there before.
        self._handlers: dict[int, tuple[Any, Any]] = {}
        self._signalled: float | None = None
        self._notice = 0.0
        self._agreed_to_stop = False
        self._urgent = False
        self._ranks = ranks
        #: On another rank than the first: the last save.
        self._elsewhere: Elsewhere | None = None
        #: On rank 0: what was told last about how a save ended.
        self._last_word = ""
        #: What the next save continues: what was loaded before the first save, resumed from, or saved last.
        self._at: str | None = None
        #: Whether the steps that the run has are those of this training: something was loaded from it.
        self._is_ours = False
        self._has_saved = False
        #: Whether a save takes the place of another one of its step.
        self._replaces = False
        #: Checkpoints that are forgotten once the save under way is durable.
        self._dropped: list[str] = []
        if ranks is None or ranks.first:
            self._set_policy(keep, thin)
        _open_runs.add(self)

    def __repr__(self) -> str:
        return f"<treering.Run {self.name} in {self.store.path}>"

    # -- saving

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        metrics: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        note: str | None = None,
    ) -> SaveHandle:
        """Saves a step; returns after the state was copied once.

        In a process group all ranks call it, or rank 0 alone: rank 0 saves, and all have its outcome.

        Parameters
        ----------
        step : int
            The trainer's number.
        state : dict
            Objects with ``state_dict``, tensors, arrays, and plain values in dicts and lists, under names of yours. The
            keys are the components of the checkpoint.
        metrics : dict, optional
            Measured values: numbers, or tensors of one element.
        tags, note
            Names for the checkpoint, and a line for people.

        Returns
        -------
        SaveHandle
            Its `wait` returns once the step is durable.
        """
        with self._turn:
            handle = SaveHandle(step, self._helpers)
            ranks = self._ranks
            if ranks is None:
                return self._save(handle, state, metrics, tags, note)
            key = ranks.key("save", step)
            if not ranks.first:
                return self._take_part(ranks, key, step, state)
            handle._tell = lambda: self._tell_end(ranks, f"{key}/end", handle)
            return ranks.act(key, lambda: self._save(handle, state, metrics, tags, note), _how_it_began)

    def _tell_end(self, ranks: Ranks, key: str, handle: SaveHandle) -> None:
        self._last_word = key
        try:
            if handle._error is not None:
                ranks.tell_error(key, handle._error)
            else:
                end = {"report": handle._report, "durable": handle.durable_seconds, "in_time": handle.in_time}
                ranks.tell(key, end)
        except Exception as error:
            warnings.warn(f"the other ranks were not told how step {handle.step} ended: {error}", stacklevel=2)

    def _take_part(self, ranks: Ranks, key: str, step: int, state: dict[str, Any]) -> SaveHandle:
        """Another rank's part of a save: it hears what came of it."""
        self._check()
        try:
            # What wrappers that shard a model call their state is a collective: rank 0 would wait for it alone.
            encode(state)
        except Exception:
            pass  # rank 0 says what is wrong
        before = self._elsewhere
        try:
            said = ranks.hear(key)
        except TreeringError as error:
            if before is not None and self._has_ended(before) and str(before._error) == str(error):
                before._seen = True  # rank 0 raised it now
            raise
        if before is not None:
            self._has_ended(before)
        self._elsewhere = Elsewhere(step, ranks, f"{key}/end", said)
        return self._elsewhere

    def _save(
        self,
        handle: SaveHandle,
        state: dict[str, Any],
        metrics: Mapping[str, Any] | None,
        tags: Sequence[str],
        note: str | None,
    ) -> SaveHandle:
        step = handle.step
        self._check()
        self._raise_failed()
        self._check_begun(step)
        values = {name: float(value) for name, value in (metrics or {}).items()}
        if not self._take_turn(handle):
            return handle
        encoded = encode(state)
        parts, buffers, copied = self._copy(encoded.leaves)
        arguments = {
            "run": self.name,
            "step": step,
            "parts": parts,
            "buffers": buffers,
            "state": encoded.state,
            "metrics": values,
            "tags": list(tags),
            "note": note,
            "config": self._config,
            "provenance": machine.provenance(),
            "replace": self._replaces,
        }
        if self._urgent and self._signalled is not None:
            handle._deadline = self._signalled + self._notice
            self._urgent = False
            handle._hurry.hurry()
        with self._moved:
            self._job = _Job(handle, arguments, None if copied else encoded)
            self._wake()
        if not copied:
            handle._hurry.hurry()
            handle._ended.wait()
        handle.blocked_seconds = time.monotonic() - handle._begun
        self._clock.saved(handle.blocked_seconds)
        if not copied:
            self._raise_failed()
        return handle

    def should_save(self, step: int) -> bool:
        """Whether it is time to save: by the run's cadence, or because a signal asked for it, on whatever rank.

        A run without a cadence may ask for signals alone, after :meth:`save_on_signal`.
        """
        ranks = self._ranks
        if ranks is None or (self._clock.is_plain and not self._handlers):
            return self._urgent or self._is_time(step)
        key = ranks.key("due", step)
        if ranks.first:
            return ranks.act(
                key, lambda: self._is_due(ranks, step), lambda due: {"due": due, "stop": self._agreed_to_stop}
            )
        if self._urgent and self._signalled is not None:
            ranks.ask(self._signalled)
            self._urgent = False
        said = ranks.hear(key)
        self._agreed_to_stop = said["stop"]
        due: bool = said["due"]
        return due

    def _is_due(self, ranks: Ranks, step: int) -> bool:
        asked = ranks.asked()
        if asked is not None and not self._urgent:
            self._signalled, self._urgent = asked, True
        self._agreed_to_stop = self._signalled is not None
        return self._urgent or self._is_time(step)

    def _is_time(self, step: int) -> bool:
        # A run may save by the calendar of its own, and ask here for signals alone.
        return not (self._clock.is_none and self._handlers) and self._clock.due(step)

    def save_on_signal(self, *signals: signal.Signals, notice: str | float = "60s") -> None:
        """Makes :meth:`should_save` true once one of the signals came, for one save. On the main thread.

        The handler only sets a flag, and calls a handler that was there before. A default action would end the program
        before the save, and so would the exception of a Ctrl-C: neither is called. What was there comes back with
        :meth:`close`, once all saves are durable. The save that follows says in its handle whether it was durable
        within `notice` after the signal. `stop_requested` stays true.
        """
        self._check()
        self._notice = duration(notice)
        for number in signals:
            if number not in self._handlers:
                before = signal.getsignal(number)
                handler = self._handler(before)
                signal.signal(number, handler)
                self._handlers[number] = (handler, before)

    @property
    def stop_requested(self) -> bool:
        """Whether a signal came; in a process group, to any rank before the last :meth:`should_save`."""
        return self._signalled is not None if self._ranks is None else self._agreed_to_stop

    def _handler(self, before: Any) -> Callable[[int, Any], None]:
        def handle(number: int, frame: Any) -> None:
            if self._closed and signal.getsignal(number) is handle:
                # Closed on another thread, where it could not be put back.
                signal.signal(number, _restorable(before))
                signal.raise_signal(number)
                return
            if not self._urgent:
                self._signalled = time.monotonic()
                self._urgent = True
            if callable(before) and before is not signal.default_int_handler:
                before(number, frame)

        return handle

    def _put_handlers_back(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # the handlers do it themselves
        for number, (handler, before) in self._handlers.items():
            if signal.getsignal(number) is handler:  # else somebody came after, and has ours as the one before
                signal.signal(number, _restorable(before))
        self._handlers.clear()

    # -- saves by all processes, for treering.dcp

    def _begin_joint(self, step: int) -> tuple[_native.JointSave, str | None]:
        """On the process that commits: begins one. Returns it, and the checkpoint that it continues."""
        with self._turn:
            self._check()
            self._raise_failed()
            self._check_begun(step)
            with self._moved:
                while self._job is not None:
                    self._job.handle._hurry.hurry()
                    self._moved.wait()
            return self.store._reader().begin_joint(), self._parent_of(step)

    def _commit_joint(
        self,
        joint: _native.JointSave,
        step: int,
        state: str,
        metrics: Mapping[str, Any] | None,
        tags: Sequence[str],
        note: str | None,
        parent: str | None,
    ) -> _native.Saved:
        report = joint.commit(
            self.name,
            step,
            state=state,
            metrics={name: float(value) for name, value in (metrics or {}).items()},
            tags=list(tags),
            note=note,
            config=self._config,
            provenance=machine.provenance(),
            parent=parent,
            replace=self._replaces,
        )
        self._at, self._is_ours, self._has_saved = f"{self.name}@{step}", True, True
        self._collect()
        return report

    # -- reading

    def latest(self, *, complete: bool = False) -> Checkpoint | None:
        """The newest step, or the newest from which no policy took a component; `None` if there is none."""
        return self._maybe(f"{self.name}@latest" + (":complete" if complete else ""))

    def best(self, metric: str, mode: Literal["min", "max"] | None = None) -> Checkpoint | None:
        """The best step by a metric; `None` if no step has it. `mode` is known if a rule or an earlier call said it."""
        return self._maybe(f"{self.name}@best:{metric}" + (f":{mode}" if mode else ""))

    def __getitem__(self, step: int | str) -> Checkpoint:
        """The checkpoint of a step, or of a tag."""
        self._check()
        return Checkpoint(self.store._reader(), f"{self.name}@{step}", self._was_loaded)

    def history(self, *, superseded: bool = False) -> History:
        """All steps with their metrics; with `superseded`, also those that later training left behind."""
        self._check()
        native = self.store._reader()
        rows = native.log(self.name, superseded) if native.run(self.name) else []
        return History(self.name, [dict(row) for row in rows])

    def resume(self, targets: dict[str, Any], *, strict: bool = True) -> Resume:
        """Fills everything from the newest step that is complete and sound, as :meth:`Checkpoint.load_into` does.

        Steps that a policy took something from are passed over; so are damaged ones, with a warning, and the one before
        is tried. Training goes on from there: later steps are superseded by the next save.

        In a process group, all ranks load the step that rank 0 found.
        """
        ranks = self._ranks
        if ranks is None:
            return self._resume(targets, strict)
        key = ranks.key("resume")
        if ranks.first:
            return ranks.act(
                key, lambda: self._resume(targets, strict), lambda found: {"step": found.step, "skipped": found.skipped}
            )
        said = ranks.hear(key)
        found = Resume()
        found.skipped = [(step, why) for step, why in said["skipped"]]
        if said["step"] is not None:
            self._resume_from(said["step"], targets, strict, found)
            found.best = self._best_so_far()
        return found

    def _resume(self, targets: dict[str, Any], strict: bool) -> Resume:
        found = Resume()
        rows = sorted(self.history(), key=lambda row: -row["step"])
        for row in rows:
            if row["dropped"]:
                found.skipped.append((row["step"], f"{', '.join(row['dropped'])} dropped by a policy"))
                continue
            try:
                self._resume_from(row["step"], targets, strict, found)
            except (DamagedError, NotFoundError) as error:
                if isinstance(error, NotFoundError) and not self._is_gone(row["step"]):
                    raise
                found.skipped.append((row["step"], str(error)))
                warnings.warn(f"step {row['step']} cannot be resumed from: {error}", stacklevel=3)
                continue
            break
        if rows and not found:
            why = "; ".join(f"{step}: {why}" for step, why in found.skipped[:5])
            raise DamagedError(f"no step of run {self.name} can be resumed from ({why})", "treering verify --deep")
        found.best = self._best_so_far()
        return found

    def _resume_from(self, step: int, targets: dict[str, Any], strict: bool, found: Resume) -> None:
        checkpoint = self[step]
        found.report = checkpoint.load_into(targets, strict=strict)
        found.checkpoint, found.step, found.state = checkpoint, step, found.report.state
        self._go_on_from(checkpoint)

    def annotate(self, step: int, *, metrics: Mapping[str, Any] | None = None, note: str | None = None) -> None:
        """Adds metrics, or a note, to a step that was saved."""
        self._check()
        values = {name: float(value) for name, value in (metrics or {}).items()}
        self.store._reader().annotate(f"{self.name}@{step}", values, note)

    # -- the end

    def wait(self, timeout: float | None = None) -> None:
        """Waits until all saves are durable, and raises what went wrong."""
        self._drain(timeout)
        self._raise_failed()

    def close(self, timeout: float | None = 300) -> None:
        """Waits as :meth:`wait` does, and ends the run's thread. What was loaded from it stays usable."""
        if self._closed or os.getpid() != self.store._pid:
            return
        self._drain(timeout)
        if self._dropped and not self._failed:
            self._collect()
        with self._moved:
            self._closed = True
            self._moved.notify_all()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        if self._ranks is not None and self._ranks.first:
            self._ranks.stay(self._last_word)
        self._staging.release()
        if self._live is not None:
            self._live.release()
        _open_runs.discard(self)
        # Only now: a second signal would have ended the program before the save that the first had asked for.
        self._put_handlers_back()
        self._raise_failed()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self.close()
        except Exception as failed:
            if error is None:
                raise
            error.add_note(f"and the run could not be closed: {failed}")

    # -- inside

    def _check(self) -> None:
        self.store._reader()
        if self._closed:
            raise InvalidError(f"run {self.name} is closed", "begin it again: store.run(...)")

    def _check_begun(self, step: int) -> None:
        if type(step) is not int or not 0 <= step < 2**63:
            raise InvalidError(f"step {step!r}", "it is a whole number")
        if self._ranks is None and rank():
            raise UnsupportedError(f"a save on rank {rank()}", "begin the run after the process group")
        if not self._is_ours and self._job is None:
            row = self.store._reader().run(self.name)
            if row is not None and row["latest"] is not None:
                hint = "run.resume(...) goes on from there; another name begins anew"
                raise RunExists(f"run {self.name} has steps up to {row['latest']}, and none was loaded", hint)

    def _take_turn(self, handle: SaveHandle) -> bool:
        """Waits for the save before, or what the run was told to do."""
        with self._moved:
            if self._job is not None and self._when_busy == "error":
                raise SaveInProgress(
                    f"step {self._job.handle.step} is not durable yet", "when_busy='wait' waits for it"
                )
            if self._job is not None and self._when_busy == "skip":
                handle.skipped = True
                handle._end(None)
                return False
            begun = time.monotonic()
            while self._job is not None:
                self._job.handle._hurry.hurry()
                self._moved.wait()
            handle.waited_seconds = time.monotonic() - begun
        self._raise_failed()
        return True

    def _copy(self, leaves: Sequence[Leaf]) -> tuple[list[Part], list[Any], bool]:
        needed = size(leaves)
        if needed > self._memory_limit:
            limit = f"memory_limit is {self._memory_limit:,} bytes and the state is {needed:,}"
            warnings.warn(f"{limit}: it is saved where it is, and the save is waited for", stacklevel=3)
            if self._live is not None:
                self._live.release()
            return *in_place(leaves), False
        if self._live is not None and 2 * needed > self._memory_limit:
            limit = f"memory_limit is {self._memory_limit:,} bytes and two copies of the state are {2 * needed:,}"
            warnings.warn(f"{limit}: live_base is off from now on", stacklevel=4)
            self._live.release()
            self._live = None
        return *self._staging.copy(leaves), True

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"treering-{self.name}", daemon=True)
            self._thread.start()
        self._moved.notify_all()

    def _work(self) -> None:
        try:
            # New threads begin with the niceness of the one that made them, so those of the library have it too.
            now = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), now + NICENESS)
        except OSError:
            pass  # a wish
        while True:
            with self._moved:
                if self._job is None and not self._closed:
                    self._moved.wait(IDLE_SECONDS)
                job = self._job
                if job is None:
                    self._thread = None
                    self._moved.notify_all()
                    return
            self._do(job)
            with self._moved:
                self._job = None
                self._moved.notify_all()
            if job.handle._error is None:
                self._collect()

    def _do(self, job: _Job) -> None:
        handle = job.handle
        try:
            report = self._save_durably(job)
        except BaseException as error:
            handle._end(None, error)
            self._count(handle)
        else:
            self._at, self._is_ours, self._has_saved = f"{self.name}@{handle.step}", True, True
            if self._live is not None and job.owner is None:
                self._staging = self._live.keep(self._staging, self._at, job.arguments["parts"])
            self._count(handle)
            handle._end(report)
        finally:
            job.arguments.clear()
            job.owner = None

    def _count(self, handle: SaveHandle) -> None:
        """Remembers a failure, to be raised at the next occasion."""
        if handle._error is None:
            self._failures = 0
            return
        self._failures += 1
        if self._on_error == "warn" and self._failures < FAILURES_MAX:
            warnings.warn(f"step {handle.step} was not saved: {handle._error}", stacklevel=2)
        else:
            self._failed.append(handle)

    def _has_ended(self, elsewhere: Elsewhere) -> bool:
        """Whether a save of rank 0 has ended; the first time, what came of it is counted here too."""
        if not elsewhere._counted and elsewhere.done():
            elsewhere._hear(None)
            elsewhere._counted = True
            self._count(elsewhere)
        return elsewhere._counted

    def _save_durably(self, job: _Job) -> _native.Saved:
        native = self.store._reader()
        parent = self._parent_of(job.handle.step)
        before = self._live.of(parent) if self._live is not None else None
        arguments = {**job.arguments, "parent": parent, "before": before, "threads": self._threads}
        arguments["hurry"] = job.handle._hurry
        try:
            return native.save(**arguments)
        except NoSpaceError:
            if not self._has_policy():
                raise
            # Who still reads what goes has less to lose.
            native.gc(run=self.name, grace_seconds=0, threads=self._threads)
            return native.save(**arguments)

    def _parent_of(self, step: int) -> str | None:
        # The same step again is a success if it is the same, and an error if not: it continues nothing.
        return self._at if self._at != f"{self.name}@{step}" else None

    def _collect(self) -> None:
        dropped, self._dropped = self._dropped, []
        native = self.store._reader()
        try:
            for address in dropped:
                try:
                    native.forget([native.find(address)["slot"]])
                except NotFoundError:
                    pass  # it went otherwise
            if self._gc and (dropped or self._has_policy()):
                native.gc(run=self.name, max_seconds=COLLECT_SECONDS, repack_above=REPACK_ABOVE, threads=self._threads)
        except ConflictError:
            pass  # somebody else collects
        except Exception as error:
            warnings.warn(f"space of run {self.name} was not freed: {error}", stacklevel=2)

    def _has_policy(self) -> bool:
        row = self.store._reader().run(self.name)
        return row is not None and bool(row["policy"])

    def _drain(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._elsewhere is not None:
            self._elsewhere._hear(timeout)
            self._has_ended(self._elsewhere)
        with self._moved:
            while self._job is not None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeout(f"step {self._job.handle.step} is not durable after {timeout:g} s")
                self._job.handle._hurry.hurry()
                self._moved.wait(left)

    def _raise_failed(self) -> None:
        while self._failed:
            handle = self._failed.pop(0)
            if not handle._seen and handle._error is not None:
                handle._seen = True
                raise handle._error

    def _set_policy(self, keep: Sequence[Keep] | None, thin: Mapping[str, int] | None) -> None:
        if keep is None:
            return
        native, wanted = self.store._reader(), rules(keep, thin)
        row = native.run(self.name)
        if row is None or sorted(row["policy"]) != sorted(wanted):
            native.set_policy(self.name, wanted)
        known = row["metrics"] if row is not None else {}
        for rule in keep:
            if isinstance(rule, Best):
                if rule.mode is None and rule.metric not in known:
                    raise InvalidError(f"whether a small or a large {rule.metric} is better", "say mode='min' or 'max'")
                if rule.mode is not None and known.get(rule.metric) != rule.mode:
                    native.set_mode(self.name, rule.metric, rule.mode)

    def _maybe(self, address: str) -> Checkpoint | None:
        self._check()
        native = self.store._reader()
        row = native.run(self.name)
        if row is None or row["latest"] is None:
            return None
        try:
            return Checkpoint(native, address, self._was_loaded)
        except NotFoundError:
            if not address.endswith("@latest"):
                return None
            raise

    def _was_loaded(self, checkpoint: Checkpoint) -> None:
        # Later on, looking at an old step is not going back to it.
        if not self._has_saved:
            self._go_on_from(checkpoint)

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        self._at, self._is_ours = checkpoint.address, True

    def _is_gone(self, step: int) -> bool:
        """A step that was listed a moment ago was collected meanwhile."""
        return step not in {row["step"] for row in self.history()}

    def _best_so_far(self) -> dict[str, tuple[int, float]]:
        native = self.store._reader()
        row = native.run(self.name)
        best = {}
        for metric, mode in (row["metrics"] if row else {}).items():
            try:
                found = native.best(self.name, metric, mode)[0]
            except NotFoundError:
                continue
            best[metric] = (found["step"], found["metrics"][metric])
        return best


_open_runs: weakref.WeakSet[Run] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for run in list(_open_runs):
        job = run._job
        if os.getpid() != run.store._pid:
            continue
        if job is not None:
            print(f"treering: waiting for step {job.handle.step} of run {run.name}", file=sys.stderr)
        try:
            run.close()
        except Exception as error:
            print(f"treering: run {run.name}: {error}", file=sys.stderr)


def close_open(store: os.PathLike[str], name: str) -> None:
    """Closes the runs of a name that are open in this process."""
    for run in list(_open_runs):
        if run.name == name and run.store.path == store:
            run.close()


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidError(f"{name}={value!r}", f"it is one of {', '.join(allowed)}")


def _restorable(handler: Any) -> Any:
    """A handler that was not set by Python cannot be set by it again."""
    return signal.SIG_DFL if handler is None else handler


def _how_it_began(handle: SaveHandle) -> dict[str, Any]:
    """What other ranks are told when a save returns."""
    return {"blocked": handle.blocked_seconds, "waited": handle.waited_seconds, "skipped": handle.skipped}
