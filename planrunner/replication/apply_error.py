"""Why an apply worker fails, found from the outside: the server counts errors, only its log names them.

The transaction that comes next is read from a temporary copy of the slot, so the worker keeps its own,
and tried on the target in a transaction that is rolled back: the change that the target refuses is the one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.errors import PlanrunnerError
from planrunner.failpoints import failpoint
from planrunner.postgres.failures import query_failure
from planrunner.postgres.lsn import Lsn
from planrunner.replication import fence, pgoutput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.postgres.connection import Row, Server, Session
    from planrunner.replication.pgoutput import Change, Transaction
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace

MOST_CHANGES = 2000
_SHOWN = 60
# Neither server is to be burdened long for a better message. To decode a million rows took 6 s.
_DECODING_SECONDS = 8
_SECONDS = 3
# pg_read_all_data, which RDS gives its master user, reads every view and calls none of the functions behind it.
_MAY_SEE_ORIGINS = (
    "SELECT has_table_privilege('pg_replication_origin_status', 'SELECT')"
    " AND has_function_privilege('pg_show_replication_origin_status()', 'EXECUTE')"
)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The transaction that can't be applied, and what of it the target refuses.

    ``change`` is None when no single change was refused in the trial (a passing cause, or a trial that
    the login may not make); ``words`` and ``sqlstate`` are the target's. ``colliding`` holds the columns
    of the unique key that is taken, empty for other causes. ``closed``: our guard keeps writers off the target.
    """

    transaction: Transaction
    change: Change | None
    words: str
    sqlstate: str | None
    colliding: tuple[str, ...] = ()
    closed: bool = False


def explain(workspace: Workspace, subscription: Subscription) -> Refusal | None:
    """The transaction that ``subscription`` stands before and why it fails; None when it can't be found out.

    Changes nothing on either side. Takes at most some seconds.
    """
    try:
        following = _next_transaction(workspace, subscription)
        if following is None:
            return None
        closed = fence.standing(workspace.target, workspace.names).closed
        # Opened within the trial alone: the worker passes the guard, the trial's statements would be refused by it.
        opening = fence.opening(workspace.names) if closed else None
        return replace(_tried(workspace.target, following, opening), closed=closed)
    except (PlanrunnerError, psycopg.Error):
        # No free slot for the copy, a login that may not: the caller says what it knows without.
        return None


def _next_transaction(workspace: Workspace, subscription: Subscription) -> Transaction | None:
    applied = position(workspace.target, subscription)
    with copied_slot(workspace.source, workspace.names.plan_id, str(subscription.slot)) as (session, name):
        confirmed = session.execute(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [name]
        ).fetchone()
        assert confirmed is not None
        # What the target has applied and not yet confirmed would come first otherwise.
        if applied is not None and applied > Lsn.parse(confirmed[0]):
            session.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [name, str(applied)])
        rows = session.execute(
            "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s,"
            " 'proto_version', '1', 'publication_names', %s) LIMIT %s",
            [name, MOST_CHANGES, subscription.publications, 2 * MOST_CHANGES],
        ).fetchall()
    found = pgoutput.transactions((row[0], bytes(row[1])) for row in rows)
    # A source before 15 sends transactions that touched nothing of ours, too: empty.
    return next((t for t in found if t.changes), None)


def position(target: Server, subscription: Subscription) -> Lsn | None:
    """Up to where the target has applied; None when the login may not see it."""
    if not target.value(_MAY_SEE_ORIGINS):
        return None
    told = target.value(
        "SELECT remote_lsn::text FROM pg_replication_origin_status WHERE external_id = %s",
        [f"pg_{subscription.oid}"],
    )
    return Lsn.parse(told) if told else None


@contextmanager
def copied_slot(
    source: Server, plan_id: str, slot: str, *, seconds: int = _DECODING_SECONDS
) -> Iterator[tuple[Session, str]]:
    """A temporary copy of ``slot``, which the server drops with the session; no statement takes longer than that."""
    session = source.open(read_only=False)
    try:
        name = f"pr_{plan_id}_look_{session.info.backend_pid}"
        session.execute("SELECT set_config('statement_timeout', %s, false)", [f"{seconds}s"])
        session.execute("SELECT pg_copy_logical_replication_slot(%s, %s, true)", [slot, name])
        failpoint("apply_error.slot_copied")
        yield session, name
    finally:
        session.close()


