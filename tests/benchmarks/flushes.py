"""``python -m tests.benchmarks.flushes``: what a flush for each applied transaction costs, and what it saves, as JSON.

Plain PostgreSQL, 16 to 18, with fsync on and nothing of planrunner's between: a subscription with
``synchronous_commit`` off, which is the default, and on. First a backlog of transactions of one row is applied, in
interleaved rounds. Then rows are written, the walsender is ended, so that a new apply worker begins, and the target is
crashed; the WAL writer comes by every 10 s only, so that what it has not flushed is as much as it can be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Pair = tuple[PostgresServer, PostgresServer]
    Session = psycopg.Connection[tuple[Any, ...]]

CLOCK = SystemClock()
_RESULTS = Path(__file__).with_name("results") / "flushes.json"
_DURABLE = {"wal_level": "logical", "fsync": "on", "full_page_writes": "on"}
_SLOW = {"wal_writer_delay": "10s", "wal_retrieve_retry_interval": "100ms"}
_WAYS = ("off", "on")
_FILL = """
CREATE OR REPLACE PROCEDURE fill(first int, last int) LANGUAGE plpgsql AS
$$ BEGIN FOR i IN first..last LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END $$
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write a JSON file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flushes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--transactions", type=int, default=20_000)
    parser.add_argument("--crashes", type=int, default=10)
    parser.add_argument("--out", type=Path, default=_RESULTS)
    asked = parser.parse_args(arguments)
    results = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        **_applied(asked.rounds, asked.transactions),
        "crashed": {way: _crashed(way, asked.crashes) for way in _WAYS},
    }
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text(json.dumps(results, indent=2) + "\n")
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 0


@contextmanager
def _subscribed(target: dict[str, str], way: str) -> Iterator[tuple[Pair, Session, Session]]:
    """Both servers with a table, and a disabled subscription to it; and a session on each."""
    with (
        PostgresServer(wheel_bin(16), settings=_DURABLE, max_life=1200) as one,
        PostgresServer(wheel_bin(18), settings={**_DURABLE, **target}, max_life=1200) as other,
        psycopg.connect(one.superuser_dsn, autocommit=True) as ours,
        psycopg.connect(other.superuser_dsn, autocommit=True) as theirs,
    ):
        for session in (ours, theirs):
            session.execute("CREATE TABLE t (id int PRIMARY KEY)")
        ours.execute("CREATE PUBLICATION p FOR TABLE t")
        theirs.execute(
            f"CREATE SUBSCRIPTION s CONNECTION '{one.superuser_dsn}' PUBLICATION p"
            f" WITH (copy_data = false, enabled = false, synchronous_commit = {way})".encode()
        )
        theirs.execute("CHECKPOINT")
        yield (one, other), ours, theirs


def _applied(rounds: int, transactions: int) -> dict[str, Any]:
    """Transactions a second that one worker applies, each way."""
    found: dict[str, list[float]] = {way: [] for way in _WAYS}
    with _subscribed({}, "off") as (_, ours, theirs):
        ours.execute(_FILL)
        # The source's own flushes are none of what is measured.
        ours.execute("SET synchronous_commit = off")
        last = 0
        for way in _WAYS * rounds:
            theirs.execute(f"ALTER SUBSCRIPTION s SET (synchronous_commit = {way})".encode())
            first, last = last + 1, last + transactions
            ours.execute("CALL fill(%s::int, %s::int)", [first, last])
            begun = CLOCK.monotonic()
            theirs.execute("ALTER SUBSCRIPTION s ENABLE")
            while not theirs.execute("SELECT FROM t WHERE id = %s", [last]).rowcount:
                CLOCK.sleep(0.01)
            found[way].append(round(transactions / (CLOCK.monotonic() - begun)))
            theirs.execute("ALTER SUBSCRIPTION s DISABLE")
            while theirs.execute("SELECT FROM pg_stat_subscription WHERE pid IS NOT NULL").rowcount:
                CLOCK.sleep(0.01)
    ratio = round(median(b / a for a, b in zip(found["off"], found["on"], strict=True)), 3)
    return {"transactions_a_second": found, "on_to_off": ratio}


def _crashed(way: str, times: int) -> dict[str, int]:
    """How many of the rows that were written are not on the target once it has applied the last one."""
    with _subscribed(_SLOW, way) as ((one, other), ours, theirs):
        theirs.execute("ALTER SUBSCRIPTION s ENABLE")
        over = threading.Event()
        writer = threading.Thread(target=_write_on, args=(one.superuser_dsn, over), daemon=True)
        writer.start()
        for _ in range(times):
            CLOCK.sleep(1)
            ours.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            CLOCK.sleep(0.4)
            other.stop("immediate")
            other.start()
        over.set()
        writer.join()
        (written, last) = ours.execute("SELECT count(*), max(id) FROM t").fetchone() or (0, 0)
        with psycopg.connect(other.superuser_dsn, autocommit=True) as found:
            while not found.execute("SELECT FROM t WHERE id = %s", [last]).rowcount:
                CLOCK.sleep(0.05)
            (there,) = found.execute("SELECT count(*) FROM t").fetchone() or (0,)
    return {"crashes": times, "written": written, "missing": written - there}


def _write_on(dsn: str, over: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        number = 0
        while not over.wait(0.002):
            number += 1
            session.execute("INSERT INTO t VALUES (%s)", [number])


if __name__ == "__main__":
    sys.exit(main())
