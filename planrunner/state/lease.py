"""A lock in a cabinet: a text that its holder renews, and that whoever finds it too old may take over."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import LockedByAnother, PlanrunnerError
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.ports import Cabinet, Clock

HEARTBEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
_ATTEMPTS = 3


class Lease:
    """Renewed by a thread while it is held. Ages are told by the cabinet's clock, so two machines' may differ.

    A holder that was away for longer than ``expiry`` may have lost it: ``check`` then raises. With ``take_over`` a
    living holder loses it, too, once.
    """

    def __init__(
        self,
        cabinet: Cabinet,
        name: str,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        expiry: float = EXPIRY_SECONDS,
        take_over: bool = False,
    ) -> None:
        self._cabinet = cabinet
        self._name = name
        self._heartbeat = heartbeat
        self._expiry = expiry
        self._take_over = take_over
        self._lost = False

    @contextmanager
    def held(self, signature: str, clock: Clock) -> Iterator[None]:
        """Hold the lease for the length of the block; LockedByAnother carries the holder's signature."""
        tag = self._taken(signature, clock)
        ended = threading.Event()
        self._lost = False
        renewing = threading.Thread(
            target=self._renew, args=(signature, tag, ended), name="state lease", daemon=True
        )
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()

    def signature(self) -> str | None:
        """What the holder signed with; None when nobody holds it or the holder is dead."""
        found = self._cabinet.read(self._name)
        return found.text if found is not None and self._is_held(found.text, found.age) else None

    def check(self) -> None:
        """LockedByAnother when someone took the lease over meanwhile."""
        if self._lost:
            raise LockedByAnother(
                f"another run has taken the lock {self._name} over: it was told to, or this one was not heard of for"
                f" {self._expiry:.0f} s",
                remedy="See who works on the plan: planrunner status PLAN.",
            )

    def _is_held(self, text: str, age: float) -> bool:
        return bool(text) and age < self._expiry

    def _taken(self, signature: str, clock: Clock) -> str:
        for attempt in range(_ATTEMPTS):
            found = self._cabinet.read(self._name)
            if found is not None and self._is_held(found.text, found.age) and not self._take_over:
                raise LockedByAnother(found.text)
            tag = self._cabinet.write(self._name, signature, over=found.tag if found else None)
            if tag is not None:
                self._take_over = False
                failpoint("lock.lease_taken")
                return tag
            clock.sleep(0.1 * (attempt + 1))
        raise LockedByAnother(self.signature() or "")

    def _renew(self, signature: str, tag: str, ended: threading.Event) -> None:
        while not ended.wait(self._heartbeat):
            renewed = self._written(signature, tag)
            if renewed is None:
                self._lost = True
                return
            tag = renewed
        # An empty text is a free lock; over somebody else's nothing is written.
        self._written("", tag)

    def _written(self, text: str, tag: str) -> str | None:
        try:
            written = self._cabinet.write(self._name, text, over=tag)
            failpoint("lock.lease_renewed")
            if written is not None:
                return written
            # The reply to a write of ours may have been lost, and the write repeated below us.
            found = self._cabinet.read(self._name)
        except PlanrunnerError:
            # Away: the next beat tries again, and expiry is as it is.
            return tag
        return found.tag if found is not None and found.text == text else None
