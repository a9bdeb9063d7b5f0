"""The Trainer of Hugging Face, with a store in the place of its folders."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import pytest
import torch
import transformers
import treering
import treering.hf
from examples import example
from same import assert_same
from test_ranks import together
from treering import importing, pointer

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")


def model() -> Any:
    transformers.set_seed(1)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=64, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def data(count: int = 16) -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(0, 64, (count, 8), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": row, "labels": row} for row in tokens]


def arguments(folder: pathlib.Path, steps: int = 6, **options: Any) -> Any:
    plain: dict[str, Any] = {
        "max_steps": steps,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "cosine",
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return transformers.TrainingArguments(str(folder), **plain | options)


def trainer(folder: pathlib.Path, steps: int = 6, kind: Any = treering.hf.Trainer, **options: Any) -> Any:
    ours = {name: options.pop(name) for name in ("plain", "keep", "thin", "run") if name in options}
    if kind is not transformers.Trainer:
        ours["store"] = folder.parent / "store"
    return kind(
        model=model(), args=arguments(folder, steps, **options), train_dataset=data(), eval_dataset=data(4), **ours
    )


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after a training without a store."""
    plain = trainer(tmp_path_factory.mktemp("whole") / "out", kind=transformers.Trainer)
    plain.train()
    return weights(plain)


