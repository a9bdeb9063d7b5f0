"""JAX: whole pytrees, onto whatever devices.

    tree = treering.jax.Tree(state)
    resume = run.resume({"train": tree})
    state = tree.value
    run.save(step, {"train": treering.jax.Tree(state)})

A pytree may have nodes of any type, such as the named tuples of optax. Only its leaves are saved, each with its path;
what it is made of comes from a tree of the same structure when it is restored.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ._jax import Host
from .checkpoint import Checkpoint
from .errors import MismatchError, UnsupportedError

#: What a leaf may be beside an array.
_SCALARS = (bool, int, float, complex)


class Tree:
    """A pytree, to be saved or to be filled.

    Parameters
    ----------
    value : pytree
        What is saved. To be filled, its leaves may be ``jax.ShapeDtypeStruct``, as ``jax.eval_shape`` gives them.
    shardings : pytree or sharding, optional
        Where arrays go when they are filled; by default where those of `value` are.

    Attributes
    ----------
    value : pytree
        What was given and, after it was filled, the new one.
    """

    def __init__(self, value: Any, shardings: Any = None) -> None:
        self.value = value
        self._shardings = shardings

    def state_dict(self) -> dict[str, Any]:
        """The leaves by readable names, and their paths."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.value)
        saved: dict[str, Any] = {}
        paths: dict[str, Any] = {}
        for path, leaf in leaves:
            name = wanted = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
            number = 1
            while name in saved:
                number += 1
                name = f"{wanted}~{number}"
            paths[name] = _typed(path)
            saved[name] = _saved(leaf)
        return {"leaves": saved, "paths": paths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the value anew. If anything does not fit, it stays as it is."""
        stored = {_key(path): name for name, path in state["paths"].items()}
        leaves, structure = jax.tree_util.tree_flatten_with_path(self.value)
        here = {_key(_typed(path)): jax.tree_util.keystr(path) for path, _ in leaves}
        wrong = [f"{here[key]} was not saved" for key in here if key not in stored]
        wrong += [f"{name} is not there to be filled" for key, name in stored.items() if key not in here]
        pairs = [(path, leaf, state["leaves"].get(stored.get(_key(_typed(path))))) for path, leaf in leaves]
        wrong += [] if wrong else [why for path, leaf, value in pairs for why in _differs(path, leaf, value)]
        if wrong:
            raise MismatchError("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
        places = self._places(structure, [leaf for _, leaf in leaves])
        made = [_made(leaf, value, place) for (_, leaf, value), place in zip(pairs, places, strict=True)]
        self.value = jax.tree_util.tree_unflatten(structure, made)

    def _places(self, structure: Any, leaves: list[Any]) -> list[Any]:
        if self._shardings is None:
            return [getattr(leaf, "sharding", None) for leaf in leaves]
        if isinstance(self._shardings, jax.sharding.Sharding):
            return [self._shardings] * len(leaves)
        found: list[Any] = structure.flatten_up_to(self._shardings)
        return found


def restore(checkpoint: Checkpoint, component: str, like: Any, *, shardings: Any = None) -> Any:
    """A pytree that was saved as a :class:`Tree`.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    component : str
        The key under which it was saved.
    like : pytree
        A tree of the same structure, with arrays or ``jax.ShapeDtypeStruct``.
    shardings : pytree or sharding, optional
        Where arrays go; by default where those of `like` are.

    Returns
    -------
    pytree
        A new one.
    """
    tree = Tree(like, shardings)
    tree.load_state_dict(checkpoint.load(component))
    return tree.value


def _saved(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise UnsupportedError("a tree of shapes has no values", "save the arrays")
    if not isinstance(leaf, jax.Array):
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return {"impl": str(jax.random.key_impl(leaf)), "data": Host(jax.random.key_data(leaf))}
    return Host(leaf)


def _differs(path: Any, leaf: Any, value: Any) -> list[str]:
    name = jax.tree_util.keystr(path)
    if not hasattr(leaf, "dtype"):
        fits = type(leaf) is type(value)
        return [] if fits else [f"{name} was saved as {type(value).__name__} and is {type(leaf).__name__}"]
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        fits = isinstance(value, dict) and value["data"].shape[: len(leaf.shape)] == leaf.shape
        return [] if fits else [f"{name} was not saved as random keys of shape {leaf.shape}"]
    if not isinstance(value, np.ndarray | np.generic):
        return [f"{name} was saved as {type(value).__name__} and is an array"]
    if value.shape != tuple(leaf.shape) or value.dtype != np.dtype(leaf.dtype):
        return [f"{name} was saved as {value.dtype} {value.shape} and is {leaf.dtype} {tuple(leaf.shape)}"]
    return []


def _made(leaf: Any, value: Any, place: Any) -> Any:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return value
    if isinstance(value, dict):
        return jax.random.wrap_key_data(_array(value["data"], None), impl=value["impl"])
    return _array(value, place)


def _array(value: Any, place: Any) -> Any:
    if place is None:
        return jax.numpy.array(value)
    # Each device gets a copy: jax may take the memory of an array on the CPU as its own.
    return jax.make_array_from_callback(value.shape, place, lambda index: np.array(value[index]))


def _typed(path: Any) -> list[list[Any]]:
    """A path by the kind of each of its parts: an entry "0" is not the first of a list."""
    found: list[list[Any]] = []
    for part in path:
        match part:
            case jax.tree_util.DictKey(key):
                found.append(["key", key])
            case jax.tree_util.SequenceKey(number):
                found.append(["index", number])
            case jax.tree_util.GetAttrKey(name):
                found.append(["name", name])
            case jax.tree_util.FlattenedIndexKey(number):
                found.append(["number", number])
            case _:
                found.append(["other", str(part)])
    return found


def _key(path: list[list[Any]]) -> tuple[Any, ...]:
    return tuple((kind, type(key).__name__, key) for kind, key in path)
