"""Preflight of the servers' settings: logical WAL, slots, senders, workers, connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.postgres.preflight_section import CAPACITY
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding, RdsInstance
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs

_SOURCE_USE = """
SELECT (SELECT count(*) FROM pg_replication_slots WHERE NOT starts_with(slot_name::text, %(owned)s)),
       (SELECT count(*) FROM pg_stat_replication s WHERE NOT EXISTS (
          SELECT FROM pg_replication_slots o WHERE o.active_pid = s.pid AND starts_with(o.slot_name::text, %(owned)s))),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_TARGET_USE = """
SELECT (SELECT count(*) FROM pg_stat_subscription
        WHERE pid IS NOT NULL AND NOT starts_with(subname::text, %(owned)s)),
       (SELECT count(*) FROM pg_replication_origin o WHERE NOT EXISTS (
          SELECT FROM pg_subscription s WHERE o.roname = 'pg_' || s.oid AND starts_with(s.subname::text, %(owned)s))),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('server_version_num')::int
"""
_SOURCE_SETTINGS = (
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "max_connections",
    "superuser_reserved_connections",
    "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
)
# The lease, the reader, two keepers of the snapshot, the replication session.
_OWN_SESSIONS = 6


def source(server: Server, needs: Needs) -> Iterator[Finding]:
    """wal_level, replication slots, WAL senders, connections, and limits that would cost the slot."""
    settings = _settings(
        server,
        _SOURCE_SETTINGS,
    )
    row = server.row(_SOURCE_USE, {"owned": needs.owned})
    assert row is not None
    slots, senders, sessions = row
    yield _wal_level(settings["wal_level"], server.endpoint.rds)
    # The stream's, and the one by which a verification sees what changes meanwhile.
    yield _room("replication slots", "source", "max_replication_slots", settings, slots, 2)
    yield _room("WAL senders", "source", "max_wal_senders", settings, senders, 2)
    yield _connections("source", settings, sessions, needs)
    yield from _slot_limits(settings)


def _settings(server: Server, names: Sequence[str]) -> dict[str, str]:
    rows = server.rows("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(names)])
    return {row[0]: row[1] for row in rows}


def _wal_level(level: str, rds: RdsInstance | None) -> Finding:
    if level == "logical":
        return CAPACITY.passed("Source's wal_level is logical")
    remedy = (
        "Run on the source as a superuser: ALTER SYSTEM SET wal_level = 'logical'; and restart the server."
        if rds is None
        else "Set rds.logical_replication=1 in the instance's own parameter group, then reboot: aws rds"
        " modify-db-parameter-group --db-parameter-group-name GROUP --parameters"
        " ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot; aws rds"
        f" reboot-db-instance --db-instance-identifier {rds.instance}"
    )
    text = f"Source's wal_level must be logical, it is {level}"
    return CAPACITY.failed(text, remedy, mended_by="enable_logical")


def _room(what: str, side: str, setting: str, settings: dict[str, str], used: int, need: int) -> Finding:
    limit = int(settings[setting])
    free = limit - used
    if free >= need:
        return CAPACITY.passed(f"{free} of {limit} {what} free on the {side}")
    return CAPACITY.failed(
        f"{max(free, 0)} of {limit} {what} free on the {side}, {need} needed",
        f"Set {setting} to {used + need} or more on the {side} and restart it (on RDS: in the parameter"
        " group), or remove what is not used any more.",
        mended_by="enable_logical" if side == "source" else None,
    )


def _connections(side: str, settings: dict[str, str], sessions: int, needs: Needs) -> Finding:
    limit = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    free, need = max(limit - sessions, 0), needs.jobs + _OWN_SESSIONS
    if free >= need:
        return CAPACITY.passed(f"{free} of {limit} connections free on the {side}")
    return CAPACITY.warned(
        f"{free} of {limit} connections free on the {side}, {need} wanted for jobs: {needs.jobs}",
        f"Give the snapshot step fewer jobs, close sessions, or raise max_connections on the {side}.",
    )


def _slot_limits(settings: dict[str, str]) -> Iterator[Finding]:
    keep = int(settings.get("max_slot_wal_keep_size", "-1"))
    if keep >= 0:
        yield CAPACITY.warned(
            f"Source gives a slot up once it keeps more than {human_bytes(keep << 20)} of WAL",
            "If the copy takes longer than that much is written, raise max_slot_wal_keep_size on the source.",
        )
    idle = int(settings.get("idle_replication_slot_timeout", "0"))
    if idle > 0:
        yield CAPACITY.warned(
            f"Source gives a slot up once it was idle for {idle} s, as ours is while rows are copied",
            "Set idle_replication_slot_timeout = 0 on the source for the time of the migration.",
        )


def target(server: Server, needs: Needs) -> Iterator[Finding]:
    """Logical replication workers, background workers, origins, connections."""
    names = ["max_logical_replication_workers", "max_worker_processes", "max_replication_slots"]
    names += ["max_active_replication_origins", "max_connections", "superuser_reserved_connections"]
    settings = _settings(server, names)
    row = server.row(_TARGET_USE, {"owned": needs.owned})
    assert row is not None
    workers, origins, sessions, version = row
    tracked = "max_active_replication_origins" if version >= 180000 else "max_replication_slots"
    yield _room("replication workers", "target", names[0], settings, workers, 1)
    # One more for the launcher of the replication workers.
    yield _room("background workers", "target", names[1], settings, workers + 1, 1)
    yield _room("replication origins", "target", tracked, settings, origins, 1)
    yield _connections("target", settings, sessions, needs)
