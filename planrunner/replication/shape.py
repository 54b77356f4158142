"""The shape of the tables that are followed: what logical replication relies on, as of one moment.

Names, columns, types, keys and enum labels of every permanent table. One number tells whether any of it
has changed; only then is the whole read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planrunner.postgres.catalog import qualified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json
    from planrunner.postgres.connection import Row, Server, Session

# Raw catalogue values only, no format_type: this runs every half minute on a busy source.
_DIGEST = """
WITH ours AS (
  SELECT c.oid, n.nspname, c.relname, c.relreplident FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%'
    AND n.nspname NOT IN ('information_schema', 'planrunner') AND NOT EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
SELECT format('%s %s', count(*), sum(hashtextextended(line, 0)::numeric)) FROM (
  SELECT format('t %s %s.%s %s', oid, nspname, relname, relreplident) FROM ours
  UNION ALL
  SELECT format('c %s %s %s %s %s %s %s', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attgenerated)
  FROM pg_attribute a JOIN ours ON ours.oid = a.attrelid WHERE attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT format('i %s %s %s %s %s', indrelid, indkey, indisprimary, indisreplident, indisvalid)
  FROM pg_index i JOIN ours ON ours.oid = i.indrelid WHERE indisprimary OR indisreplident
  UNION ALL
  SELECT format('e %s %s %s', enumtypid, enumsortorder, enumlabel) FROM pg_enum) all_of_it(line)
"""
_SHAPE = """
SELECT 't', c.oid::bigint, n.nspname::text, c.relname::text, c.relreplident::text,
       (SELECT jsonb_object_agg(a.attnum, jsonb_build_array(a.attname,
          format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> ''))
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT jsonb_agg(a.attname ORDER BY k.n) FROM pg_index i
          CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = c.oid AND i.indisvalid
          AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'e', t.oid::bigint, n.nspname::text, t.typname::text, '',
       (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), NULL
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e'
"""


@dataclass(frozen=True, kw_only=True)
class ColumnShape:
    """A column; ``type`` as format_type gives it."""

    name: str
    type: str
    not_null: bool
    generated: bool


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """A table; ``columns`` by attribute number, which a rename keeps.

    ``identity`` is the catalogue's letter of the replica identity and ``key`` its columns: of the chosen
    index, otherwise of the primary key; empty without.
    """

    schema: str
    name: str
    columns: Mapping[int, ColumnShape]
    identity: str
    key: tuple[str, ...]

    @property
    def qualified(self) -> str:
        """As ``Table.qualified``."""
        return qualified(self.schema, self.name)

    @property
    def by_name(self) -> Mapping[str, ColumnShape]:
        """The columns by name, which is all that two servers have in common."""
        return {column.name: column for column in self.columns.values()}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """All tables by OID and the labels of all enums by ``schema.name``; ``digest`` changes with any of it."""

    digest: str
    tables: Mapping[int, TableShape]
    enums: Mapping[str, tuple[str, ...]]

    @property
    def by_name(self) -> Mapping[str, TableShape]:
        """The tables by ``schema.name``."""
        return {table.qualified: table for table in self.tables.values()}


def digest(server: Server) -> str:
    """One number for the whole shape, by one query."""
    return str(server.value(_DIGEST))


def read(server: Server) -> Shape:
    """The shape as it is now, by two queries.

    A change between them makes the digest the older of the two, so the next comparison sees it again.
    """
    told = digest(server)
    return _shape(told, server.rows(_SHAPE))


def read_in(session: Session) -> Shape:
    """The shape as the session's transaction sees it."""
    row = session.execute(_DIGEST).fetchone()
    assert row is not None
    return _shape(str(row[0]), session.execute(_SHAPE).fetchall())


def _shape(told: str, rows: list[Row]) -> Shape:
    return Shape(
        digest=told,
        tables={row[1]: _table(row[2:]) for row in rows if row[0] == "t"},
        enums={qualified(row[2], row[3]): tuple(row[5] or ()) for row in rows if row[0] == "e"},
    )


def _table(row: tuple[Any, ...]) -> TableShape:
    schema, name, identity, columns, key = row
    return TableShape(
        schema=schema,
        name=name,
        columns={
            int(number): ColumnShape(name=c[0], type=c[1], not_null=c[2], generated=c[3])
            for number, c in (columns or {}).items()
        },
        identity=identity,
        key=tuple(key or ()),
    )


def to_json(shape: Shape) -> dict[str, Json]:
    """The shape for the ledger, in the form of the query's rows."""
    return {
        "digest": shape.digest,
        "tables": {
            str(oid): [
                table.schema,
                table.name,
                table.identity,
                {str(n): [c.name, c.type, c.not_null, c.generated] for n, c in table.columns.items()},
                list(table.key),
            ]
            for oid, table in shape.tables.items()
        },
        "enums": {name: list(labels) for name, labels in shape.enums.items()},
    }


def from_json(found: Mapping[str, Any]) -> Shape:
    """What ``to_json`` made."""
    return Shape(
        digest=found["digest"],
        tables={int(oid): _table(tuple(row)) for oid, row in found["tables"].items()},
        enums={name: tuple(labels) for name, labels in found["enums"].items()},
    )
