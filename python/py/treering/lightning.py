"""Lightning: checkpoints of a Trainer in a store.

    io = treering.lightning.CheckpointIO("checkpoints")
    trainer = Trainer(plugins=[io], callbacks=[treering.lightning.Callback()])
    trainer.fit(model, ckpt_path="last")

``ModelCheckpoint`` keeps its meaning. At each of its paths stands a pointer; what it removes is forgotten once the save
after it is durable, and its space is freed.

A Trainer may write one step into several files, and these differ in what it counts. The first of a step goes to the
run, others of that step to runs beside it: ``gpt``, ``gpt.2``. A training that begins anew where a run has steps gets a
run of its own, as its files do: ``gpt-v1``.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO as _CheckpointIO
from lightning.fabric.plugins import TorchCheckpointIO

from . import frameworks, pointer, rng
from .checkpoint import Checkpoint
from .errors import InvalidError, NotFoundError, UnsupportedError
from .pointer import Pointer
from .policy import Keep
from .run import Run
from .staging import Staging
from .store import Store

M = TypeVar("M", bound=pl.LightningModule)

#: Where the callback puts what it adds to a checkpoint.
KEY = "treering"
#: Where the step of a checkpoint is, for Lightning and for what people give to Fabric.
STEPS = ("global_step", "step", "iteration")


class CheckpointIO(_CheckpointIO):  # type: ignore[misc]
    """Saves into a store, in the background, and loads from it.

    Parameters
    ----------
    store : Store or path
        The store.
    run : str, optional
        The name of the training; by default that of the folder of its checkpoints.
    keep, thin : optional
        What stays, as for :meth:`Store.run`. By default what Lightning removes goes, and all else stays.
    plain : {"none", "last", "best"}
        For which checkpoint a real file stands at its path, as without a store.
    run_options : dict, optional
        More for :meth:`Store.run`, such as ``{"on_error": "warn"}``.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        run: str | None = None,
        *,
        keep: Sequence[Keep] | None = None,
        thin: Mapping[str, int] | None = None,
        plain: Literal["none", "last", "best"] = "none",
        run_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = frameworks.opened(store)
        self._name = run
        self._keep = keep
        self._options = {"keep": keep, "thin": thin, **(run_options or {})}
        self._plain = pointer.plain(plain)
        self._plain_file: tuple[pathlib.Path, Pointer] | None = None
        #: The run of this training, once it is known; others are named after it.
        self._first: str | None = None
        self._runs: dict[str, Run] = {}
        self._newest: dict[str, int] = {}
        self._staging = Staging()
        #: What was saved last: what stands in when the next is not durable.
        self._before: Pointer | None = None

    # -- what Lightning calls

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        if storage_options is not None:
            raise InvalidError("storage_options", "a store takes none")
        state = dict(checkpoint)
        added = dict(state.pop(KEY, {}))
        metrics = added.pop("metrics", None)
        if added:
            state[KEY] = added
        file = pathlib.Path(path).absolute()
        step = _step(state)
        old = self._pointer(file)
        run = self._run(file, step, old)
        run.save(step, state, metrics=metrics)
        self._newest[run.name] = step
        file.parent.mkdir(parents=True, exist_ok=True)
        if old is not None and old.address != f"{run.name}@{step}":
            self._drop(old, run)
        new = Pointer(self.store.path, run.name, step, self._before.address if self._before else None)
        self._put(file, new, checkpoint)
        self._before = new

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        file = os.path.realpath(path)  # the last may be a link to another
        found = pointer.read(file)
        if found is None:
            loaded: dict[str, Any] = TorchCheckpointIO().load_checkpoint(
                file, map_location or (lambda storage, _: storage), weights_only
            )
            return loaded
        self._wait()
        if self._is_ours(found):
            self._first = _first(found.run)
        checkpoint = _open(found)
        state: dict[str, Any] = checkpoint.load(map_location=None if callable(map_location) else map_location)
        return state

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        file = pathlib.Path(path).absolute()
        old = None if file.is_symlink() else self._pointer(file)
        if old is not None:
            self._drop(old, self._begun(old.run))
        if file.is_dir() and not file.is_symlink():
            TorchCheckpointIO().remove_checkpoint(path)
        else:
            file.unlink(missing_ok=True)

    def teardown(self) -> None:
        """Waits until all is durable. What comes later begins anew."""
        runs, self._runs = list(self._runs.values()), {}
        for run in runs:
            run.close()

    # -- inside

    def _run(self, file: pathlib.Path, step: int, old: Pointer | None) -> Run:
        """The run of what the file had, if that is of the same step; else the first that has no step as high."""
        if self._first is None:
            self._first = self._new(self._name or _folder_name(file))
        replaces = old is not None and old.step == step and old.run in self._newest
        if old is not None and replaces:
            name = old.run
        else:
            names = itertools.chain([self._first], (f"{self._first}.{number}" for number in itertools.count(2)))
            name = next(name for name in names if self._newest_of(name) < step)
        # There is one copy in memory for all of them.
        for other in self._runs.values():
            if other.name != name:
                other.wait()
        run = self._begun(name)
        # It is above all that the run has: the store finds what it continues.
        run._at, run._is_ours, run._replaces = None, True, replaces
        return run

    def _begun(self, name: str) -> Run:
        if name not in self._runs:
            self._runs[name] = self.store.run(name, **self._options)
            self._runs[name]._staging = self._staging
        return self._runs[name]

    def _newest_of(self, name: str) -> int:
        if name not in self._newest:
            self._newest[name] = self._latest(name)
        return self._newest[name]

    def _latest(self, name: str) -> int:
        try:
            row = self.store._reader().run(name)
        except NotFoundError:
            return -1  # there is no store yet
        return -1 if row is None or row["latest"] is None else row["latest"]

    def _new(self, name: str) -> str:
        """The name, with a version if a training had it."""
        version, found = 0, name
        while self._latest(found) >= 0:
            version += 1
            found = f"{name}-v{version}"
        return found

    def _is_ours(self, found: Pointer) -> bool:
        """Whether the training goes on in the run of a checkpoint that is loaded: not if it was given another name."""
        if found.store != self.store.path:
            return False
        return self._name is None or re.fullmatch(re.escape(self._name) + r"(-v\d+)?", _first(found.run)) is not None

    def _wait(self) -> None:
        for run in self._runs.values():
            run.wait()

    def _pointer(self, file: pathlib.Path) -> Pointer | None:
        """What a file stands for, if it lies in this store."""
        is_plain = self._plain_file is not None and self._plain_file[0] == file
        found = self._plain_file[1] if self._plain_file is not None and is_plain else pointer.read(file)
        return found if found is not None and found.store == self.store.path else None

    def _drop(self, old: Pointer, run: Run) -> None:
        """Forgets a checkpoint, once the save under way is durable, or at the end."""
        if self._keep is None:
            run._dropped.append(old.address)

    def _put(self, file: pathlib.Path, new: Pointer, checkpoint: dict[str, Any]) -> None:
        is_plain = self._plain == "last" or (self._plain == "best" and _is_best(file, checkpoint))
        if not is_plain:
            new.write(file)
            return
        TorchCheckpointIO().save_checkpoint(checkpoint, str(file))
        if self._plain_file is not None and self._plain_file[0] != file and self._plain_file[0].exists():
            self._plain_file[1].write(self._plain_file[0])
        self._plain_file = (file, new)