@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("lost", [False, True])
def test_a_training_goes_on_bit_for_bit(whole: Any, tmp_path: pathlib.Path, lost: bool, steps: int) -> None:
    out = tmp_path / "out"

    class Stopped(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == steps

    first = trainer(out)
    first.add_callback(Stopped())
    first.train()
    if lost:
        shutil.rmtree(out)
    second = trainer(out)
    result = second.train(resume_from_checkpoint=True)
    assert result.global_step == 6
    assert_same(weights(second), whole)
    history = treering.Store(tmp_path / "store").run("out").history()
    assert [row["step"] for row in history] == [2, 4, 6]
    assert all({"eval_loss", "loss", "learning_rate", "epoch"} <= set(row["metrics"]) for row in history[-1:])


def test_a_folder_has_a_pointer_and_the_configuration(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    trained = trainer(out, steps=2)
    trained.train()
    names = {path.name for path in (out / "checkpoint-2").iterdir()}
    assert names == {"config.json", "generation_config.json", "trainer_state.json", "treering.txt"}
    first = (out / "checkpoint-2" / "treering.txt").read_text().splitlines()[0]
    assert first.startswith(f"treering restore out@2 --store {tmp_path / 'store'} ")
    state = treering.Store(tmp_path / "store")["out@2"].load()
    assert_same(dict(state["model"]), dict(weights(trained)))
    assert set(state) == {"model", "optimizer", "scheduler", "rng", "trainer_state", "files"}
    exported = treering.hf.export(out / "checkpoint-2", tmp_path / "exported")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(exported)
    assert_same(loaded.state_dict(), trained.model.state_dict())
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    with pytest.raises(treering.InvalidError, match="not empty"):
        treering.hf.export(out / "checkpoint-2", tmp_path / "exported")
    trained.save_model(tmp_path / "own")
    assert (tmp_path / "own" / "model.safetensors").exists()


def test_the_limit_and_the_best_keep_their_meaning(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    trained = trainer(
        out, steps=10, save_total_limit=2, load_best_model_at_end=True, metric_for_best_model="eval_loss",
        learning_rate=0.5, lr_scheduler_type="constant",
    )  # fmt: skip
    trained.train()
    run = treering.Store(tmp_path / "store").run("out")
    best = min(trained.state.log_history, key=lambda entry: entry.get("eval_loss", 1e9))["step"]
    assert trained.state.best_global_step == best
    kept = [row["step"] for row in run.history()]
    assert set(kept) == {best, 8, 10} and run.best("eval_loss").step == best
    folders = {int(path.name[11:]) for path in out.glob("checkpoint-*")}
    assert folders <= set(kept) and best in folders and 10 in folders
    assert_same(weights(trained), dict(run[best].load("model")))


def test_plain_files_where_they_were_asked_for(tmp_path: pathlib.Path) -> None:
    real = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}

    def folders(out: pathlib.Path) -> dict[int, bool]:
        found = {}
        for path in out.glob("checkpoint-*"):
            has = real & {file.name for file in path.iterdir()}
            assert has in (set(), real) and pointer.read(path) is not None
            found[int(path.name[11:])] = bool(has)
        return found

    trainer(tmp_path / "last", plain="last").train()
    assert folders(tmp_path / "last") == {2: False, 4: False, 6: True}
    best = trainer(
        tmp_path / "best", plain="best", load_best_model_at_end=True, learning_rate=0.5, lr_scheduler_type="constant"
    )
    best.train()
    found = folders(tmp_path / "best")
    assert found == {step: step == best.state.best_global_step for step in (2, 4, 6)}
    folder = tmp_path / "last" / "checkpoint-6"
    same = transformers.GPT2LMHeadModel.from_pretrained(folder)
    assert_same(dict(same.state_dict()), dict(treering.Store(tmp_path / "store")["last@6"].load("model")))
    # Without the store they are enough to go on.
    shutil.rmtree(tmp_path / "store")
    plain = trainer(tmp_path / "last", steps=8, kind=transformers.Trainer)
    assert plain.train(resume_from_checkpoint=True).global_step == 8
    with pytest.raises(treering.InvalidError, match="plain"):
        trainer(tmp_path / "out", plain="all")


def test_what_was_saved_without_a_store_is_gone_on_from(whole: Any, tmp_path: pathlib.Path) -> None:
    trainer(tmp_path / "out", kind=transformers.Trainer).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    second = trainer(tmp_path / "out")
    second.train(resume_from_checkpoint=True)
    assert_same(weights(second), whole)
    assert [row["step"] for row in treering.Store(tmp_path / "store").run("out").history()] == [6]


def test_folders_of_a_trainer_are_imported_and_gone_on_from(whole: Any, tmp_path: pathlib.Path) -> None:
    trainer(tmp_path / "out", kind=transformers.Trainer).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    store = treering.Store(tmp_path / "store")
    done = {found.step: found for found, _ in importing.import_(store, "out", [tmp_path / "out"])}
    assert sorted(done) == [2, 4] and {"eval_loss", "loss"} <= set(done[4].metrics)
    assert done[4].left_out == ["training_args.bin"]
    exported = treering.hf.export(store["out@4"], tmp_path / "exported")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(exported)
    folder = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out" / "checkpoint-4")
    assert_same(loaded.state_dict(), folder.state_dict())
    shutil.rmtree(tmp_path / "out")
    second = trainer(tmp_path / "out")
    second.train(resume_from_checkpoint=True)
    assert_same(weights(second), whole)


def test_several_ranks_go_on_bit_for_bit(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        def stop(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

        out = pathlib.Path(sys.argv[1]).parent / "out"
        whole = test_hf.trainer(out.parent / "whole", kind=test_hf.transformers.Trainer)
        whole.train()
        first = test_hf.trainer(out)
        first.add_callback(type("Stopped", (test_hf.transformers.TrainerCallback,), {"on_step_end": stop}))
        first.train()
        second = test_hf.trainer(out)
        second.train(resume_from_checkpoint=True)
        test_hf.assert_same(test_hf.weights(second), test_hf.weights(whole))
        assert set(store["out@4"].load("rng")) == {"0", "1"}
        """,
        join="",
        imports="import pathlib, test_hf\n",
    )


def test_a_training_does_not_begin_over_another(tmp_path: pathlib.Path) -> None:
    trainer(tmp_path / "out", steps=2).train()
    before = (tmp_path / "out" / "checkpoint-2" / "treering.txt").read_bytes()
    with pytest.raises(treering.RunExists, match=r"resume_from_checkpoint=True"):
        trainer(tmp_path / "out").train()
    assert (tmp_path / "out" / "checkpoint-2" / "treering.txt").read_bytes() == before
    trainer(tmp_path / "out", steps=2, run="another").train()
    store = treering.Store(tmp_path / "store")
    assert [row["run"] for row in store.runs()] == ["another", "out"]


def test_an_older_step_is_gone_on_from(whole: Any, tmp_path: pathlib.Path) -> None:
    trainer(tmp_path / "out").train()
    again = trainer(tmp_path / "out")
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert_same(weights(again), whole)
    history = treering.Store(tmp_path / "store").run("out").history(superseded=True)
    assert sorted((row["step"], row["status"]) for row in history) == [
        (2, "kept"), (4, "kept"), (4, "superseded"), (6, "kept"), (6, "superseded"),
    ]  # fmt: skip


def test_a_broken_pointer_says_so(tmp_path: pathlib.Path) -> None:
    trainer(tmp_path / "out", steps=2).train()
    file = tmp_path / "out" / "checkpoint-2" / "treering.txt"
    first, facts = file.read_text().splitlines()
    file.write_text(f"{first}\n{{")
    with pytest.raises(treering.DamagedError, match=r"treering\.txt cannot be read"):
        treering.hf.export(tmp_path / "out" / "checkpoint-2", tmp_path / "exported")
    file.write_text(f"{first}\n{json.dumps(json.loads(facts) | {'step': 7})}\n")
    with pytest.raises(treering.NotFoundError):
        treering.hf.export(tmp_path / "out" / "checkpoint-2", tmp_path / "exported")


def test_the_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for steps in (2, 4):
        names = {"treering": treering, "os": os, "model": model(), "data": data()}
        exec(example("hf"), names | {"arguments": arguments(pathlib.Path("out"), steps, eval_strategy="no")})
        assert treering.Store("checkpoints").run("out").latest().step == steps
        shutil.rmtree("for-from-pretrained")
