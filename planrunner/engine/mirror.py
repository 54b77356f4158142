"""Copies a run's events to its state's home, so that status and report work on every machine."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.engine.events import parsed
from planrunner.errors import PlanrunnerError, StateUnfit
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.engine.events import Event
    from planrunner.ports import StateHome

PUSH_SECONDS = 5.0
# A part is written anew with each push until it is full.
PART_BYTES = 256 << 10


class Mirror:
    """Hears every event and pushes them from a thread; what can't be pushed now is pushed with the next ones."""

    def __init__(self, home: StateHome) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._first = 0
        self._pushed = 0
        self._ended = threading.Event()

    def hear(self, event: Event) -> None:
        """Take one event."""
        with self._lock:
            self._first = self._first or event.serial
            self._lines.append(event.to_json().encode() + b"\n")

    @contextmanager
    def pushing(self) -> Iterator[None]:
        """Push for the length of the block, and the rest at its end."""
        thread = threading.Thread(target=self._watch, name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self.push()

    def push(self) -> bool:
        """Push what is new; False when the home can't be reached now."""
        with self._lock:
            lines, first, count = b"".join(self._lines), self._first, len(self._lines)
        if count == self._pushed:
            return True
        try:
            self._home.push_events(first, lines)
        except PlanrunnerError:
            return False
        with self._lock:
            self._pushed = count
            if len(lines) > PART_BYTES:
                self._lines = self._lines[count:]
                self._first, self._pushed = first + count, 0
        return True

    def _watch(self) -> None:
        while not self._ended.wait(PUSH_SECONDS):
            self.push()


@contextmanager
def mirrored(home: StateHome, journal: Path) -> Iterator[Mirror | None]:
    """A mirror of the journal at ``journal``; None where the home needs none.

    First both are made alike: a run on another machine may have been the last, or a push may have failed.
    """
    there = home.events()
    if there is None:
        yield None
        return
    mirror = Mirror(home)
    _level(mirror, there, journal)
    with mirror.pushing():
        yield mirror


def _level(mirror: Mirror, there: bytes, journal: Path) -> None:
    last = max((event.serial for event in parsed(there.splitlines())), default=0)
    here = tuple(parsed(journal.read_bytes().splitlines())) if journal.exists() else ()
    if last > max((event.serial for event in here), default=0):
        _replace(journal, there)
        return
    for event in here:
        if event.serial > last:
            mirror.hear(event)


def _replace(journal: Path, lines: bytes) -> None:
    temporary = journal.with_name(f".{journal.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(lines)
        temporary.replace(journal)
        failpoint("mirror.levelled")
    except OSError as error:
        raise StateUnfit(
            f"cannot write journal {journal}: {error.strerror}", remedy="Make its folder and file writable."
        ) from error
