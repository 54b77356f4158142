"""The fence: one transaction on the source that stops every writer, and is open until it is committed.

Statement triggers raise 25006 for everyone, superusers too; they are ENABLE ALWAYS, so a session in replica
role is stopped as well, while an apply worker (which fires no statement triggers for rows) goes through.
The locks hold writers back until the commit; a rollback, or the death of this session, leaves all as it was.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.replication.identities import table_name
from planrunner.replication.names import FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

LOCK_PATIENCE_SECONDS = 60.0


def statements(names: Names, tables: Sequence[Table], *, database: str) -> tuple[sql.Composed, ...]:
    """What the fence executes after its locks: the trigger function and two triggers a table."""
    function = sql.Identifier(SCHEMA, names.fence_function)
    message = f"database {database} has moved: it is read-only here (planrunner plan {names.plan_id})"
    body = (
        sql.SQL("BEGIN RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {}; END")
        .format(sql.Literal(message))
        .as_string()
    )
    made = [
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS {}"
        ).format(function, sql.Literal(body)),
    ]
    made += [
        sql.SQL(
            "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION {function}();"
            " ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger};"
            " CREATE TRIGGER {truncate} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        ).format(
            trigger=sql.Identifier(FENCE_TRIGGER),
            truncate=sql.Identifier(FENCE_TRUNCATE_TRIGGER),
            table=table_name(table),
            function=function,
        )
        for table in tables
    ]
    return tuple(made)


def lock_statement(tables: Sequence[Table]) -> sql.Composed:
    """The lock that waits for running writers and holds new ones back; readers go on."""
    names = sql.SQL(", ").join([sql.SQL("ONLY {}").format(table_name(t)) for t in tables])
    return sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names)


def fenced(source: Server, names: Names) -> tuple[str, ...]:
    """The tables on which this plan's fence stands, committed."""
    rows = source.rows(
        "SELECT n.nspname::text, c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgname = %s AND p.proname = %s ORDER BY 1, 2",
        [FENCE_TRIGGER, names.fence_function],
    )
    return tuple(catalog.qualified(row[0], row[1]) for row in rows)


def raise_fence(  # noqa: PLR0913  # how it is raised, each by its name
    workspace: Workspace,
    session: Session,
    tables: Sequence[Table],
    *,
    lock_timeout: float,
    dead_man: float,
    also: Sequence[sql.SQL] = (),
    patience: float = LOCK_PATIENCE_SECONDS,
) -> float:
    """Open the fence transaction on ``session``: locks (``also`` others), then triggers. Returns when it began.

    Locks are tried with a short timeout and again, so that we yield and not the application; StepFailed
    after ``patience`` seconds. ``dead_man`` seconds of our silence make the server roll everything back.
    """
    give_up = workspace.clock.monotonic() + patience
    while True:
        begun = workspace.clock.monotonic()
        _begin(session, lock_timeout=lock_timeout, dead_man=dead_man)
        try:
            session.execute(lock_statement(tables))
            for statement in also:
                session.execute(statement)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            session.execute("ROLLBACK")
            if workspace.clock.monotonic() > give_up:
                raise StepFailed(
                    f"source: the tables could not be locked within {patience:g} s; nothing was changed",
                    remedy="Long transactions hold them: see pg_stat_activity, end them, run again.",
                ) from error
            workspace.clock.sleep(random.uniform(0.05, 0.4))  # noqa: S311  # jitter, not a secret
            continue
        failpoint("cutover.locked")
        database = workspace.source.identity().database
        script = sql.SQL("; ").join(statements(workspace.names, tables, database=database))
        session.execute(script)
        failpoint("cutover.fenced")
        return begun


def _begin(session: Session, *, lock_timeout: float, dead_man: float) -> None:
    session.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    session.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)",
        [f"{int(lock_timeout * 1000)}ms", f"{int(dead_man * 1000)}ms"],
    )


def lower_statements(source: Server, names: Names) -> tuple[sql.Composed, ...]:
    """What takes a committed fence away again."""
    held = set(fenced(source, names))
    tables = [t for t in catalog.tables(source) if t.qualified in held]
    drops = [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), table_name(table))
        for table in tables
        for trigger in (FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER)
    ]
    function = sql.Identifier(SCHEMA, names.fence_function)
    return (*drops, sql.SQL("DROP FUNCTION IF EXISTS {}()").format(function))
