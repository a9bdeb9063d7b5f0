"""Checkpoints that were made without a store: files of ``torch.save``, and folders of a Trainer.

    python -m treering import runs/gpt --run gpt

A file is read with ``torch.load(weights_only=True, mmap=True)``, which runs no code of it; one that cannot be read so
is refused. The step comes from the checkpoint itself where it says one, else from its name.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import _native
from .errors import ExistsError, InvalidError, NotFoundError, TreeringError, UnsupportedError
from .frameworks import metric
from .staging import in_place
from .store import Store
from .tree import Leaf, encode

#: Names of files that torch.save writes.
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
#: Where a checkpoint says its step.
STEPS = ("global_step", "step", "iteration", "iter", "num_steps")
#: Files of the Trainer, and what they are in a checkpoint.
_PARTS = {"optimizer.pt": "optimizer", "optimizer.bin": "optimizer", "scheduler.pt": "scheduler", "scaler.pt": "scaler"}
#: Options of ``bench`` that are followed by a value.
_TAKING = ("--store-dir", "--store", "--encoding", "--limit", "-n", "--color")
#: What has gaps is written in pieces of this size.
PIECE_BYTES = 4 << 20
#: What the Trainer measures of itself.
_TIMES = ("_runtime", "_per_second", "_flos")


@dataclass
class Found:
    """A checkpoint that was read."""

    path: pathlib.Path
    step: int | None
    state: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    #: Files of its folder that cannot be read without running code.
    left_out: list[str] = field(default_factory=list)


def read(path: str | os.PathLike[str]) -> Found:
    """Reads a file of torch.save, a safetensors file, or a folder of the Trainer. Tensors are mapped, not copied."""
    path = pathlib.Path(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".safetensors":
        return Found(path, _number(path), {"model": _safetensors(path)})
    return _file(path)


def series(paths: Sequence[str | os.PathLike[str]]) -> list[pathlib.Path]:
    """The checkpoints that these paths mean, by the numbers in their names.

    A folder that is none itself stands for those in it.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if not path.exists():
            raise NotFoundError(f"no file or folder {path}")
        found += _in_folder(path) if path.is_dir() and not _is_checkpoint(path) else [path]
    return sorted(found, key=_natural)


def import_(
    store: Store, run: str, paths: Sequence[str | os.PathLike[str]], *, threads: int | None = None
) -> Iterator[tuple[Found, _native.Saved]]:
    """Saves each of these checkpoints as a step of a run. A step that is there with the same content is fine."""
    wanted = series(paths)
    # All of them are looked at before the first is saved.
    steps = [_step(read(path), number) for number, path in enumerate(wanted, 1)]
    twice = next((step for step in steps if steps.count(step) > 1), None)
    if twice is not None:
        both = " and ".join(str(path) for path, step in zip(wanted, steps, strict=True) if step == twice)
        raise InvalidError(f"{both} are both step {twice}", "import them into runs of their own: --run")
    native = store._writer()
    for path, step in sorted(zip(wanted, steps, strict=True), key=lambda each: each[1]):
        found = read(path)
        encoded = encode(found.state)
        parts, buffers = in_place(encoded.leaves)
        report = native.save(
            run,
            step,
            parts,
            buffers,
            state=encoded.state,
            metrics=found.metrics,
            tags=(),
            note=f"imported from {path.name}",
            config=None,
            provenance=json.dumps({"program": f"treering {_native.__version__}", "path": str(path.absolute())}),
            parent=None,
            backfill=True,
            threads=threads or _native.cores(),
        )
        yield found, report


# -- reading


def _file(path: pathlib.Path) -> Found:
    loaded = _load(path)
    is_named = isinstance(loaded, dict) and all(type(key) is str for key in loaded)
    if not is_named:
        loaded = {"value": loaded}
    step = next((int(loaded[key]) for key in STEPS if _is_count(loaded.get(key))), None)
    metrics = {metric(name): value for name, value in loaded.items() if type(value) is float}
    torch = sys.modules["torch"]
    if is_named and all(isinstance(value, torch.Tensor) for value in loaded.values()):
        loaded = {"model": loaded}  # the weights alone
    return Found(path, _number(path) if step is None else step, dict(loaded), metrics)


