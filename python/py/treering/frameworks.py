"""What the modules for frameworks share."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from . import pointer
from .store import Store


def opened(store: Store | str | os.PathLike[str]) -> Store:
    """The store, or that at a path."""
    return store if isinstance(store, Store) else Store(store)


def metric(name: str) -> str:
    """The name of a metric without what means something in addresses and conditions."""
    return re.sub(r"[:@<>=!\s]", "_", name)


def metrics(logged: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as a run takes them."""
    return {metric(name): float(value) for name, value in logged.items()}


def bare(optimizer: Any) -> Any:
    """The optimizer in the wrapper of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)


def strip(folders: Iterable[pathlib.Path], newest: pathlib.Path, heavy: re.Pattern[str]) -> None:
    """Takes the real files out of all folders that have a pointer, but for the newest."""
    for folder in folders:
        if folder != newest and pointer.read(folder) is not None:
            for path in folder.iterdir():
                if heavy.fullmatch(path.name):
                    path.unlink() if path.is_file() else shutil.rmtree(path)
