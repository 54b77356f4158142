"""``python -m tests.benchmarks.growth``: how a plan's commands, its state and its journal grow, as JSON.

``tables`` asks of databases with more and more tables, whose files are sparse: 100 MB each, so 1 TB at 10,000, with
hardly a byte on the disk. ``units`` copies tables in very many parts, each on record for itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication.jobs import jobs_of
from planrunner.replication.units import Unit
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.scene import Migration, migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Pair = tuple[PostgresServer, PostgresServer]

_RESULTS = Path(__file__).with_name("results") / "growth.json"
# pg_dump locks every table: a source of 10,000 needs the room anyway.
_ROOMY = {
    "wal_level": "logical",
    "max_locks_per_transaction": "1024",
    "fsync": "off",
    "max_connections": "200",
    "max_wal_senders": "80",
}
_TABLE_BYTES = 100 * 10**6
_PAGE_BYTES = 8192
_AT_ONCE = 500
_ROWS_PER_PAGE = 10
TABLES = """
DO $$ BEGIN FOR i IN {first}..{last} LOOP
  EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a text, b int, c timestamptz)', i);
  EXECUTE format('CREATE INDEX ON t%s (b)', i);
  EXECUTE format('INSERT INTO t%s (a, b) SELECT repeat(''x'', 700), n FROM generate_series(1, {rows}) n', i);
END LOOP; END $$
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--case", choices=("tables", "units", "all"), default="all")
    parser.add_argument("--tables", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=_RESULTS)
    asked = parser.parse_args(arguments)
    results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    results |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    with (
        PostgresServer(wheel_bin(16), settings=_ROOMY, max_life=7200) as source,
        PostgresServer(wheel_bin(18), settings=_ROOMY, max_life=7200) as target,
        tempfile.TemporaryDirectory(prefix="planrunner-growth-") as folder,
    ):
        if asked.case in {"tables", "all"}:
            results["tables"] = [
                _asked((source, target), Path(folder), n, asked.rounds) for n in asked.tables
            ]
            results["followed"] = [
                _followed((source, target), Path(folder), n, asked.rounds) for n in asked.tables
            ]
        if asked.case in {"units", "all"}:
            results["units"] = [
                _units((source, target), Path(folder), n, asked.rounds)
                for n in (asked.units // 10, asked.units)
            ]
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return 0


def _asked(pair: Pair, folder: Path, count: int, rounds: int) -> dict[str, object]:
    """What is asked before anything runs, of ``count`` tables of 100 MB each."""
    with _database(pair, folder, f"asked{count}", count, rows=2) as one:
        total = _inflate(pair[0], one.ours)
        found: dict[str, object] = {"tables": count, "bytes": total}
        for verb, options in {
            "lint": (),
            "validate": (),
            "preview": ("--format", "json"),
            "preview --format markdown": (),
        }.items():
            found[verb] = _fastest(one, rounds, verb, *options)
        with _server(pair[0], one.name) as server:
            tables = catalog.tables(server)
        begun = time.monotonic()
        units = [Unit(table=table) for table in tables]
        jobs = jobs_of(units, streams=8, chunk_above=50 * 10**6)
        found["planning of units"] = round(time.monotonic() - begun, 2)
        found["jobs"] = len(jobs)
        return found


def _followed(pair: Pair, folder: Path, count: int, rounds: int) -> dict[str, object]:
    """A run of ``count`` small tables as far as it follows; then what is kept, and how fast it is told."""
    with _database(pair, folder, f"followed{count}", count, rows=2) as one:
        begun = time.monotonic()
        one.succeeds("run", "--until", "follow")
        ran = round(time.monotonic() - begun, 1)
        return {"tables": count, "run": ran, "status": _fastest(one, rounds, "status"), **_kept(one)}


def _units(pair: Pair, folder: Path, count: int, rounds: int) -> dict[str, object]:
    """A copy in ``count`` parts."""
    streams, each = 16, 64
    copy = f"{{jobs: {streams}, chunk_above: 1B, split_above: 1TB}}"
    pages = 192
    with _database(
        pair, folder, f"units{count}", count // each, rows=_ROWS_PER_PAGE * pages, copy=copy
    ) as one:
        begun = time.monotonic()
        one.succeeds("run", "--until", "copy")
        ran = round(time.monotonic() - begun, 1)
        return {"units": count, "run": ran, "status": _fastest(one, rounds, "status"), **_kept(one)}


def _kept(one: Migration) -> dict[str, object]:
    events = one.folder / "plan.yaml.events.jsonl"
    return {
        "state_bytes": (one.folder / "plan.yaml.state.json").stat().st_size,
        "events_bytes": events.stat().st_size,
        "events": len(events.read_bytes().splitlines()),
    }


def _fastest(one: Migration, rounds: int, verb: str, *options: str) -> float:
    """Seconds of the whole command, the fastest of ``rounds``."""
    took = []
    for _ in range(rounds):
        begun = time.monotonic()
        code, said = one.run(verb, *options)
        took.append(time.monotonic() - begun)
        assert code in {0, 1}, said
        assert "Traceback" not in said, said
    return round(min(took), 2)


@contextmanager
def _server(server: PostgresServer, database: str) -> Iterator[Server]:
    endpoint = Endpoint(
        side=Side.SOURCE,
        dsn=server.dsn("postgres", database),
        password=SecretRef(kind=SecretKind.ENV, locator="BENCHMARK_PASSWORD"),
    )
    opened = Server(
        endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="benchmark"
    )
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def _database(
    pair: Pair, folder: Path, name: str, count: int, *, rows: int, copy: str = "{}"
) -> Iterator[Migration]:
    place = folder / name
    place.mkdir()
    with migration(pair, place, name, "SELECT 1", copy=copy) as one:
        with psycopg.connect(one.ours, autocommit=True) as session:
            for first in range(0, count, _AT_ONCE):
                last = min(first + _AT_ONCE, count) - 1
                session.execute(
                    sql.SQL(TABLES).format(
                        first=sql.Literal(first), last=sql.Literal(last), rows=sql.Literal(rows)
                    )
                )
            session.execute("ANALYZE")
        yield one


def _inflate(server: PostgresServer, dsn: str) -> int:
    """Make each table's file as long as 100 MB, of which the disk holds nothing; the sum of the sizes."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CHECKPOINT")
        paths = session.execute(
            "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]+$'"
        ).fetchall()
        pages = _TABLE_BYTES // _PAGE_BYTES
        for (path,) in paths:
            os.truncate(server.data / path, pages * _PAGE_BYTES)
        session.execute(
            "UPDATE pg_class SET relpages = %s, reltuples = %s WHERE relkind = 'r' AND relname ~ '^t[0-9]+$'",
            [pages, pages * _ROWS_PER_PAGE],
        )
        row = session.execute(
            "SELECT sum(pg_table_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]+$'"
        ).fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    raise SystemExit(main())
