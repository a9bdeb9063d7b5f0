"""A run: saving in the background, its rules, its troubles. Signals have a file of their own."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import treering
from same import assert_same
from treering import _torch, machine
from treering import run as run_module
from treering._native import gather
from treering.tree import Leaf


class Gate:
    """Holds saves in the background until it is opened."""

    def __init__(self, run: treering.Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        really = run._save_durably

        def held(job: Any) -> Any:
            self.reached.set()
            assert self.open.wait(60)
            return really(job)

        monkeypatch.setattr(run, "_save_durably", held)


@pytest.fixture
def gate(run: treering.Run, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(run, monkeypatch)


def failing(run: treering.Run, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    really = run._save_durably

    def save(job: Any) -> Any:
        if fails(job.handle.step):
            raise treering.UnavailableError("the disk is away")
        return really(job)

    monkeypatch.setattr(run, "_save_durably", save)


# -- what save promises


def test_what_changes_after_save_does_not_change_what_is_saved(run: treering.Run) -> None:
    weight, array = torch.zeros(200_000), np.zeros(50_000)
    plain, strided = [0], torch.zeros(400, 300).T
    wanted = {}
    for step in range(1, 21):
        for tensor in (weight, strided):
            tensor.normal_()
        array[:] = step
        plain[0] = step
        wanted[step] = [hashlib.sha256(x.tobytes()).digest() for x in (weight.numpy(), strided.numpy(), array)]
        run.save(step, {"w": weight, "s": strided, "a": array, "p": plain})
        weight.fill_(-1)
        strided.fill_(-1)
        array[:] = -1
        plain[0] = -1
    run.wait()
    for step, hashes in wanted.items():
        state = run[step].load()
        came = (state["w"].numpy(), state["s"].numpy(), state["a"])
        assert [hashlib.sha256(x.tobytes()).digest() for x in came] == hashes
        assert state["p"] == [step]


def test_save_returns_before_it_is_durable(run: treering.Run, gate: Gate) -> None:
    handle = run.save(1, {"x": torch.ones(10)})
    assert not handle.done() and handle.durable_seconds is None and "under way" in repr(handle)
    with pytest.raises(treering.WaitTimeout):
        handle.wait(0.01)
    assert run.latest() is None
    gate.open.set()
    report = handle.result()
    assert report["outcome"] == "saved" and report["tensors"] == 1
    assert handle.durable_seconds >= handle.blocked_seconds > 0
    assert run.latest().step == 1


def test_a_busy_run_waits_skips_or_says_so(run: treering.Run, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.save(1, {"x": 1})
    monkeypatch.setattr(run, "_when_busy", "skip")
    assert run.save(2, {"x": 2}).wait().skipped
    monkeypatch.setattr(run, "_when_busy", "error")
    with pytest.raises(treering.SaveInProgress, match="step 1"):
        run.save(3, {"x": 3})
    monkeypatch.setattr(run, "_when_busy", "wait")
    threading.Timer(0.2, gate.open.set).start()
    second = run.save(4, {"x": 4})
    assert first.done() and second.waited_seconds > 0.1 and second.blocked_seconds >= second.waited_seconds
    run.wait()
    assert [row["step"] for row in run.history()] == [1, 4]


@pytest.mark.parametrize(
    "wait",
    [
        lambda run, handle: handle.wait(),
        lambda run, handle: run.wait(),
        lambda run, handle: run.close(),
        lambda run, handle: run.save(2, {"x": 2}),
    ],
    ids=["handle", "run", "close", "next"],
)
def test_a_save_hurries_once_somebody_waits(
    run: treering.Run,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[[treering.Run, treering.SaveHandle], object],
) -> None:
    monkeypatch.setattr(run, "_helpers", 3)
    handle = run.save(1, {"x": 1})
    assert gate.reached.wait(60)
    assert handle._hurry.helpers == 0
    waiting = threading.Thread(target=wait, args=(run, handle))
    waiting.start()
    deadline = time.monotonic() + 60
    while handle._hurry.helpers != 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    gate.open.set()
    waiting.join()
    handle.wait()


def test_who_helps_works_beside_the_thread(store: treering.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two tensors waits, when it is read, for the other to be read: one thread alone would wait in vain."""
    tensors = {"a": torch.randn(200, 250).T, "b": torch.randn(200, 250).T}  # one piece each, too large to go together
    met = [threading.Event(), threading.Event()]
    really = run_module.in_place

    def meeting(leaves: list[Leaf]) -> Any:
        for leaf, mine, other in zip(leaves, met, reversed(met), strict=True):
            assert leaf.piece is not None
            leaf.piece = lambda offset, length, piece=leaf.piece, mine=mine, other=other: (
                mine.set() or (other.wait(20) and piece(offset, length))
            )
        return really(leaves)

    with store.run("r", memory_limit=1000) as run:
        monkeypatch.setattr(run, "_threads", 1)
        monkeypatch.setattr(run, "_helpers", 1)
        with pytest.warns(UserWarning, match="memory_limit"):
            run.save(1, tensors)  # where it is cut is looked for by one thread
        monkeypatch.setattr(run_module, "in_place", meeting)
        for tensor in tensors.values():
            tensor += 1
        with pytest.warns(UserWarning, match="memory_limit"):
            run.save(2, tensors)
        assert_same(run[2].load(), tensors)


