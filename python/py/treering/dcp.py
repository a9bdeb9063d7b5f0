"""torch.distributed.checkpoint: saves to which every process brings its own shards, loaded by any number of processes.

    treering.dcp.save({"model": model_state, "optimizer": optimizer_state}, run, step, metrics={"loss": loss})
    treering.dcp.load({"model": model_state, "optimizer": optimizer_state}, run.latest())

Every process encodes and writes what it holds; nothing is gathered. What is stored is whole tensors: any other number
of processes loads them, and so does one alone, with :meth:`Checkpoint.load` or ``treering restore``. A checkpoint that
:meth:`Run.save` made is loaded the same way. Nothing is pickled.

Tensors may be sharded along any dimensions: what FSDP, tensor parallelism and both together make of them. A value that
is no tensor is saved once, though every process has it; what differs from process to process goes under keys of its
own, as in ``{"rng": {f"rank{rank}": treering.rng_state()}}``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import math
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as torch_dcp
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, SavePlan, WriteItemType
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult

from . import _native, _torch
from .checkpoint import Checkpoint
from .errors import ConflictError, DamagedError, NoSpaceError, TreeringError, UnavailableError, UnsupportedError
from .loading import make_tensors
from .run import Run
from .staging import Staging, in_place
from .tree import Decoder, Encoder, Info, Leaf, dumps, items, tensor_nodes

#: Once all processes have said that their parts are stored, each receipt is seen within so many seconds.
RECEIPT_SECONDS = 60.0
#: Bytes of tensors that are read before they are copied to where they belong.
BATCH_BYTES = 256 << 20

#: The memory of each run for what is copied from devices. One part is stored at a time.
_stagings: weakref.WeakKeyDictionary[Run, Staging] = weakref.WeakKeyDictionary()
_storing = threading.Lock()


# -- the short way ------------------------------------------------------------------------------------------------


def save(
    state: Mapping[str, Any],
    run: Run,
    step: int,
    *,
    metrics: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
    process_group: Any = None,
) -> None:
    """Saves a step from all processes, and returns once it is durable. All of them call it.

    If the disk is full, the run's policy is applied, and the save is tried again.

    Parameters
    ----------
    state : dict
        What `torch.distributed.checkpoint.state_dict` gives, or any dict of tensors, sharded or not, and plain values.
    run : Run
        The run, begun on every process.
    step : int
        The trainer's number.
    metrics, tags, note
        As for :meth:`Run.save`.
    process_group : ProcessGroup, optional
        The processes; by default all.
    """

    def attempt() -> None:
        writer = Writer(run, step, metrics=metrics, tags=tags, note=note)
        with _outcome(writer):
            torch_dcp.save(
                dict(state),
                storage_writer=writer,
                planner=SavePlanner(),
                process_group=process_group,
                no_dist=not _joined(),
            )

    try:
        attempt()
    except ConflictError:
        # What it built on was collected meanwhile. All processes are here: they were told the same.
        attempt()
    except NoSpaceError:
        if not run._has_policy():
            raise
        if not _joined() or dist.get_rank(process_group) == 0:
            run.store._reader().gc(run=run.name, grace_seconds=0, threads=run._threads)
        attempt()


def async_save(
    state: Mapping[str, Any],
    run: Run,
    step: int,
    *,
    metrics: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    note: str | None = None,
    process_group: Any = None,
) -> concurrent.futures.Future[None]:
    """As :func:`save`, and returns after one copy. The group, one of gloo, is used by nobody else until it is done."""
    writer = Writer(run, step, metrics=metrics, tags=tags, note=note, background=True)
    with _outcome(writer):
        begun: Any = torch_dcp.async_save(
            dict(state),
            storage_writer=writer,
            planner=SavePlanner(),
            process_group=process_group,
            no_dist=not _joined(),
        )
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def pass_on(future: concurrent.futures.Future[Any]) -> None:
        try:
            with _outcome(writer):
                future.result()
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    begun.add_done_callback(pass_on)
    return ended


def load(state: dict[str, Any], checkpoint: Checkpoint, *, process_group: Any = None, strict: bool = True) -> None:
    """Fills a state in place, each process its own shards. All of them call it.

    Parameters
    ----------
    state : dict
        What is to be filled, structured as it was saved.
    checkpoint : Checkpoint
        The checkpoint, such as ``run.latest()``.
    process_group : ProcessGroup, optional
        The processes; by default all.
    strict : bool
        Whether something to be filled that was not saved is an error. It stays as it is otherwise.
    """
    with _outcome(None):
        torch_dcp.load(
            state,
            storage_reader=Reader(checkpoint),
            planner=LoadPlanner(allow_partial_load=not strict),
            process_group=process_group,
            no_dist=not _joined(),
        )


# -- saving -------------------------------------------------------------------------------------------------------


class SavePlanner(DefaultSavePlanner):  # type: ignore[misc]
    """Leaves values that are no tensors as they are, for :class:`Writer` to encode: torch's would pickle them."""

    def transform_object(self, write_item: Any, object: Any) -> Any:
        return object


