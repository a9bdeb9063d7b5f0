"""What was saved without a store is imported, and measured."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import treering
from same import assert_same
from treering import importing


class Command:
    """The command line, in this process."""

    def __init__(self, folder: pathlib.Path, capture: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capture = folder, capture

    def __call__(self, *typed: str) -> tuple[int, str, str]:
        code = importing.main(["treering", *typed, "--store", str(self._folder / "store")])
        return code, *self._capture.readouterr()


@pytest.fixture
def command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def checkpoint(step: int) -> dict[str, Any]:
    """As people save it."""
    torch.manual_seed(1)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(step):
        model(torch.ones(64)).sum().backward()
        optimizer.step()
    return {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "loss": 1 / step,
        "epoch": 7,
    }


@pytest.fixture
def series(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for step in (2, 10, 1):
        torch.save(checkpoint(step), folder / f"step={step}.ckpt")
    return folder


def test_a_series_is_imported_by_step(series: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> None:
    code, out, err = command("import", str(series), "--json")
    assert code == 0, err
    facts = json.loads(out)["imported"]
    assert [fact["step"] for fact in facts] == [1, 2, 10] and facts[1]["metrics"] == {"loss": 0.5}
    run = treering.Store(tmp_path / "store").run("mine")
    for step in (1, 2, 10):
        assert_same(run[step].load(), checkpoint(step))
        assert run[step].metrics == {"loss": 1 / step}
    # Again, and with more of them, in between and above.
    torch.save(checkpoint(5) | {"global_step": 5}, series / "another-9.ckpt")
    code, out, err = command("import", str(series), "--run", "mine")
    assert code == 0, err
    assert out.count("is there already") == 3 and "mine@5" in out
    assert [row["step"] for row in run.history()] == [1, 2, 5, 10]
    assert treering.Store(tmp_path / "store").verify(deep=True) == []


def test_where_the_step_comes_from(tmp_path: pathlib.Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "epoch=3-step=1200.ckpt")
    torch.save({"w": torch.ones(2)}, tmp_path / "model_40.pt")
    torch.save({"model": {"w": torch.ones(2)}, "step": 7}, tmp_path / "ckpt-2.pt")
    torch.save(torch.ones(2), tmp_path / "weights.pt")
    found = {path.name: importing.read(path) for path in tmp_path.iterdir()}
    assert {name: each.step for name, each in found.items()} == {
        "epoch=3-step=1200.ckpt": 1200, "model_40.pt": 40, "ckpt-2.pt": 7, "weights.pt": None,
    }  # fmt: skip
    assert list(found["model_40.pt"].state) == ["model"]
    assert list(found["weights.pt"].state) == ["value"]


def test_what_would_run_code_is_refused_and_nothing_is_saved(
    series: pathlib.Path, tmp_path: pathlib.Path, command: Command
) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"model": Evil()}, series / "step=3.ckpt")
    (series / "step=4.ckpt").write_bytes(pickle.dumps({"a": Evil()}))
    for name in ("step=3.ckpt", "step=4.ckpt"):
        code, _, err = command("import", str(series / name), str(series / "step=1.ckpt"))
        assert code == 1 and "without running code" in err and "run.save(" in err
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()
    (series / "step=3.ckpt").unlink()
    (series / "step=4.ckpt").unlink()
    torch.save(checkpoint(1), series / "other-step=2.ckpt")
    code, _, err = command("import", str(series))
    assert code == 2 and "are both step 2" in err
    assert command("import", "nothing")[0] == 3
    assert not (tmp_path / "store").exists()


def test_a_step_with_other_content_is_refused(series: pathlib.Path, tmp_path: pathlib.Path, command: Command) -> None:
    assert command("import", str(series))[0] == 0
    torch.save(checkpoint(3), series / "step=2.ckpt")
    code, _, err = command("import", str(series))
    assert code == 5 and "exists" in err
    assert_same(treering.Store(tmp_path / "store")["mine@2"].load(), checkpoint(2))


def test_the_command_is_found_among_options() -> None:
    for typed, found in (
        (["import", "x"], "import"),
        (["--store", "import", "log"], None),
        (["--store=s", "--json", "import", "x"], "import"),
        (["--color", "never", "bench", "a.safetensors"], None),
        (["bench", "a.safetensors", "b.ckpt"], "bench"),
        (["log", "import"], None),
        ([], None),
    ):
        assert importing.command(["treering", *typed]) == found, typed


def test_files_of_torch_are_measured(series: pathlib.Path, tmp_path: pathlib.Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [
        sys.executable,
        "-m",
        "treering",
        "bench",
        str(series),
        "--store-dir",
        str(temporary),
        "--quick",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert [save["name"] for save in measured["saves"]] == [f"step={step}.safetensors" for step in (1, 2, 10)]
    assert all(60_000 > save["raw_bytes"] > 3 * 64 * 64 * 4 for save in measured["saves"])
    assert list(temporary.iterdir()) == []


def test_the_tensors_that_are_measured_are_those_of_the_file(tmp_path: pathlib.Path) -> None:
    from safetensors.torch import load_file

    tied = torch.randn(3, 5)
    state = {
        "a": tied,
        "b": tied,
        "t": torch.randn(4, 6).T,
        "h": torch.ones(3, dtype=torch.bfloat16),
        "n": np.arange(3),
    }
    importing.write_safetensors(tmp_path / "x.safetensors", importing.encode(state).leaves)
    loaded = load_file(tmp_path / "x.safetensors")
    assert set(loaded) == {"a", "t", "h", "n"}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, torch.as_tensor(state[name])), name
