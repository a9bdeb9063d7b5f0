"""Pytrees of JAX, on one device and on several."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import treering
import treering.jax
from examples import example
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


class Moments(NamedTuple):
    count: Any
    mu: Any


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "moments"], meta_fields=["name"])
@dataclasses.dataclass
class Train:
    step: Any
    params: Any
    moments: Any
    name: str = "gpt"


def train(seed: int = 1) -> Train:
    key = jax.random.key(seed)
    w = jax.random.normal(key, (8, 12))
    params = {"l": [w, w.astype(jnp.bfloat16)], "0": jnp.arange(3), "none": None, "empty": {}}
    moments = (Moments(jnp.int32(3), {"w": w * 2}), Moments(0, {}))
    return Train(7, params, [moments, key, np.arange(4.0), True, w.astype(ml_dtypes.float8_e4m3fn)])


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y), (path, type(x), type(y))
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if hasattr(x, "dtype"):
            assert x.dtype == y.dtype and x.shape == y.shape, path
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path
        else:
            assert x == y, path


def test_a_pytree_comes_back(run: treering.Run) -> None:
    run.save(1, {"train": treering.jax.Tree(train()), "epoch": 3})
    run.wait()
    assert_same(treering.jax.restore(run.latest(), "train", train(2)), train())
    shapes = jax.eval_shape(lambda: train(2).params)
    assert_same(treering.jax.restore(run.latest(), "train", Train(0, shapes, train(2).moments)).params, train().params)
    tree = treering.jax.Tree(train(2))
    report = run.latest().load_into({"train": tree})
    assert_same(tree.value, train())
    assert report.state == {"epoch": 3}
    assert {"train.leaves.params.l.0", "train.leaves.moments.0.0.mu.w"} <= {info.name for info in run.latest().tensors}


def mesh(*shape: int) -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(shape), ("x", "y")[: len(shape)])


def test_arrays_go_onto_other_devices_than_they_came_from(run: treering.Run) -> None:
    whole = {"w": jnp.arange(96.0).reshape(8, 12), "b": jnp.arange(12, dtype=jnp.bfloat16), "k": jax.random.key(3)}
    two = mesh(2, 2)
    sharded = {
        "w": jax.device_put(whole["w"], NamedSharding(two, P("x", "y"))),
        "b": jax.device_put(whole["b"], NamedSharding(two, P("y"))),
        "k": whole["k"],
    }
    run.save(1, {"params": treering.jax.Tree(sharded), "w": sharded["w"]}).wait()
    assert sharded["w"]._npy_value is None, "the gathered copy is kept"
    np.testing.assert_array_equal(run.latest().load("w"), whole["w"])
    four = {"w": NamedSharding(mesh(4), P(None, "x")), "b": NamedSharding(mesh(4), P("x")), "k": None}
    back = treering.jax.restore(run.latest(), "params", whole, shardings=four)
    assert_same(back, whole)
    assert back["w"].sharding == four["w"] and len(back["b"].addressable_shards) == 4
    again = treering.jax.restore(run.latest(), "params", sharded)
    assert_same(again, whole)
    assert again["w"].sharding == sharded["w"].sharding
    one = treering.jax.restore(run.latest(), "params", whole)
    assert_same(one, whole)


def test_a_donated_array_was_saved_before(run: treering.Run) -> None:
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    w = jnp.zeros((300, 300))
    for number in range(1, 4):
        run.save(number, {"w": treering.jax.Tree(w)})
        w = step(w)
    run.wait()
    for number in range(1, 4):
        restored = treering.jax.restore(run[number], "w", w)
        np.testing.assert_array_equal(restored, np.full((300, 300), number - 1.0))
        # What is restored may be donated too.
        np.testing.assert_array_equal(step(restored), np.full((300, 300), float(number)))
        np.testing.assert_array_equal(treering.jax.restore(run[number], "w", w), np.full((300, 300), number - 1.0))


def test_what_does_not_fit_is_named_and_nothing_is_changed(run: treering.Run) -> None:
    run.save(1, {"p": treering.jax.Tree({"a": [jnp.ones(3)], "n": 1})}).wait()
    for like, said in (
        ({"a": [jnp.ones(4)], "n": 1}, r"\['a'\]\[0\] was saved as float32 \(3,\) and is float32 \(4,\)"),
        ({"a": [jnp.ones(3, jnp.int32)], "n": 1}, "float32"),
        ({"a": {"0": jnp.ones(3)}, "n": 1}, "was not saved"),
        ({"a": [jnp.ones(3)], "n": 1.0}, "was saved as int and is float"),
        ({"a": [jnp.ones(3)]}, "n is not there to be filled"),
    ):
        tree = treering.jax.Tree(like)
        with pytest.raises(treering.MismatchError, match=said):
            run.latest().load_into({"p": tree})
        assert tree.value is like
    with pytest.raises(treering.UnsupportedError, match="no values"):
        run.save(2, {"p": treering.jax.Tree(jax.eval_shape(lambda: jnp.ones(3)))})


def test_the_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        names: dict[str, Any] = {"treering": treering, "state": train(), "train_step": lambda state: state}
        exec(example("jax"), names)
        assert_same(names["state"], train())
    assert treering.Store("checkpoints")["gpt@latest"].step == 20
