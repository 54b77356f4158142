"""Turns SIGINT, SIGTERM and SIGHUP into an Interrupted error at a point where everything is on record."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from planrunner import remains
from planrunner.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from planrunner.errors import PlanrunnerError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A terminal that goes away, or a shell that passes a signal on, may deliver one signal twice.
_SAME_SECONDS = 0.3
_SHOW_CURSOR = b"\x1b[?25h"


class _Signalled(Interrupted, KeyboardInterrupt):
    # psycopg cancels the running statement on the server for KeyboardInterrupt only.
    pass


class Interruption:
    """Lets a signal through only while a step works; records and files are always written whole.

    The first signal ends the work safely. A second SIGINT or SIGTERM stops at once, whatever is under way, and
    lists what is left where. A lost terminal (SIGHUP) is never told twice. ``onward`` are the command lines that go
    on and that clean up.
    """

    def __init__(self) -> None:
        self._open = False
        self._received: int | None = None
        self._struck: PlanrunnerError | None = None
        self._at = 0.0
        self.onward: tuple[str, str] = ("planrunner run PLAN", "planrunner cleanup PLAN")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals for the length of the block; no-op outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # nohup has its reason.
        heard = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self._receive) for number in heard}
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
        if number == signal.SIGHUP:
            _leave_terminal()
        if self._received is not None:
            again = number == self._received and time.monotonic() - self._at < _SAME_SECONDS
            if number != signal.SIGHUP and not again:
                self._stop_at_once(number)
            return
        self._received, self._at = number, time.monotonic()
        if self._open:
            self._open = False
            raise _interrupted(number)

    def _stop_at_once(self, number: int) -> NoReturn:
        run, cleanup = self.onward
        left = [f"  {line}" for line in remains.listed()] or ["  nothing that is known of"]
        lines = [
            f"stopped at once by a second signal ({signal.Signals(number).name}); what was finished stays finished.",
            "What is left:",
            *left,
            "A transaction that is open is rolled back by its server once it notices; one that is being committed, or",
            "an index that is being built, may still go through: the next run finds out.",
            f"Go on with: {run}",
            f"Or remove everything: {cleanup}",
        ]
        for child in remains.children():
            if child.ours_to_end:
                with suppress(OSError):
                    os.kill(child.pid, signal.SIGTERM)
        with suppress(OSError):
            os.write(2, ("\n".join(["", *lines, ""])).encode())
        if sys.stdout is not None and os.isatty(1):
            # A display that is redrawn hides it.
            with suppress(OSError):
                os.write(1, _SHOW_CURSOR)
        os._exit(Interrupted.exit_code)


def _leave_terminal() -> None:
    """Let what would be written to a terminal that is gone go nowhere: the run must end in its own way."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            with suppress(OSError):
                if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                    os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _interrupted(number: int) -> Interrupted:
    return _Signalled(f"interrupted by {signal.Signals(number).name}; what was finished stays finished")
