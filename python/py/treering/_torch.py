"""torch: tensors, modules and optimizers.

A tensor's bytes are its elements in row-major order. Tensors that are the very same memory are saved once and come
back as one; other views of one memory come back each with memory of its own.

The state of an optimizer is stored under the names of the parameters, if the tree or the optimizer says them, with
torch's numbers beside; the steps that it counts, a tensor of one number for each parameter, are values in the tree.
Filled in place, it is matched by name: a parameter that was not trained before simply has no history, and moments keep
the type in which they were saved.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .errors import InvalidError, UnsupportedError
from .tree import DEPTH_MAX, Decoder, Encoder, Info, Leaf, Path, Slot, dotted, items

if TYPE_CHECKING:
    from .loading import Plan

#: Types that safetensors has. All others are stored as bytes, with their type beside them.
STORED = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}
_DTYPES = {stored: dtype for dtype, stored in STORED.items()}
#: Types of which one number is a value in the tree, if it belongs to an optimizer.
_COUNTED = (torch.float32, torch.float64, torch.int64, torch.int32)
#: cudaHostRegisterPortable: memory that is pinned is so for all devices.
_PORTABLE = 1
#: What wrappers put in front of a parameter's name, or into it.
WRAPPERS = ("module", "_orig_mod")


# -- saving -------------------------------------------------------------------------------------------------------


def begin(encoder: Encoder, state: dict[str, Any]) -> None:
    encoder.notes["torch"] = [(path, dict(_named(module))) for path, module in modules(state)]


def encode(value: Any, encoder: Encoder, path: Path) -> Any:
    if isinstance(value, torch.Tensor):
        return _tensor_node(value, encoder, path)
    if isinstance(value, _Number):
        return {"$": "torch.number", "dtype": _name(value.dtype), "value": value.value}
    if isinstance(value, torch.optim.Optimizer):
        names = parameter_names(value, encoder.notes["torch"])
        return _optimizer_node(encoder, value.state_dict(), names, path)
    if isinstance(value, torch.Size):
        return {"$": "torch.Size", "items": list(value)}
    if isinstance(value, torch.dtype):
        return {"$": "torch.dtype", "value": _name(value)}
    if isinstance(value, torch.device):
        return {"$": "torch.device", "value": str(value)}
    if isinstance(value, torch.memory_format | torch.layout):
        kind = "memory_format" if isinstance(value, torch.memory_format) else "layout"
        return {"$": f"torch.{kind}", "value": _name(value)}
    return NotImplemented


def optimizer_node(encoder: Encoder, state: dict[str, Any], path: Path) -> Any:
    """The node of a dict that looks like the state of an optimizer; `None` if it only has the same keys."""
    groups = state["param_groups"]
    if not (isinstance(groups, list) and all(isinstance(g, dict) and "params" in g for g in groups)):
        return None
    if not isinstance(state["state"], dict):
        return None
    names = [name for group in groups for name in group.get("param_names", [])]
    numbers = [number for group in groups for number in group["params"]]
    if numbers != list(range(len(numbers))):
        return None
    return _optimizer_node(encoder, state, names if len(names) == len(numbers) else list(map(str, numbers)), path)


def modules(value: Any, path: Path = ()) -> Iterator[tuple[Path, torch.nn.Module]]:
    """All modules of a tree, with their paths."""
    if isinstance(value, torch.nn.Module):
        yield path, value
    elif len(path) > DEPTH_MAX:
        return  # it will be refused
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from modules(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from modules(item, (*path, str(number)))


def _named(module: torch.nn.Module) -> Iterator[tuple[int, str]]:
    named = list(module.named_parameters(remove_duplicate=False))
    yield from ((id(parameter), name) for name, parameter in reversed(named))


def parameter_names(optimizer: Any, known: list[tuple[Path, dict[int, str]]]) -> list[str] | None:
    """The name of each parameter by its number in the optimizer; `None` if not all are known."""
    said = [name for group in optimizer.param_groups for name in group.get("param_names", [])]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(said) == len(parameters):
        return said
    owners = [(path, names) for path, names in known if any(id(p) in names for p in parameters)]
    found: list[str] = []
    for parameter in parameters:
        for path, names in owners:
            if id(parameter) in names:
                name = names[id(parameter)]
                found.append(name if len(owners) == 1 else ".".join((*path, name)))
                break
    return found if len(found) == len(parameters) and len(set(found)) == len(found) else None


def _optimizer_node(encoder: Encoder, state: dict[str, Any], names: list[str] | None, path: Path) -> Any:
    count = sum(len(group["params"]) for group in state["param_groups"])
    names = names or [str(number) for number in range(count)]

    def segment(key: Any) -> str:
        return names[key] if type(key) is int and 0 <= key < len(names) else str(key)

    node = {
        key: {"$": "dict", "items": encoder.mapping(_numbers(item).items(), (*path, key), segment)}
        if key == "state"
        else encoder.encode(item, (*path, key))
        for key, item in state.items()
    }
    return {"$": "torch.optimizer", "names": names, "value": node}


@dataclass(frozen=True)
class _Number:
    """A tensor of one number that is to be a value in the tree."""

    dtype: torch.dtype
    value: float


def _numbers(state: dict[Any, Any]) -> dict[Any, Any]:
    """The moments of each parameter, with the numbers among them marked: stored as tensors, each would be a chunk."""
    single = [
        value
        for moments in state.values()
        if type(moments) is dict
        for value in moments.values()
        if _may_be_number(value)
    ]
    shared = collections.Counter(map(_identity, single))
    numbers = _read([value for value in single if shared[_identity(value)] == 1])
    return {
        key: {name: numbers.get(id(value), value) for name, value in moments.items()}
        if type(moments) is dict
        else moments
        for key, moments in state.items()
    }


def _may_be_number(value: Any) -> bool:
    return (
        type(value) is torch.Tensor
        and value.layout == torch.strided
        and value.device.type != "meta"
        and value.dim() == 0
        and value.dtype in _COUNTED
        and not value.requires_grad
    )


def _read(tensors: Iterable[torch.Tensor]) -> dict[int, _Number]:
    """The numbers by the identity of their tensors, unless they are no numbers. One copy from each device."""
    alike = collections.defaultdict(list)
    for tensor in tensors:
        alike[tensor.device, tensor.dtype].append(tensor)
    return {
        id(tensor): _Number(tensor.dtype, value)
        for group in alike.values()
        for tensor, value in zip(group, torch.stack(group).tolist(), strict=True)
        if math.isfinite(value)
    }


def _tensor_node(tensor: torch.Tensor, encoder: Encoder, path: Path) -> Any:
    check(tensor, path)
    node: dict[str, Any] = {"of": "torch"}
    if isinstance(tensor, torch.nn.Parameter):
        node["parameter"] = True
    if tensor.requires_grad and tensor.is_leaf:
        node["requires_grad"] = True
    leaf, more = leaf_of(tensor)
    return encoder.tensor(leaf, path, node | more)


def leaf_of(tensor: torch.Tensor) -> tuple[Leaf, dict[str, Any]]:
    """A tensor's bytes and, where these do not say it, its type and shape for its node."""
    node: dict[str, Any] = {}
    identity = _identity(tensor)
    plain = tensor.detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    nbytes = plain.numel() * plain.element_size()
    leaf = Leaf("U8", (nbytes,), nbytes, identity=identity)
    if plain.dtype in STORED:
        leaf.dtype, leaf.shape = STORED[plain.dtype], tuple(plain.shape)
    else:
        node |= {"dtype": _name(plain.dtype), "shape": list(plain.shape)}
    if plain.is_cpu and plain.is_contiguous():
        leaf.source, leaf.owner = memory(plain, nbytes), plain
    elif nbytes == 0:
        leaf.source = b""
    else:
        leaf.fill = lambda into: _fill(plain, into)
        leaf.piece = lambda offset, length: _piece(plain, offset, length)
        leaf.device = _Cuda(plain.device.index) if plain.is_cuda else None
    return leaf, node


