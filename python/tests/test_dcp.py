"""torch.distributed.checkpoint: saved by several processes, loaded by others."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as torch_dcp
import treering
import treering.dcp
from examples import example
from same import assert_same
from test_ranks import together
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

IMPORTS = """
import subprocess
import torch.nn as nn
import treering.dcp
import torch.distributed.checkpoint as torch_dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

def trained(steps, seed):
    "A model that FSDP shards, and its optimizer."
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 33), nn.ReLU(), nn.Linear(33, 7))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in model:
        if isinstance(part, nn.Linear):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(7)
    for _ in range(steps):
        model(torch.randn(12, 10)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer

def whole(model, optimizer):
    "All of it, on every rank."
    found = {name: value.full_tensor() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            found[f"{name} {key}"] = value.full_tensor() if isinstance(value, DTensor) else value
    return found
"""


def run_together(folder: pathlib.Path, code: str, size: int) -> None:
    together(folder, code, size=size, imports=IMPORTS)


SAVE = """
model, optimizer = trained(3, 1)
run = store.run("sharded")
for step in (3, 4):
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optim": optimizer_state, "epoch": 2, "mixed": (1, "two", None), "lr": [0.1, 0.2]}
    treering.dcp.save(state, run, step, metrics={"loss": 1.5})
full = whole(model, optimizer)
if rank == 0:
    torch.save(full, store.path.parent / "full.pt")
run.close()
"""

LOAD = """
full = torch.load(store.path.parent / "full.pt")
model, optimizer = trained(1, 5)
model_state, optimizer_state = get_state_dict(model, optimizer)
state = {"model": model_state, "optim": optimizer_state, "epoch": 0, "mixed": None}
treering.dcp.load(state, store["sharded@4"])
set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
assert (state["epoch"], state["mixed"]) == (2, (1, "two", None)), state
found = whole(model, optimizer)
assert found.keys() == full.keys()
for name, value in full.items():
    assert torch.equal(found[name], value), name
"""


def test_what_four_ranks_save_any_number_loads(tmp_path: pathlib.Path) -> None:
    run_together(tmp_path, SAVE, 4)
    for size in (1, 2, 3):
        run_together(tmp_path, LOAD, size)

    # And so does one process that knows nothing of it.
    full = torch.load(tmp_path / "full.pt")
    store = treering.Store(tmp_path / "store")
    first, second = store["sharded@3"], store["sharded@4"]
    state = second.load()
    assert second.metrics == {"loss": 1.5}
    for name, value in state["model"].items():
        assert_same(value, full[name])
    assert_same(state["mixed"], (1, "two", None))
    assert_same(state["lr"], [0.1, 0.2])
    moments = state["optim"]["state"]["0.weight"]
    assert_same(moments["exp_avg"], full["0.weight exp_avg"])
    # Nothing had changed, and so next to nothing was written.
    assert first._row["new_bytes"] > 10_000 > second._row["new_bytes"]
    assert store.verify(deep=True) == []
    exported = second.export(tmp_path / "model.safetensors", component="model")
    import safetensors.torch

    for name, value in safetensors.torch.load_file(exported).items():
        assert torch.equal(value, full[name])


def test_shards_of_any_length_and_what_is_replicated(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        mesh = init_device_mesh("cpu", (3,))
        make = lambda *shape: torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
        state = {
            "uneven": distribute_tensor(make(7, 2, 3), mesh, [Shard(0)]),
            "few": distribute_tensor(make(2, 4), mesh, [Shard(0)]),
            "empty": distribute_tensor(make(0, 4), mesh, [Shard(0)]),
            "all": distribute_tensor(make(5, 5), mesh, [Replicate()]),
            "plain": make(3, 3).to(torch.bfloat16),
            "number": torch.tensor(4.5),
            "unusual": distribute_tensor(make(6, 2).to(torch.complex128), mesh, [Shard(0)]),
        }
        run = store.run("r")
        treering.dcp.save(state, run, 1)

        assert same(raised(lambda: run.save(2, state))).count("treering.dcp.save")

        # Onto another layout, and in part.
        target = {"uneven": distribute_tensor(torch.zeros(7, 2, 3), mesh, [Shard(1)]), "number": torch.tensor(0.0)}
        treering.dcp.load(target, store["r@1"])
        assert torch.equal(target["uneven"].full_tensor(), make(7, 2, 3)) and target["number"] == 4.5
        treering.dcp.save(state, run, 3)
        run.close()
        """,
        3,
    )
    state = treering.Store(tmp_path / "store")["r@3"].load()
    assert_same(state["uneven"], torch.arange(42, dtype=torch.float32).view(7, 2, 3))
    assert_same(state["few"], torch.arange(8, dtype=torch.float32).view(2, 4))
    assert_same(state["empty"], torch.zeros(0, 4))
    assert_same(state["all"], torch.arange(25, dtype=torch.float32).view(5, 5))
    assert_same(state["plain"], torch.arange(9, dtype=torch.bfloat16).view(3, 3))
    assert_same(state["number"], torch.tensor(4.5))
    assert_same(state["unusual"], torch.arange(12.0).view(6, 2).to(torch.complex128))


def test_columns_and_blocks(tmp_path: pathlib.Path) -> None:
    make = "make = lambda *shape: torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)\n"
    run_together(
        tmp_path,
        make
        + """
line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
state = {
    "columns": distribute_tensor(make(5, 6), line, [Shard(1)]),
    "blocks": distribute_tensor(make(5, 7), square, [Shard(0), Shard(1)]),
    "twice": distribute_tensor(make(9, 3), square, [Shard(0), Shard(0)]),
    "partly": distribute_tensor(make(3, 4, 5), square, [Replicate(), Shard(2)]),
    "unusual": distribute_tensor(make(4, 6).to(torch.complex128), line, [Shard(1)]),
    "moments": {"wide": distribute_tensor(make(2, 9).to(torch.bfloat16), line, [Shard(1)])},
}
run = store.run("r")
for step in (1, 2):
    treering.dcp.save(state, run, step)
for name in ("columns", "blocks"):
    state[name] = distribute_tensor(make(*state[name].shape) + 1, state[name].device_mesh, state[name].placements)
treering.dcp.save(state, run, 3)
run.close()
""",
        4,
    )
    store = treering.Store(tmp_path / "store")
    first, second = store["r@1"], store["r@2"]
    assert second._row["new_bytes"] < first._row["new_bytes"] / 2
    state = first.load()
    expected = {
        "blocks": torch.arange(35.0).view(5, 7),
        "columns": torch.arange(30.0).view(5, 6),
        "moments": {"wide": torch.arange(18.0).view(2, 9).to(torch.bfloat16)},
        "partly": torch.arange(60.0).view(3, 4, 5),
        "twice": torch.arange(27.0).view(9, 3),
        "unusual": torch.arange(24.0).view(4, 6).to(torch.complex128),
    }
    assert_same(state, expected)
    assert_same(first.slice("blocks", slice(1, 4)), expected["blocks"][1:4])
    assert store.verify(deep=True) == []
    # Only what changed is read, and nothing is taken for the same that is not.
    targets = {"columns": torch.zeros(5, 6), "twice": expected["twice"].clone()}
    assert store["r@3"].load_into(targets, since=first, strict=False).unchanged == 1
    assert_same(targets["columns"], expected["columns"] + 1)
    # Onto other layouts, whatever they are.
    load = """
line = init_device_mesh("cpu", (dist.get_world_size(),))
targets = {
    "columns": distribute_tensor(torch.zeros(5, 6), line, [Shard(0)]),
    "blocks": distribute_tensor(torch.zeros(5, 7), line, [Shard(1)]),
    "twice": torch.zeros(9, 3),
    "unusual": distribute_tensor(torch.zeros(4, 6, dtype=torch.complex128), line, [Shard(1)]),
}
treering.dcp.load(targets, store["r@1"])
assert torch.equal(targets["columns"].full_tensor(), make(5, 6))
assert torch.equal(targets["blocks"].full_tensor(), make(5, 7))
assert torch.equal(targets["twice"], make(9, 3))
assert torch.equal(targets["unusual"].full_tensor(), make(4, 6).to(torch.complex128))
"""
    for size in (1, 3):
        run_together(tmp_path, make + load, size)


PARALLEL = """
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

def both(sizes, seed):
    "A model in tensor parallelism, its parts sharded by FSDP besides; and its optimizer."
    torch.manual_seed(seed)
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("data", "tensor"))
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(4, 8)).square().mean().backward()
    optimizer.step()
    return model, optimizer
"""


def test_tensor_parallelism_and_fsdp_together(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        PARALLEL
        + """
model, optimizer = both((2, 2), 1)
model_state, optimizer_state = get_state_dict(model, optimizer)
run = store.run("r")
treering.dcp.save({"model": model_state, "optim": optimizer_state}, run, 1)
full = whole(model, optimizer)
if rank == 0:
    torch.save(full, store.path.parent / "full.pt")
run.close()
""",
        4,
    )
    load = """
full = torch.load(store.path.parent / "full.pt")
model, optimizer = both((1, dist.get_world_size()), 2)
model_state, optimizer_state = get_state_dict(model, optimizer)
state = {"model": model_state, "optim": optimizer_state}
treering.dcp.load(state, store["r@1"])
set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
for name, value in whole(model, optimizer).items():
    assert torch.equal(value, full[name]), name
"""
    run_together(tmp_path, PARALLEL + load, 2)
    full = torch.load(tmp_path / "full.pt")
    state = treering.Store(tmp_path / "store")["r@1"].load()
    for name, value in state["model"].items():
        assert_same(value, full[name])


def test_what_was_collected_meanwhile_is_saved_again(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        state = {"x": distribute_tensor(torch.arange(60.0).view(30, 2), init_device_mesh("cpu", (2,)), [Shard(0)])}
        other, run = store.run("other"), store.run("r")
        calls = []
        treering.dcp.save(state, other, 1)
        other.close()
        finish = treering.dcp.Writer.finish

        def late(writer, **given):
            calls.append(1)
            treering.dcp.Writer.finish = finish
            for what in (["forget", "other@1"], ["gc"]):
                command = [sys.executable, "-m", "treering", *what, "--store", str(store.path)]
                subprocess.run(command, check=True, capture_output=True)
            finish(writer, **given)

        treering.dcp.Writer.finish = late
        treering.dcp.save(state, run, 2)
        assert calls == [1] * (rank == 0)
        run.close()
        """,
        2,
    )
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("r").history()] == [2] and not store.run("other").history()
    assert_same(store["r@2"].load("x"), torch.arange(60.0).view(30, 2))
    assert store.verify(deep=True) == []


def test_on_a_full_disk_the_policy_is_applied_and_the_save_made_again(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        mesh = init_device_mesh("cpu", (2,))
        x = lambda step: {"x": distribute_tensor(torch.full((30, 2), float(step)), mesh, [Shard(0)])}
        write, full = treering.dcp.Writer.write_data, []

        def write_data(*given):
            if full:
                raise full.pop()
            return write(*given)

        treering.dcp.Writer.write_data = write_data

        def fails_on_rank_1():
            if rank == 1:
                full.append(treering.NoSpaceError("no space"))

        with store.run("none", gc=False) as run:
            fails_on_rank_1()
            said = same(raised(lambda: treering.dcp.save(x(1), run, 1)))
            assert said.startswith("NoSpaceError"), said
        with store.run("last", keep=[treering.Latest(1)], gc=False) as run:
            for step in (1, 2):
                treering.dcp.save(x(step), run, step)
            fails_on_rank_1()
            treering.dcp.save(x(3), run, 3)
        """,
        2,
    )
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("last").history()] == [2, 3] and not store.run("none").history()
    assert_same(store["last@3"].load("x"), torch.full((30, 2), 3.0))


