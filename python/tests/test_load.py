"""Loading: parts, rows, in place, under other names."""

from __future__ import annotations

import copy
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import treering
from same import assert_same
from torch.optim import swa_utils


class Net(torch.nn.Module):
    def __init__(self, hidden: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, hidden)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden) for _ in range(layers))
        self.norm = torch.nn.BatchNorm1d(hidden)
        self.head = torch.nn.Linear(hidden, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(self.norm(x))


def trained(net: torch.nn.Module, steps: int = 3, **options: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2, **options)
    for _ in range(steps):
        train_step(net, optimizer)
    return optimizer


def train_step(net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tokens = torch.randint(0, 5, (16,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(tokens).float(), tokens).backward()
    optimizer.step()


def assert_same_training(a: Any, b: Any) -> None:
    """Two trainings that are equal now are equal after more steps."""
    for net, optimizer in (a, b):
        torch.manual_seed(5)
        for _ in range(2):
            train_step(net, optimizer)
    assert_same(a[0].state_dict(), b[0].state_dict())
    assert_same(a[1].state_dict(), b[1].state_dict())


def test_parts_are_loaded_alone(run: treering.Run, tmp_path: pathlib.Path) -> None:
    net = Net()
    run.save(1, {"model": net, "optimizer": trained(net), "epoch": 3}, metrics={"loss": torch.tensor(0.5)}).wait()
    ckpt = run.latest()
    assert ckpt.metrics == {"loss": 0.5} and ckpt.step == 1 and ckpt.complete
    assert ckpt.load("epoch") == 3
    assert_same(ckpt.load("model"), net.state_dict())
    assert_same(ckpt.tensor("model.head.weight"), net.head.weight.detach())
    assert isinstance(ckpt.load("model", framework="numpy")["head.weight"], np.ndarray)
    assert ckpt.state["epoch"] == 3 and ckpt.state["model"]["norm.weight"].shape == (8,)
    with pytest.raises(treering.NotFoundError, match="it has model, optimizer, epoch"):
        ckpt.load("ema")
    with pytest.raises(treering.NotFoundError):
        ckpt.tensor("model.nothing")
    assert ckpt.load("model", map_location="meta")["head.weight"].device.type == "meta"


def test_rows_of_a_tensor(run: treering.Run) -> None:
    big = torch.arange(3_000_000, dtype=torch.int32).reshape(3000, 1000)
    run.save(1, {"model": {"big": big, "odd": big[:7].double().to(torch.complex128), "array": np.arange(10)}}).wait()
    ckpt = run.latest()
    for rows in (slice(5, 9), slice(None), slice(2999, None, -700), [5, 6, 7, 2, -1], slice(4, 4)):
        wanted = big[list(range(3000))[rows]] if isinstance(rows, slice) else big[rows]
        assert ckpt.slice("model.big", rows).equal(wanted), rows
    assert ckpt.slice("model.big", 1234).equal(big[1234])
    assert ckpt.slice("model.odd", slice(2, 4)).equal(big[2:4].double().to(torch.complex128))
    assert ckpt.slice("model.array", slice(2, 4)).tolist() == [2, 3]
    with pytest.raises(treering.InvalidError):
        ckpt.slice("model.big", [3000])


def test_everything_is_filled_in_place(run: treering.Run) -> None:
    net = Net()
    optimizer = trained(net)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    array, tensor = np.arange(5.0), torch.arange(4.0)
    state = {"model": net, "optimizer": optimizer, "scheduler": scheduler, "a": array, "t": tensor, "epoch": 3}
    run.save(1, {**state, "rng": treering.rng_state()}).wait()

    other = Net()
    begun = trained(other, 1)
    pointers = [p.data_ptr() for p in other.parameters()]
    moments = [v["exp_avg"].data_ptr() for v in begun.state.values()]
    turned = torch.optim.lr_scheduler.OneCycleLR(begun, 0.5, total_steps=20)
    there = {"a": np.zeros(5), "t": torch.zeros(4)}
    report = run.latest().load_into({"model": other, "optimizer": begun, "scheduler": turned, **there, "epoch": None})
    assert [p.data_ptr() for p in other.parameters()] == pointers
    assert [v["exp_avg"].data_ptr() for v in begun.state.values()] == moments
    assert_same(there, {"a": array, "t": tensor})
    assert report.state["epoch"] == 3 and set(report.state["rng"]) == {"python", "numpy", "torch"}
    assert_same(turned.state_dict(), scheduler.state_dict())
    assert not (report.missing or report.unexpected or report.reshaped or report.cast or report.bridged)
    assert_same(begun.state_dict(), optimizer.state_dict())
    assert_same_training((net, optimizer), (other, begun))


def test_what_else_a_training_has_is_filled_too(run: treering.Run) -> None:
    class Loader:
        """As a stateful loader of data says where it is."""

        def __init__(self, at: int = 0) -> None:
            self.at = at

        def state_dict(self) -> dict[str, Any]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.at = state["at"]

    def training(steps: int) -> dict[str, Any]:
        net = Net()
        optimizer, scaler = torch.optim.AdamW(net.parameters()), torch.amp.GradScaler("cpu", growth_interval=2)
        average = swa_utils.AveragedModel(net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)
        for _ in range(steps):
            optimizer.zero_grad()
            scaler.scale(net(torch.randint(0, 5, (16,))).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(net)
        return {"model": net, "ema": average, "optimizer": optimizer, "scaler": scaler, "loader": Loader(steps)}

    saved, fresh = training(5), training(0)
    run.save(1, saved).wait()
    report = run[1].load_into(fresh)
    assert not report.state and fresh["loader"].at == 5 and fresh["ema"].n_averaged == 5
    for name, part in saved.items():
        assert_same(fresh[name].state_dict(), part.state_dict())


def test_an_optimizer_that_has_not_begun_gets_its_history(run: treering.Run) -> None:
    net = Net()
    optimizer = trained(net)
    run.save(1, {"model": net, "optimizer": optimizer}).wait()
    other = Net()
    fresh = torch.optim.AdamW(other.parameters(), lr=1e-2)
    run.latest().load_into({"model": other, "optimizer": fresh})
    assert_same_training((net, optimizer), (other, fresh))


def test_the_dict_of_an_optimizer_is_torchs_own(run: treering.Run) -> None:
    net = Net()
    optimizer = trained(net)
    run.save(1, {"model": net, "optimizer": optimizer, "again": optimizer.state_dict()}).wait()
    assert_same(run.latest().load("optimizer"), optimizer.state_dict())
    assert_same(run.latest().load("again"), optimizer.state_dict())
    names = {info.name for info in run.latest().tensors}
    assert "optimizer.state.layers.0.weight.exp_avg" in names and "again.state.0.exp_avg" in names
    other = Net()
    fresh = torch.optim.AdamW(other.parameters(), lr=1e-2)
    other.load_state_dict(run.latest().load("model"))
    fresh.load_state_dict(run.latest().load("optimizer"))
    assert_same_training((net, optimizer), (other, fresh))


def test_a_layer_that_was_unfrozen_begins_anew_and_others_keep_their_history(run: treering.Run) -> None:
    net = Net()
    net.layers[0].requires_grad_(False)
    optimizer = trained(net)
    run.save(1, {"model": net, "optimizer": optimizer}).wait()
    other = Net()
    all_of_it = torch.optim.AdamW(other.parameters(), lr=1e-2)
    report = run.latest().load_into({"model": other, "optimizer": all_of_it})
    assert report.fresh == ["optimizer.layers.0.weight", "optimizer.layers.0.bias"]
    history = dict(zip((id(p) for p in net.parameters() if p.requires_grad), optimizer.state.values(), strict=True))
    for (name, ours), theirs in zip(other.named_parameters(), net.parameters(), strict=True):
        if theirs.requires_grad:
            assert_same(dict(all_of_it.state[ours]), dict(history[id(theirs)]), name)
        else:
            assert ours not in all_of_it.state


def test_moments_keep_the_type_in_which_they_were_saved(run: treering.Run) -> None:
    net = Net().to(torch.bfloat16)
    optimizer = trained(net)
    for state in optimizer.state.values():
        state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"].float() + 1e-6, state["exp_avg_sq"].float()
    run.save(1, {"model": net, "optimizer": optimizer}).wait()
    other = Net().to(torch.bfloat16)
    for begun in (trained(other, 1), torch.optim.AdamW(other.parameters(), lr=1e-2)):
        run.latest().load_into({"model": other, "optimizer": begun})
        assert_same(begun.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize("wrap_saved", [False, True])
def test_wrappers_are_looked_through_and_said(run: treering.Run, wrap_saved: bool) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.module(tokens)

    net, other = Net(), Net()
    saved: torch.nn.Module = Wrapper(net) if wrap_saved else net
    target = other if wrap_saved else Wrapper(torch.compile(other))
    optimizer = trained(saved)
    run.save(1, {"model": saved, "optimizer": optimizer}).wait()
    fresh = torch.optim.AdamW(target.parameters(), lr=1e-2)
    report = run.latest().load_into({"model": target, "optimizer": fresh})
    assert_same(other.state_dict(), net.state_dict())
    assert "model: module." in report.bridged and "optimizer: module." in report.bridged
    assert ("model: _orig_mod." in report.bridged) == (not wrap_saved)
    assert len(fresh.state) == len(optimizer.state)


def test_a_mismatch_changes_nothing(run: treering.Run) -> None:
    run.save(1, {"model": Net()}).wait()
    other = Net(layers=3)
    other.norm.extra = torch.nn.Parameter(torch.ones(1))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(treering.MismatchError, match=r"model\.layers\.2\.weight was not saved"):
        run.latest().load_into({"model": other})
    assert_same(other.state_dict(), before)
    report = run.latest().load_into({"model": other}, strict=False)
    assert set(report.missing) == {"model.layers.2.weight", "model.layers.2.bias", "model.norm.extra"}
    report = run.latest().load_into({"model": Net(hidden=4)}, strict=False)
    assert ("model.norm.weight", "(8,)", "(4,)") in report.reshaped
    report = run.latest().load_into({"model": Net(layers=1)}, strict=False)
    assert report.unexpected == ["model.layers.1.weight", "model.layers.1.bias"]


def test_other_types_and_strides_are_filled_too(run: treering.Run) -> None:
    run.save(1, {"t": torch.arange(6.0).reshape(2, 3), "a": np.arange(6.0).reshape(2, 3)}).wait()
    there = {"t": torch.zeros(3, 2, dtype=torch.float64).T, "a": np.zeros((3, 2), np.float32).T}
    report = run.latest().load_into(there)
    assert there["t"].tolist() == there["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert {name for name, _, _ in report.cast} == {"t", "a"}


def test_since_reads_only_what_changed(run: treering.Run) -> None:
    net = Net()
    run.save(1, {"model": net}).wait()
    other = Net()
    run.latest().load_into({"model": other})
    with torch.no_grad():
        net.layers[0].weight.add_(1)
    run.save(2, {"model": net}).wait()
    report = run.latest().load_into({"model": other}, since=1)
    assert report.bytes == net.layers[0].weight.nbytes and report.unchanged > 5
    assert_same(other.state_dict(), net.state_dict())


def test_modules_with_ways_of_their_own_are_asked(run: treering.Run) -> None:
    class Extra(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.seen = torch.nn.Parameter(torch.ones(2)), (1, "a")

        def get_extra_state(self) -> Any:
            return self.seen

        def set_extra_state(self, state: Any) -> None:
            self.seen = state

    extra = Extra()
    extra.seen = (7, "b")
    run.save(1, {"model": extra}).wait()
    other = Extra()
    run.latest().load_into({"model": other})
    assert other.seen == (7, "b")
    hooked, called = Extra(), []
    hooked.register_load_state_dict_post_hook(lambda module, keys: called.append(1))
    run.latest().load_into({"model": hooked})
    assert called and hooked.seen == (7, "b")


def test_gradients_see_that_memory_was_written(run: treering.Run) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    run.save(1, {"w": weight}).wait()
    out = (weight * weight).sum()
    run.latest().load_into({"w": weight})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_a_model_is_exported_to_be_loaded_elsewhere(run: treering.Run, tmp_path: pathlib.Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    net = Net()
    run.save(1, {"model": net, "optimizer": trained(net)}).wait()
    run.latest().export(tmp_path / "model.safetensors", component="model")
    loaded = safetensors.load_file(tmp_path / "model.safetensors")
    assert "head.weight" not in loaded and "embed.weight" in loaded
    other = Net()
    safetensors.load_model(other, tmp_path / "model.safetensors")
    assert_same(other.state_dict(), net.state_dict())
    run.latest().export(tmp_path / "ties.safetensors", component="model", ties=True)
    tied = safetensors.load_file(tmp_path / "ties.safetensors")
    assert_same(dict(sorted(tied.items())), dict(sorted(net.state_dict().items())))


def test_files_saved_by_the_command_line_are_loaded(store: treering.Store, tmp_path: pathlib.Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = tmp_path / "model.safetensors"
    tensors = {"model.w": torch.arange(6.0).reshape(2, 3), "optimizer.m": torch.ones(2, dtype=torch.bfloat16)}
    safetensors.save_file(tensors, file)
    store.run("other").close()
    save = [sys.executable, "-m", "treering", "--quiet", "--store", str(store.path), "save", str(file)]
    subprocess.run([*save, "--run", "r", "--step", "3"], check=True)
    ckpt = store["r@3"]
    assert_same(ckpt.load("model"), {"w": tensors["model.w"]})
    assert_same(ckpt.tensor("optimizer.m", framework="torch"), tensors["optimizer.m"])


def test_the_steps_of_an_optimizer_are_values(run: treering.Run) -> None:
    model = Net()
    optimizer = trained(model)
    shared = torch.tensor(2.0)
    odd = {"state": {0: {"step": torch.tensor(float("nan"))}, 1: {"step": shared, "again": shared}}}
    state = {
        "optimizer": optimizer,
        "int": {"state": {0: {"step": torch.tensor(2**60)}}, "param_groups": [{"params": [0]}]},
        "odd": odd | {"param_groups": [{"params": [0, 1]}]},
    }
    run.save(1, state).wait()
    names = [info.name for info in run.latest().tensors]
    assert not any("step" in name for name in names if name.startswith(("optimizer.", "int.")))
    assert len([name for name in names if name.startswith("odd.")]) == 3
    loaded = run.latest().load()
    for key in ("int", "odd"):
        assert_same(loaded[key], state[key])
    assert_same(loaded["optimizer"], optimizer.state_dict())
    assert loaded["odd"]["state"][1]["step"] is loaded["odd"]["state"][1]["again"]
    assert run.latest().load("optimizer", map_location="meta")["state"][0]["step"].device.type == "meta"
    other = Net()
    begun = trained(other, 1)
    run.latest().load_into({"optimizer": begun})
    assert_same(begun.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_tied_tensor_that_was_saved_once_fills_all(run: treering.Run) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
            self.head.weight = self.emb.weight

    saved, target = Tied(), Tied()
    run.save(1, {"model": {"emb.weight": saved.emb.weight.detach()}}).wait()
    report = run.latest().load_into({"model": target})
    assert not report.missing
    assert_same(target.state_dict(), saved.state_dict())
    target.head.weight = torch.nn.Parameter(torch.ones(5, 3))
    with pytest.raises(treering.MismatchError, match=r"head\.weight was not saved"):
        run.latest().load_into({"model": target})
