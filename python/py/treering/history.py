"""The history of a run: rows, a table, a picture."""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Iterable
from typing import Any

#: Rows that a notebook shows.
SHOWN_MAX = 40


class History(list[dict[str, Any]]):
    """Checkpoints in the order of their steps: dictionaries with `step`, `saved_at`, `metrics`, `tags`, `note`,
    `raw_bytes`, `new_bytes`, `status` and more. In a notebook it is a table with a plot of the metrics."""

    def __init__(self, run: str, rows: Iterable[dict[str, Any]]) -> None:
        super().__init__(sorted(rows, key=lambda row: row["step"]))
        self.run = run

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return sorted({name for row in self for name in row["metrics"]})

    def to_pandas(self) -> Any:
        """A DataFrame with the steps as its index and a column for each metric."""
        import pandas

        plain = ("saved_at", "new_bytes", "raw_bytes", "tags", "note", "status")
        rows = [{"step": row["step"], **row["metrics"], **{key: row[key] for key in plain}} for row in self]
        frame = pandas.DataFrame(rows, columns=["step", *self.metrics, *plain])
        frame["saved_at"] = pandas.to_datetime(frame["saved_at"], unit="s", utc=True)
        return frame.set_index("step")

    def __repr__(self) -> str:
        lines = [f"run {self.run}: {len(self)} steps"]
        for row in self[-SHOWN_MAX:]:
            metrics = "  ".join(f"{name}={value:.6g}" for name, value in row["metrics"].items())
            lines.append(f"  {row['step']:>10}  {_size(row['new_bytes']):>9}  {metrics}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        names = self.metrics
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["step", *names, "new", "saved", "tags"])
        body = []
        for row in self[-SHOWN_MAX:]:
            saved = datetime.datetime.fromtimestamp(row["saved_at"]).isoformat(" ", "seconds")
            cells = [str(row["step"])]
            cells += [f"{row['metrics'][name]:.6g}" if name in row["metrics"] else "" for name in names]
            cells += [_size(row["new_bytes"]), saved, ", ".join(row["tags"])]
            body.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        title = f"<b>{html.escape(self.run)}</b>: {len(self)} steps"
        plots = "".join(self._plot(name) for name in names)
        return f"<div>{title}{plots}<table><tr>{head}</tr>{''.join(body)}</table></div>"

    def _plot(self, name: str) -> str:
        points = [(row["step"], row["metrics"][name]) for row in self if name in row["metrics"]]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        if len(points) < 2:
            return ""
        (left, right), low = (points[0][0], points[-1][0]), min(value for _, value in points)
        high = max(value for _, value in points)
        wide, tall = (right - left) or 1, (high - low) or 1
        line = " ".join(f"{(s - left) / wide * 300:.1f},{60 - (v - low) / tall * 56 - 2:.1f}" for s, v in points)
        label = html.escape(f"{name}: {low:.4g} to {high:.4g}")
        return (
            f'<figure style="margin:4px 0"><svg width="300" height="60" role="img" aria-label="{label}">'
            f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
            f"<figcaption>{label}</figcaption></figure>"
        )


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000 or unit == "GB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    raise AssertionError
