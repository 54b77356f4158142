"""``python -m tests.benchmarks.workers``: a copy by 1, 2 and 4 workers, each on a line of its own of 10 MB/s.

Each worker is a process with a token bucket of its own between it and the source: the line of a machine, which is what
one adds machines for. A copy counts only if both sides hold the same. How busy this machine's cores were meanwhile is
told beside: all workers and both servers share them. 1 when four workers are below 0.9 of linear.
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
AIM = 0.9
_RESULTS = Path(__file__).with_name("results")
_LINE = 10.0
_TABLES = 48
_ROWS_OF_A_MB = 1000
_SETTINGS = {"wal_level": "logical", "max_wal_size": "4GB", "max_connections": "100"}
# Two units at a time for each worker: while one commits, the other has the line; and a thread that waits for an index.
_STREAMS = 2
_THREADS = _STREAMS + 1
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
    """One copy: seconds of the action that copies, and of the whole run; which share of the cores' time was used."""

    round: int
    workers: int
    copy_seconds: float
    run_seconds: float
    cores_busy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.workers", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--line", type=float, default=_LINE, help="megabytes a second of each worker's line")
    asked = parser.parse_args(arguments)
    rate = asked.line * 1_000_000
    load = os.getloadavg()[0]
    with (
        PostgresServer(wheel_bin(16), settings=_SETTINGS) as source,
        PostgresServer(wheel_bin(18), settings=_SETTINGS) as target,
        MeteredLines(source.port, bytes_per_second=rate) as lines,
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
    whole = {n: median(r.run_seconds for r in rounds if r.workers == n) for n in WORKERS}
    results = {
        "line_bytes_per_second": rate,
        "bytes": size,
        "tables": _TABLES,
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": versions,
        "threads_of_a_worker": _THREADS,
        "units_at_a_time_for_a_worker": _STREAMS,
        "copy_seconds": middle,
        "run_seconds": whole,
        "of_linear": linear,
        "rounds": [asdict(r) for r in rounds],
    }
    text = json.dumps(results, indent=1) + "\n"
    name = "workers" if asked.line == _LINE else f"workers-{asked.line:g}"
    (_RESULTS / f"{name}.json").write_text(text)
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
                    jobs=count * _STREAMS,
                )
            )
            begun, before = time.monotonic(), _cores()
            _run(plan, secrets)
            whole = time.monotonic() - begun
            busy, idle = (now - then for now, then in zip(_cores(), before, strict=True))
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
        cores_busy=round(busy / (busy + idle), 2),
    )


def _cores() -> tuple[int, int]:
    """How long the machine's cores were busy and idle so far, whoever had them, in ticks."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    spent = [int(word) for word in words]
    # The fourth and fifth are idle and waiting for a disk.
    idle = spent[3] + spent[4]
    return sum(spent) - idle, idle


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
