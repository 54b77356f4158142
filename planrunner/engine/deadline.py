"""Ends the work of a step that takes longer than the plan allows, the way a signal ends it."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import Interrupted, PlanrunnerError, StepTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from planrunner.engine.interrupts import Interruption
    from planrunner.ports import Clock

# How long the stopped work may take to put things in order before the lines to the servers are cut.
GRACE_SECONDS = 20.0


class _TimedOut(StepTimedOut, KeyboardInterrupt):
    # psycopg cancels the running statement on the server for KeyboardInterrupt only.
    pass


@contextmanager
def limited(
    seconds: float,
    error: tuple[str, str],
    *,
    interruption: Interruption,
    clock: Clock,
    sever: Callable[[], None],
) -> Iterator[None]:
    """Let the block take ``seconds``; then StepTimedOut with that message and remedy ends it.

    Work that does not end by itself within a while after that loses its connections by ``sever``. No-op outside
    the main thread, where no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timed_out = _TimedOut(error[0], remedy=error[1])
    alarm = _Alarm(clock.monotonic() + seconds, clock, lambda: interruption.strike(timed_out), sever)
    with alarm.set():
        try:
            yield
        except PlanrunnerError as other:
            # What a step says while it is stopped is not the cause; and nobody above is to take it for a Ctrl-C.
            if alarm.rung and not isinstance(other, Interrupted):
                raise StepTimedOut(error[0], remedy=error[1]) from other
            raise
        finally:
            interruption.calm()


class _Alarm:
    """SIGALRM at the deadline, and again after each grace until the block is left."""

    def __init__(
        self, until: float, clock: Clock, strike: Callable[[], None], sever: Callable[[], None]
    ) -> None:
        self._until = until
        self._clock = clock
        self._strike = strike
        self._sever = sever
        self.rung = False

    @contextmanager
    def set(self) -> Iterator[None]:
        """Set the alarm for the length of the block; whoever had set one before gets it back."""
        began = self._clock.monotonic()
        former = signal.signal(signal.SIGALRM, self._ring)
        remaining, interval = signal.setitimer(signal.ITIMER_REAL, max(0.001, self._until - began))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
            if remaining:
                left = remaining - (self._clock.monotonic() - began)
                signal.setitimer(signal.ITIMER_REAL, max(0.001, left), interval)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        left = self._until - self._clock.monotonic()
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        if self.rung:
            self._sever()
            return
        self.rung = True
        self._strike()
