"""Random states: of Python, and of NumPy and torch where they are loaded."""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any

from .ranks import group, rank


def rng_state(*, all_ranks: bool = False) -> dict[str, Any]:
    """The states of all random sources of this process, to be saved with a checkpoint.

    With `all_ranks`, those of all processes of the training: all of them call this, and :func:`set_rng_state` gives
    each its own.

    Python's ``random``, NumPy's legacy generator, torch on the CPU and on each CUDA device. Generators of your own are
    saved by their own state: ``generator.bit_generator.state`` of NumPy, ``generator.get_state()`` of torch.
    """
    if all_ranks:
        return {"ranks": of_all_ranks()}
    state: dict[str, Any] = {"python": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state["numpy"] = numpy.random.get_state(legacy=False)
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Sets what :func:`rng_state` gave. Do this before the data loader's iterator is made: it draws its seed then."""
    if "ranks" in state:
        if str(rank()) not in state["ranks"]:
            count = len(state["ranks"])
            warnings.warn(f"random states were saved of {count} ranks: rank {rank()} has none", stacklevel=2)
        return set_own(state["ranks"])
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"].cpu())
        cuda = state.get("cuda")
        if cuda and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all([one.cpu() for one in cuda])
        elif cuda:
            devices = f"{len(cuda)} CUDA devices, and there are {torch.cuda.device_count()}"
            warnings.warn(f"random states were saved of {devices}: they were not set", stacklevel=2)


def of_all_ranks(*, arrays: bool = True) -> dict[str, Any]:
    """The states of all processes of a training by their ranks. All of them call this.

    Without arrays, that of NumPy is a list: a file of torch.save that has it can be read without running code.
    """
    own = rng_state()
    if not arrays and "numpy" in own:
        own["numpy"]["state"]["key"] = own["numpy"]["state"]["key"].tolist()
    distributed = group()
    if distributed is None:
        return {"0": own}
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return {str(rank): state for rank, state in enumerate(found)}


def set_own(states: dict[str, Any]) -> None:
    """Sets the states of this rank, if they were saved: there may be more ranks now."""
    state = states.get(str(rank()))
    if state is not None:
        set_rng_state(state)
