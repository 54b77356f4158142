"""The planner's statistics on the target: which tables lack fresh ones, and gathering them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import UsageError
from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.replication.identities import table_name
from planrunner.replication.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

_COPIED = "SELECT max(done) FROM planrunner.unit WHERE plan_id = %s"
# Of a partitioned table itself the server counts nothing; it has statistics of its own, or none.
_STALE = """
SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.oid = ANY (%(tables)s::bigint[]::oid[]) AND CASE c.relkind WHEN 'p' THEN
    NOT EXISTS (SELECT FROM pg_stats p WHERE p.schemaname = n.nspname AND p.tablename = c.relname)
  ELSE coalesce(greatest(s.last_analyze, s.last_autoanalyze) < %(copied)s::timestamptz,
    greatest(s.last_analyze, s.last_autoanalyze) IS NULL) END
"""


def chosen(target: Server, patterns: Sequence[str]) -> tuple[Table, ...]:
    """The target's tables that fit a pattern, all where there is none; UsageError for one that fits nothing."""
    wanted = [Pattern(text) for text in patterns]
    tables = catalog.tables(target)
    for pattern in wanted:
        if not any(pattern.matches(t.schema, t.name) for t in tables):
            raise UsageError(
                f"tables: {pattern.text} fits no table of the target",
                remedy="Write schema.table; * and ? are wild.",
            )
    return tuple(t for t in tables if not wanted or any(p.matches(t.schema, t.name) for p in wanted))


def stale(workspace: Workspace, tables: Sequence[Table]) -> tuple[Table, ...]:
    """Those without statistics, or with statistics older than the plan's copy."""
    target = workspace.target
    copied = target.value(_COPIED, [workspace.names.plan_id]) if workspace.ledger.exists() else None
    given = {"tables": [table.oid for table in tables], "copied": copied}
    found = {row[0] for row in target.rows(_STALE, given)}
    return tuple(table for table in tables if table.oid in found)


def statement(table: Table) -> sql.Composed:
    """What gathers a table's statistics."""
    return sql.SQL("ANALYZE {}").format(table_name(table))


def gather(workspace: Workspace, tables: Sequence[Table], *, jobs: int) -> None:
    """Analyze the tables over ``jobs`` sessions, the largest first; what was done before an error stays done."""
    waiting: SimpleQueue[Table] = SimpleQueue()
    for table in sorted(tables, key=lambda t: -t.bytes):
        waiting.put(table)

    def work() -> None:
        with workspace.target.session() as session, suppress(Empty):
            while True:
                table = waiting.get_nowait()
                failpoint("analyze.table")
                session.execute(statement(table))
                workspace.analyzed.add(table.qualified)

    with ThreadPoolExecutor(jobs) as pool:
        for part in [pool.submit(work) for _ in range(min(jobs, len(tables)))]:
            part.result()
