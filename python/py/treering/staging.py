"""Memory that a save is copied into before it returns: one piece, used again and again; or two in turns, where the last
copy is kept for the next save."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any

from ._native import gather
from .tree import Device, Leaf

#: Component, name, type, shape, number of the buffer, place in it, length.
Part = tuple[str, str, str, tuple[int, ...], int, int, int]
#: Where a tensor may begin: vector instructions like it so.
ALIGN = 64
#: Memory is taken in pieces of this size.
UNIT = 2 << 20


class Staging:
    """The memory, as large as the largest save so far."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._unpin: Callable[[], None] | None = None

    def __del__(self) -> None:
        self.release()

    def copy(self, leaves: Sequence[Leaf]) -> tuple[list[Part], list[Any]]:
        """Copies all tensors, and says where they are. Tied ones are copied once."""
        parts, places, nbytes = layout(leaves)
        devices = list(dict.fromkeys(leaf.device for leaf in leaves if leaf.device is not None))
        memory = memoryview(self._reserve(nbytes, devices))
        plain, seen = [], set()
        try:
            for leaf, place in zip(leaves, places, strict=True):
                if place in seen or not leaf.nbytes:
                    continue
                seen.add(place)
                if leaf.fill is None:
                    plain.append((place, leaf.source))
                else:
                    leaf.fill(memory[place : place + leaf.nbytes])
            gather(memory, plain)  # while the devices copy
        finally:
            for device in devices:
                device.settle()
        return parts, [memory]

    def release(self) -> None:
        """Gives the memory back."""
        if self._unpin is not None:
            self._unpin()
        self._unpin = self._memory = None

    def _reserve(self, nbytes: int, devices: Sequence[Device]) -> mmap.mmap:
        if self._memory is None or len(self._memory) < nbytes:
            self.release()
            length = max(1, -(-nbytes // UNIT)) * UNIT
            self._memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                try:
                    self._memory.madvise(mmap.MADV_HUGEPAGE)
                except OSError:
                    pass  # a wish
        if devices and self._unpin is None:
            self._unpin = devices[0].pin(self._memory)
        return self._memory


class Live:
    """The copy that the last durable save was made of: the next save takes bases from it, and need not read them.

    It is a second piece of memory. The two change places with each save that is durable.
    """

    def __init__(self) -> None:
        self._kept = Staging()
        self._parts: list[Part] = []
        self._address: str | None = None

    def keep(self, copied: Staging, address: str, parts: list[Part]) -> Staging:
        """Keeps the copy that a checkpoint was made of. Returns what the next save may be copied into."""
        free, self._kept = self._kept, copied
        self._parts, self._address = parts, address
        return free

    def of(self, address: str | None) -> tuple[list[Part], list[Any]] | None:
        """The copy of this checkpoint, if that is the one."""
        if self._kept._memory is None or address != self._address:
            return None
        return self._parts, [memoryview(self._kept._memory)]

    def release(self) -> None:
        """Gives the memory back."""
        self._kept.release()
        self._parts, self._address = [], None


def size(leaves: Sequence[Leaf]) -> int:
    """Bytes that a copy of all tensors takes."""
    return layout(leaves)[2]


def layout(leaves: Sequence[Leaf]) -> tuple[list[Part], list[int], int]:
    """Where each tensor goes, and how long all of it is."""
    parts: list[Part] = []
    places: list[int] = []
    known: dict[object, int] = {}
    end = 0
    for leaf in leaves:
        place = known.get(leaf.identity) if leaf.identity is not None else None
        if place is None:
            place = end
            end += -(-leaf.nbytes // ALIGN) * ALIGN
            if leaf.identity is not None:
                known[leaf.identity] = place
        places.append(place)
        parts.append((leaf.component, leaf.name, leaf.dtype, leaf.shape, 0, place, leaf.nbytes))
    return parts, places, end


def in_place(leaves: Sequence[Leaf]) -> tuple[list[Part], list[Any]]:
    """The tensors where they are: for a save that is waited for.

    What has no memory to be read is asked for piece by piece, or copied where there is no way to do that.
    """
    parts: list[Part] = []
    buffers: list[Any] = []
    known: dict[object, int] = {}
    for leaf in leaves:
        number = known.get(leaf.identity) if leaf.identity is not None else None
        if number is None:
            number = len(buffers)
            buffers.append(_where_it_is(leaf))
            if leaf.identity is not None:
                known[leaf.identity] = number
        parts.append((leaf.component, leaf.name, leaf.dtype, leaf.shape, number, 0, leaf.nbytes))
    for device in dict.fromkeys(leaf.device for leaf in leaves if leaf.device is not None):
        device.settle()  # what asks for pieces does not know what the device is about to do
    return parts, buffers


def _where_it_is(leaf: Leaf) -> Any:
    """Memory, or a function of an offset and a length."""
    if leaf.fill is None:
        return leaf.source
    return leaf.piece or _filled(leaf)


def _filled(leaf: Leaf) -> bytearray:
    memory = bytearray(leaf.nbytes)
    assert leaf.fill is not None
    if leaf.nbytes:
        leaf.fill(memoryview(memory))
    if leaf.device is not None:
        leaf.device.settle()
    return memory
