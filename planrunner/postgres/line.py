"""The line to one server: what hangs on it, cut together, and when something was last heard over it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg

from planrunner.errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.errors import ServerError

# struct tcp_info of linux/tcp.h: milliseconds since data was last received.
_TCP_INFO = 11
_LAST_DATA_RECEIVED = slice(52, 56)
# How long after a cut a broken session is laid to it.
_MEMORY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Why a line was cut, as whoever waited is told."""

    message: str
    remedy: str


class Line:
    """Sessions and children of this process on one server; used by many threads.

    ``told`` hears of a silence at once, from the thread that noticed it; whoever waited may have more to say.
    """

    def __init__(self) -> None:
        self.told: Callable[[str], None] = lambda _: None
        self._sessions: WeakSet[psycopg.Connection[Any]] = WeakSet()
        self._children: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._heard_at = float("-inf")
        self._silence: tuple[float, Silence] | None = None

    def add(self, session: psycopg.Connection[Any]) -> None:
        """One more session; it is forgotten with its last reference."""
        with self._lock:
            self._sessions.add(session)

    @contextmanager
    def tethered(self, end: Callable[[], None]) -> Iterator[None]:
        """A child has a session of its own for the length of the block; ``end`` ends it."""
        with self._lock:
            self._children[id(end)] = end
        try:
            yield
        finally:
            with self._lock:
                self._children.pop(id(end), None)

    def heard(self) -> None:
        """A child has just received something."""
        self._heard_at = time.monotonic()

    def heard_within(self, seconds: float) -> bool:
        """True when a child or, on Linux, the socket of any session has received something so recently."""
        if time.monotonic() - self._heard_at < seconds:
            return True
        return any(_received_within(session, seconds) for session in self._open())

    def cut(self, silence: Silence | None = None) -> None:
        """End all of it, so that whoever waits for an answer gets an error, which tells of ``silence``."""
        if silence is not None:
            self._silence = time.monotonic(), silence
        for session in self._open():
            with suppress(OSError, psycopg.Error), _socket_of(session) as line:
                line.shutdown(socket.SHUT_RDWR)
        with self._lock:
            children = list(self._children.values())
        for end in children:
            with suppress(OSError):
                end()
        if silence is not None:
            self.told(f"{silence.message}. {silence.remedy}")

    def silenced(self) -> ServerError | None:
        """The error of a session or child that broke because the line was cut for its silence; None otherwise."""
        if self._silence is None or time.monotonic() - self._silence[0] > _MEMORY_SECONDS:
            return None
        return ConnectionFailed(self._silence[1].message, remedy=self._silence[1].remedy, sqlstate="08006")

    def _open(self) -> list[psycopg.Connection[Any]]:
        with self._lock:
            return [session for session in self._sessions if not session.closed]


def _socket_of(session: psycopg.Connection[Any]) -> socket.socket:
    # A copy of the descriptor: the session's own may be closed by its thread at the same moment.
    return socket.socket(fileno=os.dup(session.fileno()))


def _received_within(session: psycopg.Connection[Any], seconds: float) -> bool:
    if sys.platform != "linux":
        return False
    with suppress(OSError, psycopg.Error), _socket_of(session) as line:
        told = line.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LAST_DATA_RECEIVED.stop)
        return int.from_bytes(told[_LAST_DATA_RECEIVED], sys.byteorder) < seconds * 1000
    return False
