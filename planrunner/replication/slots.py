"""Replication slots on the source: making one waits for writers, losing one is told, dropping is sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg import errors, sql

from planrunner import remains
from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

PATIENCE_SECONDS = 600.0
# From this version on a slot can be copied to standbys and outlive a failover.
FAILOVER_SINCE = 170000
_BLOCKERS = """
SELECT format('pid %s (%s, open for %s s): %s', pid, coalesce(nullif(application_name, ''), usename::text),
              extract(epoch FROM clock_timestamp() - xact_start)::int, left(regexp_replace(query, '\\s+', ' ', 'g'), 60))
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL SELECT format('prepared transaction %L, prepared at %s', gid, prepared) FROM pg_prepared_xacts
"""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A slot as the server shows it.

    ``retained`` is the WAL it keeps and ``behind`` the WAL its reader has not confirmed, both in bytes;
    ``room`` is how much more may be written before the server gives it up, None when it never will.
    ``lost`` says why the server has given it up, None while it serves. ``reader`` names who reads it.
    """

    name: str
    active_pid: int | None
    confirmed: Lsn | None
    wal_status: str | None
    retained: int
    behind: int
    room: int | None
    lost: str | None
    reader: str | None
    failover: bool
    # When its reader last replied, by the reader's own clock; None while the WAL sender works or may not be seen.
    replied: str | None = None


# to_jsonb: invalidation_reason and failover came with 17, conflicting with 16; an older server shows none.
_SLOTS = """
SELECT s.slot_name::text, s.active_pid, s.confirmed_flush_lsn::text, s.wal_status,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn), 0)::bigint,
       s.safe_wal_size,
       CASE WHEN to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL THEN to_jsonb(s) ->> 'invalidation_reason'
            WHEN s.wal_status = 'lost' THEN 'wal_removed'
            WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'rows_removed'
            WHEN s.confirmed_flush_lsn IS NOT NULL AND s.restart_lsn IS NULL THEN 'wal_removed' END,
       (SELECT coalesce(nullif(a.application_name, ''), a.usename::text) FROM pg_stat_activity a
        WHERE a.pid = s.active_pid),
       coalesce((to_jsonb(s) ->> 'failover')::boolean, false),
       (SELECT coalesce(r.reply_time::text, 'never') FROM pg_stat_replication r JOIN pg_stat_activity a ON a.pid = r.pid
        WHERE r.pid = s.active_pid AND starts_with(a.wait_event, 'WalSender'))
FROM pg_replication_slots s
WHERE starts_with(s.slot_name::text, %s) AND s.database = current_database()
"""


def existing(source: Server, names: Names) -> dict[int, Slot]:
    """Our slots by generation, in one query."""
    return by_generation(shown(source, names.prefix), names)


def by_generation(found: Mapping[str, Slot], names: Names) -> dict[int, Slot]:
    """Those of the slots, which are given by name, that carry a stream."""
    return {g: slot for slot in found.values() if (g := names.generation(slot.name)) is not None}


def shown(server: Server, prefix: str) -> dict[str, Slot]:
    """The slots of this database whose names begin with ``prefix``, by name."""
    found = (
        Slot(
            name=r[0],
            active_pid=r[1],
            confirmed=Lsn.parse(r[2]) if r[2] else None,
            wal_status=r[3],
            retained=r[4],
            behind=r[5],
            room=r[6],
            lost=r[7],
            reader=r[8],
            failover=r[9],
            replied=r[10],
        )
        for r in server.rows(_SLOTS, [prefix])
    )
    made = {slot.name: slot for slot in found}
    remains.seen(server.side.value, "slot", prefix, made)
    return made


def create_exporting(workspace: Workspace, replication: Session, generation: int) -> str:
    """Make the generation's slot on an open replication session; returns the exported snapshot's name.

    Waits for every transaction that is writing now, telling who they are; StepFailed after ten minutes.
    A failed attempt leaves no slot. Any later command on ``replication`` destroys the snapshot.
    """
    name = workspace.names.stream(generation)
    command = exporting(name, replication.info.server_version, failover=workspace.terms.failover)
    deadline = workspace.clock.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            row = replication.execute(command).fetchone()
        except errors.LockNotAvailable as error:
            _tell_blockers(workspace, workspace.source, deadline, error)
        else:
            assert row is not None
            remains.made(workspace.source.side.value, "slot", name)
            return str(row[2])


def exporting(name: str, version: int, *, failover: bool) -> sql.Composed:
    """The command of the replication protocol that makes slot ``name`` and exports its snapshot."""
    options = sql.SQL(_creation_options(version, failover=failover))
    return sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ").format(sql.Identifier(name)) + options