def test_a_rank_that_dies_leaves_no_checkpoint_and_hangs_nobody(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        state = {"x": distribute_tensor(torch.ones(30, 4), init_device_mesh("cpu", (3,)), [Shard(0)])}
        run = store.run("r")
        treering.dcp.save(state, run, 1)
        begun = time.monotonic()
        if rank == 2:
            treering.dcp.Writer.write_data = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        said = raised(lambda: treering.dcp.save(state, run, 2))
        assert said != "nothing" and time.monotonic() - begun < 15, (said, time.monotonic() - begun)
        if rank == 0:
            assert os.waitpid(children.pop(), 0)[1] == signal.SIGKILL
            assert os.waitpid(children.pop(), 0)[1] == 0
        os._exit(0)
        """,
        3,
    )
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("r").history()] == [1]
    assert_same(store["r@1"].load("x"), torch.ones(30, 4))
    store.gc()
    assert store.verify(deep=True) == []
    assert not list((tmp_path / "store" / "parts").iterdir())


def test_a_failure_on_one_rank_is_raised_on_all(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        state = {"x": distribute_tensor(torch.ones(30, 4), init_device_mesh("cpu", (2,)), [Shard(0)])}
        run = store.run("r")
        treering.dcp.save(state, run, 1)
        treering.dcp.save(state, run, 1)  # the same again is a success
        state["x"] = state["x"] + 1
        said = same(raised(lambda: treering.dcp.save(state, run, 1)))
        assert said.startswith("ExistsError"), said
        said = same(raised(lambda: treering.dcp.save({**state, "odd": object()}, run, 2)))
        assert said.startswith("UnsupportedError"), said
        treering.dcp.save(state, run, 2)
        run.close()
        """,
        2,
    )
    store = treering.Store(tmp_path / "store")
    assert [row["step"] for row in store.run("r").history()] == [1, 2]
    assert_same(store["r@2"].load("x"), torch.full((30, 4), 2.0))


