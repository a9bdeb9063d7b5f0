"""What a run keeps: rules for :meth:`Store.run`. Together they form a union; none drops what another keeps."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidError

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Latest:
    """The newest `n` steps."""

    n: int

    def rule(self) -> str:
        return f"keep-last {self.n}"


@dataclass(frozen=True)
class Best:
    """The best `n` steps by a metric.

    `mode` says whether a small ("min") or a large ("max") value is better; it is kept with the run.
    """

    metric: str
    n: int = 1
    mode: Mode | None = None

    def rule(self) -> str:
        return f"keep-best {self.metric}:{self.n}"


@dataclass(frozen=True)
class EveryNSteps:
    """The steps that `n` divides."""

    n: int

    def rule(self) -> str:
        return f"keep-every {self.n}"


@dataclass(frozen=True)
class EveryDuration:
    """One step for each such stretch of time: a timedelta, seconds, or a text such as "2h"."""

    time: datetime.timedelta | float | str

    def rule(self) -> str:
        return f"keep-every-duration {_seconds(self.time)}s"


@dataclass(frozen=True)
class Within:
    """What was saved within such a time from now."""

    time: datetime.timedelta | float | str

    def rule(self) -> str:
        return f"keep-within {_seconds(self.time)}s"


@dataclass(frozen=True)
class Step:
    """This step."""

    step: int

    def rule(self) -> str:
        return f"keep-step {self.step}"


@dataclass(frozen=True)
class Tagged:
    """Whatever has a tag."""

    def rule(self) -> str:
        return "keep-tagged"


Keep = Latest | Best | EveryNSteps | EveryDuration | Within | Step | Tagged


def rules(keep: Sequence[Keep], thin: Mapping[str, int] | None) -> list[str]:
    """The rules as the command line writes them."""
    for rule in keep:
        if not isinstance(rule, Keep):
            raise InvalidError(f"keep={rule!r}", "rules are such as treering.Latest(3)")
    thins = [f"thin {component}:{newest}" for component, newest in (thin or {}).items()]
    return [rule.rule() for rule in keep] + thins


def duration(time: datetime.timedelta | float | str) -> float:
    """Seconds of a timedelta, a number, or a text such as "90s", "10m", "2h", "7d"."""
    if isinstance(time, datetime.timedelta):
        return time.total_seconds()
    if isinstance(time, str):
        number, unit = time[:-1], time[-1:]
        factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(unit)
        try:
            return float(number) * (factor or float("nan"))
        except ValueError:
            raise InvalidError(f"time {time!r}", "write 90s, 10m, 2h or 7d") from None
    return float(time)


def _seconds(time: datetime.timedelta | float | str) -> int:
    seconds = duration(time)
    if not seconds >= 1:
        raise InvalidError(f"time {time!r}", "it is at least a second")
    return round(seconds)
