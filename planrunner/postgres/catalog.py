"""What a database holds, read from pg_catalog in a fixed number of queries."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planrunner.postgres.connection import Row, Server

# Tables that a user made: not the system's, not ours, not a part of an extension, not temporary. Each size is asked
# for once a table: the server looks at every file for it, which is most of this query's time.
# The size of a table that somebody holds for himself, or is in line for, is what was last known: to ask is to wait. So
# is every size where nobody wants to know it now.
_TABLES = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text, c.relkind::text,
       c.relpersistence::text, c.relreplident::text, c.relispartition,
       greatest(c.reltuples, 0)::bigint, (size.data + size.indexes)::bigint,
       size.data::bigint, size.pages,
       coalesce(CASE c.relreplident WHEN 'i' THEN has.chosen WHEN 'd' THEN has.key ELSE c.relreplident = 'f' END, false),
       c.reltoastrelid <> 0
         AND (locked.relation IS NOT NULL OR NOT %(sized)s OR pg_relation_size(c.reltoastrelid) > 0),
       c.relrowsecurity,
       keyed.names, h.inhparent::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (SELECT DISTINCT relation FROM pg_locks WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) locked
       ON locked.relation = c.oid
CROSS JOIN current_setting('block_size') block
CROSS JOIN LATERAL (
  SELECT pg_table_size(c.oid) AS data, pg_indexes_size(c.oid) AS indexes, pg_relation_size(c.oid) / block::bigint AS pages
  WHERE locked.relation IS NULL AND %(sized)s
  UNION ALL
  SELECT c.relpages * block::bigint, 0, c.relpages WHERE locked.relation IS NOT NULL OR NOT %(sized)s OFFSET 0) size
LEFT JOIN (SELECT indrelid, bool_or(indisvalid AND indisreplident) AS chosen,
                  bool_or(indisvalid AND indisprimary AND indimmediate) AS key
           FROM pg_index GROUP BY 1) has ON has.indrelid = c.oid
LEFT JOIN (SELECT i.indrelid, array_agg(a.attname::text ORDER BY k.n) AS names
           FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
           WHERE i.indisprimary GROUP BY 1) keyed ON keyed.indrelid = c.oid
LEFT JOIN pg_inherits h ON c.relispartition AND h.inhrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY 2, 3
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname::text, format_type(a.atttypid, a.atttypmod),
       CASE WHEN b.typtype = 'd' THEN b.typbasetype ELSE b.oid END::regtype::text, b.typtype::text,
       a.attgenerated::text, a.attidentity::text, a.attnotnull,
       b.typsend = 0 OR b.typreceive = 0, coalesce(b.typtype = 'b' AND b.typcategory = 'A', false)
FROM pg_attribute a JOIN pg_type b ON b.oid = a.atttypid
WHERE a.attrelid = ANY(%s::bigint[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_WORD = r'((?:U&)?"(?:[^"]|"")*"|[^."#]+)'
_QUALIFIED = re.compile(rf"{_WORD}\.{_WORD}")
_ESCAPE = re.compile(r"\\(?:\+([0-9a-f]{6})|([0-9a-f]{4})|\\)")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: ``type`` as format_type gives it, ``base`` the type behind a domain.

    ``kind`` is pg_type.typtype; ``generated`` and ``identity`` are the catalogue's letters, empty when
    the column is neither.
    """

    name: str
    type: str
    base: str
    kind: str
    generated: str
    identity: str
    not_null: bool
    text_only: bool
    array: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table or partitioned table. ``rows`` is the planner's estimate, ``bytes`` includes indexes.

    ``data_bytes`` is heap and toast, ``pages`` the main fork in blocks. ``identifiable``: its replica identity
    can tell a row (a valid primary key, the chosen index, FULL). ``toasted``: values lie out of line. ``parent``
    is the oid of the table that it is a partition of. ``where`` is the plan's row filter, an SQL expression over
    its columns that may stand inside brackets; None: every row.
    """

    oid: int
    schema: str
    name: str
    owner: str
    partitioned: bool
    unlogged: bool
    replica_identity: str
    is_partition: bool
    rows: int
    bytes: int
    data_bytes: int
    pages: int
    identifiable: bool
    toasted: bool
    row_security: bool
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    parent: int | None = None
    where: str | None = None

    @property
    def qualified(self) -> str:
        """``schema.name`` for people and ledgers, the same for no two tables; never for SQL."""
        return qualified(self.schema, self.name)

    @property
    def stored(self) -> tuple[Column, ...]:
        """The columns that hold data of their own: all but generated ones."""
        return tuple(c for c in self.columns if not c.generated)


# For outlines: a table of which nothing is known; its names are shapes.
ANY_TABLE = Table(
    oid=0,
    schema="…",
    name="…",
    owner="…",
    partitioned=False,
    unlogged=False,
    replica_identity="d",
    is_partition=False,
    rows=0,
    bytes=0,
    data_bytes=0,
    pages=0,
    identifiable=True,
    toasted=False,
    row_security=False,
    key=(),
    columns=(),
)


def index_count(server: Server) -> int:
    """How many indexes a user's tables have."""
    return int(
        server.value(
            "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT LIKE 'pg\\_%'"
            " AND n.nspname NOT IN ('information_schema', 'planrunner')"
        )
    )


