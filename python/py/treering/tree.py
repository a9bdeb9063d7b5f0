"""The state tree: nested Python values as JSON and tensors, and back with the types that they had.

What JSON has by itself is written as it is: None, bool, str, finite floats, ints of up to 64 bits, lists, and dicts
whose keys are strings. Anything else is an object with the key ``"$"``, which names its type. A tensor is such an
object too; its bytes lie in the checkpoint under the name that it has in the tree, so that ``treering show`` tells
what is what.

Nothing is pickled, nothing is guessed: a value of a type that is not listed here, or in the module of a framework, is
refused with its path. Subclasses are other types.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import datetime
import gc
import json
import math
import pathlib
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from .errors import DamagedError, InvalidError, UnsupportedError

#: Values in values, at most: each takes up to three of the 128 levels of JSON that are read again.
DEPTH_MAX = 36
#: Components whose name can be the key in the tree.
_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,100}\Z")
#: The component of what has no such name.
OTHER = "state"

Path = tuple[str, ...]


class Device(Protocol):
    """What copies by itself, while the caller goes on. Equal ones are the same."""

    def pin(self, memory: Any) -> Callable[[], None]:
        """Lets it, and others of its kind, write to memory without help. Returns what ends that."""

    def settle(self) -> None:
        """Waits until all that was asked of it is copied."""


@dataclass
class Leaf:
    """A tensor that was found in a tree.

    Exactly one of `source` and `fill` says where its bytes come from: memory without gaps, or a function that writes
    them into memory that it is given. If it has a `device`, they are there once that has settled.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    source: Any = None
    #: What keeps that memory alive.
    owner: Any = None
    fill: Callable[[memoryview], None] | None = None
    #: With `fill`, if there is a way: the bytes from an offset on, so many of them, on any thread.
    piece: Callable[[int, int], Any] | None = None
    device: Device | None = None
    #: Tensors with an equal identity are the same memory seen in the same way.
    identity: object = None
    component: str = ""
    name: str = ""


@dataclass(frozen=True)
class Info:
    """A tensor of a checkpoint."""

    index: int
    component: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    id: str | None
    tie: int | None


@dataclass
class Slot:
    """Fresh memory for a tensor, and the value that it becomes once it is filled."""

    buffer: Any
    finish: Callable[[], Any]


class Adapter(Protocol):
    """What the module of a framework has."""

    def begin(self, encoder: Encoder, state: dict[str, Any]) -> None:
        """Looks at the whole tree before it is encoded."""

    def encode(self, value: Any, encoder: Encoder, path: Path) -> Any:
        """The JSON of a value, `NotImplemented` for one that is not the framework's."""

    def slot(self, node: dict[str, Any], info: Info) -> Slot:
        """Memory for a tensor."""

    def decode(self, node: dict[str, Any], decoder: Decoder) -> Any:
        """The value of a node of the framework that is no tensor."""


def adapters() -> Iterator[ModuleType]:
    """The modules of the frameworks that this process has loaded. A value of another one cannot exist."""
    for name in ("torch", "jax", "numpy"):
        if name in sys.modules:
            yield adapter(name)


def adapter(name: str) -> ModuleType:
    """The module of a framework, which imports the framework."""
    try:
        match name:
            case "torch":
                from . import _torch as found
            case "numpy":
                from . import _numpy as found  # type: ignore[no-redef]
            case "jax":
                from . import _jax as found  # type: ignore[no-redef]
            case _:
                raise UnsupportedError(f"values of {name} cannot be read", "update treering")
    except ImportError as error:
        raise UnsupportedError(f"{name} is needed for this value, and is not installed") from error
    return found


def dotted(path: Path) -> str:
    return ".".join(path) if path else "the state"


