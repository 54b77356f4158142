"""The fence: what closes one side to every writer, and opens it again at once.

Statement triggers raise 25006 for everyone, superusers too; they are ENABLE ALWAYS, so a session in replica
role is stopped as well, while an apply worker (which fires no statement triggers for rows) goes through. All
of a side's triggers call one function: the side is closed or open by what that function does, so that opening
is one statement that waits for nobody. A side is closed in one transaction whose locks hold writers back until
it is committed; a rollback, or the death of its session, leaves all as it was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors, sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.postgres.failures import endpoint_facts
from planrunner.replication import holders
from planrunner.replication.identities import table_name
from planrunner.replication.names import FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

LOCK_PATIENCE_SECONDS = 60.0
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_AT_ONCE = 50
# How long a writer waits behind us at the most, when triggers are taken away from tables that are in use.
_POLITE_MILLISECONDS = 30
_OPEN = "BEGIN RETURN NULL; END"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A side's fence as its server shows it: ``tables`` carry its triggers, all ``whole`` ones as we made them."""

    closed: bool
    tables: frozenset[str]
    whole: frozenset[str]


def standing(server: Server, names: Names) -> Standing:
    """Look at the fence of this plan on ``server``."""
    rows = server.rows(
        "SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text, p.prosrc"
        " FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace"
        " WHERE t.tgname = ANY (%s) AND p.proname = %s AND f.nspname = %s",
        [[FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER], names.fence_function, SCHEMA],
    )
    stopping = {catalog.qualified(r[0], r[1]) for r in rows if r[2] == FENCE_TRIGGER}
    sound = {catalog.qualified(r[0], r[1]) for r in rows if r[2] == FENCE_TRIGGER and r[3] == "A"}
    truncating = {
        catalog.qualified(r[0], r[1]) for r in rows if r[2] == FENCE_TRUNCATE_TRIGGER and r[3] != "D"
    }
    return Standing(
        closed=bool(rows) and all(row[4] != _OPEN for row in rows),
        tables=frozenset(stopping),
        whole=frozenset(sound & truncating),
    )


def fenced(server: Server, names: Names) -> tuple[str, ...]:
    """The tables to which this plan's fence stops writers of ``server``; empty while that side is open."""
    found = standing(server, names)
    return tuple(sorted(found.tables)) if found.closed else ()


def moved_to(server: Server, plan_id: str) -> str:
    """What a writer is told who comes to the side that was left: where its database is now."""
    facts = endpoint_facts(server.endpoint)
    return (
        f"database has moved to {facts['place']}, database {server.identity().database}: it is read-only here"
        f" (planrunner plan {plan_id})"
    )


def not_yet(server: Server, plan_id: str) -> str:
    """What a writer is told who comes too early: ``server`` is where it must go until the cutover."""
    facts = endpoint_facts(server.endpoint)
    return (
        f"database is not open here yet: until the cutover its writes go to {facts['place']}, database"
        f" {server.identity().database} (planrunner plan {plan_id})"
    )


def statements(
    names: Names, tables: Sequence[Table], message: str, there: Standing | None = None
) -> tuple[sql.Composed, ...]:
    """What closes ``tables`` with ``message``: the function, and the triggers of those that lack them."""
    body = (
        sql.SQL("BEGIN RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = {}; END")
        .format(sql.Literal(message))
        .as_string()
    )
    carrying = there.tables if there else frozenset[str]()
    whole = there.whole if there else frozenset[str]()
    bare = [_triggers(names, table) for table in tables if table.qualified not in carrying]
    mended = [_mended(names, t) for t in tables if t.qualified in carrying and t.qualified not in whole]
    return (_function(names, body), *bare, *mended)


def _function(names: Names, body: str) -> sql.Composed:
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS {}"
    ).format(sql.Identifier(SCHEMA, names.fence_function), sql.Literal(body))


