"""A save under way, as the caller sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from . import _native
from .errors import TreeringError, WaitTimeout
from .ranks import Ranks


class SaveHandle:
    """A save under way.

    Attributes
    ----------
    step : int
        The step.
    blocked_seconds : float
        How long :meth:`Run.save` took, waiting for an earlier save included.
    waited_seconds : float
        How much of that was waiting for an earlier save.
    durable_seconds : float or None
        From the call to durable, once it is.
    skipped : bool
        Nothing is saved: an earlier save was under way, and the run was told to skip then.
    in_time : bool or None
        For a save after a signal, once it is durable: whether that was within the notice.
    """

    def __init__(self, step: int, helpers: int = 0) -> None:
        self.step = step
        self.blocked_seconds = 0.0
        self.waited_seconds = 0.0
        self.durable_seconds: float | None = None
        self.skipped = False
        self.in_time: bool | None = None
        self._begun = time.monotonic()
        self._deadline: float | None = None
        self._report: _native.Saved | None = None
        self._error: BaseException | None = None
        self._seen = False
        self._ended = threading.Event()
        #: Lets so many threads help as soon as somebody waits.
        self._hurry = _native.Hurry(helpers)
        self._tell: Callable[[], None] | None = None

    def __repr__(self) -> str:
        if self.skipped:
            state = "skipped"
        elif not self.done():
            state = "under way"
        else:
            state = "durable" if self._error is None else f"failed: {self._error}"
        return f"<treering.SaveHandle step {self.step} {state}>"

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> SaveHandle:
        """Waits until the step is durable, and raises what went wrong.

        What is waited for is no background work any more: it takes all cores from then on.
        """
        self.result(timeout)
        return self

    def result(self, timeout: float | None = None) -> _native.Saved | None:
        """Waits as :meth:`wait` does, and returns the report: sizes in bytes, the outcome. `None` if it was skipped."""
        if not self._ended.is_set():
            self._hurry.hurry()
        if not self._ended.wait(timeout):
            raise WaitTimeout(f"step {self.step} is not durable after {timeout:g} s", "it goes on in the background")
        if self._error is not None:
            self._seen = True
            raise self._error
        return self._report

    def _end(self, report: _native.Saved | None, error: BaseException | None = None) -> None:
        now = time.monotonic()
        self._report, self._error = report, error
        if error is None and not self.skipped:
            self.durable_seconds = now - self._begun
            self.in_time = now <= self._deadline if self._deadline is not None else None
        if error is not None:
            error.add_note(f"from the save of step {self.step}")
            self.in_time = False if self._deadline is not None else None
        self._ended.set()
        if self._tell is not None:
            self._tell()


class Elsewhere(SaveHandle):
    """A save that rank 0 does, on another rank."""

    def __init__(self, step: int, ranks: Ranks, key: str, said: dict[str, Any]) -> None:
        super().__init__(step)
        self._ranks = ranks
        self._key = key
        self.blocked_seconds, self.waited_seconds = said["blocked"], said["waited"]
        self.skipped = said["skipped"]
        self._counted = False

    def done(self) -> bool:
        return self._ended.is_set() or self._ranks.is_said(self._key)

    def result(self, timeout: float | None = None) -> _native.Saved | None:
        self._hear(timeout)
        return super().result(timeout)

    def _hear(self, timeout: float | None) -> None:
        if self._ended.is_set():
            return
        try:
            said = self._ranks.hear(self._key, timeout)
        except TreeringError as error:
            if isinstance(error, WaitTimeout) and not self._ranks.is_said(self._key):
                raise
            self._end(None, error)
        else:
            self._end(said["report"])
            self.durable_seconds, self.in_time = said["durable"], said["in_time"]
