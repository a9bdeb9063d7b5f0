"""Keras, with the backends torch and JAX."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import treering
import treering.keras
from examples import example
from same import assert_same

pytestmark = pytest.mark.filterwarnings("ignore")


class Stopped(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """A training that dies."""

    def __init__(self, epoch: int, batch: int = 0) -> None:
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            raise Stopped


def model(width: int = 8) -> Any:
    keras.utils.set_random_seed(1)
    found = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )
    found.compile(optimizer=keras.optimizers.AdamW(1e-2), loss="mse")
    return found


def data() -> tuple[Any, Any]:
    x = np.random.default_rng(2).normal(size=(32, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)


def fit(model: Any, epochs: int, *callbacks: Any, shuffle: bool = True) -> Any:
    model.fit(*data(), epochs=epochs, batch_size=8, shuffle=shuffle, verbose=0, callbacks=list(callbacks),
              validation_data=data())  # fmt: skip
    return model


def values(model: Any) -> list[Any]:
    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def test_a_training_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    whole = values(fit(model(), 4))
    with pytest.raises(Stopped):
        fit(model(), 4, treering.keras.Checkpoint(tmp_path / "s", "gpt"), Stop(2))
    store = treering.Store(tmp_path / "s")
    again = model()
    fit(again, 4, treering.keras.Checkpoint(store, "gpt"))
    assert_same(values(again), whole)
    assert again._initial_epoch is None
    history = store.run("gpt").history()
    assert [row["step"] for row in history] == [4, 8, 12, 16]
    assert all(set(row["metrics"]) == {"loss", "val_loss"} for row in history)


def test_a_callback_serves_more_than_one_fit(tmp_path: pathlib.Path) -> None:
    checkpoint = treering.keras.Checkpoint(tmp_path / "s", "gpt", keep=[treering.Latest(3)])
    trained = fit(fit(model(), 2, checkpoint), 2, checkpoint)
    assert [row["step"] for row in checkpoint.store.run("gpt").history()] == [8, 12, 16]
    other = model()
    treering.keras.load(checkpoint.store["gpt@latest"], other, optimizer=True)
    assert_same(values(other), values(trained))


def test_saves_by_batches_go_on_at_the_beginning_of_the_epoch(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Stopped):
        fit(model(), 4, treering.keras.Checkpoint(tmp_path / "s", "gpt", save_freq=3), Stop(1, 3))
    store = treering.Store(tmp_path / "s")
    begun: list[int] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    fit(model(), 3, treering.keras.Checkpoint(store, "gpt", save_freq=3), note)
    assert begun == [1, 2]
    assert store["gpt@6"].load("keras") == {"epoch": 1}
    assert [row["step"] for row in store.run("gpt").history()] == [3, 6, 9, 12]
    with pytest.raises(treering.InvalidError, match="save_freq"):
        treering.keras.Checkpoint(store, "gpt", save_freq=0)


def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path: pathlib.Path) -> None:
    checkpoint = treering.keras.Checkpoint(tmp_path / "s", "gpt")
    fit(model(), 1, checkpoint)
    other = model(9)
    before = values(other)
    with pytest.raises(treering.MismatchError, match=r"was saved as float32 \(4, 8\) and is float32 \(4, 9\)"):
        treering.keras.load(checkpoint.store["gpt@4"], other)
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    with pytest.raises(treering.MismatchError, match="variables"):
        treering.keras.load(checkpoint.store["gpt@4"], small)
    with pytest.raises(treering.InvalidError, match="not built"):
        treering.keras.load(checkpoint.store["gpt@4"], keras.Sequential([keras.layers.Dense(8)]))
    assert_same(values(other), before)


def test_a_training_goes_on_with_jax(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    code = (
        "import sys, test_keras, pathlib, keras\n"
        "assert keras.backend.backend() == 'jax'\n"
        "test_keras.test_a_training_goes_on_bit_for_bit(pathlib.Path(sys.argv[1]))\n"
        "test_keras.test_saves_by_batches_go_on_at_the_beginning_of_the_epoch(pathlib.Path(sys.argv[2]))\n"
    )
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(other)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = data()
    for _ in range(2):
        exec(example("keras"), {"treering": treering, "model": model(), "x": x, "y": y})
    assert treering.Store("checkpoints")["gpt@latest"].step == 2
