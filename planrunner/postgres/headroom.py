"""What the source itself says of wal_level and its limits, and which of them a migration needs higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from planrunner.postgres.connection import Server

SLOTS = "max_replication_slots"
SENDERS = "max_wal_senders"
WORKERS = "max_worker_processes"
APPLIERS = "max_logical_replication_workers"
ORIGINS = "max_active_replication_origins"
# Since PostgreSQL 18 origins have a limit of their own.
LIMITS = (SLOTS, SENDERS, WORKERS, APPLIERS, ORIGINS)
# What others hold already; a former run of this plan gives its own back or goes on with it. Counted are the workers of
# subscriptions, not parallel ones, which wait for nobody.
_USE = """
SELECT (SELECT count(*) FROM pg_replication_slots WHERE NOT starts_with(slot_name::text, %(owned)s)),
       (SELECT count(*) FROM pg_stat_replication s WHERE NOT EXISTS (
          SELECT FROM pg_replication_slots o WHERE o.active_pid = s.pid AND starts_with(o.slot_name::text, %(owned)s))),
       (SELECT count(*) FROM pg_stat_subscription
        WHERE pid IS NOT NULL AND NOT starts_with(subname::text, %(owned)s)),
       (SELECT count(*) FROM pg_replication_origin o WHERE NOT EXISTS (
          SELECT FROM pg_stat_subscription s
          WHERE o.roname = 'pg_' || s.subid AND starts_with(s.subname::text, %(owned)s)))
"""
# What a role, a database or this session sets for itself hides what the server has, and what is fixed when a session
# begins is that of an older one.
_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name = ANY (%s)
   AND source NOT IN ('client', 'session', 'interactive', 'database', 'user', 'database user')
   AND context NOT IN ('backend', 'superuser-backend')
"""
_NUMBERS = {"on": "1", "off": "0", "true": "1", "false": "0", "yes": "1", "no": "0"}
_LISTS = frozenset({"shared_preload_libraries"})


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a plan will hold on the source: ``streams`` follow it, ``back``: it follows the target after a cutover.

    ``owned`` is the prefix of the plan's own slots and subscriptions.
    """

    owned: str
    streams: int = 1
    back: bool = False


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """``settings`` as the server has them in force, and ``needs``: how high each limit must be at least."""

    settings: Mapping[str, str]
    needs: Mapping[str, int]

    @property
    def raises(self) -> dict[str, int]:
        """The limits that are too low, with what is needed."""
        return {name: need for name, need in self.needs.items() if not self.enough(name, need)}

    @property
    def logical(self) -> bool:
        """True when the server decodes its WAL."""
        return self.settings.get("wal_level") == "logical"

    def enough(self, limit: str, need: int) -> bool:
        """True when the limit in force is at least so high; one that the server does not have is none."""
        return limit not in self.settings or int(self.settings[limit]) >= need

    def has(self, name: str, value: str) -> bool:
        """True when a setting of that value is in force, as far as the server shows it and it is no formula."""
        shown = self.settings.get(name)
        if shown is None or "{" in value:
            return True
        if name in _LISTS:
            # RDS adds libraries of its own.
            return set(_parts(value)) <= set(_parts(shown))
        return _plain(shown) == _plain(value)


def _plain(value: str) -> str | float:
    lowered = value.strip().lower()
    try:
        # RDS writes 1 where the server says on, and 0.10 is 0.1.
        return float(_NUMBERS.get(lowered, lowered))
    except ValueError:
        return ",".join(_parts(lowered))


def _parts(value: str) -> list[str]:
    return [part.strip().strip('"') for part in value.split(",")]


def look(server: Server, demand: Demand, names: Iterable[str] = ()) -> Headroom:
    """Two queries; ``names`` are further settings to read."""
    wanted = [*LIMITS, "wal_level", *names]
    rows = server.rows(_SETTINGS, [wanted])
    settings = {str(name): str(value) for name, value in rows}
    row = server.row(_USE, {"owned": demand.owned})
    assert row is not None
    slots, senders, appliers, origins = row
    # Each stream's, and the one by which a verification sees what changes meanwhile.
    need = {SLOTS: slots + demand.streams + 1, SENDERS: senders + demand.streams + 1}
    if demand.back:
        # The way back is one subscription; one worker process more is the launcher of such workers.
        need |= {APPLIERS: appliers + 1, WORKERS: appliers + 2}
        tracked = ORIGINS if ORIGINS in settings else SLOTS
        need[tracked] = max(need.get(tracked, 0), origins + 1)
    return Headroom(settings=settings, needs=need)


def foreign_slots(server: Server, owned: str = "") -> tuple[str, ...]:
    """The logical slots, without those that begin with ``owned``: a server that has any does not start at replica."""
    rows = server.rows(
        "SELECT slot_name::text FROM pg_replication_slots"
        " WHERE slot_type = 'logical' AND (%(owned)s = '' OR NOT starts_with(slot_name::text, %(owned)s)) ORDER BY 1",
        {"owned": owned},
    )
    return tuple(row[0] for row in rows)


def started(server: Server) -> str:
    """When the server was started, to the microsecond: another answer means that it was restarted."""
    return str(
        server.value(
            "SELECT to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
        )
    )
