"""Replication slots on the source: making one waits for writers, losing one is told, dropping is sure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.errors import StepFailed
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

PATIENCE_SECONDS = 600.0
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
    ``wal_status`` is ``lost`` when the server has given it up.
    """

    name: str
    active_pid: int | None
    confirmed: Lsn | None
    wal_status: str | None
    retained: int
    behind: int


def existing(source: Server, names: Names) -> dict[int, Slot]:
    """Our slots by generation."""
    rows = source.rows(
        "SELECT slot_name::text, active_pid, confirmed_flush_lsn::text, wal_status,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE starts_with(slot_name::text, %s) AND database = current_database()",
        [names.prefix],
    )
    found = (
        Slot(
            name=r[0],
            active_pid=r[1],
            confirmed=Lsn.parse(r[2]) if r[2] else None,
            wal_status=r[3],
            retained=r[4],
            behind=r[5],
        )
        for r in rows
    )
    return {g: slot for slot in found if (g := names.generation(slot.name)) is not None}


def create_exporting(
    workspace: Workspace, replication: Session, generation: int, *, failover: bool = False
) -> str:
    """Make the generation's slot on an open replication session; returns the exported snapshot's name.

    Waits for every transaction that is writing now, telling who they are; StepFailed after ten minutes.
    A failed attempt leaves no slot. Any later command on ``replication`` destroys the snapshot.
    """
    name = workspace.names.stream(generation)
    command = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ").format(sql.Identifier(name))
    if replication.info.server_version < 150000:
        options = sql.SQL("EXPORT_SNAPSHOT")
    else:
        options = sql.SQL("(SNAPSHOT 'export', FAILOVER true)" if failover else "(SNAPSHOT 'export')")
    deadline = workspace.clock.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            row = replication.execute(command + options).fetchone()
        except errors.LockNotAvailable as error:
            _tell_blockers(workspace, deadline, error)
        else:
            assert row is not None
            return str(row[2])


def _tell_blockers(workspace: Workspace, deadline: float, error: Exception) -> None:
    blockers = [str(row[0]) for row in workspace.source.rows(_BLOCKERS)]
    if workspace.clock.monotonic() > deadline:
        raise StepFailed(
            "source: the slot could not be made: transactions stay open: " + "; ".join(blockers),
            remedy="End them (SELECT pg_terminate_backend(pid)), or wait, and run again.",
        ) from error
    workspace.tell("slot creation waits for open transactions", {"blockers": blockers})


def drop(workspace: Workspace, generation: int) -> None:
    """Drop the generation's slot, ending the session that holds it; nothing happens when it is gone."""
    name = workspace.names.stream(generation)
    for _ in range(100):
        slot = existing(workspace.source, workspace.names).get(generation)
        if slot is None:
            return
        if slot.active_pid is None and _dropped(workspace.source, name):
            return
        if slot.active_pid is not None:
            workspace.source.rows("SELECT pg_terminate_backend(%s)", [slot.active_pid])
        workspace.clock.sleep(0.1)
    raise StepFailed(
        f"source: slot {name} stays in use",
        remedy=f"Find its user in pg_replication_slots, end it, then: SELECT pg_drop_replication_slot('{name}');",
    )


def _dropped(source: Server, name: str) -> bool:
    with source.session() as session:
        try:
            session.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [name],
            )
        except errors.ObjectInUse:
            return False
    return True
