"""Keras 3, on any backend: a callback that saves, and goes on where a training stopped.

    checkpoint = treering.keras.Checkpoint("checkpoints", "gpt", keep=[treering.Latest(3)])
    model.fit(x, y, epochs=50, callbacks=[checkpoint])
    treering.keras.load(checkpoint.store["gpt@best:val_loss:min"], model)

Variables are saved under their paths. Keras numbers the names of layers through a process, so a model that was made
again has others: then variables go by their order, and their shapes and types must be the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from . import frameworks, rng
from .checkpoint import Checkpoint as _Checkpoint
from .errors import InvalidError, MismatchError
from .policy import Keep
from .run import Run, close_open
from .store import Store


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the model, its optimizer, random states and metrics, and fills them when ``fit`` begins again.

    The step is what the optimizer counts; epochs go on after the last that was whole.

    Parameters
    ----------
    store : Store or path
        The store.
    run : str
        The name of the training.
    save_freq : "epoch" or int
        Save after each epoch, or after so many batches. What was saved within an epoch goes on at its beginning.
    keep, thin : optional
        What stays, as for :meth:`Store.run`.
    run_options : dict, optional
        More for :meth:`Store.run`, such as ``{"on_error": "warn"}``.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        run: str,
        *,
        save_freq: Literal["epoch"] | int = "epoch",
        keep: Sequence[Keep] | None = None,
        thin: Mapping[str, int] | None = None,
        run_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if save_freq != "epoch" and not (type(save_freq) is int and save_freq > 0):
            raise InvalidError(f"save_freq={save_freq!r}", "it is 'epoch', or a number of batches")
        self.store = frameworks.opened(store)
        self._name = run
        self._save_freq = save_freq
        self._options = {"keep": keep, "thin": thin, **(run_options or {})}
        self._run: Run | None = None
        self._epoch = 0
        self._batches = 0
        self._saved: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        # A training that was interrupted may have left one behind, with a save under way.
        close_open(self.store.path, self._name)
        self._run = run = self.store.run(self._name, **self._options)
        latest = run.latest(complete=True)
        if latest is None:
            return
        if self._saved is not None:  # another fit of the same training
            run._go_on_from(latest)
            return
        load(latest, self.model, optimizer=True)
        run._go_on_from(latest)
        self._saved = latest.step
        rng.set_own(latest.load("rng"))
        # It is what BackupAndRestore of Keras sets.
        self.model._initial_epoch = latest.load("keras")["epoch"]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if self._save_freq != "epoch" and self._batches % self._save_freq == 0:
            self._save(self._epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._save_freq == "epoch":
            self._save(epoch + 1, logs)

    def on_train_end(self, logs: Any = None) -> None:
        # Keras never does, and the next fit would begin there.
        self.model._initial_epoch = None
        if self._run is not None:
            run, self._run = self._run, None
            run.close()

    def _save(self, epoch: int, logs: Any) -> None:
        assert self._run is not None, "on_train_begin was called"
        model = self.model  # each look at it brings its variables up to date
        step = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        if step == self._saved:
            return
        state = {
            "model": _values(_model_variables(model)),
            "optimizer": _values(model.optimizer.variables),
            "keras": {"epoch": epoch},
            "rng": rng.of_all_ranks(),
        }
        self._run.save(step, state, metrics=frameworks.metrics(logs or {}))
        self._saved = step


def load(checkpoint: _Checkpoint, model: Any, *, optimizer: bool = False) -> None:
    """Fills a model and, if it is asked for, its optimizer. If anything does not fit, nothing is changed."""
    if not model.built:
        raise InvalidError("a model that is not built has no variables", "build it, or call it once")
    wanted = {"model": _model_variables(model)}
    if optimizer:
        model.optimizer.build(model.trainable_variables)
        wanted["optimizer"] = list(model.optimizer.variables)
    pairs: list[tuple[Any, Any]] = []
    for part, variables in wanted.items():
        pairs += _pairs(part, checkpoint.load(part, framework="numpy"), variables)
    for variable, value in pairs:
        variable.assign(value)


def _model_variables(model: Any) -> list[Any]:
    return [*model.trainable_variables, *model.non_trainable_variables]


def _values(variables: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, variable in zip(_names(variables), variables, strict=True):
        found[name] = np.asarray(keras.ops.convert_to_numpy(variable))
    return found


def _names(variables: Sequence[Any]) -> list[str]:
    """The path of each variable, with a number where two have the same."""
    names: dict[str, None] = {}
    for number, variable in enumerate(variables):
        names[variable.path if variable.path not in names else f"{variable.path}~{number}"] = None
    return list(names)


def _pairs(part: str, saved: dict[str, Any], variables: list[Any]) -> list[tuple[Any, Any]]:
    """Each variable with its value: by name or, where names differ, by order."""
    names = _names(variables)
    values = [saved[name] for name in names] if set(names) == set(saved) else list(saved.values())
    if len(values) != len(variables):
        raise MismatchError(f"{part} has {len(values)} variables in the checkpoint, and {len(variables)} here")
    for name, variable, value in zip(names, variables, values, strict=True):
        here, there = (tuple(variable.shape), str(variable.dtype)), (value.shape, str(value.dtype))
        if here != there:
            raise MismatchError(f"{part}: {name} was saved as {there[1]} {there[0]} and is {here[1]} {here[0]}")
    return list(zip(variables, values, strict=True))