def test_threads_that_were_set_stay_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_native", types.SimpleNamespace(cores=lambda: 32))
    monkeypatch.delenv("TREERING_THREADS", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (machine.background_threads(), machine.helpers(None)) == (4, 12)
    assert machine.helpers(3) == 0
    monkeypatch.setenv("TREERING_THREADS", "2")
    assert (machine.background_threads(), machine.helpers(None)) == (2, 0)


def test_what_does_not_fit_is_saved_where_it_is(store: treering.Store) -> None:
    with store.run("r", memory_limit=1 << 20) as run:
        tensor = torch.randn(1000, 1000)
        with pytest.warns(UserWarning, match="memory_limit"):
            handle = run.save(1, {"t": tensor, "tie": tensor, "strided": tensor.T, "a": np.arange(3.0)})
        assert handle.done() and run._staging._memory is None
        assert_same(run.latest().load(), {"t": tensor, "tie": tensor, "strided": tensor.T, "a": np.arange(3.0)})


def test_what_has_no_memory_to_be_read_streams(store: treering.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"strided": torch.randn(1500, 2000).T, "array": np.asfortranarray(np.random.rand(700, 900))}
    longest = [0]
    really = run_module.in_place

    def watched(leaves: list[Leaf]) -> Any:
        for leaf in leaves:
            assert leaf.fill is not None and leaf.piece is not None
            leaf.fill = lambda into: pytest.fail("it was copied as a whole")
            leaf.piece = lambda offset, length, piece=leaf.piece: seen(length) or piece(offset, length)
        return really(leaves)

    def seen(length: int) -> None:
        longest[0] = max(longest[0], length)

    with store.run("r", memory_limit=1000) as run:
        monkeypatch.setattr(run_module, "in_place", watched)
        for step in (1, 2):
            tensors["array"][step] = tensors["strided"][step, step] = step
            with pytest.warns(UserWarning, match="memory_limit"):
                run.save(step, tensors)
            assert_same(run[step].load(), tensors)
        assert 0 < longest[0] <= 4 << 20


def test_an_error_of_what_streams_is_an_error_of_the_save(
    store: treering.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: int) -> bytes:
        raise ValueError("the device is away")

    with store.run("r", memory_limit=10) as run:
        monkeypatch.setattr(_torch, "_piece", lost)
        with pytest.warns(UserWarning, match="memory_limit"), pytest.raises(ValueError, match="the device is away"):
            run.save(1, {"t": torch.ones(30, 30).T})
        assert run.latest() is None
        monkeypatch.setattr(_torch, "_piece", lambda tensor, offset, length: b"short")
        with pytest.warns(UserWarning, match="memory_limit"), pytest.raises(BufferError, match="another length"):
            run.save(1, {"t": torch.ones(30, 30).T})


def test_pieces_are_those_of_the_elements_in_order() -> None:
    torch.manual_seed(0)
    dense = torch.arange(3 * 4 * 5 * 7).view(3, 4, 5, 7)
    values = [
        dense.permute(3, 1, 0, 2),
        dense.transpose(0, 3)[1:6:2, :, :, ::2],
        dense[:, :1].expand(3, 9, 5, 7),
        dense.permute(2, 3, 1, 0).to(torch.complex128),
        torch.randn(6, 8).T,
        *(torch.randint(0, 2, (5, 6)).to(dtype).T for dtype in _torch.STORED if not str(dtype).endswith("e8m0fnu")),
    ]
    for value in values:
        leaf, _ = _torch.leaf_of(value)
        whole = bytearray(leaf.nbytes)
        leaf.fill(memoryview(whole))
        numbers = range(0, leaf.nbytes, 37)
        for begin, length in [
            (0, leaf.nbytes),
            *((n, min(length, leaf.nbytes - n)) for n in numbers for length in (1, 95)),
        ]:
            assert leaf.piece(begin, length) == whole[begin : begin + length], (value.dtype, value.shape, begin, length)


def test_staging_memory_is_used_again(run: treering.Run) -> None:
    for step in range(1, 4):
        run.save(step, {"t": torch.full((100_000,), float(step))}).wait()
        memory = run._staging._memory
        assert step == 1 or memory is before  # noqa: F821
        before = memory  # noqa: F841
    assert len(memory) == 2 << 20


def drifting(steps: int, elements: int = 300_000) -> list[dict[str, torch.Tensor]]:
    """A state at each step: one tensor moves a little, one stays."""
    torch.manual_seed(0)
    weight, frozen = torch.randn(elements), torch.randn(1000)
    states = []
    for _ in range(steps):
        weight = weight + 1e-4 * torch.randn(elements)
        states.append({"w": weight, "frozen": frozen})
    return states


@pytest.mark.parametrize("nbytes", [0, 1, 100, 16 << 10, (16 << 10) + 33, 20 << 20])
@pytest.mark.parametrize(("to", "begin"), [(0, 0), (1, 0), (31, 7), (64, 3)])
def test_every_byte_is_copied_wherever_it_lies(nbytes: int, to: int, begin: int) -> None:
    source = random.Random(nbytes + begin).randbytes(begin + nbytes)
    memory = bytearray(b"\xee" * (to + nbytes + 40))
    gather(memory, [(to, memoryview(source)[begin:])])
    assert memory[to : to + nbytes] == source[begin:]
    assert memory[:to] + memory[to + nbytes :] == b"\xee" * (to + 40)


def test_the_last_copy_is_the_base_of_the_next_save(tmp_path: pathlib.Path) -> None:
    states = drifting(5)
    reports = {}
    for live in (False, True):
        store = treering.Store(tmp_path / str(live))
        with store.run("r", live_base=live) as run:
            reports[live] = [run.save(step, state).result() for step, state in enumerate(states)]
        for step, state in enumerate(states):
            assert_same(store[f"r@{step}"].load(), state)
        assert store.verify(deep=True) == []
    weight = states[0]["w"].nbytes
    assert [report["bases_in_memory_bytes"] for report in reports[True]] == [0] + 4 * [weight]
    assert [report["bases_in_memory_bytes"] for report in reports[False]] == 5 * [0]
    assert [r["encoded_bytes"] for r in reports[True]] == [r["encoded_bytes"] for r in reports[False]]
    stored = [[report["new_bytes"] for report in reports[live]] for live in (False, True)]
    assert all(abs(a - b) < 200 for a, b in zip(*stored, strict=True)) and stored[1][4] < 0.9 * weight


def test_a_copy_that_was_written_to_is_no_base(store: treering.Store) -> None:
    states = drifting(3)
    with store.run("r", live_base=True) as run:
        run.save(0, states[0]).wait()
        memory = run._live._kept._memory
        for place in range(0, len(memory), 4096):
            memory[place] ^= 1
        assert run.save(1, states[1]).result()["bases_in_memory_bytes"] == 0
        assert run.save(2, states[2]).result()["bases_in_memory_bytes"] > 0
    for step, state in enumerate(states):
        assert_same(store[f"r@{step}"].load(), state)
    assert store.verify(deep=True) == []


def test_the_kept_copy_is_that_of_the_step_that_is_continued(
    store: treering.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = drifting(5)
    with store.run("r", live_base=True) as run:
        failing(run, monkeypatch, lambda step: step == 1)
        run.save(0, states[0]).wait()
        with pytest.raises(treering.UnavailableError):
            run.save(1, states[1]).wait()
        assert run.save(2, states[2]).result()["bases_in_memory_bytes"] > 0
        target = {"w": torch.zeros_like(states[0]["w"]), "frozen": torch.zeros(1000)}
        run.save(3, states[3]).wait()
        native = store._reader()
        native.forget([native.find("r@3")["slot"]])
        assert run.resume(target).step == 2
        assert run.save(4, states[4]).result()["bases_in_memory_bytes"] == 0
    for step in (0, 2, 4):
        assert_same(store[f"r@{step}"].load(), states[step])


def test_two_copies_fit_the_limit_or_only_one_is_made(store: treering.Store) -> None:
    states = drifting(3)
    needed = sum(tensor.nbytes for tensor in states[0].values())
    with store.run("r", live_base=True, memory_limit=2 * needed + 1000) as run:
        run.save(0, states[0]).wait()
        assert run.save(1, states[1]).result()["bases_in_memory_bytes"] > 0
        assert run._live._kept._memory is not run._staging._memory
        larger = {**states[2], "more": torch.zeros(1000)}
        with pytest.warns(UserWarning, match="live_base is off"):
            handle = run.save(2, larger)
        assert handle.result()["bases_in_memory_bytes"] == 0 and run._live is None
        assert_same(run[2].load(), larger)
        run.save(3, states[0]).wait()


def test_the_thread_gives_way_and_ends_when_idle(
    run: treering.Run, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "IDLE_SECONDS", 0.05)
    run.save(1, {"x": 1})
    assert gate.reached.wait(10)
    thread = run._thread
    expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + run_module.NICENESS)
    niceness = os.getpriority(os.PRIO_PROCESS, thread.native_id)
    gate.open.set()
    assert niceness == expected
    gate.open.set()
    thread.join(30)
    assert not thread.is_alive() and run._thread is None
    run.save(2, {"x": 2}).wait()


# -- whose history it is


def test_a_run_with_steps_must_be_loaded_first(store: treering.Store) -> None:
    with store.run("r") as run:
        run.save(1, {"x": 1})
        run.save(2, {"x": 2})
    with store.run("r") as run:
        with pytest.raises(treering.RunExists, match="up to 2"):
            run.save(3, {"x": 3})
        run.latest().load()
        run.save(3, {"x": 3})
    with pytest.raises(treering.RunExists):
        store.run("r", resume="never")
    with pytest.raises(treering.NotFoundError):
        store.run("other", resume="must")
    store.run("other", resume="never").close()
    with store.run("r", resume="must") as run:
        assert run.latest().step == 3


def test_steps_above_the_one_that_was_loaded_are_superseded(store: treering.Store) -> None:
    with store.run("r") as run:
        for step in range(1, 5):
            run.save(step, {"x": step})
    with store.run("r") as run:
        assert run[2].load() == {"x": 2}
        report = run.save(3, {"x": 33}).result()
        assert report["superseded"] == [3, 4]
        run.save(10, {"x": 10})
        run.wait()
        assert [row["step"] for row in run.history()] == [1, 2, 3, 10]
        assert [row["status"] for row in run.history(superseded=True)].count("superseded") == 2
        assert run[3].load() == {"x": 33}  # a look, not a way back
        with pytest.raises(treering.InvalidError, match="not above"):
            run.save(5, {"x": 5}).wait()


def test_the_same_step_again_is_a_success_if_it_is_the_same(run: treering.Run) -> None:
    run.save(1, {"x": 1}).wait()
    assert run.save(1, {"x": 1}).result()["outcome"] == "identical"
    with pytest.raises(treering.ExistsError):
        run.save(1, {"x": 2}).wait()
    run.save(2, {"x": 2}).wait()


def test_a_run_is_resumed_from_the_newest_step_that_is_sound(store: treering.Store) -> None:
    assert not store.run("empty").resume({"m": torch.nn.Linear(2, 2)})
    models = [torch.nn.Linear(300, 300) for _ in range(3)]
    keep = [treering.Latest(9), treering.Best("loss", mode="min")]
    with store.run("r", keep=keep) as run:
        for step, model in enumerate(models, 1):
            run.save(step, {"m": model, "epoch": step}, metrics={"loss": step - 0.5}).wait()
    pack = max(store.path.glob("packs/*/*"), key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray(pack.read_bytes())
    damaged[5000] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(damaged)
    target = torch.nn.Linear(300, 300)
    with store.run("r") as run:
        with pytest.warns(UserWarning, match="step 3 cannot be resumed from"):
            resume = run.resume({"m": target})
        assert resume and resume.step == 2 and resume.state == {"epoch": 2}
        assert [step for step, _ in resume.skipped] == [3]
        assert resume.best == {"loss": (1, 0.5)}
        assert_same(target.state_dict(), models[1].state_dict())
        assert run.save(3, {"m": target}).result()["superseded"] == [3]


def test_an_incomplete_step_is_not_resumed_from(store: treering.Store) -> None:
    model = torch.nn.Linear(400, 400)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(400)).sum().backward()
    with store.run("r", keep=[treering.Latest(9)], thin={"optimizer": 1}) as run:
        for step in (1, 2):
            optimizer.step()
            run.save(step, {"model": model, "optimizer": optimizer})
    with store.run("r") as run:
        assert run[1].dropped == ["optimizer"] and not run[1].complete and run.latest().complete
        assert_same(list(run[1].load("model")), list(model.state_dict()))
        with pytest.raises(treering.NotFoundError, match="dropped by a policy"):
            run[1].load()
        native = store._reader()
        native.forget([native.find("r@2")["slot"]])
        with pytest.raises(treering.DamagedError, match="optimizer dropped"):
            run.resume({"model": model, "optimizer": optimizer})


def test_a_part_that_is_left_loads_although_a_small_one_was_dropped(store: treering.Store) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4)).sum().backward()
    with store.run("r", keep=[treering.Latest(9)], thin={"optimizer": 1}) as run:
        for step in (1, 2):
            optimizer.step()
            run.save(step, {"model": model, "optimizer": optimizer, "epoch": step})
    first = store["r@1"]
    assert first.dropped == ["optimizer"]
    target = torch.nn.Linear(4, 4)
    assert first.load_into({"model": target}).state == {"epoch": 1}
    assert_same(target.state_dict(), first.load("model"))
    assert "optimizer" in store["r@2"].load_into({"model": target}).state


