"""What a generation is copied from: a server that shows the database as of one instant, to every session alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.freezing import Stand


class Instant(Protocol):
    """One instant of the source: under a snapshot that is held, or on a server that stands still."""

    @property
    def generation(self) -> int:
        """Whose slot goes on from it."""
        ...

    @property
    def server(self) -> Server:
        """Where it is read."""
        ...

    @property
    def name(self) -> str | None:
        """The snapshot that a session has to import now, None where each sees it anyway; SnapshotLost when it is gone."""
        ...

    @property
    def token(self) -> str | Stand:
        """How another process finds it: a snapshot by its name, a server by where it stands; SnapshotLost as ``name``."""
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
