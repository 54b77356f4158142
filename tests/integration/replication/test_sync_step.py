"""What the step sync says before it begins, and of streams that can't be followed any more."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import StepFailed
from planrunner.model import Mark, Plan, StepSpec
from planrunner.replication import slots, subscriptions
from planrunner.replication.ranges import NOTHING
from planrunner.replication.snapshot import capture
from planrunner.replication.terms import Terms
from planrunner.replication.workspace import Round
from planrunner.sandbox.servers import PostgresServer, wheel_bin
from planrunner.step import Held, Run
from planrunner.steps.sync import CAUGHT_UP, Sync
from tests.integration.replication.conftest import Streams, bin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.model import Json

    Make = Callable[..., Streams]


def run_of(streams: Streams, **options: Json) -> Run:
    space = streams.space
    spec = StepSpec(id="follow", uses="sync", options=options)
    return Run(
        plan=Plan(
            name="test",
            path=Path("plan.yaml"),
            digest="",
            source=space.source.endpoint,
            target=space.target.endpoint,
            steps=(spec,),
        ),
        spec=spec,
        plan_id=space.names.plan_id,
        source=space.source,
        target=space.target,
        cloud=None,
        clock=SystemClock(),
        held=Held(),
        tell=lambda _text, _fields: None,
    )


def blocked(streams: Streams) -> list[str]:
    return [action.blocked for action in Sync().actions(run_of(streams)) if action.blocked]


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server)


def test_healthy_streams_block_nothing(pair: Streams) -> None:
    assert blocked(pair) == []
    assert [action.name for action in Sync().actions(run_of(pair))][:1] == ["catch up"]


def test_a_resume_does_not_follow_a_slot_that_is_gone(pair: Streams) -> None:
    slots.drop(pair.space, 1)
    (told,) = blocked(pair)
    assert f"source: slot {pair.name} is gone" in told


def test_a_resume_does_not_make_a_dropped_subscription_anew(pair: Streams) -> None:
    subscriptions.drop(pair.space, 1)
    (told,) = blocked(pair)
    assert f"target: subscription {pair.name} is gone" in told
    assert "apply changes twice" in told


def test_a_resume_enables_a_disabled_subscription(pair: Streams) -> None:
    pair.target(f"ALTER SUBSCRIPTION {pair.name} DISABLE")
    assert blocked(pair) == []
    assert Sync().actions(run_of(pair))[0].name == "subscribe 1"


def test_who_stays_further_behind_than_max_lag_has_not_caught_up(pair: Streams) -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            pair.source(
                "INSERT INTO bare SELECT i, repeat('x', 200) FROM generate_series(1, 3000) i",
                "DELETE FROM lines",
            )

    writer = threading.Thread(target=write)
    run = run_of(pair, max_lag="1kB", timeout="3s")
    run.held.put("workspace", pair.space)
    (action,) = [a for a in Sync().actions(run) if a.name == "catch up"]
    writer.start()
    try:
        with pytest.raises(StepFailed, match=r"behind after 3 s, max_lag is 1 kB: .* bytes behind"):
            action.perform(run)
    finally:
        done.set()
        writer.join()
    assert CAUGHT_UP not in pair.space.ledger.effects("sync")


def test_progress_shows_each_slot_and_its_worker(pair: Streams) -> None:
    figures = Sync().progress(run_of(pair))
    streams = figures["streams"]
    assert isinstance(streams, dict)
    shown = streams[pair.name]
    assert shown["slot"] == "reserved"
    assert shown["worker"].startswith("pid ")
    assert (shown["errors"], shown["conflicts"]) == (0, "none")
    assert shown["retained_bytes"] >= shown["lag_bytes"] >= 0
    assert figures["pg_wal_bytes"]


def test_limits_in_the_wrong_order_are_found_before_anything_is_done(pair: Streams) -> None:
    (_, finding) = Sync().findings(run_of(pair, max_wal_retained={"pause": "9GB", "give_up": "3GB"}))
    assert finding.mark is Mark.FAIL
    assert "pause (9 GB) is above give_up (3 GB)" in finding.text


def test_failover_slots_of_a_source_before_17_are_refused_with_the_reason(pair: Streams) -> None:
    (_, finding) = Sync().findings(run_of(pair, failover=True))
    assert finding.mark is Mark.FAIL
    assert "failover: true needs PostgreSQL 17 on the source, it is 16" in finding.text


def test_a_failover_slot_stays_one_when_it_is_subscribed_to(
    streams: Make, target_server: PostgresServer
) -> None:
    with PostgresServer(wheel_bin(18), settings={"wal_level": "logical"}) as source:
        pair = streams(source, target_server, terms=Terms(failover=True), following=False)
        (_, finding) = Sync().findings(run_of(pair, failover=True))
        assert finding.mark is Mark.PASS
        slots.drop(pair.space, 1)
        pair.space.round = Round(snapshots={1: capture(pair.space, 1)}, generation_of={})
        assert slots.existing(pair.space.source, pair.space.names)[1].failover
        subscriptions.create(pair.space, 1, NOTHING)
        subscriptions.enable(pair.space, 1)
        assert slots.existing(pair.space.source, pair.space.names)[1].failover
        assert pair.target(
            "SELECT subfailover FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database"
            " WHERE datname = current_database())"
        ) == [(True,)]


@pytest.mark.parametrize("major", [15, 16, 18])
def test_a_slot_without_failover_is_made_on_every_version(
    streams: Make, target_server: PostgresServer, major: int
) -> None:
    with PostgresServer(bin_of(major), settings={"wal_level": "logical"}) as source:
        pair = streams(source, target_server, following=False)
        slots.drop(pair.space, 1)
        pair.space.round = Round(snapshots={1: capture(pair.space, 1)}, generation_of={})
        assert not slots.existing(pair.space.source, pair.space.names)[1].failover


def test_login_by_tokens_is_followed_by_a_role_of_its_own_and_refused_without(pair: Streams) -> None:
    source = pair.space.source
    source.endpoint = replace(source.endpoint, rds_iam=True)

    (made,) = Sync().findings(run_of(pair))
    (lent,) = Sync().findings(run_of(pair, replication_role="own"))

    assert (made.mark, made.text) == (
        Mark.PASS,
        f"Subscription logs in by a role of its own, {pair.space.names.login}",
    )
    assert lent.mark is Mark.FAIL
    assert "an IAM token lasts 15 minutes" in lent.text
    assert "connections.source.replication" in str(lent.remedy)
