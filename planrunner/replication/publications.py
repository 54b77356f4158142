"""Publications on the source: one a generation, an explicit list of tables and its barrier table.

A publication exists before its slot does, else the stream stops; it names every table, else (FOR ALL
TABLES) a table without replica identity would break the application's own updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.replication.identities import table_name
from planrunner.replication.names import SCHEMA
from planrunner.replication.row_filters import predicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names

BARRIER_COLUMNS = sql.SQL("(token uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")


def barrier_table(names: Names, generation: int) -> sql.Composed:
    """What makes a generation's barrier table, on either side."""
    table = sql.Identifier(SCHEMA, names.barrier(generation))
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ").format(table) + BARRIER_COLUMNS


def statements(names: Names, generation: int, tables: Sequence[Table]) -> tuple[sql.Composed, ...]:
    """What makes the publication of a generation and its barrier table on the source."""
    barrier = sql.Identifier(SCHEMA, names.barrier(generation))
    publication = sql.Identifier(names.stream(generation))
    return (
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)),
        barrier_table(names, generation),
        sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(publication, _members(barrier, tables)),
        sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(publication, sql.Literal(names.owner_mark)),
    )


def _members(barrier: sql.Identifier, tables: Sequence[Table]) -> sql.Composed:
    named = [sql.SQL("ONLY {}").format(barrier)]
    for table in tables:
        one = sql.SQL("ONLY {}").format(table_name(table))
        named.append(
            one if table.where is None else sql.SQL("{} WHERE {}").format(one, predicate(table.where))
        )
    return sql.SQL(", ").join(named)


def create(source: Server, names: Names, generation: int, tables: Sequence[Table]) -> None:
    """Make the publication and its barrier table in one transaction."""
    with source.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        for statement in statements(names, generation, tables):
            session.execute(statement)


def existing(source: Server, names: Names) -> dict[int, frozenset[str]]:
    """Our publications by generation, with the tables each holds (``schema.table``)."""
    rows = source.rows(
        "SELECT p.pubname::text, coalesce(array_agg(n.nspname || '.' || c.relname) FILTER"
        " (WHERE c.oid IS NOT NULL), '{}')"
        " FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid"
        " LEFT JOIN pg_class c ON c.oid = r.prrelid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE starts_with(p.pubname, %s) GROUP BY 1",
        [names.prefix],
    )
    return {names.generation(row[0]): frozenset(row[1]) for row in rows}


def narrow(source: Server, names: Names, generation: int, tables: Sequence[Table]) -> None:
    """Leave only ``tables`` and the barrier in a generation's publication: those it has copied."""
    barrier = sql.Identifier(SCHEMA, names.barrier(generation))
    source.execute(
        sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(
            sql.Identifier(names.stream(generation)),
            _members(barrier, tables),
        )
    )


def drop(source: Server, names: Names, generation: int) -> None:
    """Drop a generation's publication and its barrier table on the source."""
    with source.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(
            sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(names.stream(generation)))
        )
    drop_barrier(source, names, generation)


def drop_barrier(server: Server, names: Names, generation: int) -> None:
    """Drop a generation's barrier table on one side."""
    table = sql.Identifier(SCHEMA, names.barrier(generation))
    with server.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))


def drop_empty_schema(source: Server) -> None:
    """Drop the source's ``planrunner`` schema when nothing of any plan is left in it."""
    left = source.value(
        "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass"
        " AND refobjid = to_regnamespace('planrunner'))"
    )
    if not left:
        source.execute(sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(SCHEMA)))
