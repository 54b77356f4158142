"""Views: a snapshot of either side, held by two sessions and entered by others, so that all of them see the same rows."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication.lanes import lane
from planrunner.replication.snapshot import begin_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.lanes import Lane


@dataclass(frozen=True, kw_only=True)
class View:
    """The names of both snapshots."""

    source: str
    target: str


@contextmanager
def held(source: Server, target: Server) -> Iterator[View]:
    """Both sides as they are now, for the length of the block; QueryFailed where one can't be held."""
    with lane(source, target) as mine:
        yield View(source=_exported(source, mine.ours), target=_exported(target, mine.theirs))


@contextmanager
def entered(used: Lane, view: View) -> Iterator[None]:
    """Everything that is asked over the lane in the block sees ``view``; QueryFailed when that is gone."""
    sides = ((used.source, used.ours, view.source), (used.target, used.theirs, view.target))
    for server, session, name in sides:
        with server.translated("enter the snapshot"):
            begin_in(session, name)
    yield
    for server, session, _ in sides:
        with server.translated():
            session.execute("COMMIT")


def _exported(server: Server, session: Session) -> str:
    with server.translated("hold a snapshot"):
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = session.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return str(row[0])
