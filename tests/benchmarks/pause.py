"""``python -m tests.benchmarks.pause``: how long writes stand still in a cutover, as the runner and clients see it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from rich.console import Console

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents
from tests.acceptance.test_switch import SWITCH, configured
from tests.bouncer import ADMIN_PASSWORD, Bench, Bouncer, entry
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_RESULTS = Path(__file__).with_name("results") / "pause.json"
_PASSWORD = "one for both"
# Like pgbench's own, over many tables; each acknowledged transaction leaves a row.
_SCRIPT = """\\set t random(1, {tables})
\\set n random(1, {rows})
BEGIN;
UPDATE t:t SET v = v + 1 WHERE id = :n;
INSERT INTO acknowledged (t) VALUES (:t);
END;
"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One cutover: the pause in milliseconds, its parts, the longest gap at the clients, and what went wrong."""

    round: int
    pause_ms: float
    client_gap_ms: float
    parts_ms: Mapping[str, float]
    transactions: int
    failed: int
    wrong: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a JSON file; 1 when a transaction failed or a row is missing."""
    asked = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    given: dict[str, Any] = {"password": _PASSWORD, "max_life": 7200.0}
    logical = {"wal_level": "logical"}
    with (
        PostgresServer(server_bin(15), settings=logical, **given) as source,
        PostgresServer(wheel_bin(18), settings=logical, **given) as target,
    ):
        rounds = [_round(number, asked, source, target, console) for number in range(1, asked.rounds + 1)]
        versions = {"source": source.version, "target": target.version, "pgbouncer": _pgbouncer_version()}
    results = _results(asked, rounds, versions)
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    console.print_json(json.dumps(results["summary"]))
    return 1 if any(r.failed or r.wrong for r in rounds) else 0


def _round(
    number: int, asked: argparse.Namespace, source: PostgresServer, target: PostgresServer, console: Console
) -> Round:
    folder = Path(tempfile.mkdtemp(prefix="planrunner-pause-"))
    name = f"app{number}"
    try:
        with _databases(name, source, target), Bouncer({"app": entry(source, name)}) as bouncer:
            _fill(source, name, asked.tables, asked.rows)
            (folder / "plan.yaml").write_text(
                configured(source, target, SWITCH.format(admin=bouncer.admin, config=bouncer.config), name)
            )
            _run(folder, "--until", "follow")
            script = _SCRIPT.format(tables=asked.tables, rows=asked.rows)
            with Bench(bouncer, script, folder, rate=asked.rate, clients=asked.clients) as client:
                client.wait_for(2 * asked.rate)
                begun = SystemClock().now().timestamp()
                _run(folder)
                client.wait_for(asked.rate)
                ended = SystemClock().now().timestamp()
            one = _measured(number, client, (begun, ended), _dsn(source, name), _dsn(target, name))
        console.print(
            f"  round {number}  pause {one.pause_ms:6.1f} ms  at the clients {one.client_gap_ms:6.1f} ms"
            f"  {one.transactions} transactions, {one.failed} failed  {dict(one.parts_ms)}  {one.wrong}"
        )
        return one
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(number: int, client: Bench, window: tuple[float, float], ours: str, theirs: str) -> Round:
    with psycopg.connect(theirs) as session:
        row = session.execute(
            "SELECT detail FROM planrunner.effect WHERE step = 'cutover_verify' AND name = 'pause'"
        ).fetchone()
        arrived = session.execute("SELECT count(*) FROM acknowledged").fetchone()
    assert row is not None
    assert arrived is not None
    wrong = "" if arrived[0] == client.acknowledged else f"{arrived[0]} of {client.acknowledged} arrived"
    behind = {t: n for t, (n, _) in contents(ours).items() if contents(theirs)[t][0] < n} if wrong else {}
    return Round(
        round=number,
        pause_ms=float(row[0]["total_ms"]),
        client_gap_ms=round(client.longest_gap(*window) * 1000, 1),
        parts_ms=row[0]["parts_ms"],
        transactions=client.acknowledged,
        failed=client.failed,
        wrong=f"{wrong} {behind}".strip() if wrong else "",
    )


def _run(folder: Path, *options: str) -> None:
    secrets = {"SOURCE_PASSWORD": _PASSWORD, "TARGET_PASSWORD": _PASSWORD, "POOL_PASSWORD": ADMIN_PASSWORD}
    ran = subprocess.run(
        [sys.executable, "-m", "planrunner", "run", "plan.yaml", "--no-input", "--yes", *options],
        cwd=folder,
        env={**os.environ, **secrets},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr


@contextmanager
def _databases(name: str, *servers: PostgresServer) -> Iterator[None]:
    for server in servers:
        _server_wide(server, "CREATE DATABASE {}", name)
    yield
    for server in servers:
        _server_wide(server, "DROP DATABASE {} WITH (FORCE)", name)


def _server_wide(server: PostgresServer, command: str, name: str) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL(command).format(sql.Identifier(name)))  # type: ignore[arg-type]


def _fill(server: PostgresServer, name: str, tables: int, rows: int) -> None:
    made = "".join(
        f"CREATE TABLE t{n} (id int PRIMARY KEY, v int NOT NULL, filler text);"
        f"INSERT INTO t{n} SELECT i, 0, repeat('x', 80) FROM generate_series(1, {rows}) i;"
        for n in range(1, tables + 1)
    )
    with psycopg.connect(_dsn(server, name)) as session:
        session.execute((made + "CREATE TABLE acknowledged (id bigserial PRIMARY KEY, t int)").encode())


def _dsn(server: PostgresServer, name: str) -> str:
    return server.dsn("postgres", name, password=server.password)


def _results(
    asked: argparse.Namespace, rounds: Sequence[Round], versions: Mapping[str, Any]
) -> dict[str, Any]:
    pauses, gaps = [r.pause_ms for r in rounds], [r.client_gap_ms for r in rounds]
    parts = {name for r in rounds for name in r.parts_ms}
    return {
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "machine": platform.machine()},
        "setting": {k: getattr(asked, k) for k in ("rounds", "tables", "rows", "rate", "clients")},
        "versions": versions,
        "summary": {
            "pause_ms": {"p50": median(pauses), "max": max(pauses)},
            "client_gap_ms": {"p50": median(gaps), "max": max(gaps)},
            "parts_ms_p50": {
                name: median([r.parts_ms[name] for r in rounds if name in r.parts_ms])
                for name in sorted(parts)
            },
            "transactions": sum(r.transactions for r in rounds),
            "failed": sum(r.failed for r in rounds),
            "wrong": [r.wrong for r in rounds if r.wrong],
        },
        "rounds": [asdict(r) for r in rounds],
    }


def _pgbouncer_version() -> str:
    from tests.bouncer import pgbouncer

    told = subprocess.run([pgbouncer(), "--version"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0].removeprefix("PgBouncer ") if told else ""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pause", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many cutovers (%(default)s)")
    parser.add_argument("--tables", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--rows", type=int, default=1000, help="rows of each table (%(default)s)")
    parser.add_argument("--rate", type=int, default=500, help="transactions a second (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="the JSON file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
