"""Tells now and then how a copy goes: how much was moved since the last time, and what the slots keep."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.model import Json
    from planrunner.ports import Clock
    from planrunner.replication.health import Health

SECONDS = 10.0
# A copy of days is told as often as one of hours: a journal stays small.
_MOST = 500


class Pulse:
    """Counts bytes of every stream. They are counted as they cross the line: what is repeated counts again."""

    def __init__(self, clock: Clock, tell: Callable[[str, Mapping[str, Json]], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._moved = 0
        self._told = False
        self._begun: float | None = None
        self._since = 0.0

    def begin(self) -> None:
        """A copy begins, or goes on after a break that is no part of its pace."""
        now = self._clock.monotonic()
        with self._lock:
            self._begun = self._begun or now
            self._moved, self._since = 0, now

    def add(self, size: int) -> None:
        """So many bytes went to the target; cheap."""
        with self._lock:
            self._moved += size

    def beat(self, health: Health) -> None:
        """Tell a sample when the last one is long enough ago."""
        now = self._clock.monotonic()
        with self._lock:
            begun = self._begun or now
            if now - self._since < max(SECONDS, (now - begun) / _MOST):
                return
        self._sample({"lag_bytes": health.behind, "retained_bytes": health.retained})

    def end(self) -> None:
        """Tell the rest, if samples were told at all; finished units tell the pace of a short copy."""
        if self._told:
            self._sample({})

    def _sample(self, lag: Mapping[str, Json]) -> None:
        now = self._clock.monotonic()
        with self._lock:
            moved, seconds = self._moved, now - self._since
            self._moved, self._since, self._told = 0, now, True
        if seconds <= 0:
            return
        kept = lag.get("retained_bytes")
        more = f"; {human_bytes(kept)} of WAL kept" if isinstance(kept, int) else ""
        self._tell(
            f"copying {human_bytes(moved / seconds)}/s{more}",
            {"moved_bytes": moved, "seconds": round(seconds, 3), **lag},
        )
