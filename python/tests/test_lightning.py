"""Lightning, with a store in the place of its files."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    import treering.lightning
    from lightning.pytorch.callbacks import ModelCheckpoint
import treering
from examples import example
from same import assert_same
from treering import pointer

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(pl.LightningModule):
    def __init__(self, width: int = 8, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Dropout(0.3), torch.nn.Linear(width, 1)
        )

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val/loss", (self.current_epoch - 1.5) ** 2 + 1.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


def loader(count: int = 16, shuffle: bool = True) -> Any:
    data = torch.randn(count, 4, generator=torch.Generator().manual_seed(3))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=4, shuffle=shuffle)


def fit(folder: pathlib.Path, epochs: int, io: Any = None, resume: str | None = None, **options: Any) -> Any:
    """Trains, with four steps in an epoch, and returns the trainer."""
    options = {"monitor": "val/loss", "save_top_k": 2, "save_last": True} | options
    checkpoint = ModelCheckpoint(dirpath=folder, filename="{step}", **options)
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[checkpoint, treering.lightning.Callback()], plugins=[io] if io else [],
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Net(), loader(), loader(4, False), ckpt_path=resume)
    return trainer


def io(folder: pathlib.Path, **options: Any) -> treering.lightning.CheckpointIO:
    return treering.lightning.CheckpointIO(folder.parent / "store", **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training that was not stopped, without a store."""
    return fit(tmp_path_factory.mktemp("whole") / "gpt", 4)