class Encoder:
    """Turns a tree into JSON, and collects its tensors."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        #: What the modules of the frameworks found out about the whole tree beforehand.
        self.notes: dict[str, Any] = {}
        self._names: set[str] = set()
        self._depth = 0
        self._frameworks = tuple(adapters())

    def encode(self, value: Any, path: Path = ()) -> Any:
        self._depth += 1
        try:
            if self._depth > DEPTH_MAX:
                raise InvalidError(f"{dotted(path[:4])}…: more than {DEPTH_MAX} values in each other")
            plain = _ENCODERS.get(type(value))
            if plain is not None:
                return plain(self, value, path)
            for framework in self._frameworks:
                encoded = framework.encode(value, self, path)
                if encoded is not NotImplemented:
                    return encoded
            stateful = getattr(value, "state_dict", None)
            if callable(stateful) and not isinstance(value, type):
                return self.encode(stateful(), path)
            if isinstance(value, pathlib.PurePath):
                return {"$": "path", "of": type(value).__name__, "value": self.encode(str(value), path)}
            raise refusal(value, path)
        finally:
            self._depth -= 1

    def tensor(self, leaf: Leaf, path: Path, node: dict[str, Any]) -> dict[str, Any]:
        """The node of a tensor: `node` with the name under which the checkpoint has it."""
        leaf.component = component(path[0]) if path else OTHER
        name = wanted = _printable(".".join(path)) or "value"
        number = 1
        while name in self._names:
            number += 1
            name = f"{wanted}~{number}"
        self._names.add(name)
        leaf.name = name
        self.leaves.append(leaf)
        return {"$": "tensor", **node, "name": name}

    def mapping(self, items: Any, path: Path, segment: Callable[[Any], str] = str) -> list[Any]:
        """Pairs of keys and values, in their order."""
        return [[self.key(key, path), self.encode(item, (*path, segment(key)))] for key, item in items]

    def key(self, key: Any, path: Path) -> Any:
        if type(key) not in _KEYS and not (type(key) is tuple and all(type(part) in _KEYS for part in key)):
            encoded = self.encode(key, path)
            if not (isinstance(encoded, dict) and encoded.get("$") in _KEY_NODES):
                raise InvalidError(f"{dotted(path)}: a key of type {_type_name(key)}", "keys are plain values")
            return encoded
        return self.encode(key, path)


class Decoder:
    """Turns JSON back into a tree; `tensors` has the values of its tensors by their names.

    Numbers that were tensors of torch are made on the device `location`, the CPU by default.
    """

    def __init__(self, tensors: dict[str, Any], location: Any = None) -> None:
        self.tensors = tensors
        self.location = location

    def decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        kind = node.get("$")
        if kind is None:
            return {key: self.decode(item) for key, item in node.items()}
        if kind == "tensor":
            return self.tensors[node["name"]]
        plain = _DECODERS.get(kind)
        if plain is not None:
            return plain(self, node)
        if isinstance(kind, str) and "." in kind:
            return adapter(kind.split(".", 1)[0]).decode(node, self)
        raise UnsupportedError(f"a value of kind {kind!r} cannot be read", "update treering")

    def pairs(self, node: dict[str, Any]) -> list[tuple[Any, Any]]:
        return [(self.decode(key), self.decode(item)) for key, item in node["items"]]


def component(key: str) -> str:
    """The component of what lies under a key of the tree's root."""
    return key if _COMPONENT.match(key) else OTHER


def tensor_nodes(node: Any) -> Iterator[dict[str, Any]]:
    """The nodes of all tensors below a node."""
    if isinstance(node, list):
        for item in node:
            yield from tensor_nodes(item)
    elif isinstance(node, dict):
        if node.get("$") == "tensor":
            yield node
        else:
            for item in node.values():
                yield from tensor_nodes(item)


def items(node: Any) -> list[tuple[Any, Any]] | None:
    """The keys and nodes of a dict's node, `None` for any other."""
    if not isinstance(node, dict):
        return None
    kind = node.get("$")
    if kind is None:
        return list(node.items())
    if kind in ("dict", "OrderedDict"):
        decoder = Decoder({})
        return [(decoder.decode(key), item) for key, item in node["items"]]
    return items(node["value"]) if kind == "torch.optimizer" else None


def refusal(value: Any, path: Path) -> UnsupportedError:
    hints = {
        "types.SimpleNamespace": "save vars(value)",
        "argparse.Namespace": "save vars(value)",
        "collections.defaultdict": "save dict(value)",
        "numpy.random._generator.Generator": "save value.bit_generator.state",
    }
    name = _type_name(value)
    hint = "save value._asdict()" if isinstance(value, tuple) and hasattr(value, "_fields") else hints.get(name)
    return UnsupportedError(f"{dotted(path)}: a value of type {name} cannot be saved", hint)


def dumps(node: Any) -> str:
    return json.dumps(node, separators=(",", ":"), allow_nan=False)


def loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedError(f"the state of {where} is no JSON") from error


# -- what Python has by itself ------------------------------------------------------------------------------------


