"""A checkpoint: one saved step, opened for reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import InvalidError, NotFoundError, UnsupportedError
from .loading import LoadReport, Plan, make_tensors, plan_into
from .tree import Decoder, Info, adapter, items, loads, tensor_nodes

if TYPE_CHECKING:
    from . import _native


class Checkpoint:
    """One saved step.

    Whatever it returns is memory of the caller's own: it may be changed, and the store does not see it.
    """

    def __init__(self, store: _native.Store, address: str, on_load: Callable[[Checkpoint], None] | None = None) -> None:
        self._store = store
        self._native = store.checkpoint(address)
        self._on_load = on_load
        self._row = self._native.row()
        self._infos: dict[str, Info] | None = None
        self._tree: dict[str, Any] | None = None

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.6g}" for name, value in self.metrics.items())
        return f"<treering.Checkpoint {self.address}{' ' + metrics if metrics else ''}>"

    @property
    def run(self) -> str:
        """The name of the run."""
        return self._row["run"]

    @property
    def step(self) -> int:
        """The step."""
        return self._row["step"]

    @property
    def address(self) -> str:
        """What the command line calls it: ``RUN@STEP``."""
        return f"{self.run}@{self.step}"

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured."""
        return self._row["metrics"]

    @property
    def tags(self) -> list[str]:
        """Its names."""
        return self._row["tags"]

    @property
    def dropped(self) -> list[str]:
        """Components that a policy took from it."""
        return self._row["dropped"]

    @property
    def complete(self) -> bool:
        """Nothing was taken from it: training can go on from here."""
        return not self.dropped

    @property
    def tensors(self) -> list[Info]:
        """Its tensors: names, types, shapes."""
        return sorted(set(self._all_infos().values()), key=lambda info: info.index)

    @property
    def state(self) -> dict[str, Any]:
        """The tree without its tensors: where one was, its :class:`Info` stands. Reads no tensor."""
        root = self._root()
        infos = {node["name"]: self._all_infos()[node["name"]] for node in tensor_nodes(root)}
        return {key: Decoder(infos).decode(node) for key, node in root.items()}

    def load(self, component: str | None = None, *, map_location: Any = None, framework: str | None = None) -> Any:
        """The saved values, with the structure and the types that they had.

        Parameters
        ----------
        component : str, optional
            Only what was saved under this key: ``load("model")`` reads no optimizer.
        map_location : torch.device or str, optional
            Where torch tensors go; the CPU by default.
        framework : {"torch", "numpy", "jax"}, optional
            Make all tensors of this kind, whatever they were: what was saved with torch can be read without it.

        Returns
        -------
        dict or object
            The whole tree, or what lies under `component`.
        """
        root = self._root()
        if component is not None and component not in root:
            raise NotFoundError(f"no {component} in {self.address}", f"it has {', '.join(root)}")
        chosen = root if component is None else {component: root[component]}
        self._refuse_dropped(chosen)
        tensors, _ = make_tensors(self._native, self._all_infos(), [chosen], framework)
        if map_location is not None:
            torch = adapter("torch")
            moved = {id(tensor): torch.move(tensor, map_location) for tensor in tensors.values()}
            tensors = {name: moved[id(tensor)] for name, tensor in tensors.items()}
        decoder = Decoder(tensors, map_location)
        loaded = {key: decoder.decode(node) for key, node in chosen.items()}
        self._loaded()
        return loaded if component is None else loaded[component]

    def tensor(self, name: str, *, map_location: Any = None, framework: str | None = None) -> Any:
        """One tensor by its name, such as ``model.tok.weight``."""
        node, info = self._find(name)
        tensors, _ = make_tensors(self._native, {node["name"]: info}, [node], framework)
        value = tensors[node["name"]]
        return value if map_location is None else adapter("torch").move(value, map_location)

    def slice(self, name: str, rows: int | slice | Sequence[int], *, framework: str | None = None) -> Any:
        """Rows of a tensor: only the chunks that they lie in are read.

        Parameters
        ----------
        name : str
            The tensor.
        rows : int, slice or sequence of int
            Which entries of the first dimension.
        """
        node, info = self._find(name)
        shape = tuple(node.get("shape", info.shape))
        if not shape:
            raise InvalidError(f"tensor {name} is a scalar", "it has no rows")
        if isinstance(rows, slice):
            wanted = list(range(*rows.indices(shape[0])))
        else:
            wanted = [int(row) for row in ([rows] if isinstance(rows, int) else rows)]
            if any(not -shape[0] <= row < shape[0] for row in wanted):
                raise InvalidError(f"rows of tensor {name}", f"it has {shape[0]}")
            wanted = [row % shape[0] for row in wanted]
        row_bytes, rest = divmod(info.nbytes, shape[0]) if shape[0] else (0, 0)
        if rest:
            raise UnsupportedError(f"rows of tensor {name} do not fill whole bytes")
        if "shape" in node:
            node = {**node, "shape": [len(wanted), *shape[1:]]}
            part = Info(0, "", name, info.dtype, (len(wanted) * row_bytes,), len(wanted) * row_bytes, None, None)
        else:
            part = Info(0, "", name, info.dtype, (len(wanted), *shape[1:]), len(wanted) * row_bytes, None, None)
        made = adapter(framework or node["of"]).slot(node, part)
        memory = memoryview(made.buffer).cast("B")
        windows = []
        for at, row, count in _stretches(wanted):
            piece = memory[at * row_bytes : (at + count) * row_bytes]
            windows.append((info.index, row * row_bytes, piece))
        self._native.read([window for window in windows if len(window[2])])
        value = made.finish()
        return value[0] if isinstance(rows, int) else value

    def load_into(
        self, targets: dict[str, Any], *, strict: bool = True, since: int | Checkpoint | None = None
    ) -> LoadReport:
        """Fills models, optimizers, tensors and arrays in place.

        Parameters
        ----------
        targets : dict
            What is to be filled, under the keys under which it was saved. Other values are made anew and come back in
            the report's `state`.
        strict : bool
            Whether anything that is missing, unexpected or of another shape is an error; if so, nothing was changed.
        since : int or Checkpoint, optional
            What the targets hold now: a step of the same run. Only tensors that differ from it are read.

        Returns
        -------
        LoadReport

        Notes
        -----
        If stored bytes turn out to be damaged, this raises :class:`DamagedError`, and the targets hold a mixture.
        """
        root = self._root()
        self._refuse_dropped({key: root[key] for key in targets if key in root})
        if isinstance(since, int):
            since = Checkpoint(self._store, f"{self.run}@{since}")
        known = {(info.component, info.name): info.id for info in since.tensors if info.id} if since else {}
        plan = Plan(self._all_infos(), targets, known)
        report = LoadReport(self.step)
        plan_into(plan, root, report.state)
        if strict:
            plan.fits()
        report.bytes = plan.run(self._native)
        report.unchanged, report.missing, report.unexpected = plan.unchanged, plan.missing, plan.unexpected
        report.reshaped, report.cast, report.fresh = plan.reshaped, plan.cast, plan.fresh
        report.bridged = sorted(plan.bridged)
        self._loaded()
        return report

    def export(
        self,
        output: str | os.PathLike[str],
        component: str | None = None,
        *,
        ties: bool = False,
        max_shard_bytes: int | None = None,
        force: bool = False,
    ) -> str:
        """Writes a safetensors file, or a folder of several.

        Parameters
        ----------
        output : path
            What is made.
        component : str, optional
            Only this component, its name taken off the names of its tensors: a model loads as it is.
        ties : bool
            Write tied tensors under all of their names. By default the first has them, as Hugging Face wants it.
        max_shard_bytes : int, optional
            Files of at most so many bytes, with an index.
        force : bool
            Take the place of what is there.

        Returns
        -------
        str
            What was made.
        """
        tied = [] if ties else [info.name for info in self.tensors if info.tie is not None]
        restored = self._native.restore(
            os.fspath(output),
            component=component,
            exclude=[_literal(name) for name in tied],
            max_shard_bytes=max_shard_bytes,
            force=force,
        )
        return restored["output"]

    def _root(self) -> dict[str, Any]:
        """The nodes of the tree by the keys of its root."""
        if self._tree is None:
            text = self._native.state()
            saved = loads(text, self.address) if text is not None else None
            if isinstance(saved, dict) and "treering" in saved:
                if saved["treering"] != 1:
                    raise UnsupportedError(f"{self.address} was saved by a newer version", "update treering")
                self._tree = {str(key): node for key, node in items(saved["tree"]) or []}
            else:
                self._tree = self._plain_tree(saved)
        return self._tree

    def _plain_tree(self, state: Any) -> dict[str, Any]:
        """For what was not saved from Python: the tensors by component and name."""
        framework = "torch" if _has("torch") else "numpy"
        tree: dict[str, Any] = {} if state is None else {"state": {"$": "dict", "items": []} if state == {} else state}
        for info in self.tensors:
            name = info.name.removeprefix(f"{info.component}.")
            node = {"$": "tensor", "of": framework, "name": f"{info.component}:{info.name}"}
            tree.setdefault(info.component, {})[name] = node
        return tree

    def _all_infos(self) -> dict[str, Info]:
        if self._infos is None:
            self._infos = {}
            for index, (component, name, dtype, shape, nbytes, id, tie) in enumerate(self._native.tensors()):
                info = Info(index, component, name, dtype, tuple(shape), nbytes, id, tie)
                self._infos.setdefault(name, info)
                self._infos[f"{component}:{name}"] = info
        return self._infos

    def _find(self, name: str) -> tuple[dict[str, Any], Info]:
        info = self._all_infos().get(name)
        if info is None:
            raise NotFoundError(f"no tensor {name} in {self.address}", "checkpoint.tensors lists them")
        if info.id is None:
            raise NotFoundError(f"{info.component} of {self.address} was dropped by a policy")
        nodes = tensor_nodes(self._root())
        node = next((node for node in nodes if node["name"] in (name, f"{info.component}:{name}")), None)
        return node or {"$": "tensor", "of": "numpy", "name": name}, info

    def _refuse_dropped(self, root: dict[str, Any]) -> None:
        for key, node in root.items():
            if any(self._all_infos()[tensor["name"]].id is None for tensor in tensor_nodes(node)):
                raise NotFoundError(f"{key} of {self.address} was dropped by a policy", "load what is left by its key")

    def _loaded(self) -> None:
        if self._on_load is not None:
            self._on_load(self)


def _stretches(rows: list[int]) -> list[tuple[int, int, int]]:
    """Rows that follow each other as one: where they go, the first, and how many."""
    found: list[tuple[int, int, int]] = []
    for at, row in enumerate(rows):
        if found and row == found[-1][1] + found[-1][2]:
            begin, first, count = found[-1]
            found[-1] = (begin, first, count + 1)
        else:
            found.append((at, row, 1))
    return found


def _literal(name: str) -> str:
    """A glob that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[]{}\\" else c for c in name)


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None