def test_a_training_goes_on_bit_for_bit(whole: Any, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    fit(folder, 2, io(folder))
    second = fit(folder, 4, io(folder), resume="last")
    assert_same(dict(second.model.state_dict()), dict(whole.model.state_dict()))
    assert_same(second.optimizers[0].state_dict(), whole.optimizers[0].state_dict())
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=12.ckpt", "step=8.ckpt"]
    run = treering.Store(tmp_path / "store").run("gpt")
    assert [row["step"] for row in run.history()] == [8, 12]
    assert run[8].metrics["val/loss"] == 1.25 and "loss" in run[8].metrics


def test_what_comes_back_is_what_was_given(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    given: list[Any] = []

    class Both(treering.lightning.CheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            super().save_checkpoint(checkpoint, path, storage_options)
            file = pathlib.Path(path).with_suffix(".pt")
            torch.save(checkpoint, file)
            given.append((path, file))

    plugin = Both(tmp_path / "store")
    fit(folder, 1, plugin)
    assert len(given) == 2
    for path, file in given:
        expected = torch.load(file, weights_only=False)
        del expected["treering"]["metrics"]
        assert_same(plugin.load_checkpoint(path), expected)
    # Two files of one step: two checkpoints, and the second costs next to nothing.
    store = treering.Store(tmp_path / "store")
    assert [row["run"] for row in store.runs()] == ["gpt", "gpt.2"]
    assert store["gpt.2@4"]._row["new_bytes"] < store["gpt@4"]._row["new_bytes"]


def test_a_file_that_is_written_again_at_its_step_is_replaced(tmp_path: pathlib.Path) -> None:
    plugin, path = io(tmp_path / "gpt"), tmp_path / "gpt" / "a.ckpt"
    for number in (1, 2):
        plugin.save_checkpoint({"global_step": 5, "state_dict": {"w": torch.full((3,), float(number))}}, path)
    assert_same(plugin.load_checkpoint(path)["state_dict"], {"w": torch.full((3,), 2.0)})
    plugin.save_checkpoint({"global_step": 5, "state_dict": {"w": torch.zeros(3)}}, path.with_name("b.ckpt"))
    plugin.teardown()
    store = treering.Store(tmp_path / "store")
    assert {row["run"]: row["checkpoints"] for row in store.runs()} == {"gpt": 1, "gpt.2": 1}
    assert store.verify(deep=True) == []


def test_a_link_to_the_last_is_followed(whole: Any, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    fit(folder, 2, io(folder), save_last="link", save_top_k=-1)
    assert (folder / "last.ckpt").is_symlink()
    assert [row["run"] for row in treering.Store(tmp_path / "store").runs()] == ["gpt"]
    second = fit(folder, 4, io(folder), resume=str(folder / "last.ckpt"), save_last="link", save_top_k=-1)
    assert_same(dict(second.model.state_dict()), dict(whole.model.state_dict()))


def test_what_lightning_removes_is_forgotten_unless_rules_keep_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    trainer = fit(folder, 5, io(folder), save_top_k=1, save_last=False)
    assert trainer.checkpoint_callback.best_model_path == str(folder / "step=8.ckpt")
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("gpt").history()] == [8]
    fit(folder, 5, io(folder, run="all", keep=[treering.Latest(9)]), save_top_k=1, save_last=False)
    assert [row["step"] for row in store.run("all").history()] == [4, 8]
    assert store.verify(deep=True) == []


def test_a_training_that_begins_anew_has_a_run_of_its_own(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    for _ in range(2):
        fit(folder, 1, io(folder), save_last=False)
    store = treering.Store(tmp_path / "store")
    assert [row["run"] for row in store.runs()] == ["gpt", "gpt-v1"]
    found = {path.name: pointer.read(path) for path in folder.iterdir()}
    assert {name: each.address for name, each in found.items()} == {
        "step=4.ckpt": "gpt@4",
        "step=4-v1.ckpt": "gpt-v1@4",
    }
    again = fit(folder, 2, io(folder), resume=str(folder / "step=4-v1.ckpt"), save_last=False)
    assert again.global_step == 8
    assert [row["step"] for row in store.run("gpt-v1").history()] == [4, 8]
    assert [row["step"] for row in store.run("gpt").history()] == [4]


def test_a_step_that_was_not_durable_is_passed_over(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    fit(folder, 2, io(folder), save_top_k=0)
    last = folder / "last.ckpt"
    found = pointer.read(last)
    pointer.Pointer(found.store, "gpt", 99, found.address).write(last)
    with pytest.warns(UserWarning, match="gpt@99 was not durable when the training stopped: gpt@8 is loaded"):
        assert io(folder).load_checkpoint(last)["global_step"] == 8
    pointer.Pointer(found.store, "gpt", 99).write(last)
    with pytest.raises(treering.NotFoundError, match="99"):
        io(folder).load_checkpoint(last)


def test_plain_files_where_they_were_asked_for(tmp_path: pathlib.Path) -> None:
    def real(folder: pathlib.Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if pointer.read(path) is None)

    fit(tmp_path / "last", 3, io(tmp_path / "last", plain="last"), save_top_k=-1, save_last=False)
    assert real(tmp_path / "last") == ["step=12.ckpt"]
    trainer = fit(tmp_path / "best", 4, io(tmp_path / "best", plain="best"), save_last=False, save_top_k=-1)
    best = pathlib.Path(trainer.checkpoint_callback.best_model_path)
    assert real(tmp_path / "best") == [best.name]
    expected = torch.load(best)["state_dict"]
    assert_same(treering.Store(tmp_path / "store")["best@8"].load("state_dict"), expected)
    assert io(tmp_path / "best").load_checkpoint(best)["global_step"] == 8
    with pytest.raises(treering.InvalidError, match="plain"):
        io(tmp_path / "best", plain="all")


def test_a_module_is_made_from_a_pointer(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "gpt"
    trainer = fit(folder, 1, io(folder))
    path = folder / "last.ckpt"
    made = treering.lightning.load_from_checkpoint(Net, path, lr=0.5)
    assert made.hparams["lr"] == 0.5 and made.hparams["width"] == 8
    assert_same(dict(made.state_dict()), dict(trainer.model.state_dict()))
    treering.lightning.export(path, tmp_path / "real.ckpt")
    same = Net.load_from_checkpoint(tmp_path / "real.ckpt", weights_only=False)
    assert_same(dict(same.state_dict()), dict(made.state_dict()))
    with pytest.raises(treering.NotFoundError, match="no pointer"):
        treering.lightning.load(tmp_path / "real.ckpt")


def test_bad_input_is_refused_before_anything(tmp_path: pathlib.Path) -> None:
    plugin = io(tmp_path / "gpt")
    with pytest.raises(treering.UnsupportedError, match="without a step"):
        plugin.save_checkpoint({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(treering.InvalidError, match="storage_options"):
        plugin.save_checkpoint({"global_step": 1}, tmp_path / "a.ckpt", storage_options={})
    with pytest.raises(treering.UnsupportedError, match=r"hyper_parameters\.x: a value of type"):
        plugin.save_checkpoint({"global_step": 1, "hyper_parameters": {"x": object()}}, tmp_path / "a.ckpt")
    assert not os.path.exists(tmp_path / "a.ckpt")


def test_the_example_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def quiet(**options: Any) -> Any:
        return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **options)

    names = {"treering": treering, "Trainer": quiet, "ModelCheckpoint": ModelCheckpoint, "data": loader()}
    for _ in range(2):
        module = Net()
        exec(example("lightning"), names | {"module": module})
    assert [row["step"] for row in treering.Store("checkpoints").run("gpt").history()] == [8]
