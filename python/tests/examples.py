"""The examples of the documents."""

from __future__ import annotations

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PAGES = ("README.md", "docs/PYTHON.md", "python/README.md")


def whole() -> list[tuple[str, str]]:
    """The examples that run as they are."""
    found = []
    for page in PAGES:
        blocks = _blocks(page, "<!-- python -->\n```python\n")
        found += [(f"{page} {number}", block) for number, block in enumerate(blocks, 1)]
    return found


def example(name: str) -> str:
    """The example of a framework, which is about a model that is there already."""
    (found,) = [block for page in PAGES for block in _blocks(page, f"<!-- example: {name} -->\n```python\n")]
    return found


def _blocks(page: str, mark: str) -> list[str]:
    return [block.split("```")[0] for block in (ROOT / page).read_text().split(mark)[1:]]
