"""Places for work at a time, whose number may change while the work goes on."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOOK_SECONDS = 0.5


class Places:
    """At most as many at a time as ``limit`` says now; none while it says 0. ``check`` raises to stop the waiting."""

    def __init__(self, limit: Callable[[], int], check: Callable[[], None]) -> None:
        self._limit = limit
        self._check = check
        self._taken = 0
        self._free = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for the length of the block, waiting for one; what has a place keeps it."""
        with self._free:
            while self._taken >= self._limit():
                # A limit that was raised is noticed at the next look.
                self._free.wait(_LOOK_SECONDS)
                self._check()
            self._taken += 1
        try:
            yield
        finally:
            with self._free:
                self._taken -= 1
                self._free.notify()