def _folder(path: pathlib.Path) -> Found:
    found = Found(path, _number(path), {})
    weights: dict[str, Any] = {}
    for file in sorted(path.iterdir()):
        name = file.name
        if not file.is_file():
            found.left_out.append(f"{name}/")
        elif name.endswith(".safetensors"):
            weights |= _safetensors(file)
        elif name in _PARTS:
            found.state[_PARTS[name]] = _load(file)
        elif re.fullmatch(r"pytorch_model.*\.bin|adapter_model\.bin", name):
            weights |= _load(file)
        elif match := re.fullmatch(r"rng_state(?:_(\d+))?\.pth", name):
            found.state.setdefault("rng", {})[match[1] or "0"] = _rng(file)
        elif name == "trainer_state.json":
            found.state["trainer_state"] = state = json.loads(file.read_text())
            found.step, found.metrics = state["global_step"], metrics_of(state)
        elif file.suffix in (*SUFFIXES, ".pkl"):
            found.left_out.append(name)
        else:
            found.state.setdefault("files", {})[name] = _bytes(file)
    if not weights:
        raise InvalidError(f"{path} has no weights", "a checkpoint has model.safetensors or pytorch_model.bin")
    found.state["model"] = weights
    return found


def metrics_of(trainer_state: dict[str, Any]) -> dict[str, float]:
    """What a Trainer logged at the step that its state is of."""
    found = {}
    for entry in trainer_state.get("log_history", []):
        if entry.get("step") == trainer_state["global_step"]:
            for name, value in entry.items():
                if isinstance(value, int | float) and name != "step" and not name.endswith(_TIMES):
                    found[metric(name)] = float(value)
    return found