def _as_is(encoder: Encoder, value: Any, path: Path) -> Any:
    return value


def _int(encoder: Encoder, value: int, path: Path) -> Any:
    return value if -(2**63) <= value < 2**63 else {"$": "int", "value": hex(value)}


def _float(encoder: Encoder, value: float, path: Path) -> Any:
    # JSON has no NaN, and a NaN has bits of its own.
    return value if math.isfinite(value) else {"$": "float", "bits": struct.pack(">d", value).hex()}


def _str(encoder: Encoder, value: str, path: Path) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$": "str", "value": _base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _list(encoder: Encoder, value: list[Any], path: Path) -> Any:
    return [encoder.encode(item, (*path, str(n))) for n, item in enumerate(value)]


def _sequence(kind: str) -> Callable[[Encoder, Any, Path], Any]:
    return lambda encoder, value, path: {"$": kind, "items": _list(encoder, list(value), path)}


def _set(kind: str) -> Callable[[Encoder, Any, Path], Any]:
    # A set has no order: the same set is always written the same way.
    return lambda encoder, value, path: {
        "$": kind,
        "items": sorted((encoder.key(item, path) for item in value), key=dumps),
    }


def _dict(encoder: Encoder, value: dict[Any, Any], path: Path) -> Any:
    if "param_groups" in value and "state" in value and "torch" in sys.modules:
        node = adapter("torch").optimizer_node(encoder, value, path)
        if node is not None:
            return node
    if all(type(key) is str and key != "$" and _is_text(key) for key in value):
        return {key: encoder.encode(item, (*path, key)) for key, item in value.items()}
    return {"$": "dict", "items": encoder.mapping(value.items(), path)}


def _ordered_dict(encoder: Encoder, value: collections.OrderedDict[Any, Any], path: Path) -> Any:
    node: dict[str, Any] = {"$": "OrderedDict", "items": encoder.mapping(value.items(), path)}
    metadata = getattr(value, "_metadata", None)
    if metadata is not None:  # the versions of a torch module's parts
        node["metadata"] = encoder.encode(metadata, (*path, "_metadata"))
    return node


def _counter(encoder: Encoder, value: collections.Counter[Any], path: Path) -> Any:
    return {"$": "Counter", "items": encoder.mapping(value.items(), path)}


def _deque(encoder: Encoder, value: collections.deque[Any], path: Path) -> Any:
    return {"$": "deque", "items": _list(encoder, list(value), path), "maxlen": value.maxlen}


def _complex(encoder: Encoder, value: complex, path: Path) -> Any:
    return {"$": "complex", "items": [_float(encoder, value.real, path), _float(encoder, value.imag, path)]}


def _datetime(encoder: Encoder, value: datetime.datetime | datetime.time, path: Path) -> Any:
    node: dict[str, Any] = {"$": type(value).__name__, "value": value.replace(tzinfo=None).isoformat()}
    if value.fold:
        node["fold"] = value.fold
    if value.tzinfo is not None:
        key = getattr(value.tzinfo, "key", None)
        node["tz"] = key if isinstance(key, str) else encoder.encode(value.tzinfo, path)
    return node


def _timezone(encoder: Encoder, value: datetime.timezone, path: Path) -> Any:
    return {"$": "timezone", "offset": _timedelta(encoder, value.utcoffset(None), path), "name": value.tzname(None)}


def _timedelta(encoder: Encoder, value: datetime.timedelta, path: Path) -> Any:
    return {"$": "timedelta", "items": [value.days, value.seconds, value.microseconds]}


def _undatetime(decoder: Decoder, node: dict[str, Any]) -> Any:
    kind = datetime.datetime if node["$"] == "datetime" else datetime.time
    value = kind.fromisoformat(node["value"])
    zone = node.get("tz")
    if isinstance(zone, str):
        import zoneinfo

        zone = zoneinfo.ZoneInfo(zone)
    elif zone is not None:
        zone = decoder.decode(zone)
    return value.replace(tzinfo=zone, fold=node.get("fold", 0))


def _untimezone(decoder: Decoder, node: dict[str, Any]) -> datetime.timezone:
    offset, name = decoder.decode(node["offset"]), node["name"]
    plain = datetime.timezone(offset) if offset else datetime.UTC
    return plain if plain.tzname(None) == name else datetime.timezone(offset, name)


