"""What the tests share."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
import treering

# Frameworks look at these when they are imported.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "KERAS_BACKEND": "torch",
    "TOKENIZERS_PARALLELISM": "false",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
}


@pytest.fixture
def store(tmp_path: pathlib.Path) -> treering.Store:
    return treering.Store(tmp_path / "store")


@pytest.fixture
def run(store: treering.Store) -> Iterator[treering.Run]:
    run = store.run("r")
    yield run
    run.close()
