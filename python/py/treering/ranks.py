"""The processes of one training, joined by torch.distributed: rank 0 acts, the others hear what came of it.

What is said goes through the key-value store that joined the processes, as JSON. So nothing here is a collective:
rank 0 never waits for the others, and what the training sends between its devices is not disturbed. Whoever listens for
something that rank 0 never says gets an error after :data:`PATIENCE_SECONDS`.

What must hold: all ranks make the same calls in the same order, or rank 0 alone makes them.
"""

from __future__ import annotations

import collections
import datetime
import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from . import errors
from .errors import TreeringError, UnavailableError, WaitTimeout

T = TypeVar("T")

#: Whoever waits for rank 0 does so for at most so many seconds: a save there may wait for the one before.
PATIENCE_SECONDS = 1800.0
#: Rank 0 stays for at most so many seconds until the others have heard its last word: it may hold the key-value store.
GOODBYE_SECONDS = 10.0
#: What nobody heard is taken away after so many other things were said.
UNHEARD_MAX = 1000

#: How many runs of a name were begun in this process: what is said about one of them is not for the next.
_begun: collections.Counter[str] = collections.Counter()


class Ranks:
    """What rank 0 says to the others about one run."""

    def __init__(self, rank: int, size: int, store: Any, topic: str) -> None:
        self.rank = rank
        self._size = size
        # A connection of its own: whoever waits on one keeps all others of the process from using it.
        self._store = store.clone() if hasattr(store, "clone") else store
        self._held = store
        self._topic = topic
        self._counts: dict[str, tuple[object, int]] = {}
        self._said: collections.deque[str] = collections.deque()
        self._listens = False

    @property
    def first(self) -> bool:
        """Whether this is the rank that acts."""
        return self.rank == 0

    def key(self, what: str, about: object = None) -> str:
        """The name of what is said next about something, the same on all ranks."""
        before, count = self._counts.get(what, (None, 0))
        count = count + 1 if before == about else 1
        self._counts[what] = (about, count)
        return f"{self._topic}/{what}/{about}/{count}"

    def act(self, key: str, work: Callable[[], T], say: Callable[[T], dict[str, Any]] = lambda _: {}) -> T:
        """On rank 0: does something, and tells the others what came of it."""
        try:
            done = work()
        except BaseException as error:
            self.tell_error(key, error)
            raise
        self.tell(key, say(done))
        return done

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """Says something to the others."""
        self._store.set(key, json.dumps(value))
        self._said.append(key)
        if len(self._said) > UNHEARD_MAX:
            self._store.delete_key(self._said.popleft())

    def tell_error(self, key: str, error: BaseException) -> None:
        """Says that something went wrong."""
        message = str(error.args[0] if isinstance(error, TreeringError) else error)
        self.tell(key, {"error": type(error).__name__, "message": message, "hint": getattr(error, "hint", None)})

    def hear(self, key: str, timeout: float | None = None) -> dict[str, Any]:
        """Waits for what rank 0 says, and raises what it raised. The last to hear it takes it away."""
        if not self._listens:
            self._store.set(f"{self._topic}/ears", "1")
            self._listens = True
        patience = PATIENCE_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + patience
        while not self.is_said(key):
            left = deadline - time.monotonic()
            if left <= 0:
                what = f"rank {self.rank} heard nothing from rank 0 for {patience:g} s"
                raise WaitTimeout(what, "all ranks make the same calls, or rank 0 alone")
            try:
                self._store.wait([key], datetime.timedelta(seconds=min(left, 60)))
            except Exception:  # each kind of store says in a way of its own that time is up
                time.sleep(min(left, 0.01))
        said: dict[str, Any] = json.loads(self._store.get(key))
        if self._store.add(f"{key}/heard", 1) == self._size - 1:
            self._store.delete_key(key)
            self._store.delete_key(f"{key}/heard")
        if "error" in said:
            raise _error(said)
        return said

    def is_said(self, key: str) -> bool:
        """Whether rank 0 has said it, and not all have heard it."""
        return bool(self._store.check([key]))

    def stay(self, key: str) -> None:
        """On rank 0: stays until the others have heard this, if they listen at all."""
        deadline = time.monotonic() + GOODBYE_SECONDS
        while self.is_said(f"{self._topic}/ears") and self.is_said(key) and time.monotonic() < deadline:
            time.sleep(0.01)

    def ask(self, since: float) -> None:
        """Asks rank 0 for a save, from any other; `since` a moment of this process' monotonic clock."""
        self._store.set(f"{self._topic}/asked", str(time.time() - (time.monotonic() - since)))

    def asked(self) -> float | None:
        """On rank 0: since when, by its own monotonic clock, another asks for a save; `None` if none does."""
        if not self.is_said(f"{self._topic}/asked"):
            return None
        # Clocks of two machines may differ: nobody asks from the future.
        ago = max(0.0, time.time() - float(self._store.get(f"{self._topic}/asked")))
        self._store.delete_key(f"{self._topic}/asked")
        return time.monotonic() - ago


def group() -> Any:
    """torch.distributed, if this process has joined a group of it; else `None`."""
    distributed = sys.modules.get("torch.distributed")
    joined = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if joined else None


def rank() -> int:
    """The number of this process in its group; 0 if it has none."""
    distributed = group()
    return 0 if distributed is None else int(distributed.get_rank())


def ranks(name: str) -> Ranks | None:
    """The ranks of this training, for the next run of this name; `None` if this is its only process."""
    distributed = group()
    if distributed is None or distributed.get_world_size() == 1:
        return None
    size = int(distributed.get_world_size())
    _begun[name] += 1
    store = distributed.distributed_c10d._get_default_store()
    return Ranks(rank(), size, store, f"treering/{name}/{_begun[name]}")


def _error(said: dict[str, Any]) -> TreeringError:
    kind = getattr(errors, said["error"], None)
    if isinstance(kind, type) and issubclass(kind, TreeringError):
        found = kind(said["message"], said["hint"])
    else:
        found = UnavailableError(f"{said['error']}: {said['message']}")
    found.add_note("on rank 0")
    return found
