"""accelerate, with a store in the place of its folders."""

from __future__ import annotations

import pathlib
from typing import Any

import accelerate
import pytest
import torch
import treering
import treering.accelerate
from accelerate.utils import ProjectConfiguration, set_seed
from examples import example
from same import assert_same
from treering import pointer

pytestmark = pytest.mark.filterwarnings("ignore")


class Counter:
    """What people register for checkpointing."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Training:
    def __init__(self, accelerator: Any) -> None:
        set_seed(1)
        self.accelerator = accelerator
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        self.counter = Counter()
        self.model, self.optimizer, self.scheduler = accelerator.prepare(model, optimizer, scheduler)
        accelerator.register_for_checkpointing(self.counter)

    def steps(self, count: int) -> Training:
        for _ in range(count):
            with self.accelerator.accumulate(self.model):
                loss = self.model(torch.randn(8, 4)).square().mean()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            self.counter.count += 1
        return self

    def state(self) -> list[Any]:
        states = [self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()]
        return [dict(states[0]), *states[1:], self.counter.count, self.accelerator.step]


def accelerator(folder: pathlib.Path, **options: Any) -> treering.accelerate.Accelerator:
    return treering.accelerate.Accelerator(
        cpu=True, store=folder / "store", run="gpt", gradient_accumulation_steps=2, **options
    )


def test_a_training_goes_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    whole = Training(accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)).steps(9).state()
    first = Training(accelerator(tmp_path)).steps(4)
    handle = first.accelerator.save_state(tmp_path / "out" / "step_4", metrics={"loss": 0.5})
    assert handle.step == 4
    first.steps(1)
    first.accelerator.end_training()
    assert [path.name for path in (tmp_path / "out" / "step_4").iterdir()] == ["treering.txt"]
    for where in (tmp_path / "out" / "step_4", None):
        second = Training(accelerator(tmp_path))
        second.accelerator.load_state(where)
        assert_same(second.steps(5).state(), whole)
    second.accelerator.save_state(step=9, output_dir=tmp_path / "out" / "last")
    second.accelerator.end_training()
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("gpt").history()] == [4, 9] and store["gpt@4"].metrics == {"loss": 0.5}
    model = second.accelerator.unwrap_model(second.model)
    names = {name.split(".state.")[1] for name in (info.name for info in store["gpt@9"].tensors) if ".state." in name}
    assert {f"{name}.exp_avg" for name, _ in model.named_parameters()} <= names


def test_automatic_naming_and_its_limit(tmp_path: pathlib.Path) -> None:
    configuration = ProjectConfiguration(project_dir=str(tmp_path), automatic_checkpoint_naming=True, total_limit=2)
    training = Training(accelerator(tmp_path, project_config=configuration))
    for _ in range(3):
        training.steps(1).accelerator.save_state()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint_1", "checkpoint_2"]
    training.accelerator.project_configuration.iteration = 2
    with pytest.raises(treering.ExistsError, match="checkpoint_2"):
        training.accelerator.save_state()
    training.accelerator.end_training()
    assert [row["step"] for row in treering.Store(tmp_path / "store").run("gpt").history()] == [0, 1, 2]


def test_hooks_have_their_say(tmp_path: pathlib.Path) -> None:
    training = Training(accelerator(tmp_path)).steps(1)
    seen: list[Any] = []

    def save(models: list[Any], weights: list[Any], output: str) -> None:
        seen.append((len(models), len(weights), output))
        weights.clear()

    training.accelerator.register_save_state_pre_hook(save)
    training.accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
    training.accelerator.save_state(tmp_path / "step_1").wait()
    assert seen == [(1, 1, str(tmp_path / "step_1"))]
    assert "model" not in treering.Store(tmp_path / "store")["gpt@1"].state
    before = dict(training.model.state_dict())
    training.accelerator.load_state(tmp_path / "step_1")
    assert_same(dict(training.model.state_dict()), before)


def test_plain_files_for_the_last(tmp_path: pathlib.Path) -> None:
    training = Training(accelerator(tmp_path, plain="last"))
    for step in (1, 2):
        training.steps(1).accelerator.save_state(tmp_path / "out" / f"step_{step}")
    assert [path.name for path in (tmp_path / "out" / "step_1").iterdir()] == ["treering.txt"]
    assert {"model.safetensors", "optimizer.bin", "treering.txt"} <= {
        path.name for path in (tmp_path / "out" / "step_2").iterdir()
    }
    plain = Training(accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2))
    plain.accelerator.load_state(str(tmp_path / "out" / "step_2"))
    assert_same(plain.state(), training.state())
    with pytest.raises(treering.InvalidError, match="best"):
        accelerator(tmp_path, plain="best")


def test_bad_input_is_refused_before_anything(tmp_path: pathlib.Path) -> None:
    training = Training(accelerator(tmp_path)).steps(1)
    with pytest.raises(treering.InvalidError, match="no step in the name"):
        training.accelerator.save_state(tmp_path / "out")
    with pytest.raises(treering.InvalidError, match="no output_dir"):
        training.accelerator.save_state()
    with pytest.raises(treering.NotFoundError, match="no step of run gpt"):
        training.accelerator.load_state()
    assert not (tmp_path / "out").exists() and pointer.read(tmp_path / "out") is None
    training.accelerator.save_state(tmp_path / "step_1").wait()
    training.accelerator.register_for_checkpointing(Counter())
    with pytest.raises(treering.InvalidError, match="has 1 custom objects, and 2 are registered"):
        training.accelerator.load_state(tmp_path / "step_1")


def test_the_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        exec(example("accelerate"), {"treering": treering, "model": model, "optimizer": optimizer})
    assert treering.Store("checkpoints")["gpt@latest"].step == 200
