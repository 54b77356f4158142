"""Where a subscription begins: what a move of its origin leaves when it is rolled back, and how that is avoided."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.errors import StepBlocked
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.postgres.lsn import Lsn
from planrunner.replication import logins, origins, subscriptions
from planrunner.replication.ranges import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.sandbox.servers import PostgresServer

    from .conftest import Streams

    Make = Callable[..., Streams]

pytestmark = pytest.mark.server
FAR = Lsn.parse("F/0")


class TakenBackError(Exception):
    """Rolls a transaction back."""


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server, following=False)


def here(pair: Streams) -> Lsn:
    return Lsn.parse(pair.source("SELECT pg_current_wal_flush_lsn()::text")[0][0])


def rolled_back(pair: Streams) -> None:
    """Make the subscription and move its origin in one transaction, which is not committed."""
    logins.ready(pair.space, pair.space.source)
    with suppress(TakenBackError), pair.space.writing() as session:
        subscriptions.create_in(pair.space, session, 1, NOTHING)
        session.execute(origins.moving(pair.name, str(FAR)))
        raise TakenBackError
    assert subscriptions.existing(pair.space.target, pair.space.names) == {}


def test_a_move_that_was_rolled_back_is_met_by_the_next_subscription(pair: Streams) -> None:
    rolled_back(pair)
    subscriptions.create(pair.space, 1, NOTHING)

    assert origins.progress(pair.space.target, pair.name) == FAR, "the server keeps it in memory"


def test_what_was_rolled_back_loses_nothing_of_the_next_subscription(pair: Streams) -> None:
    rolled_back(pair)
    subscriptions.create(pair.space, 1, NOTHING)
    begins = here(pair)
    pair.source("INSERT INTO lines VALUES (1, 1)")

    origins.settle(pair.space, pair.space.target, pair.name, begins, needed=True)
    assert origins.progress(pair.space.target, pair.name) == begins
    subscriptions.enable(pair.space, 1)

    pair.wait_until(lambda: pair.target("SELECT n FROM lines") == [(1,)])


def test_what_has_come_further_is_not_moved_back(pair: Streams) -> None:
    subscriptions.create(pair.space, 1, NOTHING)
    begins = here(pair)
    origins.settle(pair.space, pair.space.target, pair.name, begins, needed=True)
    subscriptions.enable(pair.space, 1)
    pair.source("INSERT INTO lines VALUES (1, 1)")
    pair.wait_until(lambda: pair.target("SELECT n FROM lines") == [(1,)])

    origins.settle(pair.space, pair.space.target, pair.name, begins, needed=True)

    at = origins.progress(pair.space.target, pair.name)
    assert at is not None
    assert at > begins


def test_a_subscription_made_anew_is_moved_anew(pair: Streams) -> None:
    for _ in range(2):
        subscriptions.create(pair.space, 1, NOTHING)
        begins = here(pair)
        origins.settle(pair.space, pair.space.target, pair.name, begins, needed=True)
        assert origins.progress(pair.space.target, pair.name) == begins
        subscriptions.drop(pair.space, 1)


def test_a_wish_is_carried_out_once_and_given_up_where_the_login_may_not(
    pair: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, name = pair.space, pair.name
    rolled_back(pair)
    subscriptions.create(space, 1, NOTHING)
    begins = here(pair)
    with space.writing() as session:
        origins.made(space, session, name, begins)
    pair.source("INSERT INTO lines VALUES (1, 1)")
    subscriptions.enable(space, 1)
    pair.wait_until(lambda: pair.target("SELECT n FROM lines") == [(1,)])
    assert space.ledger.effects(origins.STEP)[name] == {"moved": str(begins)}

    pair.target(f"ALTER SUBSCRIPTION {name} DISABLE")
    with space.writing() as session:
        origins.made(space, session, name, begins)
    with monkeypatch.context() as patched:
        patched.setattr(origins, "MAY_MOVE", "SELECT false")
        subscriptions.enable(space, 1)
    pair.source("INSERT INTO lines VALUES (2, 2)")
    pair.wait_until(lambda: len(pair.target("SELECT n FROM lines")) == 2)
    pair.target(f"ALTER SUBSCRIPTION {name} DISABLE")
    subscriptions.enable(space, 1)
    at = origins.progress(space.target, name)
    assert at is not None
    assert at > begins


def test_a_login_that_may_not_is_told_what_to_grant(pair: Streams) -> None:
    subscriptions.create(pair.space, 1, NOTHING)
    pair.target("CREATE ROLE mover LOGIN PASSWORD 'mover'")
    try:
        dsn = psycopg.conninfo.make_conninfo(pair.space.target.endpoint.dsn, user="mover")
        weak = Server(
            Endpoint(side=Side.TARGET, dsn=dsn),
            clock=pair.space.clock,
            resolve=lambda _: Secret("mover"),
            label="planrunner/test",
        )
        with pytest.raises(StepBlocked) as told:
            origins.settle(pair.space, weak, pair.name, FAR, needed=True)
        remedy = str(told.value.remedy)
        pair.target(remedy[remedy.index("GRANT") :])
        assert weak.value(origins.MAY_MOVE)
        weak.close()
    finally:
        pair.target("DROP OWNED BY mover", "DROP ROLE mover")
