"""What was read of a whole catalogue, kept while a plan is made: nothing changes it meanwhile, and many ask for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Memory(threading.local):
    """Keeps readings by name within ``kept``, for the thread that entered it; outside of it every reading is new."""

    def __init__(self) -> None:
        super().__init__()
        self._readings: dict[str, object] | None = None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is read within the block stands until its end; a block within another one adds nothing."""
        outer = self._readings
        if outer is None:
            self._readings = {}
        try:
            yield
        finally:
            self._readings = outer

    def of(self, name: str, read: Callable[[], T]) -> T:
        """What ``read`` returns, now or when it was asked for by this name in the same block."""
        if self._readings is None:
            return read()
        if name not in self._readings:
            self._readings[name] = read()
        return self._readings[name]  # type: ignore[return-value]
