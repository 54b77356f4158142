"""Publications on the source: one a generation, an explicit list of tables and its barrier table.

A publication exists before its slot does, else the stream stops; it names every table, else (FOR ALL
TABLES) a table without replica identity would break the application's own updates. Split tables have
publications of their own, see ``ranges``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.replication.names import SCHEMA
from planrunner.replication.units import published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.replication.names import Names
    from planrunner.replication.units import Unit

# ``truncated`` is set by the trigger of a split table (see ``ranges``), ``stop`` where streams are to be joined
# (see ``merge``).
BARRIER_COLUMNS = sql.SQL(
    "(token uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(), truncated int, stop boolean)"
)

DROP_SCHEMA = sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(SCHEMA))


def barrier_table(names: Names, generation: int) -> sql.Composed:
    """What makes a generation's barrier table, on either side."""
    return marker_table(names.barrier(generation))


def marker_table(name: str) -> sql.Composed:
    """What makes the barrier table of that name, on either side."""
    table = sql.Identifier(SCHEMA, name)
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ").format(table) + BARRIER_COLUMNS


def statements(names: Names, generation: int, units: Sequence[Unit]) -> tuple[sql.Composed, ...]:
    """What makes the publication of a generation and its barrier table on the source."""
    return (
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)),
        barrier_table(names, generation),
        *named(names, names.stream(generation), units, truncate=True, barrier=names.barrier(generation)),
    )


def named(
    names: Names, name: str, units: Sequence[Unit], *, truncate: bool, barrier: str | None = None
) -> list[sql.Composed]:
    """What makes the publication ``name`` of ``units``, with or without their TRUNCATEs."""
    publication = sql.Identifier(name)
    options = sql.SQL("" if truncate else " WITH (publish = 'insert, update, delete')")
    return [
        sql.SQL("CREATE PUBLICATION {} FOR TABLE {}{}").format(
            publication, _members(units, barrier), options
        ),
        sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(publication, sql.Literal(names.owner_mark)),
    ]


def _members(units: Sequence[Unit], barrier: str | None) -> sql.Composed:
    marker = [sql.SQL("ONLY {}").format(sql.Identifier(SCHEMA, barrier))] if barrier else []
    # In an order that does not depend on how busy the tables are: a preview must not differ from the next.
    return sql.SQL(", ").join([*marker, *map(published, sorted(units, key=lambda unit: unit.id))])


def create(source: Server, names: Names, generation: int, units: Sequence[Unit]) -> None:
    """Make the publication and its barrier table in one transaction."""
    with source.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        for statement in statements(names, generation, units):
            session.execute(statement)
        failpoint("publication.before_create")
    failpoint("publication.created")


def existing(source: Server, names: Names) -> dict[int, frozenset[str]]:
    """Our publications by generation, with the tables each holds, as ``Table.qualified``."""
    rows = source.rows(
        "SELECT p.pubname::text, coalesce(array_agg(n.nspname::text) FILTER (WHERE c.oid IS NOT NULL), '{}'),"
        " coalesce(array_agg(c.relname::text) FILTER (WHERE c.oid IS NOT NULL), '{}')"
        " FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid"
        " LEFT JOIN pg_class c ON c.oid = r.prrelid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE starts_with(p.pubname, %s) GROUP BY 1",
        [names.prefix],
    )
    return {
        generation: frozenset(map(catalog.qualified, row[1], row[2]))
        for row in rows
        if (generation := names.generation(row[0])) is not None
    }


def narrow(source: Server, names: Names, generation: int, units: Sequence[Unit]) -> None:
    """Leave only ``units`` and the barrier in a generation's publication: those it has copied."""
    failpoint("publication.before_narrow")
    source.execute(narrowing(names, generation, units))
    failpoint("publication.narrowed")


def narrowing(names: Names, generation: int, units: Sequence[Unit]) -> sql.Composed:
    """What ``narrow`` executes."""
    return sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(
        sql.Identifier(names.stream(generation)), _members(units, names.barrier(generation))
    )


def drop(source: Server, names: Names, generation: int) -> None:
    """Drop a generation's barrier table on the source, then its publication."""
    drop_barrier(source, names, generation)
    with source.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(dropping(names.stream(generation)))
    failpoint("publication.dropped")


def dropping(publication: str) -> sql.Composed:
    """What drops a publication that may be gone."""
    return sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication))


def drop_barrier(server: Server, names: Names, generation: int) -> None:
    """Drop a generation's barrier table on one side, with its trigger and that one's function."""
    with server.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        for statement in dropping_barrier(names, generation):
            session.execute(statement)
    failpoint("barrier.dropped")


def dropping_barrier(names: Names, generation: int) -> tuple[sql.Composed, ...]:
    """What ``drop_barrier`` executes."""
    functions = (names.truncate_part_function(generation), names.stop_function(generation))
    return (
        dropping_marker(names.barrier(generation)),
        *(
            sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier(SCHEMA, function))
            for function in functions
        ),
    )


def dropping_marker(name: str) -> sql.Composed:
    """What drops the barrier table of that name, on either side."""
    return sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(SCHEMA, name))


def drop_empty_schema(source: Server) -> None:
    """Drop the source's ``planrunner`` schema when nothing of any plan is left in it."""
    left = source.value(
        "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass"
        " AND refobjid = to_regnamespace('planrunner'))"
    )
    if not left:
        source.execute(DROP_SCHEMA)
        failpoint("ledger.source_schema_dropped")
