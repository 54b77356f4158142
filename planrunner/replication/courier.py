"""The two sessions of one stream, reopened after a broken line, and what of a job was committed before it broke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from planrunner import remains
from planrunner.errors import (
    ServerError,
    SnapshotLost,
    SnapshotOutdated,
    StepConflict,
    ToolFailed,
)
from planrunner.postgres.wire import Wire
from planrunner.replication import outcome
from planrunner.replication.copy import Courier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Session
    from planrunner.replication.instant import Instant
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied, Ledger
    from planrunner.replication.workplace import Workplace

ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
# Rows and ledger are lost together in a crash of the target, so neither lies about the other. And the server is to
# notice within half a minute that a machine is gone: what it left in a transaction is in the way of whoever comes next.
_SETTINGS = """
SET synchronous_commit = off; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 20000
"""


def mendable(error: Exception) -> bool:
    """True when the same attempt may succeed once the line or the server is back."""
    if isinstance(error, SnapshotOutdated):
        return False
    if isinstance(error, ToolFailed):
        # Its words alone: a table may be named "connections".
        return any(word in (error.told or error.message) for word in ("connection", "terminat", "snapshot"))
    return isinstance(error, SnapshotLost) or outcome.broke(error)


class StreamSession:
    """Copies jobs over one session on each side; ``close`` gives them back."""

    def __init__(self, place: Workplace, snapshot: Instant) -> None:
        self._place = place
        self._snapshot = snapshot
        self._sessions: tuple[Session, Session] | None = None
        # Kept beside: a session that broke knows its process no more.
        self._writing_pid = 0

    def copied(self, job: Job) -> Mapping[str, Copied]:
        """Copy ``job``, over new sessions when the line breaks and the snapshot lives; what it is now in the ledger.

        After a lost reply the ledger is read, not guessed.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(job)
            except (ServerError, ToolFailed, StepConflict) as error:
                self._drop()
                if isinstance(error, StepConflict) and attempt == 1:
                    raise
                if not isinstance(error, StepConflict) and (not mendable(error) or attempt == ATTEMPTS):
                    raise
                self._place.clock.sleep(_PAUSE_SECONDS)
                if not self._snapshot.alive():
                    raise
                there = recorded(self._place.ledger, job)
                if there is not None:
                    return there
        raise AssertionError("the last attempt returns or raises")

    def _once(self, job: Job) -> Mapping[str, Copied]:
        courier = self._courier()
        unit = job.units[0]
        source, target = self._snapshot.server, self._place.target
        try:
            if job.chunk is not None:
                return {unit.id: courier.copy_chunk(unit, job.chunk)}
            if len(job.units) > 1:
                return courier.copy_batch(job.units)
            return {unit.id: courier.copy_whole(unit)}
        except psycopg.Error as error:
            with (source if courier.reading.failed else target).translated(f"copy {unit.id}"):
                raise error from None
            raise

    def _courier(self) -> Courier:
        if self._sessions is None:
            reader = self._snapshot.begin()
            try:
                writer = self._place.target.open(read_only=False)
                with self._place.target.translated("begin a stream of the copy"):
                    writer.execute(_SETTINGS)
            except BaseException:
                reader.close()
                raise
            remains.purpose(writer, "copies a unit")
            self._writing_pid = writer.info.backend_pid
            self._sessions = (reader, writer)
        reader, writer = self._sessions
        reading = Wire(reader, self._place.check)
        return Courier(place=self._place, snapshot=self._snapshot, reading=reading, writer=writer)

    def _drop(self) -> None:
        if self._sessions is None:
            return
        self.close()
        try:
            outcome.ended(self._place.target, self._place.clock, self._writing_pid)
        except ServerError:
            return  # away: whether it committed, the ledger tells when the target is back

    def close(self) -> None:
        """End both sessions; an open transaction is rolled back by its server."""
        for session in self._sessions or ():
            session.close()
        self._sessions = None


def recorded(ledger: Ledger, job: Job) -> Mapping[str, Copied] | None:
    """What the ledger has of ``job``, None unless it is done; a chunk is when its unit is."""
    if job.chunk is not None and (there := ledger.chunk(job.units[0].id, job.chunk.number)) is not None:
        return {job.units[0].id: there}
    units = ledger.units()
    found = {unit.id: units[unit.id] for unit in job.units if unit.id in units}
    return found if len(found) == len(job.units) else None
