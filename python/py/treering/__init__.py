"""treering: a store for training checkpoints.

    store = treering.Store("checkpoints")
    run = store.run("gpt", keep=[treering.Latest(3)])
    resume = run.resume({"model": model, "optimizer": optimizer})
    ...
    run.save(step, {"model": model, "optimizer": optimizer}, metrics={"val_loss": 2.1})

Importing this needs neither torch nor NumPy nor JAX. The modules for frameworks, such as `treering.dcp`, are imported
once they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._native import __version__
from .cadence import Overhead
from .checkpoint import Checkpoint
from .errors import (
    ConflictError,
    DamagedError,
    ExistsError,
    ForkedError,
    InternalError,
    InvalidError,
    MismatchError,
    NoSpaceError,
    NotFoundError,
    RunExists,
    SaveInProgress,
    TreeringError,
    UnavailableError,
    UnsupportedError,
    WaitTimeout,
)
from .handle import SaveHandle
from .history import History
from .loading import LoadReport
from .policy import Best, EveryDuration, EveryNSteps, Latest, Step, Tagged, Within
from .rng import rng_state, set_rng_state
from .run import Resume, Run
from .store import Store
from .tree import Info

if TYPE_CHECKING:
    from . import accelerate as accelerate
    from . import dcp as dcp
    from . import hf as hf
    from . import jax as jax
    from . import keras as keras
    from . import lightning as lightning
else:

    def __getattr__(name: str) -> Any:
        if name in ("accelerate", "dcp", "hf", "jax", "keras", "lightning"):
            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Best",
    "Checkpoint",
    "ConflictError",
    "DamagedError",
    "EveryDuration",
    "EveryNSteps",
    "ExistsError",
    "ForkedError",
    "History",
    "Info",
    "InternalError",
    "InvalidError",
    "Latest",
    "LoadReport",
    "MismatchError",
    "NoSpaceError",
    "NotFoundError",
    "Overhead",
    "Resume",
    "Run",
    "RunExists",
    "SaveHandle",
    "SaveInProgress",
    "Step",
    "Store",
    "Tagged",
    "TreeringError",
    "UnavailableError",
    "UnsupportedError",
    "WaitTimeout",
    "Within",
    "__version__",
    "rng_state",
    "set_rng_state",
]
