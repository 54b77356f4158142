"""A state in a cabinet that several machines reach: a bucket, or a table."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import LockedByAnother, StateUnfit
from planrunner.failpoints import failpoint
from planrunner.state import control as controls
from planrunner.state import lock as locks
from planrunner.state.codec import from_json, to_json
from planrunner.state.control import Control
from planrunner.state.succession import BACKUPS, overtaken, refuse_older, refuse_unrelated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.ports import Cabinet, Clock, Signed
    from planrunner.state.lock import Holder
    from planrunner.state.record import State


class RemoteHome:
    """Keeps the state under ``name``, its five previous serials under ``NAME.backup.SERIAL``.

    ``NAME.control.json`` holds what operators ask for, ``NAME.events/FIRST`` the events in parts that begin with
    that serial. Every write of the state names the one it replaces, so of two writers one is refused.
    """

    def __init__(self, cabinet: Cabinet, name: str, lock: Signed, *, place: str) -> None:
        self._cabinet = cabinet
        self._name = name
        self._lock = lock
        self._place = place
        self._tag: str | None = None
        self._text: str | None = None
        self._last: State | None = None
        self._backups: list[str] | None = None

    @property
    def place(self) -> str:
        """Its URL."""
        return self._place

    def load(self) -> State | None:
        """The saved state; None when there is neither a state nor a backup.

        StateUnfit for a damaged or vanished one or an older copy (names the newest good backup), and for a newer
        format.
        """
        # Before the state itself: one that is written meanwhile is only newer.
        newest = next((state for _, state in self._good_backups()), None)
        found = self._cabinet.read(self._name)
        if found is None:
            if self._good_backup() is not None:
                raise StateUnfit(
                    f"state {self._place} is gone, its backups are there", remedy=self._restoring()
                )
            return None
        try:
            loaded = from_json(found.text)
        except StateUnfit as error:
            raise StateUnfit(
                f"state {self._place}: {error.message}", remedy=error.remedy or self._restoring()
            ) from error
        refuse_older(loaded, newest, f"state {self._place}", self._restoring())
        self._tag, self._text, self._last = found.tag, found.text, loaded
        return loaded

    def save(self, state: State) -> None:
        """Replace the state that was read or written here last; LockedByAnother when another one is there."""
        self._lock.check()
        text = to_json(state)
        refuse_unrelated(self._last, state, f"state {self._place}")
        self._keep_previous()
        failpoint("state.before_remote_write")
        tag = self._cabinet.write(self._name, text, over=self._tag)
        failpoint("state.remote_written")
        if tag is None:
            found = self._cabinet.read(self._name)
            # The reply to our own write may have been lost, and the write repeated below us.
            if found is None or found.text != text:
                raise overtaken(f"state {self._place}")
            tag = found.tag
        self._tag, self._text, self._last = tag, text, state

    def history(self) -> tuple[State, ...]:
        """The backups that can be read, newest first."""
        return tuple(state for _, state in self._good_backups())

    def set_aside(self) -> str | None:
        """Copy the text to the first free ``NAME.aside.N``."""
        self._lock.check()
        self._tag = self._text = self._last = None
        found = self._cabinet.read(self._name)
        if found is None:
            return None
        taken = set(self._cabinet.names(f"{self._name}.aside."))
        aside = next(n for i in itertools.count(1) if (n := f"{self._name}.aside.{i}") not in taken)
        self._cabinet.put(aside, found.text)
        failpoint("state.remote_set_aside")
        self._tag = found.tag
        return f"{self._place}{aside.removeprefix(self._name)}"

    @contextmanager
    def locked(self, clock: Clock) -> Iterator[None]:
        """Hold the lock for the length of the block; LockedByAnother names who has it."""
        with self._taken(clock):
            yield

    @contextmanager
    def _taken(self, clock: Clock) -> Iterator[None]:
        held = self._lock.held(locks.myself(clock).to_json(), clock)
        try:
            held.__enter__()
        except LockedByAnother as error:
            raise locks.refusal(locks.from_json(error.message), f"lock of {self._place}") from error
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def holder(self) -> Holder | None:
        """Who holds the lock, on whatever machine; None when nobody does."""
        signature = self._lock.signature()
        return None if signature is None else locks.from_json(signature)

    def control(self) -> Control:
        """What operators ask of the run."""
        found = self._cabinet.read(f"{self._name}.control.json")
        return Control() if found is None else controls.from_json(found.text, f"{self._place}.control.json")

    def steer(self, control: Control) -> None:
        """Ask it; the last one who asks counts."""
        self._cabinet.put(f"{self._name}.control.json", controls.to_json(control))
        failpoint("control.remote_written")

    def events(self) -> bytes | None:
        """Every event that was pushed, oldest first."""
        found = (self._cabinet.read(name) for name in self._cabinet.names(f"{self._name}.events/"))
        return "".join(kept.text for kept in found if kept is not None).encode()

    def push_events(self, first: int, lines: bytes) -> None:
        """Keep the part of the events that begins with serial ``first``."""
        self._cabinet.put(f"{self._name}.events/{first:09d}", lines.decode())
        failpoint("mirror.pushed")

    def _keep_previous(self) -> None:
        if self._text is None or self._last is None:
            return
        if self._backups is None:
            self._backups = list(self._cabinet.names(self._backup("")))
        name = self._backup(f"{self._last.serial:09d}")
        if name not in self._backups:
            self._cabinet.put(name, self._text)
            self._backups.append(name)
            failpoint("state.remote_backed_up")
        while len(self._backups) > BACKUPS:
            self._cabinet.remove(self._backups.pop(0))

    def _backup(self, serial: str) -> str:
        return f"{self._name}.backup.{serial}"

    def _good_backups(self) -> Iterator[tuple[str, State]]:
        for name in reversed(self._cabinet.names(self._backup(""))):
            found = self._cabinet.read(name)
            try:
                if found is not None:
                    yield name, from_json(found.text)
            except StateUnfit:
                continue

    def _good_backup(self) -> str | None:
        return next((name for name, _ in self._good_backups()), None)

    def _restoring(self) -> str:
        good = self._good_backup()
        if good is None:
            return (
                "No backup of it can be read either. Move it away to start from what the servers show; steps that are"
                " done there will find nothing missing."
            )
        return f"Restore the newest good backup: {self._cabinet.restoring(good, self._name)}"
