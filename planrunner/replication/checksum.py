"""Digests of whole tables at scan speed, equal on both sides exactly when the rows are.

count(*) and the sum of a hash of every row. A sum, because equal rows would cancel each other out in an exclusive or.

This serves the cutover's write pause, so its sessions are the cutover's own whatever the plan's pool: no pause waits
for a scheduler.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.errors import LockNotAvailable

from planrunner.model import Side
from planrunner.replication import inside
from planrunner.replication.identities import table_name
from planrunner.replication.row_filters import predicate
from planrunner.replication.row_hash import row_hash
from planrunner.verification import TableVerdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.inside import Inside


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The rows of one table: how many, and the sum of their hashes; ``strays`` lie outside its filter."""

    rows: int
    hashes: str
    strays: int = 0


def query(
    table: Table,
    *,
    counts_only: bool,
    strays: bool = False,
    within: sql.Composed | None = None,
) -> sql.Composed:
    """The statement that digests one table: rows, hashes, strays.

    Of a filtered table the rows that pass. With ``strays`` (the target's side) those that should not be
    there are counted as well, so the whole table is read; without, an index may help. ``within`` restricts
    all of it to the rows of a condition.
    """
    name, hashes = table_name(table), _hashes(table, counts_only=counts_only)
    passes = None if table.where is None else predicate(table.where)
    if passes is None or not strays:
        return sql.SQL("SELECT count(*), {}, 0 FROM ONLY {}{}").format(hashes, name, where(passes, within))
    return sql.SQL(
        "SELECT count(*) FILTER (WHERE {passes}), {hashes}, count(*) FILTER (WHERE {passes} IS NOT TRUE)"
        " FROM ONLY {name}{where}"
    ).format(
        passes=passes,
        hashes=_hashes(table, counts_only=counts_only, only=passes),
        name=name,
        where=where(within),
    )


def where(*conditions: sql.Composable | None) -> sql.Composable:
    """The WHERE clause of all conditions that are given; nothing without one."""
    given = [sql.SQL("({})").format(condition) for condition in conditions if condition is not None]
    return sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(given)) if given else sql.SQL("")


def _hashes(table: Table, *, counts_only: bool, only: sql.Composed | None = None) -> sql.Composed:
    if counts_only or not table.columns:
        return sql.Composed([sql.SQL("''")])
    picked = sql.SQL(" FILTER (WHERE {})").format(only) if only else sql.SQL("")
    return sql.SQL("coalesce(sum({}){}, 0)::text").format(row_hash(table.columns), picked)


def digests(  # noqa: PLR0913  # what is read and how, each by its name
    server: Server,
    tables: Sequence[Table],
    *,
    counts_only: bool,
    jobs: int,
    timeout: float,
    strays: bool = False,
    fence: Inside | None = None,
) -> dict[str, Digest]:
    """Digest ``tables`` over ``jobs`` sessions; QueryFailed when one takes longer than ``timeout`` seconds.

    ``fence`` is asked for those that somebody else waits for.
    """
    lanes: list[list[Table]] = [[] for _ in range(min(jobs, len(tables)))]
    weights = [0] * len(lanes)
    for table in sorted(tables, key=lambda t: -t.bytes):
        lightest = weights.index(min(weights))
        lanes[lightest].append(table)
        weights[lightest] += table.bytes + 8192
    if not lanes:
        return {}

    own = inside.of(server, fence)
    until = server.clock.monotonic() + timeout
    waited_for: list[Table] = []

    def digest(session: Session, table: Table) -> Digest:
        row = session.execute(query(table, counts_only=counts_only, strays=strays)).fetchone()
        assert row is not None
        return Digest(rows=row[0], hashes=row[1], strays=row[2])

    def lane(mine: list[Table]) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        with server.session(read_only=True) as session:
            inside.limit(session, timeout, own)
            for table in mine:
                try:
                    found[table.qualified] = digest(session, table)
                except LockNotAvailable:
                    if own is None:
                        raise
                    waited_for.append(table)
        return found

    with ThreadPoolExecutor(len(lanes)) as pool:
        found = {name: digest for part in pool.map(lane, lanes) for name, digest in part.items()}
    if own is not None and waited_for:
        with server.translated(), own.reading(until - server.clock.monotonic()) as session:
            found |= {table.qualified: digest(session, table) for table in waited_for}
    return found


def both_sides(  # noqa: PLR0913  # what is compared and how, each by its name
    source: Server,
    target: Server,
    tables: Sequence[Table],
    *,
    counts_only: bool,
    timeout: float,
    jobs: int = 2,
    strays: bool = True,
    fence: Inside | None = None,
) -> tuple[dict[str, Digest], dict[str, Digest]]:
    """The digests of both sides, taken at the same time; ``strays``: the target holds nothing but what passes."""

    def one(server: Server) -> dict[str, Digest]:
        told = strays and server.side is Side.TARGET
        return digests(
            server, tables, counts_only=counts_only, jobs=jobs, timeout=timeout, strays=told, fence=fence
        )

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, (source, target))
    return first, second


def verdict(table: Table, source: Digest, target: Digest) -> TableVerdict:
    """Compare two digests of one table."""
    detail = None
    if target.strays:
        detail = f"{target.strays} rows on the target lie outside the table's row filter"
    elif source.rows != target.rows:
        detail = f"{source.rows} rows on the source, {target.rows} on the target"
    elif source != target:
        detail = f"{source.rows} rows on both sides, but their contents differ"
    return TableVerdict(
        table=table.qualified,
        source_rows=source.rows,
        target_rows=target.rows,
        equal=source == target,
        detail=detail,
    )


def grouped(
    table: Table,
    by: sql.Composed,
    *,
    counts_only: bool,
    strays: bool = False,
    within: sql.Composed | None = None,
) -> sql.Composed:
    """``query`` of the rows that are ``within``, with a line for each value of ``by``, which comes first."""
    hashes = _hashes(table, counts_only=counts_only)
    rows, outside = sql.SQL("count(*)").format(), sql.SQL("0").format()
    conditions: list[sql.Composed] = [] if within is None else [within]
    if table.where is not None:
        passes = predicate(table.where)
        if strays:
            hashes = _hashes(table, counts_only=counts_only, only=passes)
            rows = sql.SQL("count(*) FILTER (WHERE {})").format(passes)
            outside = sql.SQL("count(*) FILTER (WHERE {} IS NOT TRUE)").format(passes)
        else:
            conditions.append(passes)
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    return sql.SQL("SELECT {}, {}, {}, {} FROM ONLY {}{} GROUP BY 1").format(
        by, rows, hashes, outside, table_name(table), where
    )
