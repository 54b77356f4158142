"""Buckets: primary-key ranges of a table, the smallest part that is proven, and compared again, by itself.

Bounds come from one sample a table. Key columns of a type that sorts alike everywhere are cut row-wise; those of
texts under COLLATE "C", which is the same order on every server. No index of another collation serves such ranges,
so a table cut by texts is read in one scan whose rows are counted into their buckets, as is one whose rows do not
lie in the order of the key. A table without a key, or with one of another type, is one bucket.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import sql

from planrunner.replication.identities import table_name
from planrunner.replication.key_order import comparable
from planrunner.replication.row_filters import predicate
from planrunner.replication.units import KEY_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server

# A key's values as texts, in the order of its columns.
Point: TypeAlias = "tuple[str, ...]"

BUCKET_BYTES = 8 << 20
MOST_BUCKETS = 4000
# Read apart, ranges of a key whose order is not the heap's would touch most of the table's pages each.
LEAST_CORRELATION = 0.8
_SAMPLE_PAGES = 30
_TEXTS = frozenset({"text", "character varying"})
_CUT = """
SELECT ARRAY[{texts}], along FROM (
  SELECT {names}, place, count(*) OVER () AS total, abs(corr(place, page) OVER ()) AS along FROM (
    SELECT {names}, page, row_number() OVER (ORDER BY {order}) AS place FROM (
      SELECT {keys}, (ctid::text::point)[0] AS page FROM ONLY {table}{sampled}{where}) rows) numbered) counted
WHERE place > 1 AND place * {parts} / total > (place - 1) * {parts} / total AND place < total ORDER BY place
"""


@dataclass(frozen=True, kw_only=True)
class KeyColumn:
    """A column that tables are cut by; ``type`` is one of ``units.KEY_TYPES``."""

    name: str
    type: str

    def expression(self) -> sql.Composed:
        """The column as it is compared."""
        name = sql.Identifier(self.name)
        return sql.SQL('({}::text COLLATE "C")' if self.type in _TEXTS else "{}").format(name)

    def literal(self, value: str) -> sql.Composed:
        """A value of its type."""
        form = sql.SQL('({}::{} COLLATE "C")' if self.type in _TEXTS else "{}::{}")
        return form.format(sql.Literal(value), KEY_TYPES[self.type])


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One range of a table's key, ``low`` included and ``high`` not; None is open. Numbers count from 1."""

    table: Table
    number: int
    of: int
    columns: tuple[KeyColumn, ...]
    low: Point | None = None
    high: Point | None = None

    def condition(self) -> sql.Composed | None:
        """The range as an SQL condition; None when every row of the table belongs to it."""
        ends = ((sql.SQL(">="), self.low), (sql.SQL("<"), self.high))
        place = _row([c.expression() for c in self.columns]) if self.columns else sql.SQL("")
        parts = [
            sql.SQL("{} {} {}").format(place, sign, _point(self.columns, point))
            for sign, point in ends
            if point is not None
        ]
        return sql.SQL(" AND ").join(parts) if parts else None


def _row(values: Sequence[sql.Composed]) -> sql.Composed:
    if len(values) == 1:
        return values[0]
    return sql.SQL("ROW({})").format(sql.SQL(", ").join(values))


