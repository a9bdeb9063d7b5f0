"""On a CUDA device: what is copied from it while it works, and what comes back to it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import treering
from treering.staging import Staging
from treering.tree import encode

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CUDA = torch.device("cuda", 0)


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 8)).to(CUDA)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(32, 64, device=CUDA)).square().mean().backward()
        optimizer.step()


def same(left: Any, right: Any) -> bool:
    """Equal bit for bit, and on the same device."""
    if isinstance(left, torch.Tensor):
        bits = left.dtype == right.dtype and left.device == right.device and left.shape == right.shape
        return bits and torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (left, right)))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_comes_back(run: treering.Run, dtype: torch.dtype) -> None:
    saved = torch.randint(0, 2, (1001,), device=CUDA).to(dtype)
    run.save(1, {"x": saved}).wait()
    assert same(run[1].load("x", map_location=CUDA), saved)
    assert same(run[1].load("x"), saved.cpu())


def test_views_and_tied_tensors(run: treering.Run) -> None:
    whole = torch.arange(6000, dtype=torch.float32, device=CUDA).view(60, 100)
    state = {"whole": whole, "again": whole, "turned": whole.t(), "part": whole[3:7, 10:20], "none": whole[:0]}
    run.save(1, {"s": state}).wait()
    loaded = run[1].load("s", map_location=CUDA)
    assert same({**loaded}, {**state})
    assert loaded["whole"] is loaded["again"]


def test_what_is_under_way_is_waited_for_and_what_comes_later_is_not_seen(run: treering.Run) -> None:
    x = torch.eye(2048, device=CUDA)
    turn = torch.roll(torch.eye(2048, device=CUDA), 1, 0)
    for _ in range(200):
        x = x @ turn
    handle = run.save(1, {"x": x})
    x.zero_()
    handle.wait()
    expected = torch.roll(torch.eye(2048), 200, 0)
    assert torch.equal(run[1].load("x"), expected)


def test_the_staging_memory_is_pinned_while_there_is_any() -> None:
    staging = Staging()
    _, (memory,) = staging.copy(encode({"x": torch.ones(1 << 20, device=CUDA)}).leaves)
    assert torch.frombuffer(memory, dtype=torch.uint8).is_pinned()
    _, (larger,) = staging.copy(encode({"x": torch.ones(1 << 22, device=CUDA)}).leaves)
    assert torch.frombuffer(larger, dtype=torch.uint8).is_pinned()
    assert not torch.frombuffer(memory, dtype=torch.uint8).is_pinned()
    staging.release()
    assert not torch.frombuffer(larger, dtype=torch.uint8).is_pinned()


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}, {"amsgrad": True}], ids=str)
def test_training_goes_on_as_if_nothing_had_been(run: treering.Run, options: dict[str, bool]) -> None:
    ours = model()
    optimizer = torch.optim.AdamW(ours.parameters(), **options)
    scaler = torch.amp.GradScaler()
    train(ours, optimizer, 3)
    state = {"model": ours, "optimizer": optimizer, "scaler": scaler, "rng": treering.rng_state()}
    run.save(3, state).wait()
    train(ours, optimizer, 3)

    fresh = model(1)
    other = torch.optim.AdamW(fresh.parameters(), **options)
    report = run[3].load_into({"model": fresh, "optimizer": other, "scaler": torch.amp.GradScaler()})
    treering.set_rng_state(report.state["rng"])
    steps = [moments["step"].device.type for moments in other.state.values()]
    assert set(steps) == {"cuda" if options.keys() & {"fused", "capturable"} else "cpu"}
    train(fresh, other, 3)
    assert same(fresh.state_dict(), ours.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())


def test_a_loaded_state_suits_what_torch_loads(run: treering.Run) -> None:
    ours = model()
    optimizer = torch.optim.AdamW(ours.parameters(), fused=True)
    train(ours, optimizer, 2)
    run.save(2, {"model": ours, "optimizer": optimizer}).wait()
    state = run[2].load(map_location=CUDA)
    fresh = model(1)
    other = torch.optim.AdamW(fresh.parameters(), fused=True)
    fresh.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    assert same(copy.deepcopy(other.state_dict()), copy.deepcopy(optimizer.state_dict()))
    train(fresh, other, 1)


def test_memory_that_was_filled_is_not_moved(run: treering.Run) -> None:
    ours = model()
    optimizer = torch.optim.AdamW(ours.parameters(), capturable=True)
    train(ours, optimizer, 2)
    run.save(2, {"model": ours, "optimizer": optimizer}).wait()
    places = [p.data_ptr() for p in ours.parameters()]
    places += [m.data_ptr() for moments in optimizer.state.values() for m in moments.values()]
    before = copy.deepcopy((ours.state_dict(), optimizer.state_dict()))
    train(ours, optimizer, 1)
    run[2].load_into({"model": ours, "optimizer": optimizer})
    assert same((ours.state_dict(), optimizer.state_dict()), before)
    after = [p.data_ptr() for p in ours.parameters()]
    after += [m.data_ptr() for moments in optimizer.state.values() for m in moments.values()]
    # A step is a value, which is made anew.
    steps = sum(1 for _ in ours.parameters())
    assert sum(a != b for a, b in zip(places, after, strict=True)) <= steps


def test_a_state_larger_than_the_limit_is_saved_and_waited_for(store: treering.Store) -> None:
    with store.run("r", memory_limit=1000) as run, pytest.warns(UserWarning, match="memory_limit"):
        x, y = torch.rand(5000, device=CUDA), torch.rand(1500, 1200, device=CUDA).T
        handle = run.save(1, {"x": x, "y": y})
        assert handle.done() and run._staging._memory is None
    assert same(store["r@1"].load("x", map_location=CUDA), x)
    assert same(store["r@1"].load("y", map_location=CUDA), y)


def test_random_states_of_the_device(run: treering.Run) -> None:
    run.save(1, {"rng": treering.rng_state()}).wait()
    first = torch.rand(10, device=CUDA)
    treering.set_rng_state(run[1].load("rng"))
    assert same(torch.rand(10, device=CUDA), first)


def test_arrays_of_jax_on_the_device(run: treering.Run) -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("jax has no CUDA device")
    value = jax.numpy.arange(10000, dtype="float32") * 3
    key = jax.random.key(3)
    run.save(1, {"x": value, "key": key}).wait()
    loaded = run[1].load()
    assert (loaded["x"] == value).all() and loaded["x"].devices() == value.devices()
    assert (jax.random.normal(loaded["key"], 5) == jax.random.normal(key, 5)).all()
