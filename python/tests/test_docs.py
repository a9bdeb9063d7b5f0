"""The examples of the documents run."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MARK = "<!-- python -->\n```python\n"


def examples() -> list[tuple[str, str]]:
    found = []
    for page in ("README.md", "docs/PYTHON.md"):
        blocks = (ROOT / page).read_text().split(MARK)[1:]
        found += [(f"{page} {number}", block.split("```")[0]) for number, block in enumerate(blocks, 1)]
    return found


def test_there_are_examples() -> None:
    assert len(examples()) >= 2


@pytest.mark.parametrize(("name", "code"), examples(), ids=[name for name, _ in examples()])
def test_an_example_runs_and_goes_on_when_started_again(name: str, code: str, tmp_path: pathlib.Path) -> None:
    for time in ("first", "second"):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}, the {time} time: {done.stderr}"
        for made in tmp_path.glob("*.safetensors"):
            made.unlink()
