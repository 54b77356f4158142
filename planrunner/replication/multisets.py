"""Finds the rows that differ in a table without a key: as a multiset, by row and how often it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from psycopg import sql

from planrunner.replication.found import HELD_AT_MOST, LOOKS, Found, Outcome
from planrunner.replication.identities import table_name
from planrunner.replication.regions import passing
from planrunner.replication.row_hash import row_hash, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Row, Server
    from planrunner.replication.found import Texts
    from planrunner.replication.lanes import Ask, Lane

    _Row: TypeAlias = "tuple[int, Texts]"


def find(
    lane: Lane, table: Table, *, within: sql.Composed | None = None, barrier: Callable[[], None] | None = None
) -> Outcome:
    """The rows of which both sides hold different numbers, as ``differences.find``."""
    held: list[int] = []
    total = 0
    for number in _suspects(lane, table, within):
        total += 1
        if len(held) < HELD_AT_MOST:
            held.append(number)
    sure = settle(lane, table, held, barrier)
    return Outcome(total=sure.total + total - len(held), found=sure.found, undecided=sure.undecided)


def settle(lane: Lane, table: Table, hashes: Sequence[int], barrier: Callable[[], None] | None) -> Outcome:
    """Of the rows of these hashes, those that surely differ in number."""
    if not hashes:
        return Outcome(total=0)
    if barrier is None:
        sure = _apart(_counts(lane, lane.source, table, hashes), _counts(lane, lane.target, table, hashes))
        return Outcome(total=len(sure), found=tuple(sure.values()))
    settled: dict[_Row, Found] = {}
    suspects: dict[_Row, Found] = {}
    seen: dict[_Row, Found] = {}
    for _ in range(LOOKS):
        before = _counts(lane, lane.source, table, hashes)
        barrier()
        there = _counts(lane, lane.target, table, hashes)
        after = _counts(lane, lane.source, table, hashes)
        seen = {row: one for row, one in _apart(after, there).items() if before.get(row, 0) != one.copies[1]}
        still = {row: one for row, one in seen.items() if before.get(row, 0) == one.copies[0]}
        settled = {row: one for row, one in still.items() if suspects.get(row) == one}
        suspects = still
        if settled.keys() == seen.keys():
            break
    return Outcome(
        total=len(settled), found=tuple(settled.values()), undecided=len(seen.keys() - settled.keys())
    )


def compared(number: int, texts: Texts, ours: int, theirs: int) -> Found:
    """A row of which the source holds ``ours`` and the target ``theirs``."""
    return Found(
        key=(),
        source=texts if ours else None,
        target=texts if theirs else None,
        copies=(ours, theirs),
        hash=number,
    )


def _apart(ours: Mapping[_Row, int], theirs: Mapping[_Row, int]) -> dict[_Row, Found]:
    return {
        row: compared(*row, ours.get(row, 0), theirs.get(row, 0))
        for row in ours.keys() | theirs.keys()
        if ours.get(row, 0) != theirs.get(row, 0)
    }


def _suspects(lane: Lane, table: Table, within: sql.Composed | None) -> Iterator[int]:
    asked = [
        sql.SQL("SELECT {}, count(*) FROM ONLY {}{} GROUP BY 1 ORDER BY 1").format(
            row_hash(table.columns),
            table_name(table),
            passing(table, server.side, within),
        )
        for server in (lane.source, lane.target)
    ]
    with lane.streams(asked[0], asked[1]) as (ours, theirs):
        yield from merged(ours, theirs)


def merged(ours: Iterator[Row], theirs: Iterator[Row]) -> Iterator[int]:
    """The hashes whose counts differ, of two streams of (hash, count) in order."""
    mine, other = next(ours, None), next(theirs, None)
    while mine is not None or other is not None:
        if other is None or (mine is not None and mine[0] < other[0]):
            assert mine is not None
            yield mine[0]
            mine = next(ours, None)
        elif mine is None or other[0] < mine[0]:
            yield other[0]
            other = next(theirs, None)
        else:
            if mine[1] != other[1]:
                yield mine[0]
            mine, other = next(ours, None), next(theirs, None)


def _counts(lane: Lane, server: Server, table: Table, hashes: Sequence[int]) -> dict[_Row, int]:
    return counts(lane.asking(server), table, server, hashes)


def counts(ask: Ask, table: Table, server: Server, hashes: Sequence[int]) -> dict[_Row, int]:
    """How often one side holds each row of these hashes, by (hash, its columns as text)."""
    hashed = row_hash(table.columns)
    one_of = sql.SQL("{} IN ({})").format(hashed, sql.SQL(", ").join(map(sql.Literal, hashes)))
    names = [sql.Identifier(f"c{i}") for i in range(len(table.columns))]
    texts = [
        sql.SQL('({}) COLLATE "C" AS {}').format(shown(column), name)
        for column, name in zip(table.columns, names, strict=True)
    ]
    asked = sql.SQL("SELECT count(*), {0} FROM (SELECT {1} FROM ONLY {2}{3}) rows GROUP BY {0}").format(
        sql.SQL(", ").join([sql.Identifier("h"), *names]),
        sql.SQL(", ").join([sql.SQL("{} AS h").format(hashed), *texts]),
        table_name(table),
        passing(table, server.side, one_of),
    )
    return {(row[1], tuple(row[2:])): row[0] for row in ask(asked)}
