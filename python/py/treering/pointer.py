"""A pointer: the small file that stands where a framework wants a checkpoint, and says where in a store it lies.

Its first line is for people: the command that restores the checkpoint. The second is for programs.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
from dataclasses import dataclass
from typing import Any

from .checkpoint import Checkpoint
from .errors import DamagedError, InvalidError, NotFoundError
from .store import Store

#: The name of a pointer in a folder.
NAME = "treering.txt"
#: A file that is longer is none.
BYTES_MAX = 1 << 16


@dataclass(frozen=True)
class Pointer:
    """Where a checkpoint lies: the folder of its store, its run and its step; and the address of the one before it."""

    store: pathlib.Path
    run: str
    step: int
    before: str | None = None

    @property
    def address(self) -> str:
        """What the command line calls it: ``RUN@STEP``."""
        return f"{self.run}@{self.step}"

    def open(self) -> Checkpoint:
        """The checkpoint."""
        try:
            return Store(self.store)[self.address]
        except NotFoundError as error:
            error.add_note("it was collected, or the training stopped before it was durable")
            raise

    def write(self, path: str | os.PathLike[str], *, component: str | None = None) -> None:
        """Puts the pointer at a path, in the place of what is there; a folder gets it as a file in it.

        The command in it restores the component alone, if there is one.
        """
        file = _file(path)
        command = ["treering", "restore", self.address, "--store", str(self.store), "--output", "restored.safetensors"]
        command += ["--component", component] if component else []
        near = os.path.relpath(self.store, file.parent)
        facts: dict[str, Any] = {
            "treering": 1,
            "store": str(self.store),
            "near": near,
            "run": self.run,
            "step": self.step,
        }
        facts |= {"before": self.before} if self.before else {}
        new = file.with_name(f".{file.name}.new")
        new.write_text(f"{shlex.join(command)}\n{json.dumps(facts)}\n")
        os.replace(new, file)


def read(path: str | os.PathLike[str]) -> Pointer | None:
    """The pointer at a path, or in a folder; `None` if something else is there, or nothing."""
    file = _file(path)
    try:
        if file.stat().st_size > BYTES_MAX:
            return None
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if len(lines) < 2 or not lines[0].startswith("treering "):
        return None
    try:
        facts: dict[str, Any] = json.loads(lines[1])
        store = pathlib.Path(facts["store"])
        # The folders may have been moved together.
        near = pathlib.Path(os.path.normpath(file.parent / facts["near"]))
        store = store if store.exists() or not near.exists() else near
        return Pointer(store, str(facts["run"]), int(facts["step"]), facts.get("before"))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"the pointer {file} cannot be read", "treering runs lists what a store has") from error


def plain(value: str) -> str:
    """Checks which steps are to be written as real files."""
    if value not in ("none", "last", "best"):
        raise InvalidError(f"plain={value!r}", "it is none, last or best")
    return value


def _file(path: str | os.PathLike[str]) -> pathlib.Path:
    file = pathlib.Path(path)
    return file / NAME if file.is_dir() else file
