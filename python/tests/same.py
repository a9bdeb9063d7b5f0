"""What it means for a state to come back: the same types, the same bits, the same order."""

from __future__ import annotations

import collections
import math
import struct
from typing import Any

import numpy as np
import torch


def assert_same(a: Any, b: Any, path: str = "state") -> None:
    assert type(a) is type(b), f"{path}: {type(a)} came back as {type(b)}"
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad), path
        assert torch_bytes(a) == torch_bytes(b), path
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{path}: {a.dtype} {a.shape}, {b.dtype} {b.shape}"
        assert a.tobytes() == b.tobytes(), path
        assert b.flags.writeable, path
    elif isinstance(a, np.generic):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), path
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b), path
    elif isinstance(a, complex):
        assert struct.pack("dd", a.real, a.imag) == struct.pack("dd", b.real, b.imag), path
    elif isinstance(a, dict):
        assert len(a) == len(b), path
        for (key, item), (other, back) in zip(a.items(), b.items(), strict=True):
            assert_same(key, other, f"{path} key {key!r}")
            assert_same(item, back, f"{path}[{key!r}]")
        assert_same(getattr(a, "_metadata", None), getattr(b, "_metadata", None), f"{path}._metadata")
    elif isinstance(a, list | tuple | collections.deque):
        assert getattr(a, "maxlen", None) == getattr(b, "maxlen", None), path
        assert len(a) == len(b), path
        for n, (item, back) in enumerate(zip(a, b, strict=True)):
            assert_same(item, back, f"{path}[{n}]")
    elif isinstance(a, set | frozenset) and any(isinstance(x, float) and math.isnan(x) for x in a):
        assert sorted(map(repr, a)) == sorted(map(repr, b)), path
    else:
        assert a == b, path


def torch_bytes(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
