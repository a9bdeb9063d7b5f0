"""Random states: of Python, and of NumPy and torch where they are loaded."""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any


def rng_state() -> dict[str, Any]:
    """The states of all random sources of this process, to be saved with a checkpoint.

    Python's ``random``, NumPy's legacy generator, torch on the CPU and on each CUDA device. Generators of your own are
    saved by their own state: ``generator.bit_generator.state`` of NumPy, ``generator.get_state()`` of torch.
    """
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
