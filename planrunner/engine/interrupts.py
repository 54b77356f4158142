"""Turns SIGINT and SIGTERM into an Interrupted error at a point where everything is on record."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from planrunner.errors import PlanrunnerError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Signalled(Interrupted, KeyboardInterrupt):
    # psycopg cancels the running statement on the server for KeyboardInterrupt only.
    pass


class Interruption:
    """Lets a signal through only while a step works; records and files are always written whole.

    The second signal gets the system's own treatment, so that an unwinding that hangs can be ended.
    """

    def __init__(self) -> None:
        self._open = False
        self._received: int | None = None
        self._struck: PlanrunnerError | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals for the length of the block; no-op outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch of work that a signal may end at any instruction."""
        self.check()
        try:
            self._open = True
            yield
        finally:
            self._open = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A stretch inside ``interruptible`` that must not be torn; a signal waits for its end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former, self._open = self._open, False
        try:
            yield
        finally:
            self._open = former
        if former:
            self.check()

    def check(self) -> None:
        """Raise Interrupted when a signal has come, and what struck otherwise."""
        if self._received is not None:
            raise _interrupted(self._received)
        if self._struck is not None:
            raise self._struck

    def strike(self, error: PlanrunnerError) -> None:
        """End the work by ``error`` as a signal would: at once where it may be ended, else at its next check.

        Called from a signal's handler in the main thread.
        """
        self._struck = error
        if self._open:
            self._open = False
            raise error

    def calm(self) -> None:
        """Forget what struck."""
        self._struck = None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        for each in _SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        if self._open:
            self._open = False
            raise _interrupted(number)


def _interrupted(number: int) -> Interrupted:
    return _Signalled(f"interrupted by {signal.Signals(number).name}; what was finished stays finished")
