"""The protocols that have more than one implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from planrunner.state.record import State


class Clock(Protocol):
    """Time as the runner sees it."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class StateStore(Protocol):
    """Keeps the operator's view of a run; see ``state.file`` and ``state.memory``."""

    def load(self) -> State | None:
        """The last saved state, None when there never was one; StateUnfit when it can't be read."""
        ...

    def save(self, state: State) -> None:
        """Make ``state`` the last saved one, whole or not at all."""
        ...
