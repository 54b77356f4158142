"""Who holds the locks that we wait for: sessions by pid, prepared transactions by name, each with its age."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from planrunner.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

LOOK_SECONDS = 5.0
_SHOWN = 5
# pid 0 stands for a prepared transaction, which pg_blocking_pids can't name.
_BLOCKERS = """
WITH waiting AS (
    SELECT DISTINCT unnest(pg_blocking_pids(pid)) AS pid FROM pg_stat_activity
    WHERE (application_name LIKE %(ours)s OR pid = ANY (%(pids)s::int[])) AND wait_event_type = 'Lock'
)
SELECT format('pid %%s (%%s, %%s, open for %%s s): %%s', a.pid, coalesce(nullif(a.application_name, ''), a.usename::text),
              coalesce(a.state, 'state hidden'), extract(epoch FROM clock_timestamp() - a.xact_start)::int,
              left(regexp_replace(a.query, '\\s+', ' ', 'g'), 60))
FROM pg_stat_activity a JOIN waiting USING (pid) WHERE a.application_name NOT LIKE %(ours)s
UNION ALL SELECT format('prepared transaction %%L, prepared at %%s, open for %%s s', gid, prepared,
                        extract(epoch FROM clock_timestamp() - prepared)::int)
FROM pg_prepared_xacts WHERE database = current_database() AND EXISTS (SELECT FROM waiting WHERE pid = 0)
"""
# Modes that conflict with the fence's SHARE ROW EXCLUSIVE.
_HOLDERS = """
WITH held AS (
    SELECT DISTINCT pid, virtualtransaction FROM pg_locks
    WHERE granted AND locktype = 'relation' AND relation = ANY (%(tables)s::oid[])
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND mode NOT IN ('AccessShareLock', 'RowShareLock')
)
SELECT format('pid %%s (%%s, %%s, open for %%s s): %%s', a.pid, coalesce(nullif(a.application_name, ''), a.usename::text),
              coalesce(a.state, 'state hidden'), extract(epoch FROM clock_timestamp() - a.xact_start)::int,
              left(regexp_replace(a.query, '\\s+', ' ', 'g'), 60))
FROM pg_stat_activity a JOIN held ON held.pid = a.pid WHERE a.application_name <> %(ours)s
UNION ALL SELECT format('prepared transaction %%L, prepared at %%s, open for %%s s', p.gid, p.prepared,
                        extract(epoch FROM clock_timestamp() - p.prepared)::int)
FROM pg_prepared_xacts p JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = p.transaction
JOIN held ON held.pid IS NULL AND held.virtualtransaction = own.virtualtransaction WHERE own.pid IS NULL
"""


def of_tables(server: Server, oids: Iterable[int]) -> str:
    """Who keeps writers' locks on these tables now, in one line; says so where nobody does any more."""
    try:
        found = [str(row[0]) for row in server.rows(_HOLDERS, {"tables": list(oids), "ours": server.name})]
    except ServerError as error:
        return f"who held them can't be told: {error.message}"
    return _line(found) or "whoever held them has ended meanwhile"


def of_workers(workspace: Workspace, server: Server, pids: Iterable[int]) -> str:
    """Who holds the locks that these apply workers, or sessions of ours, wait for now, in one line; empty: nobody."""
    asked = {"ours": _ours(workspace), "pids": list(pids)}
    try:
        return _line([str(row[0]) for row in server.rows(_BLOCKERS, asked)])
    except ServerError as error:
        return f"who holds them can't be told: {error.message}"


def _ours(workspace: Workspace) -> str:
    return f"planrunner/{workspace.names.plan_id}/%"


def _line(found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


class Onlooker:
    """Tells when a session of ours, or of a worker, on ``server`` waits for a lock, and whose.

    ``look`` is cheap to call often.
    """

    def __init__(self, workspace: Workspace, server: Server) -> None:
        self._workspace = workspace
        self._server = server
        self._lock = threading.Lock()
        self._next = workspace.clock.monotonic() + LOOK_SECONDS
        self._told: list[str] = []
        self._ours = _ours(workspace)

    def look(self) -> None:
        """Look, when the last time is long enough ago; what was told is told once."""
        with self._lock:
            now = self._workspace.clock.monotonic()
            if now < self._next:
                return
            self._next = now + LOOK_SECONDS
        try:
            found = [str(row[0]) for row in self._server.rows(_BLOCKERS, {"ours": self._ours, "pids": []})]
        except ServerError:
            return  # whoever works on it meets the error, too
        known = [line.split(",")[0] for line in found]
        if found and known != self._told:
            self._workspace.tell(
                f"the {self._server.side.value} waits for a lock that others hold: {_line(found)}",
                {"blockers": list(found)},
            )
        self._told = known
