"""The exported snapshot of a generation, held open while it is copied.

A slot made with SNAPSHOT 'export' gives a snapshot that is exactly the slot's starting point. Two
keeper sessions import it and re-export it at once, so that it outlives the replication session.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.replication import slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.workspace import Workspace

KEEPERS = 2


class HeldSnapshot:
    """A snapshot by name, and the sessions that keep it alive; closed, it is gone for good."""

    def __init__(self, generation: int, name: str, sessions: tuple[Session, ...]) -> None:
        self.generation = generation
        self.name = name
        self._sessions = sessions

    def alive(self) -> bool:
        """True while a keeper still has its transaction open."""
        return any(not session.closed for session in self._sessions)

    def close(self) -> None:
        """End the keepers; importers that have begun keep what they see."""
        for session in self._sessions:
            session.close()


def capture(workspace: Workspace, generation: int) -> HeldSnapshot:
    """Make the generation's slot and hold its snapshot; a failure leaves neither sessions nor slot."""
    source = workspace.source
    # Slot creation waits for writers without end, and of all timeouts only this one stops it.
    replication = source.open(read_only=False, replication="database", options="-c lock_timeout=3000")
    opened = [replication]
    try:
        with source.translated("create the replication slot"):
            exported = slots.create_exporting(workspace, replication, generation)
        relayed = exported
        for _ in range(KEEPERS):
            keeper = source.open(read_only=False)
            opened.append(keeper)
            with source.translated("hold the snapshot"):
                begin_in(keeper, relayed)
                row = keeper.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            relayed = row[0]
    except BaseException:
        for session in opened:
            session.close()
        slots.drop(workspace, generation)
        raise
    return HeldSnapshot(generation, relayed, (*opened[1:], replication))


def begin_in(session: Session, snapshot: str) -> None:
    """Begin a read-only transaction that sees exactly ``snapshot``."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))


@contextmanager
def reading(source: Server, snapshot: str) -> Iterator[Session]:
    """A session inside the snapshot for the length of the block."""
    with source.session() as session:
        begin_in(session, snapshot)
        yield session