def _creation_options(version: int, *, failover: bool) -> LiteralString:
    if version < 150000:
        return "EXPORT_SNAPSHOT"
    if failover and version >= FAILOVER_SINCE:
        return "(SNAPSHOT 'export', FAILOVER true)"
    return "(SNAPSHOT 'export')"


def create_plain(workspace: Workspace, generation: int) -> None:
    """Make the generation's slot without a snapshot; it waits for writers as ``create_exporting`` does."""
    create_named(workspace, workspace.source, workspace.names.stream(generation))


def create_named(workspace: Workspace, server: Server, name: str) -> None:
    """Make slot ``name`` on either side, without a snapshot; StepFailed after ten minutes of open transactions."""
    deadline = workspace.clock.monotonic() + PATIENCE_SECONDS
    made = creating(name, server.version(), failover=workspace.terms.failover)
    while True:
        with server.session() as session:
            session.execute("SET lock_timeout = '3s'")
            try:
                failpoint("slot.before_create")
                session.execute(made)
            except errors.LockNotAvailable as error:
                _tell_blockers(workspace, server, deadline, error)
            else:
                failpoint("slot.created")
                return


def creating(name: str, version: int, *, failover: bool) -> sql.Composed:
    """What makes slot ``name`` without a snapshot."""
    # PostgreSQL 17 and later: name, plugin, temporary, twophase, failover.
    more = ", false, false, true" if version >= FAILOVER_SINCE and failover else ""
    return sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput'{})").format(
        sql.Literal(name), sql.SQL(more)
    )


def advancing(name: str) -> tuple[LiteralString | sql.Composed, ...]:
    """What moves slot ``name`` past everything that is committed, as ``advance_to_now`` says."""
    return (
        "SELECT pg_logical_emit_message(true, 'planrunner', '')",
        sql.SQL(
            "SELECT end_lsn::text FROM pg_replication_slot_advance({}, pg_current_wal_flush_lsn())"
        ).format(sql.Literal(name)),
    )


def advance_to_now(server: Server, name: str, *, timeout: float) -> Lsn:
    """Move slot ``name`` past everything that is committed on ``server`` now; returns where it stands.

    A slot moves no further than what is flushed, and an apply worker commits without waiting for that: so a
    message is committed first that does wait. QueryFailed after ``timeout`` seconds.
    """
    with server.session() as session:
        session.execute("SET synchronous_commit = on")
        session.execute("SELECT set_config('statement_timeout', %s, false)", [str(int(timeout * 1000))])
        waiting, moving = advancing(name)
        session.execute(waiting)
        failpoint("slot.before_advance")
        row = session.execute(moving).fetchone()
    failpoint("slot.advanced")
    assert row is not None
    return Lsn.parse(row[0])


def _tell_blockers(workspace: Workspace, server: Server, deadline: float, error: Exception) -> None:
    blockers = [str(row[0]) for row in server.rows(_BLOCKERS)]
    if workspace.clock.monotonic() > deadline:
        raise StepFailed(
            f"{server.side.value}: the slot could not be made: transactions stay open: "
            + "; ".join(blockers),
            remedy="End them (SELECT pg_terminate_backend(pid)), or wait, and run again.",
        ) from error
    workspace.tell("slot creation waits for open transactions", {"blockers": blockers})


def drop(workspace: Workspace, generation: int) -> None:
    """Drop the generation's slot, ending the session that holds it; nothing happens when it is gone."""
    drop_named(workspace, workspace.source, workspace.names.stream(generation))


def drop_named(workspace: Workspace, server: Server, name: str) -> None:
    """The same for slot ``name`` on either side."""
    for _ in range(100):
        slot = shown(server, name).get(name)
        if slot is None:
            return
        failpoint("slot.before_drop")
        if slot.active_pid is None and _dropped(server, name):
            failpoint("slot.dropped")
            remains.gone(server.side.value, "slot", name)
            return
        if slot.active_pid is not None:
            # In a session that asks the fence: a runner that was taken over must not end its successor's stream.
            with server.session() as session:
                session.execute("SELECT pg_terminate_backend(%s)", [slot.active_pid])
        workspace.clock.sleep(0.1)
    raise StepFailed(
        f"{server.side.value}: slot {name} stays in use",
        remedy=f"Find its user in pg_replication_slots, end it, then: SELECT pg_drop_replication_slot('{name}');",
    )


def dropping(name: str) -> sql.Composed:
    """What drops slot ``name`` where it is there."""
    return sql.SQL(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}"
    ).format(sql.Literal(name))


def _dropped(source: Server, name: str) -> bool:
    with source.session() as session:
        try:
            session.execute(dropping(name))
        except errors.ObjectInUse:
            return False
    return True
