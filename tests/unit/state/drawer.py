"""A cabinet in memory that keeps the contract of ``ports.Cabinet``, and can be away or lose a reply."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.ports import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence


class Drawer:
    """``away``: every call fails. ``lose_reply``: the next write is done and told as refused. ``aged``: seconds more."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._tags = itertools.count(1)
        self._texts: dict[str, tuple[str, str, float]] = {}
        self.away = False
        self.lose_reply = False
        self.aged = 0.0
        self.writes = 0

    def read(self, name: str) -> Kept | None:
        with self._lock:
            self._reached()
            if name not in self._texts:
                return None
            text, tag, at = self._texts[name]
            return Kept(text=text, tag=tag, age=time.monotonic() - at + self.aged)

    def write(self, name: str, text: str, *, over: str | None) -> str | None:
        with self._lock:
            self.writes += 1
            self._reached()
            there = self._texts.get(name)
            if (None if there is None else there[1]) != over:
                return None
            tag = self._keep(name, text)
            if self.lose_reply:
                self.lose_reply = False
                return None
            return tag

    def put(self, name: str, text: str) -> None:
        with self._lock:
            self._reached()
            self._keep(name, text)

    def remove(self, name: str) -> None:
        with self._lock:
            self._texts.pop(name, None)

    def names(self, prefix: str) -> Sequence[str]:
        with self._lock:
            return sorted(name for name in self._texts if name.startswith(prefix))

    def restoring(self, name: str, over: str) -> str:
        return f"put {name} over {over}"

    def _keep(self, name: str, text: str) -> str:
        tag = str(next(self._tags))
        self._texts[name] = (text, tag, time.monotonic())
        return tag

    def _reached(self) -> None:
        if self.away:
            raise StateUnfit("the cabinet is away")
