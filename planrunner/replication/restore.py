"""Brings the schema to the target: what data needs first, indexes and constraints after it, statistics last.

Each entry is executed in one transaction with its ledger row, so a resume does exactly what is missing.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.errors import QueryFailed
from planrunner.failpoints import failpoint
from planrunner.replication import roles, schema_dump
from planrunner.replication.identities import table_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.schema_dump import Entry, Script, Wishes
    from planrunner.replication.workspace import Workspace

STEP = "schema"
PRE_DATA = "pre-data"
POST_DATA = "post-data"
FOREIGN_KEYS = "foreign keys"
ANALYZED = "analyzed"
_FK_ATTEMPTS = 30
_INDEXES = frozenset({"INDEX", "CONSTRAINT"})
_FOREIGN_KEY = "FK CONSTRAINT"


def pre_data(workspace: Workspace, wishes: Wishes) -> None:
    """Create everything that data needs, under the held snapshot, in one transaction with its ledger row."""
    snapshot = workspace.snapshot.name if workspace.snapshot else None
    script = schema_dump.section(workspace.source, workspace.target, PRE_DATA, wishes, snapshot=snapshot)
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


def post_data(workspace: Workspace, wishes: Wishes, *, jobs: int, foreign_keys: bool) -> None:
    """Create indexes and constraints, several tables at once, then what depends on them, in dump order.

    Without ``foreign_keys`` those are left for ``add_foreign_keys``: rows copied under several snapshots
    fit together only once every stream has caught up.
    """
    script = schema_dump.section(workspace.source, workspace.target, POST_DATA, wishes)
    finished = workspace.ledger.effects(STEP)
    todo = [entry for entry in script.entries if entry.key not in finished]
    first = [entry for entry in todo if entry.type in _INDEXES]
    rest = [e for e in todo if e.type not in _INDEXES and (foreign_keys or e.type != _FOREIGN_KEY)]
    lanes = [list(group) for _, group in groupby(sorted(first, key=_table_of), key=_table_of)]
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda lane: _perform(workspace, script, lane), lanes):
            pass
    _perform(workspace, script, rest)
    workspace.done(STEP, POST_DATA)
    if foreign_keys:
        workspace.done(STEP, FOREIGN_KEYS)


def _table_of(entry: Entry) -> str:
    # The table stands in the statement, not in the header of an index; one lane a schema would be too few.
    words = (
        entry.sql.split(" ON ", 1)[-1] if entry.type == "INDEX" else entry.sql.split("ALTER TABLE ", 1)[-1]
    )
    return words.removeprefix("ONLY ").split()[0] if words.split() else ""


def add_foreign_keys(workspace: Workspace, wishes: Wishes) -> None:
    """Add the foreign keys that several generations delayed; tried again while the streams are in between."""
    script = schema_dump.section(workspace.source, workspace.target, POST_DATA, wishes)
    for attempt in range(_FK_ATTEMPTS):
        finished = workspace.ledger.effects(STEP)
        todo = [e for e in script.entries if e.type == _FOREIGN_KEY and e.key not in finished]
        try:
            _perform(workspace, script, todo)
        except (errors.ForeignKeyViolation, QueryFailed) as error:
            if getattr(error, "sqlstate", None) != "23503" or attempt == _FK_ATTEMPTS - 1:
                raise
            workspace.clock.sleep(1)
        else:
            break
    workspace.done(STEP, FOREIGN_KEYS)


def _perform(workspace: Workspace, script: Script, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    with workspace.target.session() as session:
        for entry in entries:
            with session.transaction():
                workspace.lease.hold(session)
                _send(session, script.preamble + entry.sql)
                workspace.ledger.record_effect(session, STEP, entry.key, {"type": entry.type})
            failpoint("schema.entry_done")
    workspace.tell(f"created {_described(entries)}", {"entries": [entry.name for entry in entries]})


def _described(entries: Sequence[Entry]) -> str:
    kinds = Counter(entry.type.lower() for entry in entries)
    words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{words} ({entries[0].name}{', …' if len(entries) > 1 else ''})"


def _send(session: Session, script: str) -> None:
    # pg_dump's own text, from the source's catalogue; sent in one message, no client reads commands in it.
    session.execute(sql.SQL(script))  # pyright: ignore[reportArgumentType]
    # The script's settings are its own; ours hold again, inside the transaction and after it.
    session.execute(
        "SELECT set_config('search_path', 'pg_catalog', false), set_config('row_security', 'off', false),"
        " set_config('check_function_bodies', 'on', false), set_config('client_min_messages', 'notice', false)"
    )


def analyze(workspace: Workspace, tables: Sequence[Table]) -> None:
    """Gather statistics of every table, so that the first queries after the cutover are planned well."""
    with workspace.target.session() as session:
        for table in tables:
            session.execute(sql.SQL("ANALYZE {}").format(table_name(table)))
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
    """The source's materialized views as (schema, name), those that others are made of first."""
    return tuple((row[0], row[1]) for row in workspace.source.rows(_MATVIEWS))


def refresh(workspace: Workspace, views: Sequence[tuple[str, str]], *, step: str) -> None:
    """Refresh the target's materialized views in that order, and record it for ``step``."""
    for schema, name in views:
        with workspace.writing() as session:
            session.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(schema, name)))
    workspace.done(step, "materialized views", {"refreshed": len(views)})
