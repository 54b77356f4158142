"""``python -m tests.benchmarks.workers``: a copy by 1, 2 and 4 workers, each on a line of its own of 10 MB/s.

Each worker is a process with a token bucket of its own between it and the source: the line of a machine, which is what
one adds machines for. A copy counts only if both sides hold the same. 1 when four workers are below 0.9 of linear.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import distributed
import psycopg
from psycopg import sql

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents
from tests.benchmarks.metered import MeteredLines
from tests.benchmarks.run import phases
from tests.faults.cluster import cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORKERS = (1, 2, 4)
LINE_BYTES_PER_SECOND = 10_000_000
AIM = 0.9
_RESULTS = Path(__file__).with_name("results") / "workers.json"
_TABLES = 48
_ROWS_OF_A_MB = 1000
_SETTINGS = {"wal_level": "logical", "max_wal_size": "4GB", "max_connections": "100"}
# Two tasks at a time for each worker: while one commits, the other has the line.
_THREADS = 2
_PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: {name}}}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{source}/bench?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{target}/{name}?sslmode=disable
    password: {{secret: {{env: TARGET_PASSWORD}}}}
pool: {{dask: "{pool}"}}
steps:
  - {{id: copy, uses: snapshot, with: {{jobs: {jobs}}}}}
  - {{id: clean, uses: cleanup}}
"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One copy: seconds of the action that copies, and of the whole run."""

    round: int
    workers: int
    copy_seconds: float
    run_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.workers", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    with (
        PostgresServer(wheel_bin(16), settings=_SETTINGS) as source,
        PostgresServer(wheel_bin(18), settings=_SETTINGS) as target,
        MeteredLines(source.port, bytes_per_second=LINE_BYTES_PER_SECOND) as lines,
    ):
        size = _fill(source, asked.megabytes)
        rounds = [
            _round(number, count, source, target, lines)
            for number in range(1, asked.rounds + 1)
            for count in WORKERS
        ]
        versions = {
            "source": source.version,
            "target": target.version,
            "distributed": distributed.__version__,
        }
    middle = {n: median(r.copy_seconds for r in rounds if r.workers == n) for n in WORKERS}
    linear = {n: round(middle[1] / (n * middle[n]), 3) for n in WORKERS}
    results = {
        "line_bytes_per_second": LINE_BYTES_PER_SECOND,
        "bytes": size,
        "tables": _TABLES,
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": versions,
        "threads_of_a_worker": _THREADS,
        "copy_seconds": middle,
        "of_linear": linear,
        "rounds": [asdict(r) for r in rounds],
    }
    text = json.dumps(results, indent=1) + "\n"
    _RESULTS.write_text(text)
    sys.stdout.write(text)
    return 0 if linear[max(WORKERS)] >= AIM else 1


def _fill(server: PostgresServer, megabytes: int) -> int:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("CREATE DATABASE bench")
    rows = megabytes * _ROWS_OF_A_MB // _TABLES
    with psycopg.connect(
        server.dsn("postgres", "bench", password=server.password), autocommit=True
    ) as session:
        for number in range(_TABLES):
            name = sql.Identifier(f"t{number}")
            session.execute(sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, w text)").format(name))
            session.execute(
                sql.SQL(
                    "INSERT INTO {} SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, {}) i"
                ).format(name, sql.Literal(rows))
            )
        session.execute("ANALYZE")
        row = session.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def _round(
    number: int, count: int, source: PostgresServer, target: PostgresServer, lines: MeteredLines
) -> Round:
    name = f"round{number}w{count}"
    with psycopg.connect(target.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    secrets = {"SOURCE_PASSWORD": source.password, "TARGET_PASSWORD": target.password}
    with tempfile.TemporaryDirectory(prefix="planrunner-workers-") as folder:
        plan = Path(folder) / "plan.yaml"
        with cluster(Path(folder) / "cluster") as workers:
            for place in range(count):
                workers.add(f"w{place}", secrets, threads=_THREADS)
            workers.wait_for(count)
            plan.write_text(
                _PLAN.format(
                    name=name,
                    source=lines.port,
                    target=target.port,
                    pool=workers.address,
                    jobs=count * _THREADS,
                )
            )
            begun = time.monotonic()
            _run(plan, secrets)
            whole = time.monotonic() - begun
        copying = phases(Path(folder))["copy"]
    there = target.dsn("postgres", name, password=target.password)
    assert contents(source.dsn("postgres", "bench", password=source.password)) == contents(there)
    with psycopg.connect(target.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    return Round(
        round=number,
        workers=count,
        copy_seconds=round(copying, 2),
        run_seconds=round(whole, 2),
    )


def _run(plan: Path, secrets: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "planrunner", "run", str(plan), "--yes", "--no-input"],
        env={**os.environ, **secrets},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{plan.name} failed: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
