"""Finds the rows that differ in a table without a key: as a multiset, by row and how often it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.replication import checksum
from planrunner.replication.found import HELD_AT_MOST, LOOKS, Found, Outcome
from planrunner.replication.identities import table_name
from planrunner.replication.regions import passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Row, Server
    from planrunner.replication.found import Texts
    from planrunner.replication.lanes import Lane


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
        ours, theirs = counts(lane, lane.source, table, hashes), counts(lane, lane.target, table, hashes)
        sure = _apart(ours, theirs)
        return Outcome(total=len(sure), found=tuple(sure.values()))
    settled: dict[Texts, Found] = {}
    suspects: dict[Texts, Found] = {}
    moving: set[Texts] = set()
    for _ in range(LOOKS):
        before = counts(lane, lane.source, table, hashes)
        barrier()
        there = counts(lane, lane.target, table, hashes)
        after = counts(lane, lane.source, table, hashes)
        moving = {row for row in before.keys() | after.keys() if before.get(row) != after.get(row)}
        seen = {row: one for row, one in _apart(after, there).items() if before.get(row, 0) != one.copies[1]}
        settled = {row: one for row, one in seen.items() if suspects.get(row) == one and row not in moving}
        suspects = {row: one for row, one in seen.items() if row not in moving}
        if settled.keys() == seen.keys():
            break
    return Outcome(
        total=len(settled), found=tuple(settled.values()), undecided=len(seen.keys() - settled.keys())
    )


def _apart(ours: Mapping[Texts, int], theirs: Mapping[Texts, int]) -> dict[Texts, Found]:
    return {
        row: Found(
            key=(),
            source=row if ours.get(row) else None,
            target=row if theirs.get(row) else None,
            copies=(ours.get(row, 0), theirs.get(row, 0)),
        )
        for row in ours.keys() | theirs.keys()
        if ours.get(row, 0) != theirs.get(row, 0)
    }


def _suspects(lane: Lane, table: Table, within: sql.Composed | None) -> Iterator[int]:
    asked = [
        sql.SQL("SELECT {}, count(*) FROM ONLY {}{} GROUP BY 1 ORDER BY 1").format(
            checksum.row_hash(table.columns, md5=lane.md5),
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


def counts(lane: Lane, server: Server, table: Table, hashes: Sequence[int]) -> dict[Texts, int]:
    """How often one side holds each row of these hashes."""
    ask = lane.on_source if server is lane.source else lane.on_target
    return {tuple(row[1:]): row[0] for row in ask(counts_statement(table, server, hashes, md5=lane.md5))}


def counts_statement(table: Table, server: Server, hashes: Sequence[int], *, md5: bool) -> sql.Composed:
    """The SELECT that counts the rows of these hashes."""
    one_of = sql.SQL("{} IN ({})").format(
        checksum.row_hash(table.columns, md5=md5), sql.SQL(", ").join(map(sql.Literal, hashes))
    )
    texts = [sql.SQL("{}").format(checksum.shown(column)) for column in table.columns]
    names = [sql.Identifier(f"c{i}") for i in range(len(texts))]
    named = [
        sql.SQL('{} COLLATE "C" AS {}').format(sql.SQL("({})").format(t), n)
        for t, n in zip(texts, names, strict=True)
    ]
    return sql.SQL("SELECT count(*), {0} FROM (SELECT {1} FROM ONLY {2}{3}) rows GROUP BY {0}").format(
        sql.SQL(", ").join(names),
        sql.SQL(", ").join(named),
        table_name(table),
        passing(table, server.side, one_of),
    )
