"""``python -m tests.benchmarks.preflight``: what the whole preflight takes at 10 and at 10,000 tables, as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Mark, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.postgres.preflight import preflight
from planrunner.postgres.preflight_section import Needs
from planrunner.replication import roles, subscriptions
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Finding

# pg_dump locks every table as well: a source of 10,000 needs the room anyway.
_SOURCE = {"wal_level": "logical", "max_locks_per_transaction": "512", "fsync": "off", "log_statement": "all"}
_AT_ONCE = 500
# Nine of ten with a sequence, a key and an index, the tenth a partition.
_TABLES = """
DO $$ BEGIN FOR i IN {first}..{last} LOOP
  IF i % 10 = 0 THEN
    EXECUTE format('CREATE TABLE root_%s PARTITION OF root FOR VALUES FROM (%s) TO (%s)', i, i, i + 10);
  ELSE
    EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a text, b int, c timestamptz)', i);
    EXECUTE format('CREATE INDEX ON t%s (b)', i);
  END IF;
END LOOP; END $$
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when the number of queries depends on the number of tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.preflight", description=__doc__)
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    with (
        PostgresServer(wheel_bin(16), settings=_SOURCE, max_life=3600) as source,
        PostgresServer(wheel_bin(18), settings={"log_statement": "all"}, max_life=3600) as target,
    ):
        _fill(source, range(10))
        few = _measured(source, target, 10, asked.rounds)
        _fill(source, range(10, asked.tables))
        many = _measured(source, target, asked.tables, asked.rounds)
    results = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "few": few, "many": many}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return 0 if few["queries"] == many["queries"] else 1


def _fill(server: PostgresServer, numbers: range) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(
            "CREATE TABLE IF NOT EXISTS root (id bigint, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)"
        )
        for first in range(numbers.start, numbers.stop, _AT_ONCE):
            last = min(first + _AT_ONCE, numbers.stop) - 1
            session.execute(sql.SQL(_TABLES).format(first=sql.Literal(first), last=sql.Literal(last)))


def _measured(source: PostgresServer, target: PostgresServer, tables: int, rounds: int) -> dict[str, object]:
    seconds: list[float] = []
    own: list[float] = []
    servers: list[float] = []
    queries = told = 0
    for _ in range(rounds):
        before = _queries(source) + _queries(target)
        begun, used, theirs = time.monotonic(), time.process_time(), _cpu(source) + _cpu(target)
        findings = _preflight(source, target)
        seconds.append(round(time.monotonic() - begun, 2))
        own.append(round(time.process_time() - used, 2))
        # A session that has just been closed is counted once its server has seen it end.
        SystemClock().sleep(0.5)
        servers.append(round(_cpu(source) + _cpu(target) - theirs, 2))
        queries = _queries(source) + _queries(target) - before
        told = sum(1 for f in findings if f.mark is not Mark.PASS)
    return {
        "tables": tables,
        "queries": queries,
        "seconds": min(seconds),
        "rounds": seconds,
        "own_cpu_seconds": min(own),
        "servers_cpu_seconds": min(servers),
        "told": told,
    }


def _preflight(source: PostgresServer, target: PostgresServer) -> Sequence[Finding]:
    there, here = _server(source, Side.SOURCE), _server(target, Side.TARGET)
    try:
        dial = subscriptions.dial_parameters(there)
        needs = Needs(
            plan_id="0123abcd",
            owned="pr_0123abcd_g",
            dial=dial,
            roles=lambda server: tuple(r.name for r in roles.named(server)),
        )
        return preflight(there, here, needs)
    finally:
        there.close()
        here.close()


def _server(server: PostgresServer, side: Side) -> Server:
    reference = SecretRef(kind=SecretKind.ENV, locator="BENCHMARK_PASSWORD")
    endpoint = Endpoint(side=side, dsn=server.dsn("postgres", "postgres"), password=reference)
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="benchmark")


def _queries(server: PostgresServer) -> int:
    text = server.log.read_text("utf-8", "replace")
    return text.count("LOG:  execute") + text.count("LOG:  statement")


def _cpu(server: PostgresServer) -> float:
    """The processor time of the server's sessions that have ended, in seconds; 0 where /proc does not tell."""
    pid = (server.data / "postmaster.pid").read_text().split()[0]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
