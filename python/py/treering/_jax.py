"""JAX: arrays and typed random keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from . import _numpy
from .errors import UnsupportedError
from .tree import Decoder, Encoder, Info, Path, Slot, dotted

if TYPE_CHECKING:
    from .loading import Plan


def begin(encoder: Encoder, state: dict[str, Any]) -> None:
    pass


class Host:
    """An array that comes back as one of NumPy."""

    def __init__(self, array: Any) -> None:
        self.array = array


def encode(value: Any, encoder: Encoder, path: Path) -> Any:
    if isinstance(value, Host):
        return _array(value.array, encoder, path, {"of": "numpy"})
    if not isinstance(value, jax.Array):
        return NotImplemented
    _check(value, path)
    node: dict[str, Any] = {"of": "jax"}
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        node["key"] = str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    return _array(value, encoder, path, node)


def _array(value: Any, encoder: Encoder, path: Path, node: dict[str, Any]) -> Any:
    _check(value, path)
    if len(value.sharding.device_set) == 1:
        # On a CPU this is a view of memory that jax never writes to; a donated array leaves it to us.
        return _numpy.array(np.asarray(value), encoder, path, node)
    return _numpy.pieces(value.shape, np.dtype(value.dtype), lambda: _shards(value), encoder, path, node)


def _shards(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where each part of an array lies, and the part. Asked for as a whole, the array would keep a copy."""
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            yield shard.index, np.asarray(shard.data)


def _check(value: Any, path: Path) -> None:
    if isinstance(value, jax.core.Tracer):
        raise UnsupportedError(f"{dotted(path)}: a value inside of a jax transformation", "save outside of jit")
    if not value.is_fully_addressable:
        raise UnsupportedError(f"{dotted(path)}: an array that is sharded over processes")


def slot(node: dict[str, Any], info: Info) -> Slot:
    made = _numpy.slot(node, info)

    def finish() -> Any:
        value = made.finish()
        array = jax.numpy.array(value)  # a copy: device_put may keep the memory of a NumPy array
        if array.dtype != value.dtype:
            raise UnsupportedError(f"tensor {info.name} is {value.dtype}", "set jax_enable_x64 before it is loaded")
        return jax.random.wrap_key_data(array, impl=node["key"]) if "key" in node else array

    return Slot(made.buffer, finish)


def decode(node: dict[str, Any], decoder: Decoder) -> Any:
    raise UnsupportedError(f"a value of kind {node['$']!r} cannot be read", "update treering")


def into(target: Any, node: Any, path: Path, plan: Plan) -> bool:
    """Arrays of jax cannot be filled: they are made anew."""
    return False
