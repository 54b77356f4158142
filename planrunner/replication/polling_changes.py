"""Brings the rows of a table that may have changed since a horizon: staged on the target, then put in place by key.

All of it is one transaction of the target. Rows that hold a key of these are deleted first, so that rows which have
exchanged a unique value don't meet. A row that is gone from the source is not seen here.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication import copy, polling_horizon, repair
from planrunner.replication.checksum import where
from planrunner.replication.identities import table_name
from planrunner.replication.row_filters import predicate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import psycopg

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.workspace import Workspace

# Unqualified in the pinned search path nothing else can be meant: temporary tables come first.
_STAGE = sql.SQL("pg_temp.planrunner_round")
# So much is read before the target is asked for anything: mostly nothing has changed.
_PEEK_BYTES = 64 << 10
_ANALYZED_ABOVE = 1000
_BOUND = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND to_regclass(%s) IN (conrelid, confrelid))
"""


def addressable(table: Table) -> bool:
    """Whether a changed row can be put in place of the one it was: by a key that the rows carry."""
    stored = {column.name for column in table.stored}
    return bool(table.key) and stored.issuperset(table.key)


def bring(
    workspace: Workspace, reader: Session, table: Table, since: int, keep: Callable[[Session, int], None]
) -> int:
    """Bring what may have changed since; returns how many rows.

    ``keep`` is given the target's transaction and that number at its end. Where no row may have changed the target is
    not touched, and ``keep`` not called. QueryFailed (23505) where a row
    that is gone from the source still holds a unique value; nothing is brought then.
    """
    with reader.cursor() as source, source.copy(outgoing(table, since)) as read:
        head = list(_some(read))
        if sum(map(len, head)) < _PEEK_BYTES and source.rowcount == 0:
            return 0
        with workspace.writing() as writer:
            with quiet(writer, table):
                writer.execute(staging(table))
                staged = _stage(writer, table, _all(workspace.source, head, read))
                if staged != source.rowcount:
                    raise StepFailed(
                        f"{table.qualified}: the source sent {source.rowcount} rows, the target took {staged}; nothing"
                        " of it was kept"
                    )
                if staged > _ANALYZED_ABOVE:
                    writer.execute(sql.SQL("ANALYZE {}").format(_STAGE))
                for statement in placing(table):
                    writer.execute(statement)
            keep(writer, staged)
            failpoint("polling.before_commit")
    failpoint("polling.brought")
    return staged


@contextmanager
def quiet(writer: Session, table: Table) -> Iterator[None]:
    """Keep the target's triggers, foreign keys and our own guard from what the block writes to ``table``.

    StepFailed where foreign keys can't be kept from it: they would delete, or refuse, rows of other tables.
    """
    with repair.stillness(writer, table) as loud:
        if repair.FOREIGN_KEYS in loud:
            _refuse_bound(writer, table)
        yield


def _refuse_bound(writer: Session, table: Table) -> None:
    row = writer.execute(_BOUND, [table_name(table).as_string()]).fetchone()
    if row is not None and row[0]:
        raise StepFailed(
            f"target: {table.qualified} has foreign keys, and our login may not keep them still while rows are put in"
            " place (session_replication_role)",
            remedy="Run on the target as an administrator: GRANT SET ON PARAMETER session_replication_role TO the login"
            " (PostgreSQL 15 and later), or give it the service's administrator role.",
        )


def outgoing(table: Table, since: int) -> sql.Composed:
    """The COPY of the source for the rows that may have changed."""
    kept = None if table.where is None else predicate(table.where)
    return sending(table, where(polling_horizon.changed(since), kept))


def sending(table: Table, condition: sql.Composable) -> sql.Composed:
    """The COPY of the source for the rows of a WHERE clause."""
    names = sql.SQL(", ").join([sql.Identifier(c.name) for c in table.stored])
    return sql.SQL("COPY (SELECT {} FROM ONLY {}{}) TO STDOUT ({})").format(
        names, table_name(table), condition, copy.binary_or_text(table)
    )


def staging(table: Table) -> sql.Composed:
    """What makes the temporary table that takes the rows; it is gone with the transaction."""
    names = sql.SQL(", ").join([sql.Identifier(c.name) for c in table.stored])
    return sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        _STAGE, names, table_name(table)
    )


def placing(table: Table) -> tuple[sql.Composed, sql.Composed]:
    """What puts the staged rows in place: those of the same keys go, these come."""
    names = sql.SQL(", ").join([sql.Identifier(c.name) for c in table.stored])
    same = sql.SQL(" AND ").join(
        [sql.SQL("there.{0} = staged.{0}").format(sql.Identifier(name)) for name in table.key]
    )
    own = sql.SQL("OVERRIDING SYSTEM VALUE " if any(c.identity for c in table.stored) else "")
    return (
        sql.SQL("DELETE FROM ONLY {} there USING {} staged WHERE {}").format(table_name(table), _STAGE, same),
        sql.SQL("INSERT INTO {} ({names}) {}SELECT {names} FROM {}").format(
            table_name(table), own, _STAGE, names=names
        ),
    )


def _stage(writer: Session, table: Table, blocks: Iterable[bytes | bytearray | memoryview]) -> int:
    taking = sql.SQL("COPY {}{} FROM STDIN ({})").format(
        _STAGE, copy.column_list(table), copy.binary_or_text(table)
    )
    return filled(writer, taking, blocks)


def filled(writer: Session, taking: sql.Composed, blocks: Iterable[bytes | bytearray | memoryview]) -> int:
    """Feed the target's COPY; returns the rows it took."""
    with writer.cursor() as target:
        with target.copy(taking) as write:
            for block in blocks:
                write.write(block)
        return target.rowcount


def _some(read: psycopg.Copy) -> Iterator[bytes]:
    size = 0
    while size < _PEEK_BYTES and (block := read.read()):
        size += len(block)
        yield bytes(block)


def _all(
    source: Server, head: Iterable[bytes], read: psycopg.Copy
) -> Iterator[bytes | bytearray | memoryview]:
    yield from head
    yield from source.telling(read)
