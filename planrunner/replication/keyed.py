"""Finds the rows that differ in a table with a key, and holds them until they are sure.

Each side sends key and row hash in the same order, so that they are merged like two sorted lists and memory
stays flat. The order is that of a hash of the key, then of its text under COLLATE "C": no server's collation
has a say in it. While changes stream, what looks different may only be late: it is looked at again behind a
barrier, and counts when two looks in a row find the same on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.replication.found import HELD_AT_MOST, LOOKS, Cut, Found, Outcome
from planrunner.replication.identities import table_name
from planrunner.replication.regions import key_columns, passing
from planrunner.replication.row_hash import row_hash, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Column, Table
    from planrunner.postgres.connection import Row, Server
    from planrunner.replication.found import Key, Texts
    from planrunner.replication.lanes import Ask, Lane

_KEYS_AT_ONCE = 200
# A megabyte is more than anybody reads.
_IS_LONG = sql.SQL("octet_length({0}) > 1048576")
_CUT = sql.SQL(
    "CASE WHEN octet_length({0}) > 1048576"
    " THEN format('%s… (%s characters, MD5 %s)', left({0}, 60), length({0}), md5({0})) ELSE {0} END"
)
# Their equality tells any two values apart, so no other comparison is needed to find one row.
_PLAIN_KEYS = frozenset({"smallint", "integer", "bigint", "uuid", "date", "boolean", "oid"})


def find(
    lane: Lane,
    table: Table,
    *,
    within: sql.Composed | None = None,
    barrier: Callable[[], None] | None = None,
    whole: bool = True,
) -> Outcome:
    """The rows that differ in a table with a primary key, as ``differences.find``."""
    held: list[Key] = []
    total = 0
    for key in _suspects(lane, table, within):
        total += 1
        if len(held) < HELD_AT_MOST:
            held.append(key)
    beyond = total - len(held)
    sure = settle(lane, table, held, barrier, whole=whole)
    return Outcome(total=sure.total + beyond, found=sure.found, undecided=sure.undecided)


def settle(
    lane: Lane,
    table: Table,
    keys: Sequence[Key],
    barrier: Callable[[], None] | None,
    *,
    whole: bool = True,
) -> Outcome:
    """Of the rows of these keys, those that surely differ."""

    def side(server: Server, of: Sequence[Key]) -> Mapping[Key, Texts]:
        return rows_of(lane.asking(server), table, server, of, whole=whole)

    if barrier is None:
        ours, theirs = (side(server, keys) for server in (lane.source, lane.target))
        found = [Found(key=k, source=ours.get(k), target=theirs.get(k)) for k in keys]
        sure = tuple(one for one in found if one.source != one.target)
        return Outcome(total=len(sure), found=sure)
    sure_ones: list[Found] = []
    suspects: dict[Key, Found | None] = dict.fromkeys(keys)
    for _ in range(LOOKS):
        if not suspects:
            break
        seen = _look(lane, side, list(suspects), barrier)
        sure_ones += [one for key, one in seen.items() if one is not None and suspects[key] == one]
        known = {one.key for one in sure_ones}
        suspects = {key: one for key, one in seen.items() if key not in known}
    return Outcome(total=len(sure_ones), found=tuple(sure_ones), undecided=len(suspects))


def _look(
    lane: Lane,
    side: Callable[[Server, Sequence[Key]], Mapping[Key, Texts]],
    keys: Sequence[Key],
    barrier: Callable[[], None],
) -> dict[Key, Found | None]:
    """The rows that still don't agree, None where the source's changed meanwhile; those that agree are gone."""
    before = side(lane.source, keys)
    barrier()
    there = side(lane.target, keys)
    after = side(lane.source, keys)
    open_keys = (k for k in keys if there.get(k) not in (before.get(k), after.get(k)))
    return {
        k: Found(key=k, source=after.get(k), target=there.get(k)) if before.get(k) == after.get(k) else None
        for k in open_keys
    }


def _suspects(lane: Lane, table: Table, within: sql.Composed | None) -> Iterator[Key]:
    asked = [_hashes(table, server, within) for server in (lane.source, lane.target)]
    with lane.streams(asked[0], asked[1]) as (ours, theirs):
        yield from merged(ours, theirs)


def _hashes(table: Table, server: Server, within: sql.Composed | None) -> sql.Composed:
    key = key_columns(table)
    names = [sql.Identifier(f"k{i}") for i in range(len(key))]
    texts = [sql.SQL("{} AS {}").format(shown(c), n) for c, n in zip(key, names, strict=True)]
    order = [sql.SQL('{} COLLATE "C"').format(name) for name in names]
    return sql.SQL("SELECT * FROM (SELECT {} AS h, {} AS r, {} FROM ONLY {}{}) rows ORDER BY h, {}").format(
        row_hash(key),
        row_hash(table.columns),
        sql.SQL(", ").join(texts),
        table_name(table),
        passing(table, server.side, within),
        sql.SQL(", ").join(order),
    )


def merged(ours: Iterator[Row], theirs: Iterator[Row]) -> Iterator[Key]:
    """The keys that only one side has, or whose rows differ, of two streams of (key hash, row hash, *key)."""
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        place = _place(mine, other)
        row = mine if place <= 0 else other
        assert row is not None
        if place != 0 or mine is None or other is None or mine[1] != other[1]:
            yield tuple(row[2:])
        if place <= 0:
            mine = next(ours, None)
        if place >= 0:
            other = next(theirs, None)


def _place(mine: Row | None, other: Row | None) -> int:
    """Which of the two comes first: -1 ours, 1 theirs, 0 when they have the same key."""
    if mine is None or other is None:
        return 1 if mine is None else -1
    first, second = (mine[0], mine[2:]), (other[0], other[2:])
    return (first > second) - (first < second)


def rows_of(
    ask: Ask, table: Table, server: Server, keys: Sequence[Key], *, whole: bool = True
) -> Mapping[Key, Texts]:
    """The rows of these keys on one side, each column as text; a long one as ``Cut`` unless ``whole``."""
    places = [table.columns.index(column) for column in key_columns(table)]
    found: dict[Key, Texts] = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        for *texts, long in ask(_rows(table, server, keys[start : start + _KEYS_AT_ONCE], whole=whole)):
            row = tuple(texts) if whole else tuple(map(_cut, texts, long))
            found[tuple(row[place] for place in places)] = row
    return found


def _cut(text: str | None, long: bool | None) -> str | None:  # noqa: FBT001  # as the server tells it
    return Cut(text) if text is not None and long else text


def _rows(table: Table, server: Server, keys: Sequence[Key], *, whole: bool) -> sql.Composed:
    one_of = sql.SQL(" OR ").join([sql.SQL("({})").format(key_condition(table, key)) for key in keys])
    columns = [shown(column) for column in table.columns]
    texts = sql.SQL(", ").join(columns if whole else [_CUT.format(text) for text in columns])
    long = sql.SQL(", ").join([] if whole else [_IS_LONG.format(text) for text in columns])
    return sql.SQL("SELECT {}, ARRAY[{}]::boolean[] FROM ONLY {}{}").format(
        texts, long, table_name(table), passing(table, server.side, one_of)
    )


def key_condition(table: Table, key: Key) -> sql.Composed:
    """What holds for the row of this key alone; its index leads there where the key's types are the server's."""
    parts: list[sql.Composable] = []
    for column, value in zip(key_columns(table), key, strict=True):
        if value is None:
            # The target's table may lack the key.
            parts.append(same_text(column, None))
            continue
        if column.kind == "e" or (column.kind == "b" and "." not in column.base):
            parts.append(sql.SQL("{} = {}").format(sql.Identifier(column.name), sql.Literal(value)))
        if column.base not in _PLAIN_KEYS or column.kind != "b":
            parts.append(same_text(column, value))
    return sql.SQL(" AND ").join(parts)


def same_text(column: Column, value: str | None) -> sql.Composed:
    """What holds where the column is exactly this: 1.0 is not 1.00, and no collation has a say."""
    if value is None:
        return sql.SQL("{} IS NOT DISTINCT FROM NULL").format(sql.Identifier(column.name))
    return sql.SQL('{} COLLATE "C" = {}').format(sql.SQL("({})").format(shown(column)), sql.Literal(value))