def _triggers(names: Names, table: Table) -> sql.Composed:
    return sql.SQL(
        "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION {function}();"
        " ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger};"
        # An apply worker fires this one where it is ENABLE ALWAYS, and would stop at a replicated TRUNCATE.
        " CREATE TRIGGER {truncate} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
    ).format(
        trigger=sql.Identifier(FENCE_TRIGGER),
        truncate=sql.Identifier(FENCE_TRUNCATE_TRIGGER),
        table=table_name(table),
        function=sql.Identifier(SCHEMA, names.fence_function),
    )


def _mended(names: Names, table: Table) -> sql.Composed:
    return sql.SQL("{}; {}").format(sql.SQL("; ").join(_drops([table])), _triggers(names, table))


def _drops(tables: Iterable[Table]) -> list[sql.Composed]:
    return [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger), table_name(table))
        for table in tables
        for trigger in (FENCE_TRIGGER, FENCE_TRUNCATE_TRIGGER)
    ]


def lock_statement(tables: Sequence[Table]) -> sql.Composed:
    """The lock that waits for running writers and holds new ones back; readers go on."""
    names = sql.SQL(", ").join([sql.SQL("ONLY {}").format(table_name(t)) for t in tables])
    return sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names)


@dataclass(frozen=True, kw_only=True)
class Fence:
    """How one side is to be closed; ``lock_timeout`` and ``dead_man`` are seconds.

    Locks are tried with a short timeout and again, so that we yield and not the application. ``dead_man``
    seconds of our silence make the server roll everything back. ``also`` are further locks.
    """

    names: Names
    tables: tuple[Table, ...]
    message: str
    there: Standing
    lock_timeout: float
    dead_man: float
    also: tuple[sql.SQL, ...] = ()

    def script(self) -> tuple[sql.Composed, ...]:
        """What is executed once the locks are there."""
        return statements(self.names, self.tables, self.message, self.there)


def raise_fence(
    workspace: Workspace,
    server: Server,
    session: Session,
    fence: Fence,
    *,
    patience: float = LOCK_PATIENCE_SECONDS,
) -> float:
    """Open the fence transaction on ``session`` of ``server``: locks, then function and triggers. Returns when it began.

    StepFailed when the locks could not be had within ``patience`` seconds; nothing was changed then.
    """
    give_up = workspace.clock.monotonic() + patience
    while True:
        begun = workspace.clock.monotonic()
        _begin(session, fence)
        try:
            if fence.tables:
                session.execute(lock_statement(fence.tables))
            for statement in fence.also:
                session.execute(statement)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if workspace.clock.monotonic() > give_up:
                held = holders.of_tables(server, [table.oid for table in fence.tables])
                session.execute("ROLLBACK")
                raise _no_locks(server, patience, held) from error
            session.execute("ROLLBACK")
            workspace.clock.sleep(random.uniform(0.05, 0.4))  # noqa: S311  # jitter, not a secret
            continue
        failpoint("cutover.locked")
        session.execute(sql.SQL("; ").join(fence.script()))
        failpoint("cutover.fenced")
        return begun


def _no_locks(server: Server, patience: float, held: str) -> StepFailed:
    return StepFailed(
        f"{server.side.value}: the tables could not be locked within {patience:.0f} s; nothing was changed, writers go"
        f" on. Their locks: {held}",
        remedy="Let those transactions end, or end them (SELECT pg_terminate_backend(pid); COMMIT PREPARED or ROLLBACK"
        " PREPARED), then run again.",
    )


def _begin(session: Session, fence: Fence) -> None:
    session.execute(BEGIN)
    session.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true),"
        " set_config('client_min_messages', 'warning', true)",
        [f"{int(fence.lock_timeout * 1000)}ms", f"{int(fence.dead_man * 1000)}ms"],
    )