class Writer(StorageWriter):  # type: ignore[misc]
    """Writes one step of a run. With :class:`SavePlanner`, for ``torch.distributed.checkpoint.save``.

    Parameters
    ----------
    run : Run
        The run.
    step : int
        The step.
    metrics, tags, note
        As for :meth:`Run.save`.
    background : bool
        Whether the training goes on meanwhile, as with ``torch.distributed.checkpoint.async_save``: then a save takes
        the threads of one in the background, and all cores, over ``LOCAL_WORLD_SIZE``, if not.
    """

    def __init__(
        self,
        run: Run,
        step: int,
        *,
        metrics: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        note: str | None = None,
        background: bool = False,
    ) -> None:
        self._run = run
        self._step = step
        self._background = background
        self._metrics, self._tags, self._note = metrics, tags, note
        self._joint: _native.JointSave | None = None
        self._parent: str | None = None
        self._ranks = 0
        #: On the process that commits, once it is: sizes in bytes, the outcome.
        self.report: _native.Saved | None = None

    def reset(self, checkpoint_id: Any = None) -> None:
        self.give_up()

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self._joint, self._parent = self._run._begin_joint(self._step)
        self._ranks = len(plans)
        each = {"save": self._joint.id, "ranks": self._ranks, "parent": self._parent}
        return [dataclasses.replace(plan, storage_data={**each, "rank": rank}) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: Any) -> torch.futures.Future[list[WriteResult]]:
        part = _Part()
        results = [
            WriteResult(index=item.index, size_in_bytes=part.add(item, planner.resolve_data(item)), storage_data=None)
            for item in plan.items
        ]
        given = plan.storage_data
        with _storing:
            leaves = part.encoder.leaves
            on_device = any(leaf.device is not None for leaf in leaves)
            staging = _stagings.setdefault(self._run, Staging())
            parts, buffers = staging.copy(leaves) if on_device else in_place(leaves)
            self._run.store._reader().save_part(
                given["save"],
                given["rank"],
                given["ranks"],
                self._run.name,
                self._step,
                parts,
                part.boxes,
                buffers,
                text=dumps(part.nodes),
                parent=given["parent"],
                threads=self._run._threads + (0 if self._background else self._run._helpers),
            )
        future: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self._joint is not None, "prepare_global_plan was called"
        nodes: dict[str, Any] = {}
        for text in self._joint.wait(self._ranks, RECEIPT_SECONDS):
            nodes |= json.loads(text)
        missing = set(metadata.state_dict_metadata) - set(nodes)
        if missing:
            raise DamagedError(f"{len(missing)} planned values were not stored, such as {min(missing)}")
        tree = _nested(nodes, metadata.planner_data or {})
        joint, self._joint = self._joint, None
        state = dumps({"treering": 1, "tree": tree})
        self.report = self._run._commit_joint(
            joint, self._step, state, self._metrics, self._tags, self._note, self._parent
        )

    def give_up(self) -> None:
        """What was stored and not committed is garbage from now on."""
        if self._joint is not None:
            self._joint.give_up()
            self._joint = None


class _Part:
    """What one process stores: tensors, and the nodes of all values by their names."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        #: For each tensor the shape of the whole one, and where in it the box begins.
        self.boxes: list[tuple[list[int], list[int]] | None] = []
        self.nodes: dict[str, Any] = {}
        self._named: dict[str, Leaf] = {}

    def add(self, item: Any, value: Any) -> int:
        """Adds what an item of the plan is about; returns its length in bytes."""
        name = item.index.fqn
        if item.type != WriteItemType.BYTE_IO:
            return self._add_tensor(name, item, value)
        if isinstance(value, io.BytesIO):
            raise UnsupportedError(
                f"{name} comes pickled", "use planner=treering.dcp.SavePlanner(), or treering.dcp.save"
            )
        self.nodes[name] = self.encoder.encode(value, tuple(name.split(".")))
        self.boxes += [None] * (len(self.encoder.leaves) - len(self.boxes))
        return 0

    def _add_tensor(self, name: str, item: Any, tensor: torch.Tensor) -> int:
        path = tuple(name.split("."))
        _torch.check(tensor, path)
        leaf, node = _torch.leaf_of(tensor)
        shape, offsets = list(item.tensor_data.size), list(item.tensor_data.chunk.offsets)
        if "shape" in node:  # a type that is stored as bytes: they are one dimension more
            node["shape"] = shape
            width = tensor.element_size()
            leaf.shape, shape, offsets = (*tensor.shape, width), [*shape, width], [*offsets, 0]
        before = self._named.get(name)
        if before is None:
            self.nodes[name] = self.encoder.tensor(leaf, path, {"of": "torch", **node})
            self._named[name] = leaf
        else:  # another box of the same
            leaf.component, leaf.name = before.component, before.name
            self.encoder.leaves.append(leaf)
        self.boxes.append((shape, offsets))
        return leaf.nbytes


class _Branch(dict[Any, Any]):
    """A dict or list of the state, not a value's node."""


