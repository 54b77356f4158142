"""Who could disturb a cutover at this moment: writers, prepared transactions; and tables without statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.likeness import listed
from planrunner.verification import Proof

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names

# pg_locks is open to everyone, what a stranger's session does is not: then the lock alone tells that it writes.
# What the server does by itself, such as autovacuum, has no user; its kind may be hidden, too.
_WRITERS = """
WITH writing AS (
  SELECT DISTINCT pid FROM pg_locks l WHERE l.granted AND (l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'
    OR l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation >= 16384 AND l.mode = ANY (%(locks)s)))
SELECT format('pid %%s (%%s%%s): %%s', a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, a.backend_type),
         coalesce(format(', open for %%s s', extract(epoch FROM clock_timestamp() - a.xact_start)::int), ''),
         coalesce(nullif(left(regexp_replace(a.query, '\\s+', ' ', 'g'), 60), ''), '(no query)')),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_stat_activity a JOIN writing w ON w.pid = a.pid
WHERE a.datname = current_database() AND a.pid <> ALL (%(pids)s::int[])
  AND coalesce(a.application_name, '') NOT LIKE 'planrunner%%'
  AND a.usesysid IS NOT NULL
  AND a.pid NOT IN (SELECT s.pid FROM pg_stat_subscription s WHERE s.pid IS NOT NULL
                    AND starts_with(s.subname::text, %(prefix)s))
ORDER BY a.pid
"""
_BLOCKING = ("ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
_PREPARED = """
SELECT format('%L of %I, open for %s s', gid, owner, extract(epoch FROM clock_timestamp() - prepared)::int)
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
# Before 14 a table that was never analysed shows 0 rows in 0 pages, since then -1. A table without rows needs none.
_UNKNOWN = """
WITH known AS (SELECT DISTINCT schemaname, tablename FROM pg_stats)
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') AND pg_relation_size(c.oid) > 0
  AND (c.reltuples < 0 OR c.relpages = 0 OR s.last_analyze IS NULL AND s.last_autoanalyze IS NULL AND NOT EXISTS (
    SELECT FROM known k WHERE k.schemaname = n.nspname AND k.tablename = c.relname))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""


def prepared(server: Server) -> Proof:
    """No prepared transaction on the side that is left: its locks would outlast every attempt to stop writers."""
    found = [str(row[0]) for row in server.rows(_PREPARED)]
    text = (
        f"{len(found)} prepared transactions on the {server.side.value}; as its owner, in this database, end each by"
        " COMMIT PREPARED or ROLLBACK PREPARED"
        if found
        else "none"
    )
    return Proof(name="prepared transactions", equal=not found, text=text, detail=listed(found))


def _writers(
    server: Server, names: Names, pids: list[int], locks: tuple[str, ...]
) -> list[tuple[str, float | None]]:
    """Sessions with a transaction id of their own, or with one of ``locks`` on a table."""
    rows = server.rows(_WRITERS, {"pids": pids, "prefix": names.plan_prefix, "locks": list(locks)})
    return [(str(row[0]), row[1]) for row in rows]


def long_writers(server: Server, names: Names, pids: list[int], *, older_than: float) -> Proof:
    """No transaction that has been writing for ``older_than`` seconds: the fence would wait for its locks."""
    writers = _writers(server, names, pids, ("RowExclusiveLock", *_BLOCKING))
    found = [told for told, age in writers if age is not None and age > older_than]
    text = f"{len(writers)} transactions write to the {server.side.value}, {len(found)} for more than {older_than:g} s"
    # A login that may not look into others' sessions sees that they write, not since when.
    hidden = sum(1 for _, age in writers if age is None)
    text += f"; of {hidden} our login may not see since when (GRANT pg_read_all_stats)" if hidden else ""
    return Proof(name="long writers", equal=not found, text=text, detail=listed(found))


def strangers(server: Server, names: Names, pids: list[int]) -> Proof:
    """Nobody but this plan's own workers and sessions writes to the side that receives.

    That side is closed: a statement it refuses has locked its table for a moment and has written nothing, so the
    lock of a plain write does not count, a transaction id does.
    """
    found = [told for told, _ in _writers(server, names, pids, _BLOCKING)]
    text = (
        f"{len(found)} sessions of others write to the {server.side.value}"
        if found
        else "nobody else writes there"
    )
    return Proof(name="other writers", equal=not found, text=text, detail=listed(found))


def statistics(server: Server) -> Proof:
    """Every table with rows has been analysed, so that the first queries are planned well."""
    found = [str(row[0]) for row in server.rows(_UNKNOWN)]
    if not found:
        return Proof(name="statistics", equal=True, text="every table with rows has been analysed")
    text = f"{len(found)} tables with rows have no statistics. On the {server.side.value}: ANALYZE {', '.join(found[:5])}"
    return Proof(name="statistics", equal=False, text=text, detail=listed(found))
