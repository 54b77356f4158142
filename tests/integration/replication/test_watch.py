"""What stops a stream is named, with what to do, while a runner waits for it."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.errors import StepFailed
from planrunner.replication import barrier, slots, subscriptions, troubles
from planrunner.replication.health import observe
from planrunner.replication.ranges import NOTHING
from planrunner.replication.terms import Budget, Terms
from planrunner.replication.watch import Watch, watching
from planrunner.sandbox.servers import PostgresServer, wheel_bin
from tests.integration.replication.conftest import Streams, bin_of, dsn_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., Streams]

QUICK = Terms(poll=0.5, check_every=3600)


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server, terms=QUICK)


def stopped(streams: Streams, *, timeout: float = 60) -> StepFailed:
    """What a wait for the target ends with."""
    with pytest.raises(StepFailed) as caught:
        barrier.wait(streams.space, (1,), timeout=timeout)
    assert "did not catch up" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_a_healthy_stream_is_passed_over_in_silence(pair: Streams) -> None:
    watch = Watch(pair.space, (1,), following=True, acting=True)
    for _ in range(3):
        pair.source("INSERT INTO lines SELECT coalesce(max(id), 0) + 1 FROM lines")
        barrier.wait(pair.space, (1,), timeout=30, watch=watch)
        health = watch.look()
    assert health.slots[1].lost is None
    assert health.subscriptions[1].errors == 0
    assert not watch.paused()
    assert pair.told == []


def test_a_marker_that_the_stream_has_passed_without_bringing_it_is_told(pair: Streams) -> None:
    markers = f"planrunner.{pair.space.names.barrier(1)}"
    pair.target(
        "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        f"CREATE TRIGGER holds BEFORE INSERT ON {markers} FOR EACH ROW EXECUTE FUNCTION public.held()",
        f"ALTER TABLE {markers} ENABLE ALWAYS TRIGGER holds",
    )
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.05):
            pair.source("INSERT INTO lines SELECT coalesce(max(id), 0) + 1 FROM lines")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        error = stopped(pair)
    finally:
        done.set()
        writer.join()
    assert f"is not in {markers}: the stream does not bring all that it confirms" in error.message
    assert "a trigger, a rule" in str(error.remedy)


def test_a_wait_names_who_holds_the_lock_that_the_worker_waits_for(pair: Streams) -> None:
    with psycopg.connect(dsn_of(pair.space.target), application_name="a report") as report:
        report.execute("LOCK TABLE lines IN ACCESS EXCLUSIVE MODE")
        pair.source("INSERT INTO lines SELECT coalesce(max(id), 0) + 1 FROM lines")
        with pytest.raises(StepFailed, match=r"did not catch up within 8 s: .*a report, idle in transaction"):
            barrier.wait(pair.space, (1,), timeout=8)
        assert any("others hold: pid" in told and "a report" in told for told in pair.told), pair.told
    barrier.wait(pair.space, (1,), timeout=30)


def test_a_disabled_subscription_is_told(pair: Streams) -> None:
    pair.target(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    error = stopped(pair)
    assert f"target: subscription {pair.name} is disabled" in error.message
    assert f"ALTER SUBSCRIPTION {pair.name} ENABLE;" in str(error.remedy)


def test_a_dropped_subscription_is_told(pair: Streams) -> None:
    pair.target(
        f"ALTER SUBSCRIPTION {pair.name} DISABLE",
        f"ALTER SUBSCRIPTION {pair.name} SET (slot_name = NONE)",
        f"DROP SUBSCRIPTION {pair.name}",
    )
    error = stopped(pair)
    assert f"target: subscription {pair.name} is gone" in error.message
    assert "planrunner cleanup" in str(error.remedy)


def test_a_slot_that_someone_dropped_is_told(pair: Streams) -> None:
    pair.target(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    pair.wait_until(lambda: slots.existing(pair.space.source, pair.space.names)[1].active_pid is None)
    pair.source(f"SELECT pg_drop_replication_slot('{pair.name}')")
    error = stopped(pair)
    assert f"source: slot {pair.name} is gone" in error.message
    assert "planrunner cleanup" in str(error.remedy)


@pytest.mark.parametrize("major", [15, 16, 18])
def test_a_slot_whose_wal_was_removed_is_told_with_its_reason(
    streams: Make, target_server: PostgresServer, major: int
) -> None:
    settings = {"wal_level": "logical", "max_slot_wal_keep_size": "32MB", "max_wal_size": "64MB"}
    with PostgresServer(bin_of(major), settings=settings) as source:
        pair = streams(source, target_server, following=False, terms=QUICK)
        watch = Watch(pair.space, (1,), following=False, acting=True)
        watch.look()
        # Each switch ends a segment of 16 MB; the server keeps three for the slot.
        for _ in range(2):
            pair.fill_wal(1)
            pair.source("SELECT pg_switch_wal()")
        pair.fill_wal(8)
        watch.look()
        assert any("gives a slot up by itself" in told for told in pair.told), pair.told
        for _ in range(4):
            pair.fill_wal(1)
            pair.source("SELECT pg_switch_wal()")
        pair.source("CHECKPOINT")
        with pytest.raises(StepFailed, match=f"slot {pair.name} was invalidated .wal_removed") as caught:
            watch.look()
        assert "max_slot_wal_keep_size = -1" in str(caught.value.remedy)


@pytest.mark.parametrize("source", ["old_server", "source_server"])
def test_a_row_that_collides_is_named_with_relation_key_and_lsn(
    streams: Make, target_server: PostgresServer, source: str, request: pytest.FixtureRequest
) -> None:
    pair = streams(request.getfixturevalue(source), target_server, terms=QUICK)
    pair.source("INSERT INTO orders (id) VALUES (1)")
    barrier.wait(pair.space, (1,), timeout=30)
    pair.target("INSERT INTO orders (id, code) VALUES (5, 'it''s taken')")
    pair.source(
        "BEGIN; INSERT INTO lines VALUES (1); INSERT INTO orders VALUES (7, 'x', 'it''s taken'); COMMIT"
    )
    error = stopped(pair)
    assert (
        f"target: subscription {pair.name} can't apply INSERT of public.orders, key (id)=(7)" in error.message
    )
    assert "Key (code)=(it's taken) already exists" in error.message
    log = pair.servers[1].log.read_text()
    lsn = error.message.partition("ended at ")[2].partition(":")[0]
    assert f"finished at {lsn}" in log
    assert """DELETE FROM "public"."orders" WHERE "code" = 'it''s taken';""" in str(error.remedy)
    assert pair.target("SELECT id FROM orders ORDER BY id") == [(1,), (5,)], "the trial left something"
    pair.target("DELETE FROM orders WHERE code = 'it''s taken'")
    barrier.wait(pair.space, (1,), timeout=30)


@pytest.mark.parametrize(
    ("there", "change", "expected"),
    [
        (
            "ALTER TABLE lines ADD CHECK (n < 10)",
            "INSERT INTO lines VALUES (1, 10)",
            "INSERT of public.lines, key (id)=(1)",
        ),
        ("ALTER TABLE lines DROP COLUMN n", "UPDATE lines SET n = 3", "UPDATE of public.lines, key (id)=(0)"),
        ("DROP TABLE lines", "DELETE FROM lines", "DELETE of public.lines, key (id)=(0)"),
        (
            "ALTER TABLE orders ALTER m TYPE int USING 1",
            "INSERT INTO orders (id, m) VALUES (3, 'sad')",
            "orders, key (id)=(3)",
        ),
    ],
)
def test_any_change_that_the_target_refuses_is_named(
    pair: Streams, there: str, change: str, expected: str
) -> None:
    pair.source("INSERT INTO lines VALUES (0, 0)")
    barrier.wait(pair.space, (1,), timeout=30)
    pair.target(there)
    pair.source(change)
    error = stopped(pair)
    assert expected in error.message
    assert "ended at " in error.message


def test_a_truncate_the_target_refuses_is_told_with_its_lsn(pair: Streams) -> None:
    pair.target("CREATE TABLE extra (id int REFERENCES lines)")
    pair.source("TRUNCATE lines")
    error = stopped(pair)
    assert f"subscription {pair.name}" in error.message
    assert "TRUNCATE of public.lines" in error.message


def test_a_worker_without_a_free_place_is_told(streams: Make, source_server: PostgresServer) -> None:
    with PostgresServer(wheel_bin(18), settings={"max_logical_replication_workers": "1"}) as target:
        pair = streams(source_server, target, terms=QUICK)
        other = streams(source_server, target, terms=QUICK, following=False)
        subscriptions.create(other.space, 1, NOTHING)
        subscriptions.enable(other.space, 1)
        error = stopped(other)
        assert f"target: subscription {other.name} has had no apply worker" in error.message
        assert "max_logical_replication_workers = 1, 1 in use" in error.message
        assert "ALTER SYSTEM SET max_logical_replication_workers = 5;" in str(error.remedy)
        barrier.wait(pair.space, (1,), timeout=30)


def test_a_line_that_the_target_cannot_dial_is_told(pair: Streams) -> None:
    pair.target(
        f"ALTER SUBSCRIPTION {pair.name} CONNECTION 'host=127.0.0.1 port=1 dbname=x user=x password=x'"
    )
    error = stopped(pair)
    assert f"subscription {pair.name} has had no apply worker" in error.message
    assert "log says why" in str(error.remedy)


def test_a_slot_in_use_by_another_is_told(pair: Streams) -> None:
    space = pair.space
    pair.target(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    pair.wait_until(lambda: slots.existing(space.source, space.names)[1].active_pid is None)
    # It tries again where a worker that was on its way still had the slot.
    options = [
        "-o",
        "proto_version=1",
        "-o",
        f"publication_names={pair.name}",
        "--start",
        "-f",
        "/dev/null",
    ]
    with subprocess.Popen(
        [wheel_bin(18) / "pg_recvlogical", "-d", dsn_of(space.source), "--slot", pair.name, *options],
        stderr=subprocess.DEVNULL,
    ) as reader:
        try:
            pair.wait_until(lambda: slots.existing(space.source, space.names)[1].reader == "pg_recvlogical")
            pair.target(f"ALTER SUBSCRIPTION {pair.name} ENABLE")
            error = stopped(pair)
        finally:
            reader.kill()
    assert "its slot is in use by another, pid" in error.message
    assert "(pg_recvlogical)" in error.message
    assert "pg_terminate_backend" in str(error.remedy)


def budgeted(
    streams: Make, servers: tuple[PostgresServer, PostgresServer], budget: Budget, **more: bool
) -> Streams:
    return streams(*servers, terms=Terms(poll=0.1, check_every=3600, budget=budget), **more)


def test_the_budget_tells_pauses_and_gives_up_loudly(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    limits = Budget(warn=4 << 20, pause=12 << 20, give_up=24 << 20)
    pair = budgeted(streams, (source_server, target_server), limits, following=False)

    def copy() -> None:
        with watching(pair.space, (1,)) as watch:
            pair.space.clock.sleep(0.5)
            assert pair.told == []
            pair.fill_wal(6)
            pair.wait_until(lambda: any("keep much WAL" in told for told in pair.told))
            assert not watch.paused()
            pair.fill_wal(8)
            pair.wait_until(watch.paused)
            watch.check()
            assert slots.existing(pair.space.source, pair.space.names)
            pair.fill_wal(12)
            while True:
                watch.check()
                pair.space.clock.sleep(0.05)

    with pytest.raises(StepFailed) as caught:
        copy()
    assert f"source: slot {pair.name} kept " in caught.value.message
    assert "above max_wal_retained 24 MB, and was given up" in caught.value.message
    assert "planrunner cleanup" in str(caught.value.remedy)
    assert sum("nothing new is begun" in told for told in pair.told) >= 1
    with pytest.raises(StepFailed, match="was given up by this plan at 20"):
        Watch(pair.space, (1,), following=False, acting=True).look()


def test_giving_up_drops_the_subscription_too(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = budgeted(streams, (source_server, target_server), Budget(warn=1 << 20, give_up=4 << 20))
    # A transaction that stays open keeps the slot from moving on although the stream is healthy.
    with psycopg.connect(pair.space.source.endpoint.dsn, password=pair.servers[0].password) as session:
        session.execute("INSERT INTO lines VALUES (1)")
        pair.fill_wal(8)
        with pytest.raises(StepFailed, match="was given up"):
            Watch(pair.space, (1,), following=True, acting=True).look()
    assert subscriptions.existing(pair.space.target, pair.space.names) == {}
    assert slots.existing(pair.space.source, pair.space.names) == {}


def test_a_verifications_slot_counts_and_is_given_up_alone(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = budgeted(streams, (source_server, target_server), Budget(warn=1 << 20, give_up=8 << 20))
    slots.create_named(pair.space, pair.space.source, pair.space.names.tracker)
    pair.fill_wal(15)

    def stream_is_near() -> bool:
        # A checkpoint logs the running transactions, from which the stream's slot moves on.
        pair.source("CHECKPOINT")
        barrier.wait(pair.space, (1,), timeout=60)
        return observe(pair.space).streaming < 4 << 20

    pair.wait_until(stream_is_near)
    Watch(pair.space, (1,), following=True, acting=True).look()
    assert any(f"dropped slot {pair.space.names.tracker}" in told for told in pair.told)
    assert set(slots.shown(pair.space.source, pair.space.names.plan_prefix)) == {pair.name}
    assert slots.existing(pair.space.source, pair.space.names)[1].lost is None


def test_a_watch_that_only_looks_gives_nothing_up(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = budgeted(
        streams, (source_server, target_server), Budget(warn=1 << 20, give_up=2 << 20), following=False
    )
    pair.fill_wal(6)
    Watch(pair.space, (1,), following=False, acting=False).look()
    assert slots.existing(pair.space.source, pair.space.names)[1].lost is None
    assert any("keep much WAL" in told for told in pair.told)


def test_what_a_thread_found_is_raised_where_the_copy_asks(pair: Streams) -> None:
    pair.target(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    pair.wait_until(lambda: slots.existing(pair.space.source, pair.space.names)[1].active_pid is None)

    def copy() -> None:
        with watching(pair.space, (1,)):
            pair.source(f"SELECT pg_drop_replication_slot('{pair.name}')")
            pair.space.clock.sleep(1.5)

    with pytest.raises(StepFailed, match="is gone"):
        copy()


def test_an_error_of_the_copy_goes_before_what_the_watch_found(pair: Streams) -> None:
    def copy() -> None:
        with watching(pair.space, (1, 2)):
            pair.space.clock.sleep(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copy()


def test_conflicts_are_counted_by_kind(pair: Streams) -> None:
    pair.source("INSERT INTO lines VALUES (1, 1)")
    barrier.wait(pair.space, (1,), timeout=30)
    pair.target("DELETE FROM lines")
    pair.source("UPDATE lines SET n = 2")
    barrier.wait(pair.space, (1,), timeout=30)
    pair.wait_until(lambda: subscriptions.existing(pair.space.target, pair.space.names)[1].conflicts)
    assert subscriptions.existing(pair.space.target, pair.space.names)[1].conflicts == {"update_missing": 1}


def test_every_reason_of_an_invalidated_slot_has_words() -> None:
    assert set(troubles._BEFOREHAND) <= set(troubles._REASONS)
