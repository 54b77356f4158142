"""Whether a snapshot still shows a table's rows as they were: not every rewriting of a table respects snapshots.

VACUUM FULL and CLUSTER keep rows visible to older snapshots, but at other places. ALTER TABLE (a changed type,
a computed default) and TRUNCATE do not: an older snapshot sees an empty table from then on. A TRUNCATE is in the
stream, and does no harm; what an ALTER TABLE wrote anew is not. And a table of the same name may be another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import SnapshotOutdated
from planrunner.replication.identities import table_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.pq.abc import PGresult

    from planrunner.postgres.connection import Server
    from planrunner.replication.units import Unit

# Within it a job's locks are taken: they go with it, or DDL (and whoever comes behind) would wait for the whole copy.
BEGIN = sql.SQL("SAVEPOINT unit")
END = sql.SQL("ROLLBACK TO SAVEPOINT unit; RELEASE SAVEPOINT unit")
# How a table is made: ALTER TABLE, which writes rows anew, leaves other rows here, and TRUNCATE the same.
_MADE = sql.SQL(
    "(SELECT md5(string_agg(concat_ws(' ', a.attnum, a.xmin), ',' ORDER BY a.attnum)) FROM pg_attribute a"
    " WHERE a.attrelid = c.oid AND a.attnum > 0) || c.relam::text || c.relpersistence::text"
)
_MADE_NOW = sql.SQL("SELECT c.oid::bigint, {} FROM pg_class c WHERE c.oid = ANY (%s::oid[])").format(_MADE)
# pg_class and pg_attribute are read as of the snapshot; the functions tell of now.
_LOOK = """
SELECT asked.place, coalesce(c.oid = to_regclass(asked.name) AND c.oid = asked.oid, false),
       coalesce(c.relfilenode = pg_relation_filenode(c.oid), false), coalesce(pg_relation_size(c.oid), 0) = 0, {made}
FROM (VALUES {asked}) asked(place, oid, name) LEFT JOIN pg_class c ON c.oid = asked.oid ORDER BY 1
"""


def look(units: Sequence[Unit]) -> sql.Composed:
    """What asks a session inside the snapshot about the tables of ``units``, best while it holds their locks."""
    asked = [
        sql.SQL("({}, {}::oid, {})").format(
            sql.Literal(place),
            sql.Literal(unit.table.oid),
            sql.Literal(table_name(unit.table).as_string()),
        )
        for place, unit in enumerate(units)
    ]
    return sql.SQL(_LOOK).format(made=_MADE, asked=sql.SQL(", ").join(asked))


def refuse(
    found: PGresult, units: Sequence[Unit], rows: Mapping[str, int], *, source: Server, pages: bool = False
) -> None:
    """SnapshotOutdated when what was copied of ``units`` may not be what the snapshot's slot goes on from.

    ``rows`` tells how many were copied, by unit; ``pages``: not the whole table, but a part by their places.
    """
    gone = [
        unit
        for place, unit in enumerate(units)
        if not _stands(found, place, empty=rows[unit.id] == 0, pages=pages)
    ]
    if gone and not pages:
        # Rare, so that only now somebody asks who does not see by the snapshot.
        made: dict[int, str] = dict(source.rows(_MADE_NOW, [[unit.table.oid for unit in gone]]))
        before = {unit.id: found.get_value(place, 4) for place, unit in enumerate(units)}
        gone = [unit for unit in gone if (before[unit.id] or b"").decode() != made.get(unit.table.oid)]
    if gone:
        names = ", ".join(unit.table.qualified for unit in gone)
        raise SnapshotOutdated(
            f"source: {names}: rewritten or replaced while it was to be copied (VACUUM FULL, CLUSTER, TRUNCATE or ALTER"
            " TABLE): the copy's snapshot does not show its rows any more",
            remedy="Run again: what was copied stays copied, the rest goes to another generation.",
        )


def _stands(found: PGresult, place: int, *, empty: bool, pages: bool) -> bool:
    same, unmoved, nothing = (found.get_value(place, column) == b"t" for column in (1, 2, 3))
    # Rows that came through a rewriting are right as a whole; none at all may be all that an ALTER TABLE left to see.
    return same and (unmoved or not (pages or (empty and not nothing)))
