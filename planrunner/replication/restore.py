"""Brings to the target what data needs first, and what comes last: statistics and materialized views.

Indexes and constraints are built by ``indexes``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.postgres.catalog import qualified
from planrunner.replication import relations, roles, schema_dump
from planrunner.replication.identities import table_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.schema_dump import Schema, Wishes
    from planrunner.replication.workspace import Workspace

STEP = "schema"
PRE_DATA = "pre-data"
POST_DATA = "post-data"
FOREIGN_KEYS = "foreign keys"
ANALYZED = "analyzed"
_ANALYZE_AT_ONCE = 50


def schema(workspace: Workspace, wishes: Wishes) -> Schema:
    """The source's schema, dumped once a process, as of the round's instant while there is one."""
    if workspace.schema is None:
        held = next(iter(workspace.round.snapshots.values())) if workspace.round else None
        left_out = replace(wishes, omitted=relations.omitted(workspace.source, workspace.selection))
        if held is None:
            workspace.schema = schema_dump.dumped(workspace.source, workspace.target, left_out)
        else:
            found = schema_dump.dumped(held.server, workspace.target, left_out, snapshot=held.name)
            held.confirm()
            workspace.schema = found
    return workspace.schema


def pre_data(workspace: Workspace, wishes: Wishes) -> None:
    """Create everything that data needs, under the held snapshot, in one transaction with its ledger row."""
    script = schema(workspace, wishes).pre_data
    with workspace.writing() as session:
        with _creating_in_public(workspace, session, wishes):
            _send(session, script.preamble + "".join(entry.sql for entry in script.entries))
        workspace.ledger.record_effect(session, STEP, PRE_DATA, {"entries": len(script.entries)})
        failpoint("schema.before_commit")


@contextmanager
def _creating_in_public(workspace: Workspace, session: Session, wishes: Wishes) -> Iterator[None]:
    """Let the owners create in schema public inside the transaction: who is given an object must be able to.

    Only where the target's database belongs to another role than the source's; taken back before the commit.
    """
    owners = roles.without_public(workspace.source, workspace.target) if wishes.owners else ()
    for owner in owners:
        session.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(owner)))
    yield
    kept = roles.granted_public(workspace.source) if wishes.grants else frozenset[str]()
    for owner in set(owners) - kept:
        session.execute(sql.SQL("REVOKE CREATE ON SCHEMA public FROM {}").format(sql.Identifier(owner)))


def _send(session: Session, script: str) -> None:
    # pg_dump's own text, from the source's catalogue; sent in one message, no client reads commands in it.
    session.execute(sql.SQL(script))  # pyright: ignore[reportArgumentType]
    # The script's settings are its own; ours hold again, inside the transaction and after it.
    session.execute(
        "SELECT set_config('search_path', 'pg_catalog', false), set_config('row_security', 'off', false),"
        " set_config('check_function_bodies', 'on', false), set_config('client_min_messages', 'notice', false)"
    )


def analyze(workspace: Workspace, tables: Sequence[Table]) -> None:
    """Gather statistics of the tables this process has not done yet, so that the first queries are planned well."""
    todo = [table for table in tables if table.qualified not in workspace.analyzed]
    with workspace.target.session() as session:
        for place in range(0, len(todo), _ANALYZE_AT_ONCE):
            named = [table_name(table) for table in todo[place : place + _ANALYZE_AT_ONCE]]
            session.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(named)))
            failpoint("analyze.batch")
    workspace.done(STEP, ANALYZED, {"tables": len(tables)})


_MATVIEWS = """
WITH RECURSIVE views AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('m', 'v')
    AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'planrunner')),
edges AS (
  SELECT DISTINCT r.ev_class AS view, d.refobjid AS needs FROM pg_rewrite r
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
  WHERE d.refobjid IN (SELECT oid FROM views)),
depth AS (SELECT oid, 0 AS level FROM views
  UNION SELECT e.view, d.level + 1 FROM depth d JOIN edges e ON e.needs = d.oid WHERE d.level < 100)
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN depth d ON d.oid = c.oid WHERE c.relkind = 'm' AND c.oid = d.oid
GROUP BY 1, 2 ORDER BY max(d.level), 1, 2
"""


def materialized_views(workspace: Workspace) -> tuple[tuple[str, str], ...]:
    """The source's materialized views that are carried, as (schema, name), in the order of dependencies."""
    gone = relations.omitted(workspace.source, workspace.selection).names
    found = workspace.source.rows(_MATVIEWS)
    return tuple((row[0], row[1]) for row in found if qualified(row[0], row[1]) not in gone)


def refreshing(views: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """What ``refresh`` executes."""
    return tuple(statement.as_string() for view in views for statement in _refreshing(view))


def _refreshing(view: tuple[str, str]) -> tuple[sql.Composed, ...]:
    name = sql.Identifier(*view)
    return (
        sql.SQL("REFRESH MATERIALIZED VIEW {}").format(name),
        # What was never analysed is planned badly until the server comes by.
        sql.SQL("ANALYZE {}").format(name),
    )


def refresh(workspace: Workspace, views: Sequence[tuple[str, str]], *, step: str) -> None:
    """Refresh and analyse the target's materialized views in that order, and record it for ``step``."""
    for view in views:
        with workspace.writing() as session:
            for statement in _refreshing(view):
                session.execute(statement)
            failpoint("views.before_commit")
        failpoint("views.refreshed")
    workspace.done(step, "materialized views", {"refreshed": len(views)})