def qualified(schema: str, name: str) -> str:
    r"""``schema.name``, quoted where a dot or mark in a name would make it mean another table too.

    What can't be seen is spelt as PostgreSQL spells it, ``U&"a\000ab"``: it would break a line, or hide in it.
    """
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(word: str) -> str:
    doubled = word.replace('"', '""')
    if not word.isprintable():
        spelt = (c if c.isprintable() else _spelt(ord(c)) for c in doubled.replace("\\", "\\\\"))
        return f'U&"{"".join(spelt)}"'
    return f'"{doubled}"' if set(word) & set('."#') or word != word.strip() else word


def _spelt(code: int) -> str:
    return f"\\{code:04x}" if code < 0x10000 else f"\\+{code:06x}"


def parted(text: str) -> tuple[str, str]:
    """Schema and name of what ``qualified`` wrote."""
    found = _QUALIFIED.fullmatch(text)
    # Records of an earlier version have names with dots in them as they are.
    schema, _, name = text.partition(".")
    return (_plain(found[1]), _plain(found[2])) if found else (schema, name)


def _plain(word: str) -> str:
    if not word.endswith('"'):
        return word
    text = word[word.index('"') + 1 : -1].replace('""', '"')
    return (
        _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else "\\", text)
        if word[0] == "U"
        else text
    )


def tables(server: Server) -> tuple[Table, ...]:
    """Every user table of the database, with its columns, in name order."""
    return server.memory.of("tables", lambda: _tables(server, sized=True))


def unsized_tables(server: Server) -> tuple[Table, ...]:
    """The same in half the time: with the sizes of the last ANALYZE or VACUUM, and no toast known to be empty."""
    return _tables(server, sized=False)


def _tables(server: Server, *, sized: bool) -> tuple[Table, ...]:
    found = server.rows(_TABLES, {"sized": sized})
    columns: dict[int, list[Column]] = defaultdict(list)
    for row in server.rows(_COLUMNS, [[row[0] for row in found]]):
        columns[row[0]].append(_column(row))
    return tuple(_table(row, tuple(columns[row[0]])) for row in found)


def _column(row: Row) -> Column:
    return Column(
        name=row[1],
        type=row[2],
        base=row[3],
        kind=row[4],
        generated=row[5],
        identity=row[6],
        not_null=row[7],
        text_only=row[8],
        array=row[9],
    )


def _table(row: Row, columns: tuple[Column, ...]) -> Table:
    return Table(
        oid=row[0],
        schema=row[1],
        name=row[2],
        owner=row[3],
        partitioned=row[4] == "p",
        unlogged=row[5] == "u",
        replica_identity=row[6],
        is_partition=row[7],
        rows=row[8],
        bytes=row[9],
        data_bytes=row[10],
        pages=row[11],
        identifiable=row[12],
        toasted=row[13],
        row_security=row[14],
        key=tuple(row[15] or ()),
        columns=columns,
        parent=row[16],
    )


def stored_tables(server: Server) -> tuple[Table, ...]:
    """The tables that hold rows themselves: everything but partitioned parents."""
    return tuple(t for t in tables(server) if not t.partitioned)


def has_large_objects(server: Server) -> bool:
    """True when the database holds any large object."""
    return bool(server.value("SELECT EXISTS (SELECT FROM pg_largeobject_metadata)"))
