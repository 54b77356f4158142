"""Tries row filters on the source: a publication with them is made and rolled back in one transaction.

The server itself knows best which expressions it takes. What it does not say at once is that a filter of
columns outside the replica identity makes every UPDATE and DELETE of the application fail; the trial does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.replication.identities import table_name
from planrunner.replication.row_filters import predicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.names import Names

PRIVILEGE = "42501"
_LOCKED = "55P03"
# The columns each filter uses, and those of the replica identity; all columns where that is FULL.
_COLUMNS = """
SELECT r.prrelid::bigint,
  ARRAY(SELECT a.attname::text FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.prrelid AND d.refobjsubid > 0 ORDER BY 1),
  ARRAY(SELECT a.attname::text FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid
          AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
              WHEN 'd' THEN i.indisprimary AND i.indimmediate ELSE false END
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND (c.relreplident = 'f' OR a.attnum = ANY (i.indkey::int2[])) ORDER BY 1)
FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
WHERE p.pubname = %s
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of one table's filter.

    ``refusal`` holds the server's words, ``undecided`` says why it could not be tried, ``outside`` are the
    columns it uses that are not of the replica identity (``identity``).
    """

    table: Table
    refusal: str | None = None
    undecided: str | None = None
    sqlstate: str | None = None
    outside: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()


def trials(source: Server, names: Names, tables: Sequence[Table]) -> tuple[Trial, ...]:
    """Try the filters of ``tables``, all at once; one by one only when the server refuses them together.

    Needs a source of 15 or later. Leaves nothing; a table that is locked for more than three seconds is
    left undecided.
    """
    if not tables:
        return ()
    session = source.open(read_only=False, autocommit=False)
    try:
        with source.translated("try the row filters"):
            session.execute("SET LOCAL lock_timeout = '3s'; SET LOCAL client_min_messages = error")
            together = _tried(session, names, tables)
            if not isinstance(together, psycopg.Error):
                return together
            return tuple(_alone(session, names, table) for table in tables)
    finally:
        # Rolls back too, and minds no session that is broken.
        session.close()


def _alone(session: Session, names: Names, table: Table) -> Trial:
    found = _tried(session, names, [table])
    if not isinstance(found, psycopg.Error):
        return found[0]
    said = found.diag
    words = ": ".join(word for word in (said.message_primary, said.message_detail) if word)
    if found.sqlstate in {PRIVILEGE, _LOCKED}:
        return Trial(table=table, undecided=words, sqlstate=found.sqlstate)
    return Trial(table=table, refusal=words, sqlstate=found.sqlstate)


def _tried(session: Session, names: Names, tables: Sequence[Table]) -> tuple[Trial, ...] | psycopg.Error:
    name = f"{names.prefix}trial"
    members = [
        sql.SQL("ONLY {} WHERE {}").format(table_name(t), predicate(t.where or "true")) for t in tables
    ]
    statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(
        sql.Identifier(name), sql.SQL(", ").join(members)
    )
    try:
        with session.transaction() as attempt:
            session.execute(statement)
            columns = {row[0]: row[1:] for row in session.execute(_COLUMNS, [name]).fetchall()}
            raise psycopg.Rollback(attempt)
    except psycopg.Error as error:
        if session.closed:
            raise
        return error
    return tuple(_judged(table, *columns[table.oid]) for table in tables)


def _judged(table: Table, used: list[str], identity: list[str]) -> Trial:
    outside = tuple(column for column in used if column not in identity)
    return Trial(table=table, outside=outside, identity=tuple(identity))
