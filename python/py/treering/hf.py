"""Hugging Face: a Trainer whose checkpoints lie in a store.

    trainer = treering.hf.Trainer(model=model, args=arguments, train_dataset=data, store="checkpoints")
    trainer.train(resume_from_checkpoint=True)

All of ``TrainingArguments`` keeps its meaning. A folder ``checkpoint-N`` still appears for each step, with the model's
configuration and a pointer in the place of weights, optimizer and random states. Nothing of it is needed to go on:
where the folders are lost, they are made again from the store.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import transformers

from . import frameworks, pointer, rng
from .checkpoint import Checkpoint
from .errors import InvalidError, NotFoundError, RunExists, UnsupportedError
from .importing import metrics_of
from .pointer import Pointer
from .policy import Best, Keep, Latest
from .run import Run
from .store import Store

#: Files that a checkpoint of the Trainer has, and that a pointer stands for.
HEAVY = re.compile(
    r"(model|adapter_model|pytorch_model)([-.].*)?\.(safetensors|bin|json)|optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt"
    r"|rng_state(_\d+)?\.pth|training_args\.bin"
)


class TrainerMixin:
    """Makes any subclass of ``transformers.Trainer`` save into a store: ``class Mine(TrainerMixin, SFTTrainer): ...``.

    Parameters
    ----------
    store : Store or path
        The store.
    run : str, optional
        The name of the training; by default that of the folder ``output_dir``.
    keep, thin : optional
        What stays, as for :meth:`Store.run`. By default ``save_total_limit`` says it: the newest, and the best.
    plain : {"none", "last", "best"}
        For which step the folder has real files too, as without a store.
    run_options : dict, optional
        More for :meth:`Store.run`, such as ``{"on_error": "warn"}``.
    """

    def __init__(
        self,
        *args: Any,
        store: Store | str | os.PathLike[str],
        run: str | None = None,
        keep: Sequence[Keep] | None = None,
        thin: Mapping[str, int] | None = None,
        plain: Literal["none", "last", "best"] = "none",
        run_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        arguments: Any = self.args  # type: ignore[attr-defined]
        self.treering_store = frameworks.opened(store)
        self.treering_run: Run | None = None
        self._run_name = run or pathlib.Path(arguments.output_dir).absolute().name
        self._run_options = {"thin": thin, **(run_options or {})}
        self._keep = keep if keep is not None else _keep_of(arguments)
        self._plain = pointer.plain(plain)
        #: What a save under way is made of.
        self._parts: dict[str, Any] | None = None
        self._is_plain = False

    # -- the training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        self._refuse_sharded()
        with self.treering_store.run(self._run_name, keep=self._keep, **self._run_options) as run:
            self.treering_run = run
            try:
                found = self._where_to_resume(run, resume_from_checkpoint)
                return super().train(found, *args, **kwargs)  # type: ignore[misc]
            finally:
                self.treering_run = None

    def _refuse_sharded(self) -> None:
        trainer: Any = self
        for sharded in ("deepspeed", "fsdp"):
            if getattr(trainer, f"is_{sharded}_enabled", False):
                raise UnsupportedError(f"the states of a Trainer with {sharded} are sharded", "train with DDP")

    def _where_to_resume(self, run: Run, asked: str | bool | None) -> str | None:
        """The folder to resume from: for `True`, that of the newest step, in the store or beside it."""
        trainer: Any = self
        latest = run.latest()
        if not asked:
            if latest is not None:
                hint = "train(resume_from_checkpoint=True) goes on; run='another' begins anew"
                raise RunExists(f"run {run.name} has steps up to {latest.step}", hint)
            return None
        if isinstance(asked, str):
            return asked
        folder = pathlib.Path(trainer.args.output_dir)
        complete = run.latest(complete=True)
        step = complete.step if complete is not None else None
        other = _newest_without_pointer(folder)
        if step is None or (other is not None and other > step):
            if other is None:
                raise NotFoundError(f"no step of run {run.name}, and no checkpoint in {folder}", "train() begins one")
            return str(folder / f"checkpoint-{other}")
        found = folder / f"checkpoint-{step}"
        if trainer.args.should_save:
            _put_back(found, run, step)
        trainer.accelerator.wait_for_everyone()
        return str(found)

    # -- saving: the Trainer calls these in this order, and each adds its part

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        run = self.treering_run
        if run is None:
            return super()._save_checkpoint(model, trial)  # type: ignore[misc]
        step = trainer.state.global_step
        self._is_plain = self._plain == "last" or (self._plain == "best" and trainer.state.best_global_step == step)
        self._parts = {}
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            parts = self._parts
        finally:
            self._parts = None
        folder = pathlib.Path(trainer._get_output_dir(trial=trial)) / f"checkpoint-{step}"
        if trainer.args.should_save:
            parts["trainer_state"] = json.loads((folder / "trainer_state.json").read_text())
            parts["files"] = _light_files(folder)
        logged = {"global_step": step, "log_history": trainer.state.log_history}
        run.save(step, parts, metrics=metrics_of(logged))
        if trainer.args.should_save:
            Pointer(self.treering_store.path, run.name, step).write(folder, component="model")
            if self._is_plain:
                frameworks.strip(folder.parent.glob("checkpoint-*"), folder, HEAVY)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        trainer: Any = self
        if self._parts is None or self._is_plain:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
        if self._parts is None:
            return
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        self._parts["model"] = state_dict if state_dict is not None else model
        if trainer.args.should_save and not self._is_plain and output_dir is not None:
            os.makedirs(output_dir, exist_ok=True)
            can_generate = getattr(model, "can_generate", bool)()
            for part in (
                getattr(model, "config", None),
                getattr(model, "generation_config", None) if can_generate else None,
                trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None),
            ):
                if part is not None and hasattr(part, "save_pretrained"):
                    part.save_pretrained(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        trainer: Any = self
        if self._parts is None or self._is_plain:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self._parts is not None:
            self._parts["optimizer"] = frameworks.bare(trainer.optimizer)
            self._parts["scheduler"] = trainer.lr_scheduler.state_dict()

    def _save_scaler(self, output_dir: str) -> None:
        if self._parts is None or self._is_plain:
            super()._save_scaler(output_dir)  # type: ignore[misc]
        scaler = self._scaler()
        if self._parts is not None and scaler is not None:
            self._parts["scaler"] = scaler.state_dict()

    def _save_rng_state(self, output_dir: str) -> None:
        if self._parts is None or self._is_plain:
            super()._save_rng_state(output_dir)  # type: ignore[misc]
        if self._parts is not None:
            self._parts["rng"] = rng.of_all_ranks()

    def _scaler(self) -> Any:
        trainer: Any = self
        return getattr(trainer.accelerator, "scaler", None)

    # -- loading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        checkpoint = self._checkpoint(resume_from_checkpoint)
        if checkpoint is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        self._load_model(checkpoint, trainer.model if model is None else model)
        run = self.treering_run
        if run is not None and run.store.path == pointer.read(resume_from_checkpoint).store:  # type: ignore[union-attr]
            run._go_on_from(checkpoint)

    def _load_best_model(self) -> None:
        trainer: Any = self
        if self.treering_run is not None:
            self.treering_run.wait()
        checkpoint = self._checkpoint(trainer.state.best_model_checkpoint)
        if checkpoint is None:
            super()._load_best_model()  # type: ignore[misc]
        else:
            self._load_model(checkpoint, trainer.model)

    def _load_model(self, checkpoint: Checkpoint, model: Any) -> None:
        trainer: Any = self
        checkpoint.load_into({"model": trainer.accelerator.unwrap_model(model, keep_torch_compile=False)})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        trainer: Any = self
        found = self._checkpoint(checkpoint)
        if found is None:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        elif "optimizer" in found.state:  # not after save_only_model
            found.load_into({"optimizer": frameworks.bare(trainer.optimizer)})
            trainer.lr_scheduler.load_state_dict(found.load("scheduler"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        found, scaler = self._checkpoint(checkpoint), self._scaler()
        if found is None:
            super()._load_scaler(checkpoint)  # type: ignore[misc]
        elif scaler is not None and "scaler" in found.state:
            scaler.load_state_dict(found.load("scaler"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        found = self._checkpoint(checkpoint)
        if found is None:
            super()._load_rng_state(checkpoint)  # type: ignore[misc]
        elif "rng" in found.state:
            rng.set_own(found.load("rng"))

    def _checkpoint(self, folder: str | None) -> Checkpoint | None:
        """What the pointer in a folder leads to; `None` if the folder has none."""
        found = pointer.read(folder) if folder is not None else None
        if found is None:
            return None
        try:
            return found.open()
        except NotFoundError:
            if folder is not None and os.path.exists(os.path.join(folder, "optimizer.pt")):
                return None  # it has real files too
            raise


class Trainer(TrainerMixin, transformers.Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with a store; see :class:`TrainerMixin` for what it takes beside."""


