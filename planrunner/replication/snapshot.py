"""The exported snapshot of a generation, held open while it is copied.

A slot made with SNAPSHOT 'export' gives a snapshot that is exactly the slot's starting point. Keeper sessions
import it and re-export it at once, so that it outlives the replication session; a keeper that dies is replaced
from one that lives, and only with the last of them is the snapshot gone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner import remains
from planrunner.errors import QueryFailed, ServerError, SnapshotLost
from planrunner.failpoints import failpoint
from planrunner.replication import polling_horizon, slots

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.polling_horizon import Horizon
    from planrunner.replication.workspace import Workspace

KEEPERS = 2
LOOK_SECONDS = 5.0
_GONE = frozenset({"22023", "42704", "55000"})  # what servers say of a snapshot that is not there


@dataclass(frozen=True, kw_only=True)
class NamedSnapshot:
    """One that another process holds: whether it lives shows when somebody enters it."""

    server: Server
    generation: int
    name: str

    @property
    def token(self) -> str:
        """Its name."""
        return self.name

    def alive(self) -> bool:
        """Nothing else is known here."""
        return True

    def begin(self) -> Session:
        """Open a session inside the snapshot, which the caller closes; SnapshotLost when it is gone."""
        return _entered(self)

    def confirm(self) -> None:
        """Nothing to ask: whoever has imported the snapshot sees nothing else."""

    def close(self) -> None:
        """Whoever holds it gives it back."""


class _Keeper:
    """One session that has imported the snapshot and exports it again under ``name``."""

    def __init__(self, session: Session, relayed: str) -> None:
        self.session = session
        begin_in(session, relayed)
        row = session.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        self.name: str = row[0]

    def lives(self) -> bool:
        try:
            self.session.execute("SELECT 1")
        except psycopg.Error:
            self.session.close()
            return False
        return True


class HeldSnapshot:
    """A generation's snapshot and the sessions that keep it alive; closed, it is gone for good."""

    def __init__(self, source: Server, generation: int, keepers: list[_Keeper], exporter: Session) -> None:
        self.generation = generation
        self._source = source
        self._keepers = keepers
        self._exporter = exporter
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"keep-{generation}", daemon=True)
        self._thread.start()

    @property
    def server(self) -> Server:
        """The source."""
        return self._source

    @property
    def name(self) -> str:
        """The name under which a session can import the snapshot now; SnapshotLost when there is none."""
        with self._lock:
            if not self._keepers:
                raise lost(self.generation)
            return self._keepers[0].name

    @property
    def token(self) -> str:
        """The name of now."""
        return self.name

    def alive(self) -> bool:
        """Ask the keepers; True while one of them still has its transaction open."""
        with self._lock:
            self._tend()
            return bool(self._keepers)

    def begin(self) -> Session:
        """Open a session inside the snapshot, which the caller closes; SnapshotLost when it is gone."""
        return _entered(self)

    def confirm(self) -> None:
        """Nothing to ask: whoever has imported the snapshot sees nothing else."""

    def close(self) -> None:
        """End the keepers; importers that have begun keep what they see."""
        self._ended.set()
        with self._lock:
            for keeper in self._keepers:
                keeper.session.close()
            self._keepers = []
            self._exporter.close()
        self._thread.join()

    def _watch(self) -> None:
        # Also keeps firewalls between from forgetting sessions that would say nothing for hours.
        while not self._ended.wait(LOOK_SECONDS):
            with self._lock:
                self._tend()

    def _tend(self) -> None:
        self._keepers = [keeper for keeper in self._keepers if keeper.lives()]
        while 0 < len(self._keepers) < KEEPERS and not self._ended.is_set():
            try:
                self._keepers.append(_keeper(self._source, self._keepers[0].name))
            except (ServerError, psycopg.Error):
                return  # no room or no route for a second one now; the next look tries again


def _keeper(source: Server, relayed: str) -> _Keeper:
    session = source.open(read_only=False)
    try:
        made = _Keeper(session, relayed)
        remains.purpose(session, "holds the copy's snapshot")
    except BaseException:
        session.close()
        raise
    return made


def _entered(snapshot: HeldSnapshot | NamedSnapshot) -> Session:
    for _ in range(KEEPERS):
        session = snapshot.server.open(read_only=False)
        try:
            with snapshot.server.translated("enter the snapshot"):
                begin_in(session, snapshot.name)
        except BaseException as error:
            session.close()
            if not isinstance(error, QueryFailed) or error.sqlstate not in _GONE:
                raise
            # The keeper of that name has ended; another may hold the snapshot under its own.
            if not snapshot.alive():
                raise lost(snapshot.generation) from error
        else:
            return session
    raise lost(snapshot.generation)


def lost(generation: int) -> SnapshotLost:
    """The error of a generation whose last keeper is gone."""
    return SnapshotLost(
        f"source: the snapshot of generation {generation} is gone with the sessions that held it",
        remedy="Run again: what was copied stays copied, the rest goes to another generation.",
    )


def capture(workspace: Workspace, generation: int) -> HeldSnapshot:
    """Make the generation's slot and hold its snapshot; a failure leaves neither sessions nor slot."""
    source = workspace.source
    # Slot creation waits for writers without end, and of all timeouts only this one stops it.
    replication = source.open(read_only=False, replication="database", options="-c lock_timeout=3000")
    keepers: list[_Keeper] = []
    try:
        with source.translated("create the replication slot"):
            failpoint("snapshot.before_slot")
            relayed = slots.create_exporting(workspace, replication, generation)
            failpoint("snapshot.slot_made")
        with source.translated("hold the snapshot"):
            for _ in range(KEEPERS):
                keepers.append(_keeper(source, relayed))  # those made before a failure are closed
                relayed = keepers[-1].name
    except BaseException:
        for session in (replication, *(keeper.session for keeper in keepers)):
            session.close()
        slots.drop(workspace, generation)
        raise
    failpoint("snapshot.held")
    return HeldSnapshot(source, generation, keepers, replication)


def export(workspace: Workspace, generation: int) -> tuple[HeldSnapshot, Horizon]:
    """Hold a snapshot to which no slot belongs, with its horizon; a failure leaves no session."""
    source = workspace.source
    exporter = source.open(read_only=False)
    keepers: list[_Keeper] = []
    try:
        with source.translated("hold a snapshot"):
            failpoint("snapshot.before_export")
            exporter.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            horizon = polling_horizon.now(exporter)
            row = exporter.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            relayed = str(row[0])
            for _ in range(KEEPERS):
                keepers.append(_keeper(source, relayed))  # those made before a failure are closed
                relayed = keepers[-1].name
    except BaseException:
        for session in (exporter, *(keeper.session for keeper in keepers)):
            session.close()
        raise
    return HeldSnapshot(source, generation, keepers, exporter), horizon


def begin_in(session: Session, snapshot: str) -> None:
    """Begin a read-only transaction that sees exactly ``snapshot``."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