def _tried(target: Server, transaction: Transaction, opening: sql.Composed | None) -> Refusal:
    session = target.open(read_only=False, autocommit=False)
    try:
        session.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', '1s', true)",
            [f"{_SECONDS}s"],
        )
        # As the apply worker does it: ordinary triggers, rules and foreign keys don't fire.
        session.execute("SET LOCAL session_replication_role = replica")
        if opening is not None:
            session.execute(opening)
        until = target.clock.monotonic() + _SECONDS
        for tried, change in enumerate(transaction.changes):
            if tried >= MOST_CHANGES or target.clock.monotonic() > until:
                words = f"of its changes the first {tried} were accepted when tried, the one that fails comes later"
                return Refusal(transaction=transaction, change=None, words=words, sqlstate=None)
            try:
                _apply(session, change)
            except psycopg.Error as error:
                session.rollback()
                return _refusal(target, session, transaction, change, error)
    except psycopg.Error as error:
        return Refusal(
            transaction=transaction,
            change=None,
            words=f"it could not be tried: {query_failure(error, target.side, None).message}",
            sqlstate=None,
        )
    finally:
        session.rollback()
        session.close()
    return Refusal(
        transaction=transaction, change=None, words="tried just now, it was accepted", sqlstate=None
    )


def _apply(session: Session, change: Change) -> None:
    table = sql.Identifier(change.relation.schema, change.relation.name)
    if change.kind == "INSERT":
        session.execute(
            sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
                table,
                sql.SQL(", ").join(map(sql.Identifier, change.new)),
                sql.SQL(", ").join(sql.Placeholder() * len(change.new)),
            ),
            list(change.new.values()),
        )
    elif change.kind == "UPDATE":
        # The key did not move: to set it again is refused where it is GENERATED ALWAYS.
        kept = () if change.old else change.relation.key
        written = {name: value for name, value in change.new.items() if name not in kept}
        if written:
            assigned = sql.SQL(", ").join(
                [sql.SQL("{} = %s").format(sql.Identifier(name)) for name in written]
            )
            where, values = matching(change.key)
            session.execute(
                sql.SQL("UPDATE ONLY {} SET {} WHERE {}").format(table, assigned, where),
                [*written.values(), *values],
            )
    elif change.kind == "DELETE":
        where, values = matching(change.key)
        session.execute(sql.SQL("DELETE FROM ONLY {} WHERE {}").format(table, where), values)
    # TRUNCATE is not tried: it would lock out every reader of the target.


def matching(values: Mapping[str, str | None]) -> tuple[sql.Composed, list[str]]:
    """A condition that finds the row with ``values``, and its parameters."""
    terms = [
        sql.SQL("{} IS NULL" if value is None else "{} = %s").format(sql.Identifier(name))
        for name, value in values.items()
    ]
    return sql.SQL(" AND ").join(terms), [value for value in values.values() if value is not None]


def _refusal(
    target: Server, session: Session, transaction: Transaction, change: Change, error: psycopg.Error
) -> Refusal:
    # Not the apply worker's trouble but the trial's: it writes by SQL, the worker does not; no
    # operator =, GENERATED ALWAYS, a lock or the time limit.
    if error.sqlstate in {"42883", "428C9", "55P03", "57014"} or session.closed:
        return Refusal(
            transaction=transaction,
            change=None,
            words=f"it could not be tried: {error.diag.message_primary or error}",
            sqlstate=error.sqlstate,
        )
    words = (error.diag.message_primary, error.diag.message_detail)
    return Refusal(
        transaction=transaction,
        change=change,
        words=": ".join(word for word in words if word) or str(error),
        sqlstate=error.sqlstate,
        colliding=_unique_columns(target, change, error) if error.sqlstate == "23505" else (),
    )


def _unique_columns(target: Server, change: Change, error: psycopg.Error) -> tuple[str, ...]:
    row: Row | None = target.row(
        "SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_class c"
        " JOIN pg_namespace s ON s.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid"
        " CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)"
        " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
        " WHERE s.nspname = %s AND c.relname = %s AND k.n <= i.indnkeyatts",
        [error.diag.schema_name, error.diag.constraint_name],
    )
    # An expression has no column's name, and a value the change did not send can't be looked for.
    columns = row[0] if row and row[0] else []
    return tuple(columns) if all(name in change.new for name in columns) else ()


def named(values: Mapping[str, str | None]) -> str:
    """A key for people: ``(id)=(7)``, long values cut."""
    shown = [_cut("null" if value is None else value) for value in values.values()]
    return f"({', '.join(values)})=({', '.join(shown)})"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