def _nested(nodes: dict[str, Any], paths: Mapping[str, Sequence[str | int]]) -> Any:
    """The node of the whole state, from those of its values by their flat names."""
    root = _Branch()
    for name in sorted(nodes, key=lambda name: [(isinstance(key, int), key) for key in paths.get(name, (name,))]):
        *above, last = paths.get(name, (name,))
        place = root
        for key in above:
            place = place.setdefault(key, _Branch())
        place[last] = nodes[name]
    return _node(root)


def _node(tree: Any) -> Any:
    if not isinstance(tree, _Branch):
        return tree
    if all(type(key) is int for key in tree) and tree:
        return [_node(tree[key]) for key in sorted(tree)]
    if "$" in tree:
        return {"$": "dict", "items": [[key, _node(value)] for key, value in tree.items()]}
    return {key: _node(value) for key, value in tree.items()}


# -- loading ------------------------------------------------------------------------------------------------------


class LoadPlanner(DefaultLoadPlanner):  # type: ignore[misc]
    """Takes values that are no tensors as :class:`Reader` decodes them: torch's would unpickle them."""

    def put(self, name: str, value: Any) -> None:
        """Puts a value where it belongs in the state."""
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], value)
        else:
            self.state_dict[name] = value


@dataclasses.dataclass
class _Stored:
    """A tensor of the checkpoint: what is known of it, its shape and type, and the boxes that it is stored in."""

    info: Info
    like: torch.Tensor
    boxes: dict[tuple[int, ...], _Box]

    def stretch(self, item: Any) -> tuple[_Box, int, int]:
        """The box that an item is about, where in the stored bytes the rows begin that it touches, and their length."""
        box = self.boxes[tuple(item.storage_index.offset or [0] * self.like.dim())]
        if not math.prod(item.lengths):
            return box, 0, 0
        nbytes = math.prod(box.lengths) * self.like.element_size()
        if not box.lengths:
            return box, box.begin, nbytes
        row_bytes = nbytes // box.lengths[0]
        return box, box.begin + item.storage_offsets[0] * row_bytes, item.lengths[0] * row_bytes


@dataclasses.dataclass
class _Box:
    """A box of a tensor, and where among the tensor's stored bytes its own begin."""

    lengths: tuple[int, ...]
    begin: int


