"""Runs the SQL that a plan brings along, with the settings that its author expects, and asks its questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.errors import PlanrunnerError, QueryFailed, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.failures import query_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server, Session
    from planrunner.statements import Statement

# A question that takes longer than this is no question to be asked again and again.
QUESTION_SECONDS = 30.0
# The question names something that is not there yet: schema, table, column, function, type.
_ABSENT = ("3F000", "42P01", "42703", "42883", "42704")


def holds(server: Server, question: str, *, seconds: float = QUESTION_SECONDS) -> bool:
    """The truth of a query's first value, read in a read-only transaction; false for no row and for NULL.

    QueryFailed when the server refuses it, StepFailed when it gives no truth value.
    """
    with server.session(read_only=True) as session:
        _plain(session, seconds, None)
        session.execute("SET default_transaction_read_only = on")
        with session.transaction():
            # In binary only one statement is sent: nothing can lift the read-only mode and go on.
            row = session.execute(question.encode(), binary=True).fetchone()
    value = row[0] if row else None
    if value is not None and not isinstance(value, bool):
        raise StepFailed(
            f"{server.side.value}: the query gives {type(value).__name__}, expected true or false: {question}",
            remedy="Write a comparison: SELECT count(*) > 0 FROM …",
        )
    return value is True


def is_absent(error: QueryFailed) -> bool:
    """True when the query failed because something it names is not there."""
    return error.sqlstate in _ABSENT


def execute(
    server: Server,
    statements: Sequence[Statement],
    *,
    transaction: bool,
    statement_timeout: float | None,
    lock_timeout: float | None,
) -> None:
    """Execute the statements in order, in one transaction or each in one of its own; the first error ends it.

    An error is ``settled`` when the transaction it ended was not about to be committed: nothing is kept then.
    """
    committing = False
    try:
        with server.session(autocommit=not transaction) as session:
            _plain(session, statement_timeout, lock_timeout)
            for number, statement in enumerate(statements, 1):
                failpoint("sql.statement")
                _execute(session, server, statement, number)
            committing = True
            failpoint("sql.before_commit")
            if transaction:
                session.commit()
            failpoint("sql.after_commit")
    except PlanrunnerError as error:
        error.settled = transaction and not committing
        raise


def _execute(session: Session, server: Server, statement: Statement, number: int) -> None:
    try:
        session.execute(statement.text.encode())
    except psycopg.Error as error:
        raise query_failure(error, server.side, f"statement {number} (line {statement.line})") from error


def _plain(session: Session, statement_timeout: float | None, lock_timeout: float | None) -> None:
    """The settings of the database and the role, as psql would have them; ours suit only our own queries."""
    autocommit = session.autocommit
    session.set_autocommit(True)
    session.execute("RESET ALL")
    for name, limit in (("statement_timeout", statement_timeout), ("lock_timeout", lock_timeout)):
        if limit is not None:
            value = sql.Literal(f"{round(limit * 1000)}ms")
            session.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), value))
    session.set_autocommit(autocommit)
