"""One look at both servers: our slots, our subscriptions, and the room that their workers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import slots, subscriptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Server
    from planrunner.replication.slots import Slot
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Health:
    """What both servers said at one moment (``at``, monotonic seconds), by generation.

    ``tracker`` is the slot by which a verification sees what changed, while there is one.
    """

    at: float
    slots: Mapping[int, Slot]
    subscriptions: Mapping[int, Subscription]
    tracker: Slot | None = None

    @property
    def retained(self) -> int:
        """Bytes of WAL that the source keeps for us: the slots share it, the oldest one decides."""
        return max(self.streaming, self.tracker.retained if self.tracker else 0)

    @property
    def streaming(self) -> int:
        """Bytes of WAL that the source keeps for the streams alone."""
        return max((slot.retained for slot in self.slots.values()), default=0)

    @property
    def behind(self) -> int:
        """Bytes of WAL that the slowest stream has not confirmed."""
        return max((slot.behind for slot in self.slots.values()), default=0)

    @property
    def room(self) -> int | None:
        """Bytes that may be written before the source gives a slot up by itself; None when it never does."""
        return min((slot.room for slot in self.slots.values() if slot.room is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Room:
    """A limit of a server that keeps an apply worker from running, and how much of it is used."""

    setting: str
    limit: int
    used: int


@dataclass(frozen=True, kw_only=True)
class WalDisk:
    """What the source can tell of the disk its WAL lies on; None: the login may not see it.

    PostgreSQL never tells how much of a disk is free. ``keep_limit`` is max_slot_wal_keep_size in
    bytes, None when it keeps WAL for a slot until the disk is full.
    """

    wal_bytes: int | None
    keep_limit: int | None


def observe(workspace: Workspace) -> Health:
    """Look once: one query on each server."""
    at, names = workspace.clock.monotonic(), workspace.names
    found = slots.shown(workspace.source, names.plan_prefix)
    return Health(
        at=at,
        slots=slots.by_generation(found, names),
        subscriptions=subscriptions.existing(workspace.target, names),
        tracker=found.get(names.tracker),
    )


def wal_disk(source: Server) -> WalDisk:
    """The size of pg_wal and the limit of what slots may keep; reads a directory, so not at every look."""
    row = source.row(
        "SELECT setting::bigint, has_function_privilege('pg_ls_waldir()', 'EXECUTE') FROM pg_settings"
        " WHERE name = 'max_slot_wal_keep_size'"
    )
    assert row is not None
    size = source.value("SELECT sum(size)::bigint FROM pg_ls_waldir()") if row[1] else None
    return WalDisk(wal_bytes=size, keep_limit=row[0] << 20 if row[0] >= 0 else None)


# Of other background workers only their number matters: they take places of max_worker_processes.
_TARGET_ROOM = """
SELECT current_setting('max_logical_replication_workers')::int,
       (SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL)::int,
       current_setting('max_worker_processes')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN
          ('client backend', 'walsender', 'walreceiver', 'walwriter', 'walsummarizer', 'checkpointer', 'startup',
           'background writer', 'archiver', 'autovacuum launcher', 'autovacuum worker', 'slotsync worker',
           'standalone backend', 'logger', 'io worker'))::int,
       coalesce(current_setting('max_active_replication_origins', true),
                current_setting('max_replication_slots'))::int,
       (SELECT count(*) FROM pg_replication_origin)::int,
       current_setting('max_active_replication_origins', true) IS NOT NULL
"""
_SOURCE_ROOM = """
SELECT current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication)::int
"""


def exhausted(workspace: Workspace) -> tuple[Room, ...]:
    """The limits of both servers that leave no place for another apply worker or its WAL sender."""
    target, source = workspace.target.row(_TARGET_ROOM), workspace.source.row(_SOURCE_ROOM)
    assert target is not None
    assert source is not None
    workers, used_workers, processes, used_processes, origins, used_origins, own_setting = target
    tracked = "max_active_replication_origins" if own_setting else "max_replication_slots"
    rooms = (
        Room(setting="max_logical_replication_workers", limit=workers, used=used_workers),
        Room(setting="max_worker_processes", limit=processes, used=used_processes),
        # Our own origin is counted, so that only more than the limit is too many.
        Room(setting=tracked, limit=origins, used=used_origins - 1),
    )
    found = [room for room in rooms if room.used >= room.limit]
    senders = Room(setting="max_wal_senders", limit=source[0], used=source[1])
    return (*found, *([senders] if senders.used >= senders.limit else []))
