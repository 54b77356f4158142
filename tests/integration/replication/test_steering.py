"""A copy that is paused, slowed down and sped up while it is under way, on real servers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.replication import sampling
from planrunner.replication.generations import Division
from planrunner.replication.places import Places
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from planrunner.steering import Steer
from tests.integration.replication.stage import Pair, assert_equal, copy_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLOCK = SystemClock()
# Above what travels in batches, so that each table is a unit boundary.
TABLES = "".join(
    f"CREATE TABLE t{n} (id int PRIMARY KEY, t text); INSERT INTO t{n} SELECT i, repeat('x', 900)"
    " FROM generate_series(1, 2500) i; CREATE INDEX ON t{n} (t);".replace("{n}", str(n))
    for n in range(12)
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}, max_life=300) as source,
        PostgresServer(wheel_bin(18), max_life=300) as target,
    ):
        made = Pair(source, target, name="steered")
        made.create(TABLES)
        yield made


def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = CLOCK.monotonic() + seconds
    while not holds():
        assert CLOCK.monotonic() < deadline, "it did not come about"
        CLOCK.sleep(0.02)


def units(pair: Pair) -> int:
    with psycopg.connect(pair.theirs) as session:
        there = session.execute("SELECT to_regclass('planrunner.unit') IS NOT NULL").fetchone()
        row = session.execute("SELECT count(*) FROM planrunner.unit").fetchone() if there == (True,) else (0,)
    assert row is not None
    return int(row[0])


def test_a_copy_obeys_pauses_and_limits_in_mid_run_and_loses_nothing(pair: Pair) -> None:
    asked = [Steer(jobs=1)]
    failed: list[BaseException] = []
    reads: list[int] = []

    def streams() -> int:
        return sum(thread.name.startswith("copy") and thread.is_alive() for thread in threading.enumerate())

    def on_news(message: str, _: Any) -> None:
        if not message.startswith("copied"):
            return
        reads.append(len(reads))
        if len(reads) == 2:
            asked[0] = Steer(paused=True, jobs=1)

    pair.on_news = on_news

    with pair.workspace() as space:
        space.steering = lambda: asked[0]

        def work() -> None:
            try:
                copy_all(space, division=Division(), jobs=4)
            except BaseException as error:  # noqa: BLE001  # told to the test below
                failed.append(error)

        runner = threading.Thread(target=work)
        runner.start()
        until(lambda: asked[0].paused)
        # One stream, so that the second unit is the last before the pause.
        CLOCK.sleep(1.5)
        paused_at = units(pair)
        assert paused_at == 2
        assert streams() == 1
        assert space.round is not None
        assert space.round.alive()
        figures, _ = sampling.sample(space, None)
        assert (figures["units_done"], figures["units"]) == (2, 12)
        assert list(figures["streams"]) == [space.names.stream(1)]  # type: ignore[call-overload]

        asked[0] = Steer(paused=True, jobs=3, index_jobs=1)
        until(lambda: streams() == 3)
        assert units(pair) == 2
        asked[0] = Steer(jobs=3, index_jobs=1)
        until(lambda: units(pair) > 3)
        asked[0] = Steer(jobs=2)
        runner.join(60)
        assert not runner.is_alive()
        assert failed == []
    assert units(pair) == 12
    assert_equal(pair)


def test_a_busy_source_holds_the_copy_up_for_as_long_as_it_is_busy(pair: Pair) -> None:
    pair.on_news = lambda _message, _fields: None
    with pair.workspace() as space, psycopg.connect(pair.source.superuser_dsn, autocommit=True) as other:
        from planrunner.replication.throttle import Throttle

        space.steering = lambda: Steer(max_load=0)
        busy = threading.Thread(target=lambda: other.execute("SELECT pg_sleep(2)"))
        busy.start()
        until(lambda: Throttle(space, space.source, None)._busy(0))
        looks: list[int] = []
        Throttle(space, space.source, None, "the copy").wait(lambda: looks.append(1))
        assert looks, "it waited while the other session was at work"
        busy.join()
    assert any(news.startswith("the copy waits: 1 sessions are active on the source") for news in pair.news)


def test_places_follow_their_limit() -> None:
    limit = [1]
    most, now = [0], [0]
    lock = threading.Lock()
    places = Places(lambda: limit[0], lambda: None)
    go_on = threading.Event()

    def work() -> None:
        with places.one():
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            go_on.wait(10)
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: now[0] == 1)
    limit[0] = 3
    until(lambda: now[0] == 3)
    limit[0] = 0
    go_on.set()
    until(lambda: now[0] == 0)
    assert most[0] == 3
    limit[0] = 6
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