# -- history, rules, cadence


def test_an_empty_run_has_nothing(run: treering.Run) -> None:
    assert run.latest() is None and run.best("loss", "min") is None and run.history() == []
    with pytest.raises(treering.NotFoundError):
        run[3]


def test_history_is_rows(run: treering.Run) -> None:
    for step in range(1, 4):
        run.save(step, {"x": step}, metrics={"loss": 1 / step, "a&b": float("nan")}, tags=[f"t{step}"])
    run.wait()
    run.annotate(3, metrics={"late": 7}, note="kept")
    history = run.history()
    assert [row["step"] for row in history] == [1, 2, 3] and history[2]["metrics"]["late"] == 7
    assert history[2]["note"] == "kept" and history[0]["tags"] == ["t1"]
    assert run.best("loss", "min").step == 3 and run["t2"].step == 2
    page = history._repr_html_()
    assert "<svg" in page and "a&amp;b" in page and "a&b" not in page
    assert "loss=0.333333" in repr(history)
    pandas = pytest.importorskip("pandas")
    assert isinstance(history.to_pandas(), pandas.DataFrame)


def test_policies_are_applied_in_the_background(store: treering.Store) -> None:
    keep = [treering.Latest(2), treering.Best("loss", n=1, mode="min"), treering.EveryNSteps(5)]
    with store.run("r", keep=keep) as run:
        for step in range(1, 12):
            run.save(step, {"x": step}, metrics={"loss": abs(step - 3)})
    with store.run("r", keep=None) as run:
        assert [row["step"] for row in run.history()] == [3, 5, 10, 11]
        assert store.runs()[0]["policy"] == ["keep-last 2", "keep-best loss:1", "keep-every 5"]
    with pytest.raises(treering.InvalidError, match="mode"):
        store.run("other", keep=[treering.Best("accuracy")])
    rules = [treering.EveryDuration("2h"), treering.Within(90), treering.Step(3), treering.Tagged()]
    store.run("other", keep=rules).close()
    assert {row["run"]: row["policy"] for row in store.runs()}["other"] == [
        "keep-every-duration 2h", "keep-within 1m30s", "keep-step 3", "keep-tagged",
    ]  # fmt: skip


