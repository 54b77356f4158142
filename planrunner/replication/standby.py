"""A standby of the source as it stands: where its replay is, how it is stopped and goes on, how it is promoted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg import sql

from planrunner.errors import QueryFailed, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server

PAUSE_SINCE = 140000
PAUSE = "SELECT pg_wal_replay_pause()"
RESUME = "SELECT pg_wal_replay_resume()"
# Not with the function's own wait: its snapshot would hold up, and be cancelled by, the replay that comes before.
PROMOTE = "SELECT pg_promote(false)"
NO_WORD_OF_CLONES = (
    "this release of Aurora lacks aurora_volume_logical_start_lsn(), which tells where a clone begins"
)
WORD_OF_CLONES_SINCE = (
    "Update the cluster to Aurora PostgreSQL 12.10, 13.6, 14.3, 15.2 or later, which have it; or read on the source"
    " (from: primary)."
)
_PATIENCE_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LOOK: LiteralString = """
SELECT pg_is_in_recovery(), {end}::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       CASE WHEN pg_is_in_recovery() THEN {state} ELSE '' END,
       (SELECT tup_inserted + tup_updated + tup_deleted FROM pg_stat_database WHERE datname = current_database())
"""
_REPLAYED: LiteralString = "pg_last_wal_replay_lsn()"
# AWS: "Using logical replication to perform a major version upgrade for Aurora PostgreSQL". Whether Aurora takes the
# other function is not documented.
_CLONED: LiteralString = "aurora_volume_logical_start_lsn()"
_UNDEFINED = "42883"
# What Aurora answers to functions of the WAL before rds.logical_replication is on.
_NOT_LOGICAL = "55000"
_STATE: LiteralString = "pg_get_wal_replay_pause_state()"
# Before 14 a server tells only that it was asked to pause.
_OLD_STATE: LiteralString = "CASE WHEN pg_is_wal_replay_paused() THEN 'pause requested' ELSE 'not paused' END"
# A relation that a transaction of the source had locked: nobody reads it here before that one's end is replayed.
_LOCKED = """
SELECT DISTINCT format('%I.%I', n.nspname, c.relname) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_database d ON d.oid = l.database
WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND d.datname = current_database()
"""
_TIMELINE = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a server stands: ``end`` is the end of the last record that it has replayed, None where it tells none.

    Of an Aurora cluster's clone ``end`` is where the stream goes on from its volume as it was cloned.

    ``next_xid`` is the first transaction id that no session sees; ``state`` is that of the replay. ``written`` counts
    the rows that were written in this database, as far as its statistics have heard of them.
    """

    recovering: bool
    end: Lsn | None
    next_xid: int
    state: str
    written: int

    @property
    def paused(self) -> bool:
        """True when nothing is replayed until somebody lets it go on."""
        return self.state == "paused"


def look(server: Server, *, clone: bool = False) -> Standing:
    """Where the server stands now; ``clone``: it is an Aurora cluster's."""
    state = _STATE if server.version() >= PAUSE_SINCE else _OLD_STATE
    end = _CLONED if clone else _REPLAYED
    row = server.row(sql.SQL(_LOOK).format(state=sql.SQL(state), end=sql.SQL(end)))
    assert row is not None
    return Standing(
        recovering=row[0],
        end=Lsn.parse(row[1]) if row[1] else None,
        next_xid=row[2],
        state=row[3],
        written=row[4],
    )


def received(server: Server) -> Lsn | None:
    """How far a standby has received WAL, replayed or not; None where it does not tell."""
    found = server.value("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()::text END")
    return None if found is None else Lsn.parse(found)


def locked(server: Server) -> tuple[str, ...]:
    """The relations that nobody can read on a standby as it stands, because a transaction of the source holds them."""
    return tuple(str(row[0]) for row in server.rows(_LOCKED))