def _point(columns: Sequence[KeyColumn], point: Point) -> sql.Composed:
    return _row([column.literal(value) for column, value in zip(columns, point, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a table is cut: ``bounds`` between its buckets, by ``columns``, the leading ones of its ``key``.

    ``key`` are the columns by which a change names its row, none where nothing does. ``ordered``: ranges may be
    read apart. ``low`` and ``high`` hold where it is only a part of the table that is cut, a ``share`` of it.
    """

    table: Table
    key: tuple[str, ...] = ()
    columns: tuple[KeyColumn, ...] = ()
    bounds: tuple[Point, ...] = ()
    ordered: bool = True
    low: Point | None = None
    high: Point | None = None
    share: float = 1.0

    @property
    def count(self) -> int:
        """How many buckets there are."""
        return len(self.bounds) + 1

    @property
    def bucket_bytes(self) -> int:
        """What one bucket holds, about."""
        return int(self.table.data_bytes * self.share) // self.count

    def bucket(self, number: int) -> Bucket:
        """The bucket of that number."""
        low = self.bounds[number - 2] if number > 1 else self.low
        high = self.bounds[number - 1] if number < self.count else self.high
        return Bucket(
            table=self.table, number=number, of=self.count, columns=self.columns, low=low, high=high
        )

    def bucket_of(self, key: Mapping[str, str]) -> int | None:
        """The number of the bucket that a row with ``key`` lies in; None when that can't be told."""
        if not self.bounds:
            return 1
        try:
            place = [comparable(c.type, key[c.name]) for c in self.columns]
        except (ValueError, ArithmeticError):
            return None
        return bisect_right(self._places, place) + 1

    @cached_property
    def _places(self) -> list[list[Any]]:
        return [
            [comparable(c.type, value) for c, value in zip(self.columns, bound, strict=True)]
            for bound in self.bounds
        ]

    def numbering(self) -> sql.Composed:
        """The number of a row's bucket as an SQL expression."""
        if not self.bounds:
            return sql.Composed([sql.SQL("1")])
        if len(self.columns) == 1:
            (column,) = self.columns
            values = sql.SQL(", ").join([sql.Literal(bound[0]) for bound in self.bounds])
            bounds = sql.SQL("ARRAY[{}]::{}[]").format(values, KEY_TYPES[column.type])
        else:
            bounds = sql.SQL("ARRAY[{}]").format(
                sql.SQL(", ").join([_point(self.columns, b) for b in self.bounds])
            )
        return sql.SQL("1 + width_bucket({}, {})").format(
            _row([c.expression() for c in self.columns]), bounds
        )

    def condition(self, numbers: Sequence[int]) -> sql.Composed | None:
        """The rows of those buckets, given in order, as an SQL condition; None when they are all there are."""
        runs = [list(group) for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
        parts = [_joined(self.bucket(run[0][1]), self.bucket(run[-1][1])).condition() for run in runs]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or not parts:
            return None
        return sql.SQL("({})").format(sql.SQL(" OR ").join(found))


def _joined(first: Bucket, last: Bucket) -> Bucket:
    return Bucket(
        table=first.table,
        number=first.number,
        of=first.of,
        columns=first.columns,
        low=first.low,
        high=last.high,
    )


def cut(server: Server, table: Table, key: Sequence[str], *, bucket_bytes: int = BUCKET_BYTES) -> Cut:
    """Cut ``table`` by a sample of its rows on ``server``; a small one, or without a fit key, stays whole."""
    columns = _columns(table, key)
    parts = min(MOST_BUCKETS, -(-table.data_bytes // bucket_bytes))
    if parts < 2 or not columns:
        return Cut(table=table, key=tuple(key))
    percent = min(100.0, 100.0 * _SAMPLE_PAGES * parts / max(table.pages, 1))
    sampled = sql.SQL(" TABLESAMPLE SYSTEM ({})").format(sql.Literal(percent))
    where = sql.SQL("") if table.where is None else sql.SQL(" WHERE ") + predicate(table.where)
    bounds, along = _bounds(server, table, columns, parts, (sampled, where))
    by_text = columns[0].type in _TEXTS
    return Cut(
        table=table,
        key=tuple(key),
        columns=columns,
        bounds=bounds,
        ordered=along >= LEAST_CORRELATION and not by_text,
    )


def narrowed(server: Server, whole: Cut, number: int, *, parts: int = 16) -> Cut:
    """Cut one bucket further, by the rows it has on ``server`` now."""
    bucket = whole.bucket(number)
    conditions: list[sql.Composed] = [c for c in (bucket.condition(),) if c is not None]
    if whole.table.where is not None:
        conditions.append(predicate(whole.table.where))
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    columns = whole.columns or _columns(whole.table, whole.key)
    bounds: tuple[Point, ...] = ()
    if columns:
        bounds, _ = _bounds(server, whole.table, columns, parts, (sql.SQL(""), where))
    return Cut(
        table=whole.table,
        key=whole.key,
        columns=columns,
        bounds=bounds,
        ordered=whole.ordered,
        low=bucket.low,
        high=bucket.high,
        share=whole.share / whole.count,
    )


def _columns(table: Table, key: Iterable[str]) -> tuple[KeyColumn, ...]:
    known = {c.name: c for c in table.columns}
    found: list[KeyColumn] = []
    for name in key:
        column = known[name]
        if column.kind != "b" or column.base not in KEY_TYPES:
            break
        found.append(KeyColumn(name=name, type=column.base))
    return tuple(found)


def _bounds(
    server: Server,
    table: Table,
    columns: Sequence[KeyColumn],
    parts: int,
    among: tuple[sql.Composable, sql.Composable],
) -> tuple[tuple[Point, ...], float]:
    sampled, where = among
    # Under names of our own: a key column may be called as one of the query's own columns is.
    named = [replace(column, name=f"key_{number}") for number, column in enumerate(columns)]
    names = [sql.Identifier(column.name) for column in named]
    keys = [
        sql.SQL("{} AS {}").format(sql.Identifier(c.name), n) for c, n in zip(columns, names, strict=True)
    ]
    query = sql.SQL(_CUT).format(
        texts=sql.SQL(", ").join([sql.SQL("{}::text").format(name) for name in names]),
        names=sql.SQL(", ").join(names),
        keys=sql.SQL(", ").join(keys),
        order=sql.SQL(", ").join([c.expression() for c in named]),
        table=table_name(table),
        sampled=sampled,
        where=where,
        parts=sql.Literal(parts),
    )
    rows = server.rows(query)
    bounds = tuple(dict.fromkeys(tuple(row[0]) for row in rows))
    return bounds, (rows[0][1] or 0.0) if rows else 0.0