class Reader(StorageReader):  # type: ignore[misc]
    """Reads a checkpoint. With :class:`LoadPlanner`, for ``torch.distributed.checkpoint.load``.

    Parameters
    ----------
    checkpoint : Checkpoint
        One that :mod:`treering.dcp` or :meth:`Run.save` saved.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        root = checkpoint._root()
        infos = checkpoint._all_infos()
        likes: dict[str, Any] = {}
        stored: dict[int, _Stored] = {}
        for node in tensor_nodes(root):
            info = infos[node["name"]]
            if node["of"] != "torch":
                likes[node["name"]] = object()  # a value like others
                continue
            dtype = getattr(torch, node["dtype"]) if "dtype" in node else _torch.named(info.dtype)
            like = torch.empty(tuple(node.get("shape", info.shape)), dtype=dtype, device="meta")
            likes[node["name"]] = like
            stored[id(like)] = _Stored(info, like, _boxes(checkpoint, info, like))
        decoder = Decoder(likes)
        flat, self._paths = flatten_state_dict({key: decoder.decode(node) for key, node in root.items()})
        self._tensors = {name: stored[id(value)] for name, value in flat.items() if id(value) in stored}
        self._values = {name: value for name, value in flat.items() if name not in self._tensors}

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        known: dict[str, Any] = {}
        for name, each in self._tensors.items():
            known[name] = _tensor_metadata(each.like, {at: box.lengths for at, box in each.boxes.items()})
        for name, value in self._values.items():
            if isinstance(value, torch.Tensor):
                known[name] = _tensor_metadata(value, {(0,) * value.dim(): tuple(value.shape)})
            else:
                known[name] = BytesStorageMetadata()
        return Metadata(known, planner_data=self._paths)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: Any) -> torch.futures.Future[None]:
        for batch in _batches([item for item in plan.items if item.type == LoadItemType.TENSOR], self._bytes_of):
            self._read_tensors(batch, planner)
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                name = item.storage_index.fqn
                if isinstance(planner, LoadPlanner):
                    planner.put(name, self._value(name))
                else:
                    content = io.BytesIO()
                    torch.save(self._value(name), content)
                    content.seek(0)
                    planner.load_bytes(item, content)
        self._checkpoint._loaded()
        future: torch.futures.Future[None] = torch.futures.Future()
        future.set_result(None)
        return future

    def _value(self, name: str) -> Any:
        """A value; one with tensors in it is read now."""
        node: Any = {"$": "dict", "items": list(self._checkpoint._root().items())}
        for key in self._paths[name]:
            node = node[key] if isinstance(node, list) else {str(k): v for k, v in items(node) or []}[str(key)]
        tensors, _ = make_tensors(self._checkpoint._native, self._checkpoint._all_infos(), [node])
        return Decoder(tensors).decode(node)

    def _bytes_of(self, item: Any) -> int:
        stored = self._tensors.get(item.storage_index.fqn)
        return 0 if stored is None else stored.stretch(item)[2]

    def _read_tensors(self, batch: list[Any], planner: Any) -> None:
        windows, copies = [], []
        for item in batch:
            name = item.storage_index.fqn
            target = planner.resolve_tensor(item).detach()
            if name in self._values:  # a number that is no tensor in the store
                copies.append((item, target, self._values[name]))
                continue
            stored = self._tensors[name]
            box, begin, length = stored.stretch(item)
            rows = torch.empty(length, dtype=torch.uint8).view(stored.like.dtype)
            if length:
                windows.append((stored.info.index, begin, _torch.memory(rows, length)))
            if stored.like.dim():
                rows = rows.view(item.lengths[0] if length else 0, *box.lengths[1:])
                for dim, (offset, count) in enumerate(zip(item.storage_offsets[1:], item.lengths[1:], strict=True), 1):
                    rows = rows.narrow(dim, offset, count)
            else:
                rows = rows.view(())
            copies.append((item, target, rows))
        self._checkpoint._native.read(windows, in_boxes=True)
        for item, target, rows in copies:
            target.copy_(rows)
            planner.commit_tensor(item, target)


def _boxes(checkpoint: Checkpoint, info: Info, like: torch.Tensor) -> dict[tuple[int, ...], _Box]:
    """The boxes of a tensor by where they begin."""
    boxes, begin = {}, 0
    for offsets, lengths in checkpoint._native.boxes(info.index) or [([0] * like.dim(), like.shape)]:
        # Of a type that is stored as bytes, they are one dimension more.
        box = _Box(tuple(lengths[: like.dim()]), begin)
        boxes[tuple(offsets[: like.dim()])] = box
        begin += math.prod(box.lengths) * like.element_size()
    return boxes


def _tensor_metadata(like: torch.Tensor, boxes: Mapping[tuple[int, ...], Sequence[int]]) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(at), torch.Size(lengths)) for at, lengths in boxes.items()]
    return TensorStorageMetadata(TensorProperties(dtype=like.dtype), like.shape, chunks)


def _batches(all: list[Any], bytes_of: Any) -> Iterator[list[Any]]:
    batch, room = [], BATCH_BYTES
    for item in all:
        batch.append(item)
        room -= bytes_of(item)
        if room <= 0:
            yield batch
            batch, room = [], BATCH_BYTES
    if batch:
        yield batch


# -- inside -------------------------------------------------------------------------------------------------------


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def _outcome(writer: Writer | None) -> Iterator[None]:
    """All processes get the error of the first that failed, as one of treering's."""
    try:
        with warnings.catch_warnings():
            # One process alone is what was asked for.
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
            yield
    except CheckpointException as error:
        if writer is not None:
            writer.give_up()
        rank, (cause, _) = min(error.failures.items())
        if isinstance(cause, TreeringError):
            cause.add_note(f"on rank {rank}")
            raise cause from None
        raise UnavailableError(f"rank {rank} failed: {type(cause).__name__}: {cause}") from error
    except BaseException:
        if writer is not None:
            writer.give_up()
        raise