def close_quietly(workspace: Workspace, server: Server, tables: Sequence[Table], message: str) -> None:
    """Close a side that nobody is meant to write to: some tables at a time, each waited for in short turns.

    Done again, it closes what was added since. StepFailed when a table can't be locked for a minute.
    """
    there = standing(server, workspace.names)
    todo = [table for table in tables if table.qualified not in there.whole]
    groups = [todo[place : place + _AT_ONCE] for place in range(0, len(todo), _AT_ONCE)] or [[]]
    for group in groups:
        made = statements(workspace.names, group, message, there)
        failpoint("guard.before_close")
        _in_turns(workspace, server, made, [table.oid for table in group])
        failpoint("guard.closed")


def _in_turns(
    workspace: Workspace, server: Server, made: Sequence[sql.Composed], oids: Sequence[int]
) -> None:
    patience = workspace.clock.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        with server.session() as session:
            try:
                with session.transaction():
                    session.execute(
                        "SET LOCAL lock_timeout = '500ms'; SET LOCAL client_min_messages = warning"
                    )
                    for statement in made:
                        session.execute(statement)
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                if workspace.clock.monotonic() > patience:
                    raise StepFailed(
                        f"{server.side.value}: the fence's triggers could not be changed within a minute. Their tables'"
                        f" locks: {holders.of_tables(server, oids)}",
                        remedy="Let those transactions end, or end them (SELECT pg_terminate_backend(pid); COMMIT"
                        " PREPARED or ROLLBACK PREPARED), then run again.",
                    ) from error
            else:
                return
        workspace.clock.sleep(random.uniform(0.05, 0.4))  # noqa: S311  # jitter, not a secret


def opening(names: Names) -> sql.Composed:
    """What opens a closed side: from its commit on every statement passes. Waits for no lock."""
    return _function(names, _OPEN)


def lower_statements(server: Server, names: Names) -> tuple[sql.Composed, ...]:
    """What takes a fence away again, open or closed."""
    held = standing(server, names).tables
    return lowering(names, [t for t in catalog.tables(server) if t.qualified in held])


def lowering(names: Names, tables: Iterable[Table]) -> tuple[sql.Composed, ...]:
    """The same for a fence that ``tables`` carry."""
    function = sql.Identifier(SCHEMA, names.fence_function)
    return (*_drops(tables), sql.SQL("DROP FUNCTION IF EXISTS {}()").format(function))


def lower(workspace: Workspace, server: Server) -> tuple[str, ...]:
    """Take the fence away from ``server``, where writers are at work: open it first, then a table at a time.

    Dropping a trigger waits for the table's readers, and whoever comes after waits behind it: so each attempt is
    short, and what can't be had within a minute stays. Returns the tables that still carry open triggers.
    """
    names = workspace.names
    if not there_is(server, names):
        return ()
    failpoint("fence.before_open")
    server.execute(opening(names))
    failpoint("fence.opened")
    held = standing(server, names).tables
    left = [t for t in catalog.tables(server) if t.qualified in held]
    give_up = workspace.clock.monotonic() + LOCK_PATIENCE_SECONDS
    with server.session() as session:
        session.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('client_min_messages', 'warning', false)",
            [f"{_POLITE_MILLISECONDS}ms"],
        )
        while left := [table for table in left if not _dropped(session, table)]:
            if workspace.clock.monotonic() > give_up:
                return tuple(table.qualified for table in left)
            workspace.clock.sleep(random.uniform(0.05, 0.4))  # noqa: S311  # jitter, not a secret
        failpoint("fence.triggers_dropped")
        session.execute(lower_statements(server, names)[-1])
        failpoint("fence.lowered")
    return ()


def _dropped(session: Session, table: Table) -> bool:
    try:
        with session.transaction():
            for statement in _drops([table]):
                session.execute(statement)
    except (errors.LockNotAvailable, errors.DeadlockDetected):
        return False
    return True


def there_is(server: Server, names: Names) -> bool:
    """True while the server shows the plan's fence function, whatever it does."""
    return bool(
        server.value(
            "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname = %s AND p.proname = %s)",
            [SCHEMA, names.fence_function],
        )
    )
