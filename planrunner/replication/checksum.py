"""Digests of whole tables at scan speed, equal on both sides exactly when the rows are.

count(*) and the sum of hash_record_extended over every row (PostgreSQL 14 and later; md5 before). Columns
whose equality is looser than identity, or whose hash depends on OIDs or collation, enter as their text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side, TableVerdict
from planrunner.replication.identities import table_name
from planrunner.replication.row_filters import predicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Column, Table
    from planrunner.postgres.connection import Server

# Types for which equal hashes mean the same bytes, on every server and under every collation.
_EXACT = frozenset(
    {"boolean", "smallint", "integer", "bigint", "uuid", "date", "bytea", "time without time zone"}
    | {"timestamp without time zone", "timestamp with time zone"}
)


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The rows of one table: how many, and the sum of their hashes; ``strays`` lie outside its filter."""

    rows: int
    hashes: str
    strays: int = 0


def query(table: Table, *, counts_only: bool, md5: bool, strays: bool = False) -> sql.Composed:
    """The statement that digests one table: rows, hashes, strays.

    Of a filtered table the rows that pass. With ``strays`` (the target's side) those that should not be
    there are counted as well, so the whole table is read; without, an index may help.
    """
    name, hashes = table_name(table), _hashes(table, counts_only=counts_only, md5=md5)
    if table.where is None:
        return sql.SQL("SELECT count(*), {}, 0 FROM ONLY {}").format(hashes, name)
    passes = predicate(table.where)
    if not strays:
        return sql.SQL("SELECT count(*), {}, 0 FROM ONLY {} WHERE {}").format(hashes, name, passes)
    return sql.SQL(
        "SELECT count(*) FILTER (WHERE {passes}), {hashes}, count(*) FILTER (WHERE {passes} IS NOT TRUE)"
        " FROM ONLY {name}"
    ).format(
        passes=passes,
        hashes=_hashes(table, counts_only=counts_only, md5=md5, only=passes),
        name=name,
    )


def _hashes(table: Table, *, counts_only: bool, md5: bool, only: sql.Composed | None = None) -> sql.Composed:
    if counts_only or not table.columns:
        return sql.Composed([sql.SQL("''")])
    row = sql.SQL("ROW({})").format(sql.SQL(", ").join([_exact(column) for column in table.columns]))
    if md5:
        one = sql.SQL("('x' || left(md5({}::text), 16))::bit(64)::bigint").format(row)
    else:
        one = sql.SQL("hash_record_extended({}, 0)").format(row)
    picked = sql.SQL(" FILTER (WHERE {})").format(only) if only else sql.SQL("")
    return sql.SQL("coalesce(sum({}::numeric){}, 0)::text").format(one, picked)


def _exact(column: Column) -> sql.Composed:
    name = sql.Identifier(column.name)
    if column.base in _EXACT and column.kind == "b":
        return sql.Composed([name])
    if column.base == "character":
        # The cast to text drops trailing blanks; the output function does not.
        return sql.SQL('(textin(bpcharout({}::bpchar)) COLLATE "C")').format(name)
    return sql.SQL('({}::text COLLATE "C")').format(name)


def digests(
    server: Server, tables: Sequence[Table], *, counts_only: bool, md5: bool, jobs: int, timeout: float
) -> dict[str, Digest]:
    """Digest ``tables`` over ``jobs`` sessions; QueryFailed when one takes longer than ``timeout`` seconds."""
    lanes: list[list[Table]] = [[] for _ in range(min(jobs, len(tables)))]
    weights = [0] * len(lanes)
    for table in sorted(tables, key=lambda t: -t.bytes):
        lightest = weights.index(min(weights))
        lanes[lightest].append(table)
        weights[lightest] += table.bytes + 8192
    if not lanes:
        return {}

    def lane(mine: list[Table]) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        with server.session(read_only=True) as session:
            session.execute("SELECT set_config('statement_timeout', %s, false)", [str(int(timeout * 1000))])
            for table in mine:
                asked = query(table, counts_only=counts_only, md5=md5, strays=server.side is Side.TARGET)
                row = session.execute(asked).fetchone()
                assert row is not None
                found[table.qualified] = Digest(rows=row[0], hashes=row[1], strays=row[2])
        return found

    with ThreadPoolExecutor(len(lanes)) as pool:
        return {name: digest for part in pool.map(lane, lanes) for name, digest in part.items()}


def both_sides(
    source: Server,
    target: Server,
    tables: Sequence[Table],
    *,
    counts_only: bool,
    timeout: float,
    jobs: int = 2,
) -> tuple[dict[str, Digest], dict[str, Digest]]:
    """The digests of both sides, taken at the same time."""
    md5 = min(source.identity().version, target.identity().version) < 140000

    def one(server: Server) -> dict[str, Digest]:
        return digests(server, tables, counts_only=counts_only, md5=md5, jobs=jobs, timeout=timeout)

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
    md5: bool,
    strays: bool = False,
    within: sql.Composed | None = None,
) -> sql.Composed:
    """``query`` of the rows that are ``within``, with a line for each value of ``by``, which comes first."""
    hashes = _hashes(table, counts_only=counts_only, md5=md5)
    rows, outside = sql.SQL("count(*)").format(), sql.SQL("0").format()
    conditions: list[sql.Composed] = [] if within is None else [within]
    if table.where is not None:
        passes = predicate(table.where)
        if strays:
            hashes = _hashes(table, counts_only=counts_only, md5=md5, only=passes)
            rows = sql.SQL("count(*) FILTER (WHERE {})").format(passes)
            outside = sql.SQL("count(*) FILTER (WHERE {} IS NOT TRUE)").format(passes)
        else:
            conditions.append(passes)
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    return sql.SQL("SELECT {}, {}, {}, {} FROM ONLY {}{} GROUP BY 1").format(
        by, rows, hashes, outside, table_name(table), where
    )
