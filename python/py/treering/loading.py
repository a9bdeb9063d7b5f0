"""Filling what is there: models, optimizers, arrays, in place.

First a plan: which stored tensor goes into which memory, what is missing, what does not fit. Nothing is touched before
the plan is whole, so that a mismatch changes nothing. Then all memory is filled at once, and what cannot be filled in
place (other types, other devices, plain values) is made in batches and handed over.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import MismatchError
from .tree import Decoder, Info, Path, adapter, adapters, dotted, items, tensor_nodes

if TYPE_CHECKING:
    from . import _native

#: Bytes that are made before they are handed over.
BATCH_BYTES = 256 << 20
#: What is saved under a key that was not asked for comes along up to this size, unless a policy dropped it.
SMALL_BYTES = 1 << 20


@dataclass
class LoadReport:
    """What :meth:`Checkpoint.load_into` did."""

    #: The step that was loaded.
    step: int
    #: Values that cannot be filled in place, by their keys: those that were asked for, and small ones that were saved
    #: beside them, such as an epoch or random states.
    state: dict[str, Any] = field(default_factory=dict)
    #: Bytes that were read.
    bytes: int = 0
    #: Tensors that are the same in the step that was given as `since`, and were not read.
    unchanged: int = 0
    #: What is to be filled and was not saved.
    missing: list[str] = field(default_factory=list)
    #: What was saved and is not to be filled, in the parts that were asked for.
    unexpected: list[str] = field(default_factory=list)
    #: Name, saved shape, and the shape that there is.
    reshaped: list[tuple[str, str, str]] = field(default_factory=list)
    #: Name, saved type, and the type that there is.
    cast: list[tuple[str, str, str]] = field(default_factory=list)
    #: Prefixes of wrappers that names differ by, such as ``model: module.``.
    bridged: list[str] = field(default_factory=list)
    #: Parameters for which the optimizer has no history: it begins anew.
    fresh: list[str] = field(default_factory=list)


@dataclass
class _Made:
    """A value that is made after memory was filled."""

    node: Any
    then: Callable[[Any], Any]


class Plan:
    """What goes where."""

    def __init__(self, infos: dict[str, Info], targets: dict[str, Any], since: dict[tuple[str, str], str]) -> None:
        self.targets = targets
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.reshaped: list[tuple[str, str, str]] = []
        self.cast: list[tuple[str, str, str]] = []
        self.bridged: set[str] = set()
        self.fresh: list[str] = []
        self.unchanged = 0
        self._infos = infos
        self._since = since
        self._reads: list[tuple[Info, Callable[[], Any]]] = []
        self._made: list[_Made] = []
        self._later: list[Callable[[], Any]] = []
        #: Memory that is filled: begin, end, and with what.
        self._memory: list[tuple[int, int, str | None]] = []

    def info(self, node: dict[str, Any]) -> Info:
        return self._infos[node["name"]]

    def read(self, info: Info, place: tuple[int, int], buffer: Callable[[], Any]) -> bool:
        """Fills memory, given by address and length, with a tensor. `False` if some of it is filled otherwise."""
        begin, end = place[0], place[0] + place[1]
        if place[1] == 0 or self._same(info):
            return True
        at = bisect.bisect_left(self._memory, (begin, end))
        near = self._memory[max(0, at - 1) : at + 1]
        if (begin, end, info.id) in near:
            return True  # tied
        if any(low < end and begin < high for low, high, _ in near):
            return False
        self._memory.insert(at, (begin, end, info.id))
        self._reads.append((info, buffer))
        return True

    def value(self, node: Any, then: Callable[[Any], Any], info: Info | None = None) -> None:
        """Makes a value and hands it over."""
        if info is None or not self._same(info):
            self._made.append(_Made(node, then))

    def later(self, work: Callable[[], Any]) -> None:
        """What is done at the very end."""
        self._later.append(work)

    def fits(self) -> None:
        """Raises unless everything that is to be filled was saved, and the other way round."""
        wrong = [f"{name} was not saved" for name in self.missing]
        wrong += [f"{name} is not there to be filled" for name in self.unexpected]
        wrong += [f"{name} was saved as {saved} and is {there}" for name, saved, there in self.reshaped]
        if wrong:
            some = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            raise MismatchError(some, "strict=False loads what fits and reports the rest")

    def run(self, native: _native.Checkpoint) -> int:
        """Does it, and returns how many bytes were read."""
        done = sum(info.nbytes for info, _ in self._reads)
        native.read([(info.index, 0, buffer()) for info, buffer in self._reads])
        for batch in self._batches():
            tensors, nbytes = make_tensors(native, self._infos, (each.node for each in batch))
            done += nbytes
            decoder = Decoder(tensors)
            for each in batch:
                each.then(decoder.decode(each.node))
        for work in self._later:
            work()
        return done

    def _batches(self) -> Iterable[list[_Made]]:
        batch, room = [], BATCH_BYTES
        for each in self._made:
            batch.append(each)
            room -= sum(self.info(node).nbytes for node in tensor_nodes(each.node))
            if room <= 0:
                yield batch
                batch, room = [], BATCH_BYTES
        if batch:
            yield batch

    def _same(self, info: Info) -> bool:
        same = info.id is not None and self._since.get((info.component, info.name)) == info.id
        self.unchanged += same
        return same


def plan_into(plan: Plan, root: dict[str, Any], state: dict[str, Any]) -> None:
    """Plans to fill all targets from the nodes of the tree's root."""

    def keep(key: str) -> Callable[[Any], Any]:
        return lambda value: state.__setitem__(key, value)

    for key, target in plan.targets.items():
        if key in root:
            _into(plan, target, root[key], (key,), keep(key))
        else:
            plan.missing.append(key)
    for key, node in root.items():
        tensors = [plan.info(tensor) for tensor in tensor_nodes(node)]
        kept = all(info.id is not None for info in tensors)
        if key not in plan.targets and kept and sum(info.nbytes for info in tensors) <= SMALL_BYTES:
            plan.value(node, keep(key))