def pause(server: Server, clock: Clock) -> Lsn:
    """Stop the replay; returns the end of the last record that was replayed. StepFailed when it does not stop."""
    failpoint("standby.before_pause")
    with server.session() as session:
        session.execute(PAUSE)
    failpoint("standby.paused")
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while not look(server).paused:
        if clock.monotonic() > deadline:
            raise StepFailed(
                f"{server.side.value}: the replay does not stop: {look(server).state or 'it is no standby any more'}",
                remedy="Look at its log; SELECT pg_wal_replay_resume(); lets it go on. Run again to try once more.",
            )
        clock.sleep(_POLL_SECONDS)
    # Only now: what is read together with the state may be older than the pause.
    end = look(server).end
    assert end is not None
    return end


def resume(server: Server) -> None:
    """Let the replay go on; nothing happens where nothing is stopped or the server is no standby any more."""
    if look(server).state in ("", "not paused"):
        return
    failpoint("standby.before_resume")
    with server.session() as session:
        session.execute(RESUME)
    failpoint("standby.resumed")


def promote(server: Server, clock: Clock) -> None:
    """Make a primary of it; nothing happens where it is one. StepFailed when it does not become one."""
    if not look(server).recovering:
        return
    failpoint("standby.before_promote")
    with server.session() as session:
        session.execute(PROMOTE)
    failpoint("standby.promoted")
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while look(server).recovering:
        if clock.monotonic() > deadline:
            raise StepFailed(
                f"{server.side.value}: it was told to promote itself and is still a standby",
                remedy="Look at its log, then run again.",
            )
        clock.sleep(_POLL_SECONDS)


def recovered_to(server: Server) -> Lsn:
    """Where a restored server ended its recovery, before it wrote WAL of its own.

    The end of recovery is a checkpoint that begins right there; a later one begins further on. StepFailed where the
    server does not tell, or the two contradict each other.
    """
    end = look(server).end
    if end is None:
        raise StepFailed(
            f"{server.side.value}: it was started again since it was restored, and does not tell any more where it stood",
            remedy="`planrunner cleanup` removes it; then run again.",
        )
    checkpoint = Lsn.parse(server.value("SELECT redo_lsn::text FROM pg_control_checkpoint()"))
    if checkpoint < end:
        raise StepFailed(
            f"{server.side.value}: it says that it has recovered up to {end}, its control file knows only {checkpoint}",
            remedy="`planrunner cleanup` removes it; then run again.",
        )
    return end


def tells_where_cloned(server: Server) -> bool:
    """Whether this release of Aurora has the function that tells where a volume was cloned.

    It is called: not every function of Aurora's stands in the catalogue.
    """
    try:
        server.value(sql.SQL("SELECT {}::text").format(sql.SQL(_CLONED)))
    except QueryFailed as error:
        if error.sqlstate not in (_UNDEFINED, _NOT_LOGICAL):
            raise
        return error.sqlstate == _NOT_LOGICAL
    return True


def cloned_at(server: Server) -> Lsn:
    """Where the stream goes on from the volume that a clone was made of.

    StepFailed where the server does not tell, or follows another one.
    """
    if not tells_where_cloned(server):
        raise StepFailed(f"{server.side.value}: {NO_WORD_OF_CLONES}", remedy=WORD_OF_CLONES_SINCE)
    now = look(server, clone=True)
    if now.end is None or now.recovering:
        raise StepFailed(
            f"{server.side.value}: the clone "
            + (
                "does not tell where it was cloned"
                if now.end is None
                else "can only be read: its writer is another"
            ),
            remedy="`planrunner cleanup` removes it; then run again.",
        )
    return now.end


def switched_at(server: Server) -> Lsn | None:
    """Where the timeline that a promoted server writes began, by its own history; None on the first timeline.

    A line of the history is the former timeline, where it was left, and why.
    """
    timeline = int(server.value(_TIMELINE))
    if timeline == 1:
        return None
    session = server.open(read_only=True, replication="database")
    try:
        with server.translated("read the timeline's history"):
            row = session.execute(sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline))).fetchone()
    finally:
        session.close()
    assert row is not None
    text = row[1] if isinstance(row[1], str) else bytes(row[1]).decode()
    lines = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return Lsn.parse(lines[-1][1])
