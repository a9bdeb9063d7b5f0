"""accelerate: ``save_state`` and ``load_state`` of an Accelerator, with a store.

    accelerator = treering.accelerate.Accelerator(store="checkpoints", run="gpt")
    ...
    accelerator.save_state("out/step_100", metrics={"loss": loss})
    accelerator.load_state("out/step_100")

All that an Accelerator saves is saved, without pickle. The folder gets a pointer.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any, Literal

import accelerate

from . import frameworks, pointer, rng
from .checkpoint import Checkpoint
from .errors import ExistsError, InvalidError, NotFoundError, UnsupportedError
from .handle import SaveHandle
from .pointer import Pointer
from .run import Run
from .store import Store

#: Files that an Accelerator saves, and that a pointer stands for.
HEAVY = re.compile(
    r"(model|pytorch_model|optimizer|scheduler|sampler|dl_state_dict|scaler)(_\d+)?\.(safetensors|bin|pt)"
    r"|(random_states|custom_checkpoint)_\d+\.pkl"
)


class Accelerator(accelerate.Accelerator):  # type: ignore[misc]
    """``accelerate.Accelerator`` with a store.

    Parameters
    ----------
    store : Store or path
        The store.
    run : str
        The name of the training.
    plain : {"none", "last"}
        Whether the newest folder has real files too, as without a store.
    run_options : dict, optional
        More for :meth:`Store.run`: ``{"keep": [treering.Latest(3)]}``.
    """

    def __init__(
        self,
        *args: Any,
        store: Store | str | os.PathLike[str],
        run: str,
        plain: Literal["none", "last"] = "none",
        run_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if pointer.plain(plain) == "best":
            raise InvalidError("plain='best'", "an Accelerator does not know what is best: it is none or last")
        if str(self.distributed_type).rpartition(".")[2] in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise UnsupportedError(f"the states of {self.distributed_type} are sharded", "train with DDP")
        self.treering_store = frameworks.opened(store)
        self.treering_run: Run = self.treering_store.run(run, **(run_options or {}))
        self._plain = plain

    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        *,
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        **save_model_func_kwargs: Any,
    ) -> SaveHandle:
        """Saves all that was prepared and registered; returns after one copy in memory.

        Parameters
        ----------
        output_dir : path, optional
            The folder that gets a pointer. With automatic naming, it is named by the iteration.
        step : int, optional
            The step; by default the number at the end of the folder's name.
        metrics : dict, optional
            Measured values.

        Returns
        -------
        SaveHandle
            Its `wait` returns once the step is durable.
        """
        folder = self._folder(output_dir)
        step = _step(folder) if step is None else step
        weights: dict[str, Any] = self._models_as_saved(folder)
        state = weights | {
            **_numbered("optimizer", [frameworks.bare(optimizer) for optimizer in self._optimizers]),
            **_numbered("scheduler", [scheduler.state_dict() for scheduler in self._schedulers]),
            **_numbered("custom", [each.state_dict() for each in self._custom_objects]),
            **_numbered("loader", [each.state_dict() for each in self._stateful_loaders()]),
            "rng": rng.of_all_ranks(),
            "accelerator": {"step": self.step},
        }
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        handle = self.treering_run.save(step, state, metrics=metrics)
        if self._plain == "last" and not handle.skipped:
            self._write_plain(folder, safe_serialization, save_model_func_kwargs)
        if self.is_main_process and not handle.skipped:
            folder.mkdir(parents=True, exist_ok=True)
            Pointer(self.treering_store.path, self.treering_run.name, step).write(folder)
            self._make_room(folder)
        if self._plain != "last":
            self.project_configuration.iteration += 1
        return handle

    def load_state(
        self,
        input_dir: str | os.PathLike[str] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        **load_model_func_kwargs: Any,
    ) -> None:
        """Fills all that was prepared and registered: from a folder, or from the newest step of the run."""
        checkpoint: Checkpoint | None
        found = None
        if input_dir is None:
            checkpoint = self.treering_run.latest()
            if checkpoint is None:
                raise NotFoundError(f"no step of run {self.treering_run.name}", "name a folder that was saved to")
        else:
            found = pointer.read(input_dir)
            checkpoint = found.open() if found is not None else None
        if checkpoint is None:
            super().load_state(input_dir, load_kwargs, **load_model_func_kwargs)
            return
        models = list(self._models)
        for hook in self._load_model_state_pre_hook.values():
            hook(models, None if input_dir is None else str(input_dir))
        custom = list(self._custom_objects)
        saved = sum(re.fullmatch(r"custom(_\d+)?", key) is not None for key in checkpoint.state)
        if saved != len(custom):
            there = f"{len(custom)} are registered"
            raise InvalidError(
                f"{checkpoint.address} has {saved} custom objects, and {there}", "register the same ones"
            )
        targets = _numbered("model", [self.unwrap_model(model) for model in models])
        targets |= _numbered("optimizer", [frameworks.bare(optimizer) for optimizer in self._optimizers])
        targets |= _numbered("scheduler", list(self._schedulers))
        targets |= _numbered("custom", custom)
        targets |= _numbered("loader", self._stateful_loaders())
        targets |= {"scaler": self.scaler} if self.scaler is not None else {}
        checkpoint.load_into(targets)
        state = checkpoint.load("accelerator")
        self.step = state["step"]
        rng.set_own(checkpoint.load("rng"))
        if found is None or found.store == self.treering_store.path:
            self.treering_run._go_on_from(checkpoint)

    def end_training(self) -> None:
        """Waits until all is durable, and ends the trackers."""
        self.treering_run.close()
        super().end_training()

    # -- inside

    def _folder(self, asked: str | os.PathLike[str] | None) -> pathlib.Path:
        configuration = self.project_configuration
        if configuration.automatic_checkpoint_naming:
            folder = pathlib.Path(self.project_dir, "checkpoints", f"checkpoint_{self.save_iteration}")
            if folder.exists():
                hint = "set accelerator.project_configuration.iteration to where it starts"
                raise ExistsError(f"the folder {folder} of iteration {self.save_iteration}", hint)
            return folder
        if asked is None:
            raise InvalidError("no output_dir", "name one, or configure automatic_checkpoint_naming")
        return pathlib.Path(asked)

    def _models_as_saved(self, folder: pathlib.Path) -> dict[str, Any]:
        """The models, or what hooks that were registered leave of their weights."""
        if not self._save_model_state_pre_hook:
            return _numbered("model", [self.unwrap_model(model) for model in self._models])
        weights = [self.get_state_dict(model, unwrap=False) for model in self._models]
        for hook in self._save_model_state_pre_hook.values():
            hook(self._models, weights, str(folder))
        return _numbered("model", weights)

    def _stateful_loaders(self) -> list[Any]:
        return [loader for loader in self._dataloaders if getattr(loader, "use_stateful_dataloader", False)]

    def _write_plain(self, folder: pathlib.Path, safe: bool, options: dict[str, Any]) -> None:
        configuration = self.project_configuration
        limit, configuration.total_limit = configuration.total_limit, None
        try:
            super().save_state(str(folder), safe, **options)
        finally:
            configuration.total_limit = limit
        if self.is_main_process:
            frameworks.strip(folder.parent.iterdir(), folder, HEAVY)

    def _make_room(self, newest: pathlib.Path) -> None:
        """Removes the oldest folders above the limit, once there is a newer one."""
        configuration = self.project_configuration
        if configuration.automatic_checkpoint_naming and configuration.total_limit is not None:
            folders = sorted(newest.parent.glob("checkpoint_*"), key=_step)
            for folder in folders[: max(0, len(folders) - configuration.total_limit)]:
                shutil.rmtree(folder)


def _numbered(name: str, each: list[Any]) -> dict[str, Any]:
    return {name if number == 0 else f"{name}_{number}": value for number, value in enumerate(each)}


def _step(folder: pathlib.Path) -> int:
    found = re.search(r"(\d+)$", folder.name)
    if found is None:
        raise InvalidError(f"no step in the name of {folder}", "give it: save_state(..., step=100)")
    return int(found[1])
