"""What a generation is copied from: a server that shows the database as of one instant, to every session alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session


class Instant(Protocol):
    """One instant of the source: under a snapshot that is held, or on a server that stands still."""

    generation: int

    @property
    def server(self) -> Server:
        """Where it is read."""
        ...

    @property
    def name(self) -> str | None:
        """The snapshot that a session has to import now, None where each sees it anyway; SnapshotLost when it is gone."""
        ...

    def alive(self) -> bool:
        """True while sessions that begin now see it."""
        ...

    def begin(self) -> Session:
        """Open a session in a read-only transaction that sees exactly it, which the caller closes; SnapshotLost."""
        ...

    def confirm(self) -> None:
        """SnapshotLost unless everything that was read up to now is as of it; call it before what was read counts."""
        ...

    def close(self) -> None:
        """Give it back; safe to call twice."""
        ...