def _into(plan: Plan, target: Any, node: Any, path: Path, put: Callable[[Any], Any]) -> None:
    if any(framework.into(target, node, path, plan) for framework in adapters()):
        return
    children = items(node)
    if type(target) is dict and children is not None:
        stored = dict(children)
        for key, item in target.items():
            here = (*path, str(key))
            if key in stored:
                _into(plan, item, stored[key], here, _setter(target, key))
            else:
                plan.missing.append(dotted(here))
        plan.unexpected += [dotted((*path, str(key))) for key in stored if key not in target]
    elif type(target) is list and isinstance(node, list) and len(node) == len(target):
        for number, (item, stored_item) in enumerate(zip(target, node, strict=True)):
            here = (*path, str(number))
            _into(plan, item, stored_item, here, _setter(target, number))
    elif callable(getattr(target, "load_state_dict", None)):
        plan.value(node, target.load_state_dict)
    else:
        plan.value(node, put)


def _setter(target: Any, key: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        target[key] = value

    return put


def make_tensors(
    native: _native.Checkpoint, infos: dict[str, Info], nodes: Iterable[Any], framework: str | None = None
) -> tuple[dict[str, Any], int]:
    """All tensors of some nodes by their names, in fresh memory, and how many bytes were read. Tied ones are one."""
    by_index = {info.index: info for info in infos.values()}
    windows, finish, same, nbytes = [], {}, {}, 0
    for node in (found for each in nodes for found in tensor_nodes(each)):
        name = node["name"]
        info = infos[name]
        if name in finish or name in same:
            continue
        tied = by_index.get(info.tie) if info.tie is not None else None
        first = tied.name if tied is not None else None
        if first in finish and first is not None:
            same[name] = first
            continue
        made = adapter(framework or node["of"]).slot(node, info)
        finish[name] = made.finish
        windows.append((info.index, 0, made.buffer))
        nbytes += info.nbytes
    native.read(windows)
    tensors = {name: done() for name, done in finish.items()}
    return tensors | {name: tensors[first] for name, first in same.items()}, nbytes
