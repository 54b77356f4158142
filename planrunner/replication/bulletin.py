"""News of finished units: one by one at first, then many at once, so that the journal of 100,000 units stays small."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from planrunner.postgres.preflight_section import some

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.model import Json
    from planrunner.ports import Clock
    from planrunner.replication.ledger import Copied

# So many lines are told at once.
_SINGLY = 500
_SECONDS = 1.0
# What comes later is gathered: a copy of days has about as many more lines as one of hours.
_MOST = 5000


class Bulletin:
    """Tells what was copied. What is not told when the process dies stands in the ledger all the same."""

    def __init__(self, clock: Clock, tell: Callable[[str, Mapping[str, Json]], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._begun = self._since = clock.monotonic()
        self._lines = 0
        self._waiting: dict[str, Copied] = {}

    def copied(self, units: Mapping[str, Copied]) -> None:
        """These are in: told now, or with others soon."""
        with self._lock:
            self._waiting.update(units)
        self.tend()

    def tend(self) -> None:
        """Tell what has waited long enough; to be called now and then."""
        now = self._clock.monotonic()
        with self._lock:
            pause = 0.0 if self._lines < _SINGLY else max(_SECONDS, (now - self._begun) / _MOST)
            if now - self._since < pause:
                return
        self.end()

    def end(self) -> None:
        """Tell the rest."""
        with self._lock:
            told, self._waiting = self._waiting, {}
            self._since = self._clock.monotonic()
            self._lines += bool(told)
        if told:
            rows, size = sum(one.rows for one in told.values()), sum(one.bytes for one in told.values())
            self._tell(f"copied {some(list(told))}", {"units": list(told), "rows": rows, "bytes": size})