def test_should_save_follows_the_cadence(store: treering.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("treering.cadence.time.monotonic", lambda: now[0])
    from treering.cadence import Clock

    assert [step for step in range(1, 10) if Clock(3).due(step)] == [3, 6, 9]
    clock = Clock("10m")
    now[0] = 599
    assert not clock.due(1)
    now[0] = 600
    assert clock.due(1)
    clock.saved(0.1)
    assert not clock.due(1)
    clock = Clock(treering.Overhead(0.02))
    assert clock.due(1)
    clock.saved(0.5)
    now[0] += 24
    assert not clock.due(2)
    now[0] += 1.1
    assert clock.due(3)
    with pytest.raises(treering.InvalidError):
        Clock(None).due(1)


def test_the_run_keeps_its_config_and_where_it_came_from(store: treering.Store) -> None:
    with store.run("r", config={"lr": 0.1, "path": pathlib.Path("x")}) as run:
        run.save(1, {"x": torch.ones(1)})
    row = store.runs()[0]
    assert '"lr":0.1' in row["config"] and torch.__version__ in row["provenance"]


# -- trouble


def test_errors_raise_where_they_are_waited_for(run: treering.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(run, monkeypatch, lambda step: step != 9)
    with pytest.raises(treering.UnavailableError, match="the disk is away") as failed:
        run.save(1, {"x": 1}).wait()
    assert failed.value.__notes__ == ["from the save of step 1"]
    run.save(2, {"x": 2})._ended.wait()
    with pytest.raises(treering.UnavailableError):
        run.save(3, {"x": 3})
    run.save(9, {"x": 9}).wait()
    run.save(4, {"x": 4})
    with pytest.raises(treering.UnavailableError):
        run.close()


def test_errors_warn_and_raise_after_three(store: treering.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[str] = []
    monkeypatch.setattr(run_module.warnings, "warn", lambda message, **_: caught.append(message))
    run = store.run("r", on_error="warn")
    failing(run, monkeypatch, lambda step: step != 3)
    for step in range(1, 6):
        run.save(step, {"x": step})
    run._drain(60)
    assert [row["step"] for row in run.history()] == [3]
    assert [message.split(":")[0] for message in caught] == [f"step {step} was not saved" for step in (1, 2, 4, 5)]
    run.save(6, {"x": 6})
    with pytest.raises(treering.UnavailableError):
        run.close()


def test_on_a_full_disk_the_policy_is_applied_and_the_save_tried_again(
    store: treering.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.run("r", keep=[treering.Latest(1)], gc=False)
    for step in (1, 2):
        run.save(step, {"x": step}).wait()
    native = store._reader()
    full, graces = [True], []

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(native, name)

        def save(self, *args: Any, **kwargs: Any) -> Any:
            if full.pop() if full else False:
                raise treering.NoSpaceError("no space")
            return native.save(*args, **kwargs)

        def gc(self, **kwargs: Any) -> Any:
            graces.append(kwargs.get("grace_seconds"))
            return native.gc(**kwargs)

    monkeypatch.setattr(store, "_opened", Full())
    run.save(3, {"x": 3}).wait()
    assert graces == [0], "space that readers hold up for a while is no space for this save"
    assert [row["step"] for row in run.history()] == [2, 3]
    run.close()


def test_a_collection_leaves_time_to_those_who_read(tmp_path: pathlib.Path) -> None:
    store = treering.Store(tmp_path / "store")
    with store.run("r", keep=[treering.Latest(1)], gc=False) as run:
        for step in (1, 2):
            run.save(step, {"x": np.random.default_rng(step).standard_normal(5000)}).wait()
    report = store.gc(grace_seconds=3600)
    assert report["forgotten"] == [("r", 1)]
    assert report["packs_deleted"] == 0 and report["packs_waiting"] == 1 and report["bytes_waiting"] > 30_000
    report = store.gc()
    assert report["packs_deleted"] == 1 and report["packs_waiting"] == 0
    with pytest.raises(ValueError, match="grace_seconds"):
        store.gc(grace_seconds=-1)


def test_a_fork_is_noticed(run: treering.Run) -> None:
    run.save(1, {"x": 1}).wait()
    code = (
        "import os, sys, treering\n"
        "store = treering.Store(sys.argv[1]); run = store.run('f'); run.save(1, {'x': 1}).wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try: run.save(2, {'x': 2})\n"
        "    except treering.ForkedError as error: print(error)\n"
        "    print(treering.Store(sys.argv[1])['f@1'].load())\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "run.save(2, {'x': 2}).wait()\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(run.store.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "opened before a fork" in done.stdout and "{'x': 1}" in done.stdout and not done.stderr


def test_the_end_of_the_program_waits_for_the_save(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, treering\n"
        "import torch\n"
        "run = treering.Store(sys.argv[1]).run('r')\n"
        "run.save(1, {'x': torch.randn(3_000_000)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    assert "new store at" in done.stderr
    assert treering.Store(tmp_path / "s")["r@latest"].step == 1


def test_readers_make_no_store(tmp_path: pathlib.Path) -> None:
    store = treering.Store(tmp_path / "none")
    for read in (store.runs, lambda: store["r@1"], lambda: store.run("r", resume="must"), store.verify):
        with pytest.raises(treering.NotFoundError, match="no store"):
            read()
    assert not store.path.exists()


def test_a_closed_run_says_so(store: treering.Store) -> None:
    run = store.run("r")
    run.close()
    run.close()
    with pytest.raises(treering.InvalidError, match="closed"):
        run.save(1, {})


def test_bad_input_is_refused_before_anything(run: treering.Run) -> None:
    for step, state in ((-1, {}), (1.5, {}), (True, {}), (1, [1]), (1, {1: 2})):
        with pytest.raises(treering.InvalidError):
            run.save(step, state)
    with pytest.raises(treering.InvalidError):
        run.save(1, {"x": 1}, metrics={"a b": 1.0}).wait()
    assert run.history() == []


def test_the_classes_of_errors_mirror_the_kinds() -> None:
    for kind in ("Invalid", "NotFound", "Exists", "Conflict", "Damaged", "NoSpace", "Unsupported", "Unavailable"):
        assert issubclass(getattr(treering, f"{kind}Error"), treering.TreeringError)
    error = treering.NotFoundError("no run x", "runs here: y")
    assert str(error) == "no run x (runs here: y)" and isinstance(error, LookupError)


#: Saves with a collection after each: those take their time where the machine is busy.
COLLECTED = int(os.environ.get("TREERING_SAVES", "150"))


@pytest.mark.parametrize(
    ("options", "saves"), [("", 1000), ("live_base=True", 1000), ("keep=[treering.Latest(3)]", COLLECTED)]
)
def test_a_thousand_saves_hold_no_more_memory(tmp_path: pathlib.Path, options: str, saves: int) -> None:
    # A collection at work holds files of its own: the fewest of the saves around a point are what is never let go of.
    code = (
        "import os, sys, numpy as np, treering\n"
        "def memory():\n"
        "    with open('/proc/self/statm') as file:\n"
        "        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "array, memories, descriptors = np.random.default_rng(0).random(20_000), [], []\n"
        f"with treering.Store(sys.argv[1]).run('r', {options}) as run:\n"
        f"    for step in range(1, {saves} + 1):\n"
        "        array[:100] += 1e-3\n"
        "        run.save(step, {'a': array, 'epoch': step}, metrics={'loss': 1 / step}).wait()\n"
        "        memories.append(memory())\n"
        "        descriptors.append(len(os.listdir('/proc/self/fd')))\n"
        f"early = {min(100, saves // 2)}\n"
        "print(memories[-1] - memories[early - 1], min(descriptors[-20:]) - min(descriptors[early - 20:early]))\n"
    )
    # In memory, where there is room: a thousand saves wait for the disk several thousand times.
    fast = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else tmp_path) as folder:
        command = [sys.executable, "-c", code, f"{folder}/store"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    memory, descriptors = map(int, done.stdout.split())
    # An array that was kept at each save would be 140 MiB; the catalog keeps a little of the history at hand.
    assert memory < 8 << 20 and abs(descriptors) <= 1, done.stdout


def test_time_outs_are_not_for_luck() -> None:
    begun = time.monotonic()
    with pytest.raises(treering.WaitTimeout):
        treering.SaveHandle(1).wait(0.01)
    assert time.monotonic() - begun < 10