def _load(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UnsupportedError(f"{path} is read by torch, which is not installed", "pip install torch") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None
    except Exception as error:
        hint = "load it yourself and save what it has: run.save(step, {'model': ..., ...})"
        raise UnsupportedError(
            f"{path} cannot be read without running code of it: {_first_line(error)}", hint
        ) from None


def _rng(path: pathlib.Path) -> Any:
    """Random states of the Trainer in the form of this package. NumPy's are arrays, which torch has to be told of."""
    import numpy as np
    import torch

    arrays = [np.ndarray, np.dtype, np.dtypes.UInt32DType, np._core.multiarray._reconstruct]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals(arrays):
        saved = _load(path)
    state = {"python": saved["python"], "torch": saved["cpu"]}
    numpy = saved.get("numpy")
    if numpy is not None:
        name, keys, position, has_gauss, gauss = numpy
        inner = {"key": keys, "pos": position}
        state["numpy"] = {"bit_generator": name, "state": inner, "has_gauss": has_gauss, "gauss": gauss}
    if "cuda" in saved:
        cuda = saved["cuda"]
        state["cuda"] = cuda if isinstance(cuda, list) else [cuda]
    return state


def _safetensors(path: pathlib.Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UnsupportedError(f"{path} is read by safetensors", "pip install torch safetensors") from None
    try:
        loaded: dict[str, Any] = load_file(path)
    except Exception as error:
        raise InvalidError(f"{path} is no safetensors file: {_first_line(error)}") from None
    return loaded


def _bytes(path: pathlib.Path) -> Any:
    import numpy as np

    return np.frombuffer(path.read_bytes(), np.uint8)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    weights = re.compile(r"(pytorch_model|adapter_model|model)(-\d+-of-\d+)?\.(safetensors|bin)")
    return any(path.name == "trainer_state.json" or weights.fullmatch(path.name) for path in folder.iterdir())


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    inside = sorted(folder.iterdir())
    files = [path for path in inside if path.is_file() and path.suffix in (*SUFFIXES, ".safetensors")]
    found = files or [path for path in inside if path.is_dir() and _is_checkpoint(path)]
    if not found:
        raise NotFoundError(
            f"no checkpoint in {folder}", f"it has {', '.join(SUFFIXES)} files, or folders checkpoint-N"
        )
    return found


def _step(found: Found, place: int) -> int:
    return place if found.step is None else found.step


def _number(path: pathlib.Path) -> int | None:
    """The step that a name says: what follows the word, else the last number."""
    said = re.search(r"(?:step|iter|checkpoint)s?[-_=]?(\d+)", path.stem, re.IGNORECASE) or re.search(
        r"(\d+)(?!.*\d)", path.stem
    )
    return int(said[1]) if said is not None else None


def _natural(path: pathlib.Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# -- the command line


def command(typed: Sequence[str]) -> str | None:
    """The command, if it is about files that only Python can read."""
    words = list(typed[1:])
    while words and words[0].startswith("-"):
        del words[: 2 if words[0] in ("--store", "--color") else 1]
    if words[:1] == ["import"]:
        return "import"
    if words[:1] == ["bench"] and any(_has_torch_files(pathlib.Path(word)) for word in words[1:]):
        return "bench"
    return None


def _has_torch_files(path: pathlib.Path) -> bool:
    if path.is_dir():
        return any(each.suffix in SUFFIXES for each in (*path.iterdir(), *path.glob("checkpoint-*/*")))
    return path.suffix in SUFFIXES


def main(typed: Sequence[str]) -> int:
    """Does ``import``, and makes of ``bench`` one that the program itself can do."""
    try:
        return _bench(typed) if command(typed) == "bench" else _import(typed)
    except TreeringError as error:
        print(f"treering: {error.args[0]}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return _exit_code(error)


def _import(typed: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="treering import",
        description="Save checkpoints of torch.save, safetensors files or folders checkpoint-N as steps of a run.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or folders, or a folder that holds them")
    parser.add_argument("--run", help="the run [default: the name of the folder that holds the first]")
    parser.add_argument("--store", default=os.environ.get("TREERING_STORE", "treering-store"), metavar="PATH")
    parser.add_argument("--json", action="store_true", help="print facts as JSON")
    arguments = parser.parse_args([word for word in typed[1:] if word != "import"])
    run = arguments.run or pathlib.Path(series(arguments.paths)[0]).absolute().parent.name
    facts = []
    for found, report in import_(Store(arguments.store), run, arguments.paths):
        facts.append({"path": str(found.path), **report, "left_out": found.left_out, "metrics": found.metrics})
        if not arguments.json:
            new = f"{report['raw_bytes'] / 1e6:.1f} MB, {report['new_bytes'] / 1e6:.1f} MB new"
            said = "is there already" if report["outcome"] == "identical" else new
            print(f"{run}@{report['step']}  {found.path}: {said}")
            if found.left_out:
                print(f"  left out: {', '.join(found.left_out)}")
    if arguments.json:
        print(json.dumps({"format": 1, "imported": facts}))
    return 0


def _bench(typed: Sequence[str]) -> int:
    """Writes the checkpoints as safetensors files into a temporary folder, and measures these."""
    words = list(typed)
    given = [word for before, word in itertools.pairwise(words) if before not in _TAKING and os.path.exists(word)]
    place = words[words.index("--store-dir") + 1] if "--store-dir" in words[:-1] else None
    with tempfile.TemporaryDirectory(dir=place, prefix="treering-bench-") as folder:
        for path in series(given):
            name = path.name if path.is_dir() else path.stem
            write_safetensors(pathlib.Path(folder, f"{name}.safetensors"), encode(read(path).state).leaves)
        print("they are measured as safetensors files with the same tensors", file=sys.stderr)
        return _native.command_line([*(word for word in words if word not in given), folder])


def write_safetensors(path: pathlib.Path, leaves: Sequence[Leaf]) -> None:
    """Writes tensors as a safetensors file, tied ones once."""
    first = {leaf.identity or leaf.name: leaf for leaf in reversed(leaves)}
    kept = [leaf for leaf in leaves if first[leaf.identity or leaf.name] is leaf]
    header: dict[str, Any] = {}
    place = 0
    for leaf in kept:
        header[leaf.name] = {"dtype": leaf.dtype, "shape": leaf.shape, "data_offsets": [place, place + leaf.nbytes]}
        place += leaf.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for leaf, buffer in zip(kept, in_place([*kept])[1], strict=True):
            if callable(buffer):
                for place in range(0, leaf.nbytes, PIECE_BYTES):
                    file.write(buffer(place, min(PIECE_BYTES, leaf.nbytes - place)))
            else:
                file.write(buffer)


def _exit_code(error: TreeringError) -> int:
    for kind, code in ((InvalidError, 2), (NotFoundError, 3), (ExistsError, 5)):
        if isinstance(error, kind):
            return code
    return 1
