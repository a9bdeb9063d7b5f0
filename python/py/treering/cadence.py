"""When to save: every so many steps, every so much time, or as often as costs little."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

from .errors import InvalidError
from .policy import duration


@dataclass(frozen=True)
class Overhead:
    """As often as keeps the time that saves block below this share of all time."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidError(f"an overhead of {self.share}", "it is a share, such as 0.02")


Cadence = int | str | datetime.timedelta | Overhead


class Clock:
    """Remembers when was saved, and what it cost."""

    def __init__(self, cadence: Cadence | None) -> None:
        if isinstance(cadence, int) and cadence < 1:
            raise InvalidError(f"a save every {cadence} steps")
        self._cadence = cadence
        self._seconds = duration(cadence) if isinstance(cadence, str | datetime.timedelta) else 0.0
        self._begun = time.monotonic()
        self._saved: float | None = None
        self._blocked = 0.0

    @property
    def is_none(self) -> bool:
        """Whether there is no cadence."""
        return self._cadence is None

    @property
    def is_plain(self) -> bool:
        """Whether it goes by the step alone, so that all ranks come to the same answer by themselves."""
        return isinstance(self._cadence, int)

    def due(self, step: int) -> bool:
        """Whether it is time to save."""
        now = time.monotonic()
        match self._cadence:
            case None:
                raise InvalidError("no cadence", "give the run one, such as store.run(..., cadence=100)")
            case int(every):
                return step % every == 0
            case Overhead(share):
                # Nothing is known of the cost before the first save.
                return self._saved is None or self._blocked <= share * (now - self._saved)
            case _:
                return now - (self._saved or self._begun) >= self._seconds

    def saved(self, blocked: float) -> None:
        """A save has begun, and blocked for so many seconds."""
        self._saved = time.monotonic()
        self._blocked = blocked
