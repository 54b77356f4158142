"""Publications of inserts alone, beside a generation's own: for tables whose rows nothing can tell apart.

A table in a publication of updates or deletes without replica identity would break the application's own
statements; in one of inserts it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.replication.units import published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.replication.choices import Choices
    from planrunner.replication.names import Names
    from planrunner.replication.units import Unit


def parted(units: Sequence[Unit], choices: Choices) -> tuple[list[Unit], list[Unit]]:
    """The units that are followed wholly, and those of which only inserts are."""
    only = [unit for unit in units if choices.insert_only(unit.table)]
    return [unit for unit in units if not choices.insert_only(unit.table)], only


def statements(names: Names, generation: int, units: Sequence[Unit]) -> tuple[sql.Composed, ...]:
    """What makes the generation's publication of inserts; nothing where there are no such units."""
    if not units:
        return ()
    publication = sql.Identifier(names.inserts(generation))
    return (
        sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert')").format(
            publication, _members(units)
        ),
        sql.SQL("COMMENT ON PUBLICATION {} IS {}").format(publication, sql.Literal(names.owner_mark)),
    )


def _members(units: Sequence[Unit]) -> sql.Composed:
    return sql.SQL(", ").join([published(unit) for unit in sorted(units, key=lambda unit: unit.id)])


def create(source: Server, names: Names, generation: int, units: Sequence[Unit]) -> None:
    """Make the generation's publication of inserts where there are such units; before its slot."""
    source.execute(*statements(names, generation, units))
    failpoint("inserts.published")


def narrow(source: Server, names: Names, generation: int, units: Sequence[Unit]) -> tuple[str, ...]:
    """Leave only ``units`` in it, those that were copied; returns what the subscription names of it."""
    if not units:
        return ()
    name = names.inserts(generation)
    source.execute(sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(sql.Identifier(name), _members(units)))
    failpoint("inserts.narrowed")
    return (name,)


def drop(source: Server, names: Names, generation: int) -> None:
    """Drop the generation's publication of inserts, if there is one."""
    with source.transaction() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(
            sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(names.inserts(generation)))
        )
    failpoint("inserts.dropped")
