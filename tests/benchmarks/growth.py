"""``python -m tests.benchmarks.growth``: how a plan's commands, its state and its journal grow, as JSON.

``tables`` asks of databases with more and more tables, whose files are sparse: 100 MB each, so 1 TB at 10,000, with
hardly a byte on the disk. ``units`` copies small tables in 64 ranges of their keys each, so that every range is a unit
of its own: with a publication on the source and a row in the ledger.
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

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import ranges
from planrunner.replication.jobs import jobs_of
from planrunner.replication.units import Unit
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents
from tests.benchmarks.measure import measured
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
# Ten rows a unit, on several pages: a key whose order the heap does not show is not cut.
_ROWS_OF_UNITS = 640
_PATIENCE_SECONDS = 3600
TABLES = """
DO $$ BEGIN FOR i IN {first}..{last} LOOP
  EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a text, b int, c timestamptz)', i);
  EXECUTE format('CREATE INDEX ON t%s (b)', i);
  EXECUTE format('INSERT INTO t%s (a, b) SELECT repeat(''x'', {width}), n FROM generate_series(1, {rows}) n', i);
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
    """Copy, follow and clean up tables cut into ``count`` units; what each command takes, and what is kept."""
    tables = -(-count // ranges.MOST_PARTS)
    copy = "{jobs: 4, split_above: 1B}"
    with _database(pair, folder, f"units{count}", tables, rows=_ROWS_OF_UNITS, width=24, copy=copy) as one:
        found: dict[str, object] = {"units": tables * ranges.MOST_PARTS, "tables": tables}
        for verb in (("preview",), ("run", "--until", "copy"), ("run", "--until", "follow")):
            found[" ".join(verb)] = _used(one, *verb)
        found["status"] = min((_used(one, "status") for _ in range(rounds)), key=lambda used: used["wall"])
        found |= {**_on_record(one), **_kept(one)}
        assert found["ledger_units"] == found["units"]
        return {**found, "cleanup": _used(one, "cleanup", "--yes")}


def _on_record(one: Migration) -> dict[str, object]:
    """The ledger's units, of which there is one for each range; and that all their rows are there."""
    with psycopg.connect(one.theirs) as session:
        row = session.execute(
            "SELECT count(*), sum(rows)::bigint, pg_total_relation_size('planrunner.unit') FROM planrunner.unit"
        ).fetchone()
    assert row is not None
    assert contents(one.ours) == contents(one.theirs)
    return {"ledger_units": row[0], "rows": row[1], "ledger_bytes": row[2]}


def _used(one: Migration, *words: str) -> dict[str, float]:
    """Seconds and memory of a command that succeeds."""
    log = one.folder / "told.log"
    secrets = {"SOURCE_PASSWORD": one.source.password, "TARGET_PASSWORD": one.target.password}
    used = measured(
        [sys.executable, "-m", "planrunner", words[0], "plan.yaml", *words[1:]],
        environment={**os.environ, **secrets},
        log=log,
        timeout=_PATIENCE_SECONDS,
    )
    assert used.code == 0, log.read_text()[-4000:]
    return {"wall": round(used.wall, 2), "cpu": round(used.cpu, 2), "peak_mb": used.peak_bytes >> 20}


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
    pair: Pair, folder: Path, name: str, count: int, *, rows: int, width: int = 700, copy: str = "{}"
) -> Iterator[Migration]:
    place = folder / name
    place.mkdir()
    with migration(pair, place, name, "SELECT 1", copy=copy) as one:
        with psycopg.connect(one.ours, autocommit=True) as session:
            for first in range(0, count, _AT_ONCE):
                last = min(first + _AT_ONCE, count) - 1
                session.execute(TABLES.format(first=first, last=last, rows=rows, width=width).encode())
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
