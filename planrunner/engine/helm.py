"""What operators ask of a run that is at work: read from its state's home, told when it changes, and waited for."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.engine.events import EventKind
from planrunner.errors import PlanrunnerError
from planrunner.state.control import LIMITS, Control

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.engine.interrupts import Interruption
    from planrunner.engine.setup import Setup
    from planrunner.steering import Steer

LOOK_SECONDS = 1.0


class Helm:
    """Looks for wishes about once a second, by itself; whoever asks gets the last ones at no cost.

    A home that can't be read leaves the last wishes standing; that is told once.
    """

    def __init__(self, setup: Setup) -> None:
        self._home = setup.home
        self._journal = setup.journal
        self._clock = setup.clock
        self._resume = setup.command("resume")
        self._control = Control()
        self._blind = False
        self._ended = threading.Event()

    def steer(self) -> Steer:
        """What is asked now."""
        return self._control.steer

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look for the length of the block, the first time before it begins."""
        if self._home is None:
            yield
            return
        self._look()
        thread = threading.Thread(target=self._watch, name="helm", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def wait(self, interruption: Interruption) -> None:
        """Return once nobody asks for a pause; a signal ends the waiting."""
        while self._control.steer.paused:
            with interruption.interruptible():
                self._clock.sleep(0.2)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        assert self._home is not None
        try:
            found = self._home.control()
        except PlanrunnerError as error:
            if not self._blind:
                text = f"what operators ask for can't be read; the last wishes stand: {error.message}"
                self._journal.write(EventKind.WARNING, text)
            self._blind = True
            return
        self._blind = False
        if found.steer != self._control.steer:
            before, self._control = self._control, found
            self._tell(before, found)

    def _tell(self, before: Control, now: Control) -> None:
        fields = {"paused": now.steer.paused, **{name: getattr(now.steer, name) for name in LIMITS}}
        for sentence in self._sentences(before, now):
            self._journal.write(EventKind.DECISION, sentence, fields={"control": fields, "who": now.who})

    def _sentences(self, before: Control, now: Control) -> Iterator[str]:
        if now.steer.paused and not before.steer.paused:
            yield (
                f"paused by {now.who}: what is in hand is finished, nothing new is begun; slots stay and keep WAL"
                f" on the source. Go on with: {self._resume}"
            )
        if before.steer.paused and not now.steer.paused:
            yield f"resumed by {now.who}"
        changed = [name for name in LIMITS if getattr(before.steer, name) != getattr(now.steer, name)]
        if changed:
            told = (f"{name}={_value(getattr(now.steer, name))}" for name in changed)
            yield f"throttled by {now.who}: {', '.join(told)}"


def _value(limit: int | None) -> str:
    return "plan" if limit is None else str(limit)
