"""Several processes of one training: rank 0 saves, and all of them hear what came of it."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap

import treering

BEGIN = """
import atexit, os, signal, sys, time
import torch, torch.distributed as dist
import treering
from treering import ranks
ranks.PATIENCE_SECONDS = 20.0

def raised(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"

def same(value):
    "The same on all ranks."
    all = [None] * dist.get_world_size()
    dist.all_gather_object(all, value)
    assert all.count(all[0]) == len(all), all
    return value
"""

#: One process imports all of it, and the others begin as copies.
PART = """
children = []
for number in range(1, int(os.environ["WORLD_SIZE"])):
    children.append(os.fork())
    if not children[-1]:
        children = []
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number)}
        break
store = treering.Store(sys.argv[1])
"""

JOIN = """
dist.init_process_group("gloo")
rank = dist.get_rank()
"""

#: What is registered for the end runs, but the interpreter is not taken down: whoever still refers to a group keeps
#: gloo's threads, and torch aborts a process in which one of them drops a tensor that late.
END = """
dist.destroy_process_group()
for child in children:
    assert os.waitpid(child, 0)[1] == 0
atexit._run_exitfuncs()
sys.stdout.flush()
os._exit(0)
"""


def together(folder: pathlib.Path, code: str, size: int = 2, join: str = JOIN, imports: str = "") -> None:
    """Runs a program on so many ranks, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "program.py").write_text(BEGIN + imports + PART + join + textwrap.dedent(code) + END)
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(folder / "program.py"), str(folder / "store")]
    # A group of its own, so that no rank outlives the test.
    process = subprocess.Popen(
        command, env=os.environ | environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        err = process.communicate(timeout=120)[1]
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them ended
    assert process.returncode == 0, err


def test_rank_0_saves_and_all_have_its_outcome(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3))
        with store.run("r", cadence=2, keep=[treering.Latest(9)]) as run:
            assert not run.resume({"model": model})
            for step in range(1, 7):
                if same(run.should_save(step)):
                    handle = run.save(step, {"model": model, "rank": rank}, metrics={"loss": step})
                    assert same(handle.result()["outcome"]) == "saved" and handle.done()
                    assert handle.step == step and handle.durable_seconds > 0
            same(raised(lambda: run.save(8, {"x": object()})))
            assert "cannot be saved" in same(raised(lambda: run.save(8, {"x": object()})))
            assert "not above" in same(raised(lambda: run.save(3, {"rank": rank}).wait()))
            run.save(8, {"model": model, "rank": rank})
        assert same([row["step"] for row in store.run("r").history()]) == [2, 4, 6, 8]
        assert store["r@8"].load()["rank"] == 0
        """,
    )
    assert treering.Store(tmp_path / "store").verify(deep=True) == []


def test_ranks_resume_from_the_same_step(tmp_path: pathlib.Path) -> None:
    with treering.Store(tmp_path / "store").run("r") as run:
        for step in (1, 2):
            run.save(step, {"epoch": step, "big": list(range(step))})
    together(
        tmp_path,
        """
        with store.run("r", resume="must") as run:
            resume = run.resume({})
            assert same(resume.step) == 2 and resume.state["epoch"] == 2
            run.save(3, {"epoch": 3})
        assert "RunExists" in same(raised(lambda: store.run("r", resume="never")))
        with store.run("r") as run:
            assert "none was loaded" in same(raised(lambda: run.save(4, {"epoch": 4})))
        """,
        size=3,
    )
    assert treering.Store(tmp_path / "store")["r@3"].load() == {"epoch": 3}


def test_a_failure_in_the_background_is_raised_on_all_ranks(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        run = store.run("r")
        if rank == 0:
            def broken(job):
                raise OSError("the disk is away")
            run._save_durably = broken
        handle = run.save(1, {"x": 1})
        assert "the disk is away" in raised(handle.wait)
        run.save(2, {"x": 2})
        assert "the disk is away" in raised(lambda: run.save(3, {"x": 3}))
        run.save(4, {"x": 4})
        assert "the disk is away" in raised(run.close)
        run.close()
        """,
    )


def test_a_signal_to_any_rank_is_a_save_on_all(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        with store.run("r", cadence=1000) as run:
            run.save_on_signal(signal.SIGUSR1)
            saved = []
            for step in range(1, 8):
                if step == 3 and rank == 1:
                    os.kill(os.getpid(), signal.SIGUSR1)
                if same(run.should_save(step)):
                    run.save(step, {"x": step})
                    saved.append(step)
                assert same(run.stop_requested) == bool(saved)
            # Rank 0 may have decided about step 3 before it was asked.
            assert same(saved) in ([3], [4])
        with store.run("late", cadence=1000) as run:
            run.save_on_signal(signal.SIGUSR1, notice=60)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
                run._signalled -= 3600  # the notice counts from the signal on, whoever got it
            step = next(step for step in range(1, 9) if same(run.should_save(step)))
            assert same(run.save(step, {"x": step}).wait().in_time) is False
        """,
    )


def test_random_states_of_all_ranks_come_back_to_each(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        import random, warnings
        torch.manual_seed(rank)
        random.seed(rank)
        draw = lambda: (random.random(), torch.rand(1).item())
        with store.run("r") as run:
            run.save(1, {"rng": treering.rng_state(all_ranks=True)}).wait()
            drawn = draw()
            treering.set_rng_state(run[1].load("rng"))
            assert draw() == drawn
            state = run[1].load("rng")
            del state["ranks"]["1"]
            with warnings.catch_warnings(record=True) as caught:
                treering.set_rng_state(state)
            assert len(caught) == rank and all("rank 1 has none" in str(one.message) for one in caught)
        everyone = [None] * 2
        dist.all_gather_object(everyone, drawn)
        assert everyone[0] != everyone[1]
        """,
    )


def test_rank_0_may_save_alone(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        ranks.UNHEARD_MAX = 5
        if rank == 0:
            with store.run("r", cadence="10m") as run:
                for step in range(1, 20):
                    run.should_save(step)
                    run.save(step, {"x": step})
        dist.barrier()
        assert store["r@19"].load() == {"x": 19}
        """,
    )


def test_a_rank_that_rank_0_says_nothing_to_gets_an_error(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        run = store.run("r")
        ranks.PATIENCE_SECONDS = 1.0
        if rank == 1:
            assert "heard nothing from rank 0" in raised(lambda: run.save(1, {"x": 1}))
        dist.barrier()
        run.close()
        """,
    )


def test_sharded_tensors_are_refused_by_name_on_all_ranks(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        from torch.distributed.fsdp import fully_shard
        model = torch.nn.Linear(4, 4)
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
        with store.run("r") as run:
            said = same(raised(lambda: run.save(1, {"model": model})))
            assert said.startswith("UnsupportedError: model.weight: a sharded tensor (DTensor)"), said
            run.save(1, {"x": 1})
        """,
    )


def test_a_run_that_was_begun_before_the_group_is_saved_by_rank_0_alone(tmp_path: pathlib.Path) -> None:
    together(
        tmp_path,
        """
        said = raised(lambda: run.save(1, {"x": 1}).wait())
        assert said == "nothing" if rank == 0 else "begin the run after" in said, said
        dist.barrier()
        run.close()
        """,
        join='run = store.run("r" + os.environ["RANK"])' + JOIN,
    )