def export(
    checkpoint: Checkpoint | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    max_shard_bytes: int | None = None,
) -> str:
    """Writes a folder that ``from_pretrained`` reads.

    Parameters
    ----------
    checkpoint : Checkpoint or path
        A checkpoint that the Trainer saved, or its folder ``checkpoint-N``.
    output : path
        The folder to be made.
    max_shard_bytes : int, optional
        Files of at most so many bytes.

    Returns
    -------
    str
        The folder.
    """
    if not isinstance(checkpoint, Checkpoint):
        found = pointer.read(checkpoint)
        if found is None:
            raise NotFoundError(f"no pointer to a store in {os.fspath(checkpoint)}")
        checkpoint = found.open()
    folder = pathlib.Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise InvalidError(f"{folder} is not empty", "name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder if max_shard_bytes is not None else folder / "model.safetensors"
    checkpoint.export(weights, component="model", max_shard_bytes=max_shard_bytes, force=True)
    _write_files(folder, checkpoint)
    return str(folder)


def _keep_of(arguments: Any) -> list[Keep] | None:
    if not arguments.save_total_limit or arguments.save_total_limit < 0:
        return None
    keep: list[Keep] = [Latest(arguments.save_total_limit)]
    if arguments.metric_for_best_model:
        name = "eval_" + arguments.metric_for_best_model.removeprefix("eval_")
        keep.append(Best(name, mode="max" if arguments.greater_is_better else "min"))
    return keep


def _newest_without_pointer(folder: pathlib.Path) -> int | None:
    found = [int(path.name[11:]) for path in folder.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return max((step for step in found if pointer.read(folder / f"checkpoint-{step}") is None), default=None)


def _put_back(folder: pathlib.Path, run: Run, step: int) -> None:
    """Makes the folder of a step again, as far as it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "trainer_state.json").exists():
        checkpoint = run.store[f"{run.name}@{step}"]
        (folder / "trainer_state.json").write_text(json.dumps(checkpoint.load("trainer_state"), indent=2))
        _write_files(folder, checkpoint)
    Pointer(run.store.path, run.name, step).write(folder, component="model")


def _light_files(folder: pathlib.Path) -> dict[str, Any]:
    """What a folder has beside the Trainer's states, such as the configuration, as bytes."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in (pointer.NAME, "trainer_state.json") and not HEAVY.fullmatch(path.name):
            found[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    return found


def _write_files(folder: pathlib.Path, checkpoint: Checkpoint) -> None:
    if "files" in checkpoint.state:
        for name, content in checkpoint.load("files").items():
            if pathlib.PurePath(name).name == name:
                (folder / name).write_bytes(content.tobytes())
