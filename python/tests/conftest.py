"""What the tests share."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
import treering


@pytest.fixture
def store(tmp_path: pathlib.Path) -> treering.Store:
    return treering.Store(tmp_path / "store")


@pytest.fixture
def run(store: treering.Store) -> Iterator[treering.Run]:
    run = store.run("r")
    yield run
    run.close()