def _fill(tensor: torch.Tensor, into: memoryview) -> None:
    # One copy, whatever the strides and the device. CUDA devices are waited for later, all others here.
    torch.frombuffer(into, dtype=tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=tensor.is_cuda)


def _piece(tensor: torch.Tensor, offset: int, length: int) -> bytes:
    """Some of the bytes of a tensor, which is not copied as a whole. They need not begin or end with an element."""
    width = tensor.element_size()
    first = offset // width
    elements = _flat(tensor, first, -(-(offset + length) // width)).cpu()
    begin = offset - first * width
    return bytes(memory(elements, elements.numel() * width)[begin : begin + length])


def _flat(tensor: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Some of the elements in row-major order, without gaps."""
    if tensor.is_contiguous():
        return tensor.view(-1)[first:end]
    row = tensor[0].numel()
    begin, last = -(-first // row), end // row  # the rows that are in it as a whole
    if begin > last:
        return _flat(tensor[last], first - last * row, end - last * row)
    parts = [tensor[begin:last].reshape(-1)]
    if first < begin * row:
        parts.insert(0, _flat(tensor[begin - 1], first - (begin - 1) * row, row))
    if last * row < end:
        parts.append(_flat(tensor[last], 0, end - last * row))
    return torch.cat(parts)


@dataclass(frozen=True)
class _Cuda:
    """A CUDA device, or one of those that torch calls so. What it is asked for, it does on its current stream."""

    index: int

    def pin(self, memory: Any) -> Callable[[], None]:
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        address, nbytes = whole.data_ptr(), whole.numel()
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self.index):
            error = runtime.cudaHostRegister(address, nbytes, _PORTABLE)
        if error != runtime.cudaError.success:
            why = runtime.cudaGetErrorString(error)
            warnings.warn(
                f"copies from CUDA devices take longer: {nbytes:,} bytes cannot be pinned: {why}", stacklevel=2
            )
            return lambda: None
        return lambda: runtime.cudaHostUnregister(address)

    def settle(self) -> None:
        torch.cuda.current_stream(self.index).synchronize()


def _identity(tensor: torch.Tensor) -> object:
    place = tensor.data_ptr()
    if place == 0 or tensor.numel() == 0:
        return None
    return tensor.device, place, tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg()


def check(tensor: torch.Tensor, path: Path) -> None:
    """Refuses what has no bytes of its own, or more than bytes."""

    if (
        (type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
    ):
        return  # as nearly all are: what follows takes longer

    def refused(what: str, hint: str | None = None) -> UnsupportedError:
        return UnsupportedError(f"{dotted(path)}: {what} cannot be saved", hint)

    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise refused("a parameter that has no shape yet", "call the module once before it is saved")
    if hasattr(tensor, "device_mesh") and hasattr(tensor, "placements"):
        raise refused("a sharded tensor (DTensor)", "treering.dcp.save saves it, or save it whole: full_tensor()")
    if tensor.is_nested:
        raise refused("a nested tensor", "save its values() and offsets()")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise refused(f"a tensor of type {type(tensor).__module__}.{type(tensor).__qualname__}", "save its parts")
    if tensor.is_quantized:
        raise refused(f"a quantized tensor ({_name(tensor.dtype)})", "save its int_repr(), scales and zero points")
    if tensor.layout != torch.strided:
        raise refused(f"a sparse tensor ({_name(tensor.layout)})", "save its indices and values, or to_dense()")
    if tensor.device.type == "meta":
        raise refused("a tensor on the meta device", "it has no values")


def memory(tensor: torch.Tensor, nbytes: int) -> Any:
    """The memory of a contiguous tensor on the CPU. Its storage stays resizable, so the caller keeps the tensor."""
    if not nbytes:
        return b""
    return memoryview(_bytes_type(nbytes).from_address(tensor.data_ptr())).cast("B")


@functools.lru_cache(maxsize=1024)
def _bytes_type(nbytes: int) -> Any:
    # ctypes makes a class for each length and forgets it with its last object: longer work than all else that is done
    # with a small tensor.
    return ctypes.c_uint8 * nbytes


def _name(thing: Any) -> str:
    return str(thing).removeprefix("torch.")


# -- loading ------------------------------------------------------------------------------------------------------


def slot(node: dict[str, Any], info: Info) -> Slot:
    dtype = _dtype(node["dtype"]) if "dtype" in node else named(info.dtype)
    shape = node.get("shape", info.shape)
    if info.dtype in _DTYPES and "dtype" not in node:
        value = torch.empty(shape, dtype=dtype)
    else:  # a type that torch cannot make an empty tensor of
        value = torch.empty(info.nbytes, dtype=torch.uint8).view(dtype).view(shape)
    if value.numel() * value.element_size() != info.nbytes:
        raise UnsupportedError(f"tensor {info.name}: {info.nbytes} bytes are no {tuple(shape)} of {dtype}")

    def finish() -> torch.Tensor:
        if node.get("parameter"):
            return torch.nn.Parameter(value, requires_grad=bool(node.get("requires_grad")))
        return value.requires_grad_(True) if node.get("requires_grad") else value

    return Slot(memory(value, info.nbytes) or bytearray(), finish)


def decode(node: dict[str, Any], decoder: Decoder) -> Any:
    match node["$"]:
        case "torch.optimizer":
            return decoder.decode(node["value"])
        case "torch.number":
            number = torch.tensor(decoder.decode(node["value"]), dtype=_dtype(node["dtype"]))
            return number if decoder.location is None else move(number, decoder.location)
        case "torch.Size":
            return torch.Size(node["items"])
        case "torch.dtype" | "torch.memory_format" | "torch.layout":
            return _dtype(node["value"])
        case "torch.device":
            return torch.device(node["value"])
        case kind:
            raise UnsupportedError(f"a value of kind {kind!r} cannot be read", "update treering")


def move(value: Any, device: Any) -> Any:
    """The value on another device, if it is a tensor."""
    if not isinstance(value, torch.Tensor):
        return value
    moved = value.detach().to(device)
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(moved, requires_grad=value.requires_grad)
    return moved.requires_grad_(value.requires_grad)


def named(stored: str) -> torch.dtype:
    """The type of this safetensors name."""
    if stored not in _DTYPES:
        raise UnsupportedError(f"torch has no type for {stored}")
    return _DTYPES[stored]


def _dtype(name: str) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype | torch.memory_format | torch.layout):
        raise UnsupportedError(f"torch has no {name} here", "update torch")
    return found


# -- filling in place ---------------------------------------------------------------------------------------------


def into(target: Any, node: Any, path: Path, plan: Plan) -> bool:
    """Plans how a torch object is filled from a node; `False` for what is not torch's."""
    if isinstance(target, torch.nn.Module):
        _into_module(target, node, path, plan)
    elif isinstance(target, torch.optim.Optimizer):
        if type(target).load_state_dict is not torch.optim.Optimizer.load_state_dict:
            return False  # it does something of its own: let it
        _into_optimizer(target, node, path, plan)
    elif isinstance(target, torch.Tensor):
        if not (isinstance(node, dict) and node.get("$") == "tensor"):
            plan.reshaped.append((dotted(path), "no tensor", str(tuple(target.shape))))
        else:
            _into_tensor(target, node, path, plan)
    else:
        return False
    return True


def _into_module(module: torch.nn.Module, node: Any, path: Path, plan: Plan) -> None:
    stored = dict(items(node) or [])
    ours = module.state_dict()
    pairs, bridged = bridge(list(ours), list(stored))
    plan.bridged |= {f"{dotted(path)}: {prefix}" for prefix in bridged}
    # What is the same memory as a tensor that was saved is filled with it: files often have tied tensors once.
    filled = {_identity(ours[name]) for name in pairs if isinstance(ours[name], torch.Tensor)} - {None}
    plan.missing += [
        dotted((*path, name)) for name in ours if name not in pairs and _identity(ours[name]) not in filled
    ]
    taken = set(pairs.values())
    plan.unexpected += [dotted((*path, str(name))) for name in stored if name not in taken]
    if _has_ways_of_its_own(module, node, ours):
        values = [
            [name, stored[theirs]]
            for name, theirs in pairs.items()
            if not _is_tensor(stored[theirs]) or _check_shape(ours[name], stored[theirs], (*path, name), plan)
        ]
        # What is missing was seen already.
        plan.value(
            {"$": "OrderedDict", "items": values, **_metadata_of(node)},
            lambda state: module.load_state_dict(state, strict=False),
        )
        return
    for name, theirs in pairs.items():
        value, here = stored[theirs], (*path, name)
        if isinstance(ours[name], torch.Tensor) and _is_tensor(value):
            _into_tensor(ours[name], value, here, plan)
        else:  # what get_extra_state gave
            plan.value({name: value}, lambda state: module.load_state_dict(state, strict=False))


def _place(value: Any) -> object:
    """The memory of a plain tensor, `None` for all else."""
    return _identity(value) if isinstance(value, torch.Tensor) and value.layout == torch.strided else None


def _metadata_of(node: Any) -> dict[str, Any]:
    return {"metadata": node["metadata"]} if isinstance(node, dict) and "metadata" in node else {}


def _has_ways_of_its_own(module: torch.nn.Module, node: Any, ours: Any) -> bool:
    """True if loading is more than copying: other versions of its parts, or hooks."""
    for part in module.modules():
        if part._load_state_dict_pre_hooks or part._load_state_dict_post_hooks:
            return True
    theirs = Decoder({}).decode(node["metadata"]) if isinstance(node, dict) and "metadata" in node else None
    mine = getattr(ours, "_metadata", None)
    if theirs is None or mine is None:
        return False
    return any(name in mine and mine[name].get("version") != entry.get("version") for name, entry in theirs.items())


def _is_tensor(node: Any) -> bool:
    return isinstance(node, dict) and node.get("$") == "tensor"


def _check_shape(target: torch.Tensor, node: dict[str, Any], path: Path, plan: Plan) -> bool:
    info = plan.info(node)
    shape = tuple(node.get("shape", info.shape))
    if shape != tuple(target.shape):
        plan.reshaped.append((dotted(path), str(shape), str(tuple(target.shape))))
        return False
    return True


def _into_tensor(target: torch.Tensor, node: dict[str, Any], path: Path, plan: Plan) -> None:
    if target.device.type == "meta":
        raise InvalidError(f"{dotted(path)} is on the meta device", "call to_empty() first")
    if not _check_shape(target, node, path, plan):
        return
    info = plan.info(node)
    dtype = _dtype(node["dtype"]) if "dtype" in node else named(info.dtype) if info.dtype in _DTYPES else None
    target = target.detach()
    if dtype != target.dtype:
        plan.cast.append((dotted(path), info.dtype, _name(target.dtype)))
    if dtype == target.dtype and target.is_cpu and target.is_contiguous() and not target.is_conj():
        if plan.read(info, (target.data_ptr(), info.nbytes), lambda: memory(target, info.nbytes)):
            plan.later(lambda: torch.autograd.graph.increment_version(target))
            return
    plan.value(node, lambda value: target.copy_(value), info)


def _into_optimizer(optimizer: Any, node: Any, path: Path, plan: Plan) -> None:
    if not (isinstance(node, dict) and node.get("$") == "torch.optimizer"):
        raise InvalidError(f"{dotted(path)} is an optimizer, and what was saved is not")
    stored_names = [str(name) for name in node["names"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = parameter_names(optimizer, [(where, dict(_named(module))) for where, module in modules(plan.targets)])
    if names is None or all(name.isdigit() for name in stored_names):
        # Numbers are all there is to go by: they mean something only if there are as many.
        if len(parameters) != len(stored_names):
            count = f"{len(stored_names)} parameters"
            plan.reshaped.append((dotted(path), count, f"{len(parameters)}, whose names are not known"))
            return
        names = stored_names
    pairs, bridged = bridge(names, stored_names)
    plan.bridged |= {f"{dotted(path)}: {prefix}" for prefix in bridged}
    by_number = {number: item for number, item in items(dict(items(node) or [])["state"]) or []}
    counted_there = {
        id(parameter)
        for group in optimizer.param_groups
        if group.get("capturable") or group.get("fused")
        for parameter in group["params"]
    }
    for name, parameter in zip(names, parameters, strict=True):
        number = stored_names.index(pairs[name]) if name in pairs else None
        if number is None or number not in by_number:
            optimizer.state.pop(parameter, None)
            plan.fresh.append(dotted((*path, name)))
            continue
        counts_on = parameter.device if id(parameter) in counted_there else None
        _into_parameter(optimizer, parameter, by_number[number], counts_on, (*path, "state", name), plan)
    plan.unexpected += [dotted((*path, name)) for name in stored_names if name not in set(pairs.values())]
    _into_groups(optimizer, node, names, pairs, plan)


def _into_parameter(optimizer: Any, parameter: torch.Tensor, node: Any, counts_on: Any, path: Path, plan: Plan) -> None:
    """The moments of one parameter: into the memory that is there, or, where there is none of that type, into new.

    Its step stays on the CPU unless the optimizer counts elsewhere.
    """
    state = optimizer.state[parameter]
    entries = items(node) or []
    for key in [key for key in state if key not in {name for name, _ in entries}]:
        del state[key]
    for key, value in entries:
        info = plan.info(value) if isinstance(value, dict) and value.get("$") == "tensor" else None
        there = state.get(key)
        if info is not None and tuple(info.shape) not in (tuple(parameter.shape), (), (1,)):
            plan.reshaped.append((dotted((*path, str(key))), str(tuple(info.shape)), str(tuple(parameter.shape))))
        elif (
            info is not None
            and isinstance(there, torch.Tensor)
            and tuple(there.shape) == tuple(info.shape)
            and there.dtype == _DTYPES.get(info.dtype)
        ):
            _into_tensor(there, value, (*path, str(key)), plan)
        else:
            # torch's own loading would cast to the parameter's type; the type that was saved stays.
            plan.value(value, _history(state, key, counts_on if key == "step" else parameter.device))


def _history(state: dict[str, Any], key: str, device: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        state[key] = value if device is None else move(value, device)

    return put


def _into_groups(optimizer: Any, node: Any, names: list[str], pairs: dict[str, str], plan: Plan) -> None:
    """The settings of a group come from the stored group that has most of its parameters."""
    groups = Decoder({}).decode(_without_tensors(dict(items(node) or [])["param_groups"]))
    tensors = dict(items(node) or [])["param_groups"]
    home = {node["names"][number]: which for which, group in enumerate(groups) for number in group["params"]}
    position = 0
    for group in optimizer.param_groups:
        mine = names[position : position + len(group["params"])]
        position += len(mine)
        votes = [home[pairs[name]] for name in mine if name in pairs and pairs[name] in home]
        if not votes:
            continue
        chosen = tensors[max(set(votes), key=votes.count)]
        for key, value in items(chosen) or []:
            if key not in ("params", "param_names"):
                plan.value(value, _option(group, key))


def _option(group: dict[str, Any], key: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        there = group.get(key)
        if isinstance(there, torch.Tensor) and isinstance(value, torch.Tensor) and there.shape == value.shape:
            there.detach().copy_(value)  # a learning rate that compiled code looks at
        else:
            group[key] = value

    return put


def _without_tensors(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_tensors(item) for item in node]
    if isinstance(node, dict):
        return None if node.get("$") == "tensor" else {key: _without_tensors(item) for key, item in node.items()}
    return node


def bridge(ours: list[str], theirs: list[str]) -> tuple[dict[str, str], set[str]]:
    """Which stored name belongs to which of ours, and the wrappers whose prefixes had to be looked through."""
    known = set(theirs)
    pairs = {name: name for name in ours if name in known}
    if len(pairs) == len(ours) == len(known):
        return pairs, set()
    left = {bare(name): name for name in theirs if name not in pairs}
    seen = set()
    for name in ours:
        other = None if name in pairs else left.pop(bare(name), None)
        if other is not None:
            pairs[name] = other
            parts = set(name.split(".")) ^ set(other.split("."))
            seen |= {f"{part}." for part in parts if part in WRAPPERS}
    return pairs, seen


def bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
