"""Estimates against real servers: they follow the data, the filters and the writers, and change nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import QueryFailed
from planrunner.model import Endpoint, Estimate, Secret, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import probe
from planrunner.replication.estimate import estimates
from planrunner.replication.selection import EVERYTHING, Selection
from planrunner.replication.workspace import Workspace
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = """
DROP TABLE IF EXISTS t;
CREATE TABLE t (id int PRIMARY KEY, filler text);
INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, {rows}) i;
VACUUM (ANALYZE) t;
"""


def opened(server: PostgresServer, side: Side) -> Server:
    parts = conninfo.conninfo_to_dict(server.superuser_dsn)
    parts.pop("password")
    endpoint = Endpoint(side=side, dsn=conninfo.make_conninfo("", **{**parts, "sslmode": "disable"}))
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="test")


class Bench:
    def __init__(self, source: PostgresServer, target: PostgresServer) -> None:
        self.source_dsn = source.superuser_dsn
        self.source, self.target = opened(source, Side.SOURCE), opened(target, Side.TARGET)

    def load(self, rows: int) -> None:
        with psycopg.connect(self.source_dsn, autocommit=True) as session:
            for statement in ROWS.format(rows=rows).split(";")[:-1]:
                session.execute(statement.encode())

    def estimated(self, selection: Selection = EVERYTHING) -> dict[str, Estimate]:
        space = Workspace(
            source=self.source,
            target=self.target,
            plan_id="0123abcd",
            clock=SystemClock(),
            tell=lambda _text, _fields: None,
            selection=selection,
        )
        tables = space.selection.followed(catalog.tables(self.source))
        return {e.name: e for e in estimates(space, tables, streams=2, chunk_above=1 << 30)}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with PostgresServer(wheel_bin(16)) as source, PostgresServer(wheel_bin(18)) as target:
        made = Bench(source, target)
        yield made
        made.source.close()
        made.target.close()


def low(estimate: Estimate) -> float:
    assert estimate.low is not None, estimate.reason
    return estimate.low


def high(estimate: Estimate) -> float:
    assert estimate.high is not None, estimate.reason
    return estimate.high


def test_a_table_twice_as_big_is_estimated_twice_as_big(bench: Bench) -> None:
    bench.load(50_000)
    once = bench.estimated()
    bench.load(100_000)
    twice = bench.estimated()
    for name in ("rows", "heap_bytes", "index_bytes"):
        assert low(twice[name]) == pytest.approx(2 * low(once[name]), rel=0.05)
    assert low(twice["target_disk"]) == pytest.approx(2 * low(once["target_disk"]), rel=0.05)
    assert low(once["rows"]) == pytest.approx(50_000, rel=0.05)


def test_every_figure_is_measured_and_the_range_is_one(bench: Bench) -> None:
    bench.load(100_000)
    found = bench.estimated()
    assert [name for name, e in found.items() if e.reason] == ["target_free"]
    assert 0 < low(found["copy_time"]) < high(found["copy_time"])
    rate = low(found["read_rate"])
    assert low(found["copy_time"]) >= 2 * low(found["heap_bytes"]) / rate * 0.99


def test_a_filter_shrinks_what_is_estimated(bench: Bench) -> None:
    bench.load(100_000)
    whole = bench.estimated()
    part = bench.estimated(Selection.of({"rows": {"public.t": "id <= 25000"}}))
    assert low(part["heap_bytes"]) == pytest.approx(low(whole["heap_bytes"]) / 4, rel=0.1)
    assert low(part["rows"]) == pytest.approx(25_000, rel=0.1)


def test_wal_follows_the_writers(bench: Bench) -> None:
    bench.load(50_000)
    quiet = bench.estimated()
    assert low(quiet["wal_rate"]) < 100_000
    ended = threading.Event()

    def write() -> None:
        with psycopg.connect(bench.source_dsn, autocommit=True) as session:
            while not ended.is_set():
                session.execute("UPDATE t SET filler = filler WHERE id <= 2000")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        busy = bench.estimated()
    finally:
        ended.set()
        writer.join()
    assert low(busy["wal_rate"]) > 10 * low(quiet["wal_rate"]) + 100_000
    assert high(busy["wal_retained"]) == pytest.approx(low(busy["wal_rate"]) * high(busy["copy_time"]))


def test_a_probe_that_can_not_read_says_why_and_makes_nothing_up(bench: Bench) -> None:
    bench.load(10)
    found = bench.estimated()
    assert "too few" in str(found["read_rate"].reason)
    for name in ("copy_time", "wal_retained"):
        assert found[name].low is None
        assert found[name].reason


def test_a_filter_that_lets_nothing_through_does_not_hold_the_probe(bench: Bench) -> None:
    bench.load(100_000)
    slow = "id = -1 AND length(repeat(filler, 2000)) = 3"
    found = bench.estimated(Selection.of({"rows": {"public.t": slow}}))
    assert "too few" in str(found["read_rate"].reason)
    left = bench.source.value(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'"
    )
    assert left == 0


def test_a_source_that_went_away_is_a_reason(bench: Bench) -> None:
    away = Server(
        Endpoint(side=Side.SOURCE, dsn="host=127.0.0.1 port=1 user=postgres dbname=x sslmode=disable"),
        clock=SystemClock(),
        resolve=lambda _: None,
        label="test",
    )
    clock = SystemClock()
    assert probe.sending(away, clock).reason
    assert isinstance(probe.position(away, clock), str)
    assert probe.writing(away, probe.position(away, clock), clock).reason


def test_the_probe_writes_nothing(bench: Bench) -> None:
    bench.load(50_000)
    with pytest.raises(QueryFailed, match="read-only"):
        bench.source.rows("CREATE TABLE planted (a int)")
    used = "SELECT xmax FROM (SELECT pg_snapshot_xmax(pg_current_snapshot()) xmax) x"

    def untouched() -> bool:
        before = bench.source.value(used)
        bench.estimated()
        return bool(bench.source.value(used) == before)

    # An autovacuum may take transaction ids of its own meanwhile; a probe that wrote would take one each time.
    assert any(untouched() for _ in range(5))
