"""The extension module."""

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

__version__: str

class Row(TypedDict):
    run: str
    step: int
    slot: int
    parent: int | None
    status: Literal["kept", "superseded", "forgotten"]
    saved_at: float
    metrics: dict[str, float]
    tags: list[str]
    note: str | None
    raw_bytes: int
    new_bytes: int
    tensors: int
    components: dict[str, int]
    dropped: list[str]

class RunRow(TypedDict):
    run: str
    created_at: float
    checkpoints: int
    superseded: int
    latest: int | None
    raw_bytes: int
    policy: list[str]
    metrics: dict[str, str]
    config: str | None
    provenance: str | None

class Saved(TypedDict):
    run: str
    step: int
    outcome: Literal["saved", "identical", "skipped", "planned"]
    raw_bytes: int
    unchanged_bytes: int
    deduplicated_bytes: int
    encoded_bytes: int
    new_bytes: int
    bases_in_memory_bytes: int
    tensors: int
    superseded: list[int]
    seconds: float
    space_left: int | None

class Restored(TypedDict):
    output: str
    files: list[str]
    bytes: int
    tensors: int
    identical: bool

class Collected(TypedDict):
    forgotten: list[tuple[str, int]]
    kept: dict[str, list[str]]
    packs_deleted: int
    packs_waiting: int
    packs_rewritten: int
    bytes_freed: int
    bytes_waiting: int
    unfinished: bool
    seconds: float

#: Memory, or a function of an offset and a length that returns some.
Source = Any

class Hurry:
    def __init__(self, helpers: int) -> None: ...
    @property
    def helpers(self) -> int: ...
    def hurry(self) -> None: ...

class Store:
    @staticmethod
    def create(path: str | os.PathLike[str]) -> Store: ...
    @staticmethod
    def open(path: str | os.PathLike[str]) -> Store: ...
    @property
    def root(self) -> os.PathLike[str]: ...
    @property
    def durability(self) -> Literal["process", "local"]: ...
    def save(
        self,
        run: str,
        step: int,
        parts: Sequence[tuple[str, str, str, Sequence[int], int, int, int]],
        buffers: Sequence[Source],
        *,
        state: str | None,
        metrics: dict[str, float],
        tags: Sequence[str],
        note: str | None,
        config: str | None,
        provenance: str | None,
        parent: str | None,
        threads: int,
        backfill: bool = False,
        replace: bool = False,
        before: tuple[Sequence[tuple[str, str, str, Sequence[int], int, int, int]], Sequence[Any]] | None = None,
        hurry: Hurry | None = None,
    ) -> Saved: ...
    def begin_joint(self) -> JointSave: ...
    def save_part(
        self,
        save: str,
        rank: int,
        ranks: int,
        run: str,
        step: int,
        parts: Sequence[tuple[str, str, str, Sequence[int], int, int, int]],
        boxes: Sequence[tuple[Sequence[int], Sequence[int]] | None],
        buffers: Sequence[Source],
        *,
        text: str,
        parent: str | None,
        threads: int,
    ) -> None: ...
    def checkpoint(self, address: str) -> Checkpoint: ...
    def find(self, address: str) -> Row: ...
    def log(self, run: str | None, superseded: bool = False) -> list[Row]: ...
    def best(self, run: str, metric: str, mode: str | None = None, count: int = 1) -> list[Row]: ...
    def runs(self) -> list[RunRow]: ...
    def run(self, name: str) -> RunRow | None: ...
    def set_policy(self, run: str, rules: Sequence[str]) -> None: ...
    def set_mode(self, run: str, metric: str, mode: str) -> None: ...
    def annotate(self, address: str, metrics: dict[str, float], note: str | None) -> Row: ...
    def tag(self, address: str, add: Sequence[str], remove: Sequence[str]) -> Row: ...
    def forget(self, slots: Sequence[int]) -> None: ...
    def gc(
        self,
        *,
        run: str | None = None,
        dry_run: bool = False,
        max_seconds: float | None = None,
        repack_above: float | None = None,
        grace_seconds: float | None = None,
        threads: int | None = None,
    ) -> Collected: ...
    def verify(self, deep: bool) -> list[str]: ...

class JointSave:
    @property
    def id(self) -> str: ...
    def wait(self, ranks: int, timeout: float) -> list[str]: ...
    def commit(
        self,
        run: str,
        step: int,
        *,
        state: str,
        metrics: dict[str, float],
        tags: Sequence[str],
        note: str | None,
        config: str | None,
        provenance: str | None,
        parent: str | None,
        replace: bool = False,
    ) -> Saved: ...
    def give_up(self) -> None: ...

class Checkpoint:
    def row(self) -> Row: ...
    def tensors(self) -> list[tuple[str, str, str, list[int], int, str | None, int | None]]: ...
    def state(self) -> str | None: ...
    def read(self, windows: Sequence[tuple[int, int, Any]], *, in_boxes: bool = False) -> None: ...
    def boxes(self, tensor: int) -> list[tuple[list[int], list[int]]]: ...
    def restore(
        self,
        output: str | os.PathLike[str],
        *,
        component: str | None = None,
        exclude: Sequence[str] = ...,
        max_shard_bytes: int | None = None,
        force: bool = False,
    ) -> Restored: ...

def gather(into: Any, sources: Sequence[tuple[int, Any]]) -> None: ...
def cores() -> int: ...
def command_line(typed: Sequence[str]) -> int: ...
