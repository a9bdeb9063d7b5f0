"""NumPy: arrays and scalars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UnsupportedError
from .tree import Decoder, Encoder, Info, Leaf, Path, Slot, dotted

if TYPE_CHECKING:
    from .loading import Plan

#: Types that safetensors has, by their name in NumPy or ml_dtypes. All others are stored as bytes, with their type
#: beside them.
STORED = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}
_NAMES = {stored: name for name, stored in STORED.items()}


def begin(encoder: Encoder, state: dict[str, Any]) -> None:
    pass


def encode(value: Any, encoder: Encoder, path: Path) -> Any:
    if isinstance(value, np.ndarray):
        if type(value) not in (np.ndarray, np.memmap):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise UnsupportedError(f"{dotted(path)}: an array of type {kind} cannot be saved", "save its parts")
        return array(np.asarray(value), encoder, path, {"of": "numpy"})
    if isinstance(value, np.generic):
        dtype = _check(value.dtype, path)
        raw = np.array(value, dtype=dtype).tobytes()
        return {"$": "numpy.scalar", "dtype": _dtype_node(dtype), "bytes": raw.hex()}
    if isinstance(value, np.dtype):
        return {"$": "numpy.dtype", "dtype": _dtype_node(_check(value, path))}
    return NotImplemented


def array(value: Any, encoder: Encoder, path: Path, node: dict[str, Any]) -> dict[str, Any]:
    dtype = _check(value.dtype, path)
    leaf, node = _leaf(value.shape, dtype, node)
    if value.size:
        leaf.identity = (value.__array_interface__["data"][0], value.shape, value.strides, str(dtype))
    if value.flags.c_contiguous:
        leaf.source = value.reshape(-1).view(np.uint8) if value.size else b""
    else:
        leaf.fill = lambda memory: np.copyto(np.frombuffer(memory, dtype).reshape(value.shape), value)
        leaf.piece = lambda offset, length: _piece(value, offset, length)
    return encoder.tensor(leaf, path, node)


def _piece(value: Any, offset: int, length: int) -> bytes:
    """Some of the bytes of an array in row-major order, which need not begin or end with an element."""
    first = offset // value.itemsize
    elements = value.flat[first : -(-(offset + length) // value.itemsize)]
    begin = offset - first * value.itemsize
    piece: bytes = elements.tobytes()[begin : begin + length]
    return piece


def pieces(
    shape: tuple[int, ...],
    dtype: Any,
    parts: Callable[[], Iterator[tuple[Any, Any]]],
    encoder: Encoder,
    path: Path,
    node: dict[str, Any],
) -> dict[str, Any]:
    """The node of an array that is made of parts, each with its index."""
    leaf, node = _leaf(shape, _check(dtype, path), node)

    def fill(memory: memoryview) -> None:
        whole = np.frombuffer(memory, dtype).reshape(shape)
        for index, part in parts():
            whole[index] = part

    leaf.fill = fill
    return encoder.tensor(leaf, path, node)


def _leaf(shape: tuple[int, ...], dtype: Any, node: dict[str, Any]) -> tuple[Leaf, dict[str, Any]]:
    nbytes = math.prod(shape) * dtype.itemsize
    stored = STORED.get(dtype.name) if dtype.isnative else None
    if stored is not None:
        return Leaf(stored, shape, nbytes), node
    return Leaf("U8", (nbytes,), nbytes), {**node, "dtype": _dtype_node(dtype), "shape": list(shape)}


def slot(node: dict[str, Any], info: Info) -> Slot:
    dtype = undtype(node["dtype"]) if "dtype" in node else named(info.dtype)
    value = np.empty(node.get("shape", info.shape), dtype)
    if value.nbytes != info.nbytes:
        raise UnsupportedError(f"tensor {info.name}: {info.nbytes} bytes are no {value.shape} of {dtype}")
    return Slot(value.reshape(-1).view(np.uint8) if value.size else bytearray(), lambda: value)


def decode(node: dict[str, Any], decoder: Decoder) -> Any:
    dtype = undtype(node["dtype"])
    if node["$"] == "numpy.dtype":
        return dtype
    raw = bytes.fromhex(node["bytes"])
    return np.frombuffer(raw, dtype)[0] if raw else dtype.type()


def writable(target: Any) -> Any:
    """The memory of an array to be filled in place, `None` if it is not in one piece."""
    if not (target.flags.c_contiguous and target.flags.writeable):
        return None
    return target.reshape(-1).view(np.uint8) if target.size else bytearray()


def named(stored: str) -> Any:
    """The type of this safetensors name."""
    name = _NAMES.get(stored)
    if name is None:
        raise UnsupportedError(f"NumPy has no type for {stored}", "load it as torch tensors")
    return _by_name(name)


def undtype(node: Any) -> Any:
    if isinstance(node, str) and node.isidentifier():
        return _by_name(node)
    return np.lib.format.descr_to_dtype(_tuples(node))


def _by_name(name: str) -> Any:
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError):
        raise UnsupportedError(f"NumPy has no {name} by itself", "pip install ml_dtypes") from None


def _dtype_node(dtype: Any) -> Any:
    """A type as JSON: the name of one of ml_dtypes, else what a .npy file would say."""
    if dtype.kind == "V" and dtype.names is None and dtype.type is not np.void:
        return dtype.name
    if dtype.name in STORED and dtype.isnative:
        return dtype.name
    return np.lib.format.dtype_to_descr(dtype)


def _tuples(descr: Any) -> Any:
    """JSON has lists where a description has tuples."""
    if isinstance(descr, str):
        return descr
    fields = []
    for entry in descr:
        name, kind, *shape = entry
        name = tuple(name) if isinstance(name, list) else name
        fields.append((name, _tuples(kind), *(tuple(part) for part in shape)))
    return fields


def _check(dtype: Any, path: Path) -> Any:
    if dtype.hasobject or dtype.kind == "T":
        raise UnsupportedError(f"{dotted(path)}: an array of {dtype} cannot be saved", "save a list")
    return dtype


def into(target: Any, node: Any, path: Path, plan: Plan) -> bool:
    """Plans how an array is filled in place; `False` for what is no array."""
    if not isinstance(target, np.ndarray):
        return False
    if not (isinstance(node, dict) and node.get("$") == "tensor"):
        plan.reshaped.append((dotted(path), "no array", str(target.shape)))
        return True
    info = plan.info(node)
    shape = tuple(node.get("shape", info.shape))
    if shape != target.shape:
        plan.reshaped.append((dotted(path), str(shape), str(target.shape)))
        return True
    dtype = undtype(node["dtype"]) if "dtype" in node else named(info.dtype)
    whole = writable(target) if dtype == target.dtype else None
    if dtype != target.dtype:
        plan.cast.append((dotted(path), str(dtype), str(target.dtype)))
    if whole is None or not plan.read(info, (target.__array_interface__["data"][0], info.nbytes), lambda: whole):
        plan.value({**node, "of": "numpy"}, lambda value: np.copyto(target, value, casting="unsafe"), info)
    return True
