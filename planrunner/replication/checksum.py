"""Digests of whole tables at scan speed, equal on both sides exactly when the rows are.

count(*) and the sum of hash_record_extended over every row (PostgreSQL 14 and later; md5 before). Columns
whose equality is looser than identity, or whose hash depends on OIDs or collation, enter as their text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import TableVerdict
from planrunner.replication.identities import table_name

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
    """The rows of one table: how many, and the sum of their hashes."""

    rows: int
    hashes: str


def query(table: Table, *, counts_only: bool, md5: bool) -> sql.Composed:
    """The statement that digests one table; the same text on both sides."""
    name = table_name(table)
    if counts_only or not table.columns:
        return sql.SQL("SELECT count(*), '' FROM ONLY {}").format(name)
    row = sql.SQL("ROW({})").format(sql.SQL(", ").join([_exact(column) for column in table.columns]))
    if md5:
        one = sql.SQL("('x' || left(md5({}::text), 16))::bit(64)::bigint").format(row)
    else:
        one = sql.SQL("hash_record_extended({}, 0)").format(row)
    return sql.SQL("SELECT count(*), coalesce(sum({}::numeric), 0)::text FROM ONLY {}").format(one, name)


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
                row = session.execute(query(table, counts_only=counts_only, md5=md5)).fetchone()
                assert row is not None
                found[table.qualified] = Digest(rows=row[0], hashes=row[1])
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
    if source.rows != target.rows:
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
