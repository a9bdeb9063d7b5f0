"""The examples of the documents run. Those of frameworks run in the tests of these."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import examples
import pytest


def test_there_are_examples() -> None:
    assert len(examples.whole()) >= 2


@pytest.mark.parametrize(("name", "code"), examples.whole(), ids=[name for name, _ in examples.whole()])
def test_an_example_runs_and_goes_on_when_started_again(name: str, code: str, tmp_path: pathlib.Path) -> None:
    for time in ("first", "second"):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}, the {time} time: {done.stderr}"
        for made in tmp_path.glob("*.safetensors"):
            made.unlink()
