"""What both servers say of a migration that does not end: for whoever reads the failure, once it can't be seen again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.scene import Migration

_LOOKS: tuple[LiteralString, ...] = (
    "SELECT pid, application_name, backend_type, state, wait_event, xact_start, pg_blocking_pids(pid), left(query, 120)"
    " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "SELECT pid, locktype, relation::regclass, mode FROM pg_locks WHERE NOT granted",
    "SELECT slot_name, active_pid, restart_lsn, confirmed_flush_lsn, wal_status FROM pg_replication_slots",
    "SELECT pid, application_name, state, sent_lsn, flush_lsn, reply_time FROM pg_stat_replication",
    "SELECT subname, pid, received_lsn, latest_end_lsn, last_msg_receipt_time FROM pg_stat_subscription",
    "SELECT subname, subenabled, subslotname, subpublications FROM pg_subscription",
    "SELECT * FROM pg_stat_subscription_stats",
    "SELECT external_id, remote_lsn FROM pg_replication_origin_status",
    "SELECT pubname, ARRAY(SELECT prrelid::regclass FROM pg_publication_rel WHERE prpubid = p.oid) FROM pg_publication p",
    "SELECT s.subname, ARRAY(SELECT srrelid::regclass FROM pg_subscription_rel WHERE srsubid = s.oid)"
    " FROM pg_subscription s",
    "SELECT clock_timestamp(), pg_current_wal_lsn()",
)
_LOG_LINES = 40


def autopsy(one: Migration) -> str:
    """Sessions, locks, slots, subscriptions and the end of the log, of both sides."""
    return "\n".join([*_looked("source", one.ours), *_looked("target", one.theirs), *_logs(one)])


def _looked(side: str, dsn: str) -> Iterator[str]:
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as session:
            for look in _LOOKS:
                yield f"{side}: {look}"
                yield from _rows(session, look)
    except psycopg.Error as error:
        yield f"{side}: {error}"


def _rows(session: psycopg.Connection[Any], look: LiteralString) -> Iterator[str]:
    try:
        yield from ("  " + " | ".join(map(str, row)) for row in session.execute(look).fetchall())
    except psycopg.Error as error:
        # An older server has not all of it.
        yield f"  {error}"


def _logs(one: Migration) -> Iterator[str]:
    for side, server in (("source", one.source), ("target", one.target)):
        yield f"{side}: log"
        yield from server.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
