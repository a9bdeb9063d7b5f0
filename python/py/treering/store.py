"""A store, and the runs in it."""

from __future__ import annotations

import datetime
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from . import _native
from .cadence import Cadence
from .checkpoint import Checkpoint
from .errors import ExistsError, ForkedError, NotFoundError, RunExists
from .policy import Keep
from .ranks import ranks
from .run import Run


class Store:
    """A folder of checkpoints.

    Parameters
    ----------
    path : path
        The folder. It is made when a run is begun in it, and then its absolute path is said once, on standard error.
        Reading never makes one.

    Examples
    --------
    >>> store = treering.Store("checkpoints")
    >>> run = store.run("gpt")
    """

    def __init__(self, path: str | os.PathLike[str] = "treering-store") -> None:
        self.path = pathlib.Path(path).absolute()
        self._opened: _native.Store | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<treering.Store {self.path}>"

    def run(
        self,
        name: str,
        *,
        resume: Literal["allow", "must", "never"] = "allow",
        keep: Sequence[Keep] | None = None,
        thin: Mapping[str, int] | None = None,
        config: Mapping[str, Any] | None = None,
        cadence: Cadence | None = None,
        when_busy: Literal["wait", "skip", "error"] = "wait",
        on_error: Literal["raise", "warn"] = "raise",
        memory_limit: int | None = None,
        threads: int | None = None,
        gc: bool = True,
        live_base: bool = False,
    ) -> Run:
        """Begins a run, or goes on with one.

        Parameters
        ----------
        name : str
            The name of the training.
        resume : {"allow", "must", "never"}
            Whether the run may have steps already. If it has, something must be loaded from it before the first save.
        keep : sequence of rules, optional
            What stays of the run, such as ``[treering.Latest(3), treering.Best("val_loss", mode="min")]``. It takes the
            place of the policy that the run has; `None` leaves that alone. Without a policy, all stays.
        thin : dict of str to int, optional
            Components that only the newest so many kept steps keep: ``{"optimizer": 2}``. With `keep`.
        config : dict, optional
            Kept with the run, with where the run came from.
        cadence : int, str, timedelta or Overhead, optional
            When :meth:`Run.should_save` says so: every so many steps, every "10m", or ``treering.Overhead(0.02)``.
        when_busy : {"wait", "skip", "error"}
            What a save does while an earlier one is not durable yet.
        on_error : {"raise", "warn"}
            A save that failed in the background raises at the next save and at close; or it warns, and raises only
            after three in a row.
        memory_limit : int, optional
            Bytes that saves may be copied into. Larger ones are read where they are, and are waited for. By default a
            quarter of the memory of this machine or container, over ``LOCAL_WORLD_SIZE``.
        threads : int, optional
            Threads of a save. By default a quarter of the cores, over ``LOCAL_WORLD_SIZE``, between 1 and 4; and all
            cores, over ``LOCAL_WORLD_SIZE``, as soon as somebody waits for it: a handle's or the run's `wait`, its end,
            the next save, or the end of a notice.
        gc : bool
            Whether space is freed in the background after durable saves, as the run's policy says.
        live_base : bool
            Whether the copy of the last durable save is kept in memory, so that the next one, which is stored as the
            difference to it, need not read and decode it. That takes a second copy of the state, which `memory_limit`
            covers too: where two do not fit, it is off, with a warning.
        """
        joined = ranks(name)

        def begin() -> Run:
            if joined is None or joined.first:
                self._admit(name, resume)
            return Run(
                self,
                name,
                keep=keep,
                thin=thin,
                config=config,
                cadence=cadence,
                when_busy=when_busy,
                on_error=on_error,
                memory_limit=memory_limit,
                threads=threads,
                gc=gc,
                live_base=live_base,
                ranks=joined,
            )

        if joined is None:
            return begin()
        key = joined.key("run")
        if joined.first:
            return joined.act(key, begin)
        joined.hear(key)
        return begin()

    def _admit(self, name: str, resume: str) -> None:
        """Makes the store if it is not there, and raises unless the run is as it should be."""
        native = self._reader() if resume == "must" else self._writer()
        row = native.run(name)
        if row is not None and row["latest"] is not None and resume == "never":
            raise RunExists(f"run {name} has steps up to {row['latest']}", "resume='allow' goes on with it")
        if (row is None or row["latest"] is None) and resume == "must":
            raise NotFoundError(f"no run {name} with steps in {self.path}", "resume='allow' begins one")

    def runs(self) -> list[_native.RunRow]:
        """All runs, by name: dictionaries with `run`, `latest`, `checkpoints`, `policy`, `config` and more."""
        return self._reader().runs()

    def __getitem__(self, address: str) -> Checkpoint:
        """A checkpoint by its address: ``store["gpt@3000"]``, ``store["gpt@best:val_loss"]``."""
        return Checkpoint(self._reader(), address)

    def gc(self, *, dry_run: bool = False, grace_seconds: float | None = None) -> _native.Collected:
        """Applies all policies and frees space; with `dry_run`, only says what would go.

        For `grace_seconds`, what is condemned lies on for those who still read it: by default 15 minutes on a network
        file system, and not at all elsewhere.
        """
        return self._reader().gc(dry_run=dry_run, grace_seconds=grace_seconds)

    def verify(self, *, deep: bool = False) -> list[str]:
        """What is damaged, in words; an empty list: the store is sound. `deep` reads and hashes every chunk."""
        return self._reader().verify(deep)

    @property
    def created_at(self) -> datetime.datetime | None:
        """When its first run was begun."""
        begun = [row["created_at"] for row in self.runs()]
        return datetime.datetime.fromtimestamp(min(begun), datetime.UTC) if begun else None

    def _reader(self) -> _native.Store:
        if os.getpid() != self._pid:
            raise ForkedError(f"the store {self.path} was opened before a fork", "open it again: treering.Store(path)")
        if self._opened is None:
            self._opened = _native.Store.open(self.path)
        return self._opened

    def _writer(self) -> _native.Store:
        try:
            return self._reader()
        except NotFoundError:
            try:
                _native.Store.create(self.path)
            except ExistsError:
                return self._reader()  # another process was faster
            print(f"treering: new store at {self.path}", file=sys.stderr)
            return self._reader()