def _unordered(decoder: Decoder, node: dict[str, Any]) -> Any:
    value = collections.OrderedDict(decoder.pairs(node))
    if "metadata" in node:
        value._metadata = decoder.decode(node["metadata"])  # type: ignore[attr-defined]
    return value


def _unpath(decoder: Decoder, node: dict[str, Any]) -> pathlib.PurePath:
    name = node["of"]
    if name not in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        raise UnsupportedError(f"a path of kind {name!r}", "update treering")
    if name == "WindowsPath" and sys.platform != "win32":
        name = "PureWindowsPath"
    made: pathlib.PurePath = getattr(pathlib, name)(decoder.decode(node["value"]))
    return made


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    """A name that the store takes: without control characters, not too long."""
    if name.isascii() and name.isprintable() and len(name) <= 4000:
        return name if name != "__metadata__" else "_metadata_"
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name.encode("utf-8", "replace")[:4000].decode("utf-8", "ignore")


_KEYS = {str, int, float, bool, type(None), bytes, complex}
_KEY_NODES = {
    "tuple", "frozenset", "path", "datetime", "date", "time", "timedelta", "timezone",
    "numpy.scalar", "torch.dtype", "torch.device", "torch.Size",
}  # fmt: skip

_ENCODERS: dict[type, Callable[[Encoder, Any, Path], Any]] = {
    type(None): _as_is,
    bool: _as_is,
    int: _int,
    float: _float,
    str: _str,
    list: _list,
    dict: _dict,
    tuple: _sequence("tuple"),
    set: _set("set"),
    frozenset: _set("frozenset"),
    bytes: lambda encoder, value, path: {"$": "bytes", "value": _base64(value)},
    bytearray: lambda encoder, value, path: {"$": "bytearray", "value": _base64(bytes(value))},
    complex: _complex,
    range: lambda encoder, value, path: {"$": "range", "items": [value.start, value.stop, value.step]},
    collections.OrderedDict: _ordered_dict,
    collections.Counter: _counter,
    collections.deque: _deque,
    datetime.datetime: _datetime,
    datetime.time: _datetime,
    datetime.date: lambda encoder, value, path: {"$": "date", "value": value.isoformat()},
    datetime.timedelta: _timedelta,
    datetime.timezone: _timezone,
}

_DECODERS: dict[str, Callable[[Decoder, dict[str, Any]], Any]] = {
    "int": lambda decoder, node: int(node["value"], 16),
    "float": lambda decoder, node: struct.unpack(">d", bytes.fromhex(node["bits"]))[0],
    "str": lambda decoder, node: base64.b64decode(node["value"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda decoder, node: base64.b64decode(node["value"]),
    "bytearray": lambda decoder, node: bytearray(base64.b64decode(node["value"])),
    "tuple": lambda decoder, node: tuple(decoder.decode(node["items"])),
    "set": lambda decoder, node: set(decoder.decode(node["items"])),
    "frozenset": lambda decoder, node: frozenset(decoder.decode(node["items"])),
    "dict": lambda decoder, node: dict(decoder.pairs(node)),
    "OrderedDict": _unordered,
    "Counter": lambda decoder, node: collections.Counter(dict(decoder.pairs(node))),
    "deque": lambda decoder, node: collections.deque(decoder.decode(node["items"]), node["maxlen"]),
    "complex": lambda decoder, node: complex(*decoder.decode(node["items"])),
    "range": lambda decoder, node: range(*node["items"]),
    "datetime": _undatetime,
    "time": _undatetime,
    "date": lambda decoder, node: datetime.date.fromisoformat(node["value"]),
    "timedelta": lambda decoder, node: datetime.timedelta(*node["items"]),
    "timezone": _untimezone,
    "path": _unpath,
}


@dataclass
class Encoded:
    """A whole tree: its JSON, and its tensors in order."""

    state: str
    leaves: list[Leaf] = field(default_factory=list)


def encode(state: dict[str, Any]) -> Encoded:
    """Encodes the tree of a save."""
    if type(state) is not dict or not all(type(key) is str for key in state):
        raise InvalidError("the state of a save", "it is a dict whose keys are strings, such as {'model': model}")
    with _collector_paused():
        encoder = Encoder()
        for framework in adapters():
            framework.begin(encoder, state)
        return Encoded(dumps({"treering": 1, "tree": encoder.encode(state)}), encoder.leaves)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Nodes are thousands of containers that are gone at once: each few hundred of them would make Python's collector
    look through some of what torch has, now and then through all of it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