def test_in_the_background(tmp_path: pathlib.Path) -> None:
    run_together(
        tmp_path,
        """
        group = dist.new_group(backend="gloo")
        x = torch.ones(30, 4)
        run = store.run("r")
        future = treering.dcp.async_save({"x": x, "step": 1}, run, 1, process_group=group)
        x.zero_()
        future.result(30)
        run.close()
        """,
        2,
    )
    assert_same(treering.Store(tmp_path / "store")["r@1"].load(), {"step": 1, "x": torch.ones(30, 4)})


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_one_process_alone(run: treering.Run) -> None:
    state = {"model": {"a": torch.arange(6.0), "deep": [{"b": torch.ones(2, 2)}, 3]}, "array": np.arange(3), "n": 1}
    treering.dcp.save(state, run, 1)
    assert_same(run[1].load("model"), state["model"])
    assert_same(run[1].load("array"), state["array"])
    target = {"model": {"a": torch.zeros(6), "deep": [{"b": torch.zeros(2, 2)}, 0]}, "array": None, "n": 0}
    treering.dcp.load(target, run[1])
    assert_same(target, state)

    # torch's own functions, with what they take.
    torch_dcp.save(state, storage_writer=treering.dcp.Writer(run, 2), planner=treering.dcp.SavePlanner(), no_dist=True)
    target = {"model": {"a": torch.zeros(6)}, "n": 0}
    torch_dcp.load(target, storage_reader=treering.dcp.Reader(run[2]), no_dist=True)
    assert_same(target, {"model": {"a": torch.arange(6.0)}, "n": 1})
    with pytest.raises(torch_dcp.api.CheckpointException, match="comes pickled"):
        torch_dcp.save(state, storage_writer=treering.dcp.Writer(run, 3), no_dist=True)
    with pytest.raises(treering.UnavailableError, match="Missing key"):
        treering.dcp.load({"other": torch.zeros(1)}, run[1])
    treering.dcp.load({"other": torch.zeros(1)}, run[1], strict=False)