class Callback(pl.Callback):  # type: ignore[misc]
    """Puts into each checkpoint what was logged, as its metrics, and the random states of all ranks.

    They are set again when the training goes on, so that it goes on as it would have.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        metrics = frameworks.metrics(trainer.callback_metrics)
        checkpoint[KEY] = {"metrics": metrics, "rng": rng.of_all_ranks(arrays=False)}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._states = checkpoint.get(KEY, {}).get("rng")
        self._set()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # As late as can be: the order of the data is drawn right after this.
        self._set()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._states = None

    def _set(self) -> None:
        if self._states is not None:
            rng.set_own(self._states)


def load(path: str | os.PathLike[str], *, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint whose pointer stands at a path: the dict that Lightning saved."""
    found = pointer.read(os.path.realpath(path))
    if found is None:
        raise NotFoundError(f"no pointer to a store at {os.fspath(path)}", "torch.load reads a real file")
    loaded: dict[str, Any] = _open(found).load(map_location=map_location)
    return loaded


def load_from_checkpoint(
    module: type[M],
    path: str | os.PathLike[str],
    *,
    strict: bool | None = None,
    map_location: Any = None,
    **arguments: Any,
) -> M:
    """What ``module.load_from_checkpoint(path, ...)`` does, for a path where a pointer stands."""
    from lightning.pytorch.core.saving import _load_state

    made = _load_state(module, load(path, map_location=map_location), strict=strict, **arguments)
    return made if map_location is None else made.to(map_location)


def export(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> str:
    """Writes the real ``.ckpt`` for a pointer."""
    torch.save(load(path), output)
    return os.fspath(output)


def _open(found: Pointer) -> Checkpoint:
    try:
        return found.open()
    except NotFoundError as error:
        if found.before is None:
            raise
        try:
            checkpoint = Store(found.store)[found.before]
        except NotFoundError:
            raise error from None
        warnings.warn(
            f"{found.address} was not durable when the training stopped: {found.before} is loaded", stacklevel=4
        )
        return checkpoint


def _step(state: dict[str, Any]) -> int:
    for name in STEPS:
        if type(state.get(name)) is int:
            step: int = state[name]
            return step
    raise UnsupportedError("a checkpoint without a step", f"save it with an int under one of {', '.join(STEPS)}")


def _folder_name(file: pathlib.Path) -> str:
    """The folder of a training: that of its checkpoints, or the one above ``checkpoints``."""
    folder = file.parent if file.parent.name != "checkpoints" else file.parent.parent
    return folder.name or "training"


def _first(run: str) -> str:
    return re.sub(r"\.\d+$", "", run)


def _is_best(file: pathlib.Path, checkpoint: dict[str, Any]) -> bool:
    states = checkpoint.get("callbacks", {}).values()
    return any(isinstance(state, dict) and str(state.get("best_model_path")) == str(file) for state in states)