class Threads:
    """A store that notes on how many threads parts are saved."""

    def __init__(self, store: Any) -> None:
        self.store, self.seen = store, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def save_part(self, *arguments: Any, threads: int, **others: Any) -> None:
        self.seen.append(threads)
        self.store.save_part(*arguments, threads=threads, **others)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_who_waits_gets_all_cores(run: treering.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    native = Threads(run.store._reader())
    monkeypatch.setattr(run.store, "_reader", lambda: native)
    monkeypatch.setattr(run, "_threads", 1)
    monkeypatch.setattr(run, "_helpers", 2)
    treering.dcp.save({"x": torch.ones(3)}, run, 1)
    writer = treering.dcp.Writer(run, 2, background=True)
    torch_dcp.save({"x": torch.ones(4)}, storage_writer=writer, planner=treering.dcp.SavePlanner(), no_dist=True)
    assert native.seen == [3, 1]


def test_what_a_run_saved(run: treering.Run) -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    run.save(1, {"model": model, "optimizer": optimizer, "pair": (torch.ones(2), 5)}).wait()
    fresh = torch.nn.Linear(4, 3)
    state = {"model": fresh.state_dict(), "pair": None}
    treering.dcp.load(state, run[1])
    assert_same(fresh.weight, model.weight)
    assert_same(state["pair"], (torch.ones(2), 5))


def test_a_run_with_steps_is_not_gone_on_with_unseen(store: treering.Store) -> None:
    with store.run("r") as run:
        treering.dcp.save({"x": torch.ones(3)}, run, 1)
    with store.run("r") as run:
        with pytest.raises(treering.RunExists):
            treering.dcp.save({"x": torch.ones(3)}, run, 2)
        target = {"x": torch.zeros(3)}
        treering.dcp.load(target, run.latest())
        treering.dcp.save(target, run, 2)
        assert [row["step"] for row in run.history()] == [1, 2]


def test_the_example_runs(run: treering.Run) -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    loss = model(torch.ones(3)).sum()
    loss.backward()
    optimizer.step()
    names = {"treering": treering, "run": run, "step": 7, "model": model, "optimizer": optimizer, "loss": loss}
    exec(example("dcp"), names | {"get_state_dict": get_state_dict, "set_state_dict": set_state_dict})
    assert run.latest().step == 7
    assert_same(run[7].load("model")["weight"], model.weight.detach())
