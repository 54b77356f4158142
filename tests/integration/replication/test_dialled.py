"""One server that dials another where connections are taken and nothing is ever answered."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from planrunner.errors import QueryFailed
from planrunner.model import DialAddress, Mark, Side
from planrunner.postgres import dialled, preflight_line
from planrunner.postgres.preflight_section import Needs
from planrunner.replication import return_streams, subscriptions
from planrunner.replication.ranges import NOTHING
from planrunner.sandbox.servers import PostgresServer
from tests.servers import contrib_bin

from .conftest import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.postgres.connection import Server

    from .conftest import Streams

    Make = Callable[..., Streams]

pytestmark = pytest.mark.server
SAID = "got no answer within 1 s"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialled, "SECONDS", 1.0)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a listener whose connections nobody accepts: the system takes them, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server, following=False)


def seen_at(server: Server, port: int) -> None:
    """The other side dials the server there; we go on as before."""
    server.endpoint = replace(server.endpoint, seen_from_other=DialAddress(port=port))


def assert_told(target: Server, source: Server, port: int, said: str) -> None:
    dial = {**source.parameters_elsewhere(), "port": str(port), "connect_timeout": "2"}
    needs = Needs(plan_id="p", owned="pr_", dial=dial)

    found = preflight_line.dialing(target, needs, target.identity())

    assert (found.code, found.mark) == ("PR0801", Mark.FAIL)
    assert f"Target can't dial the source at 127.0.0.1:{port}: " in found.text
    assert said in found.text


def test_a_probe_that_nobody_answers_ends(pair: Streams, silent: int) -> None:
    assert_told(pair.space.target, pair.space.source, silent, SAID)


@pytest.mark.parametrize(("major", "said"), [(15, "timeout expired"), (17, SAID)])
def test_a_probe_by_dblink_ends_by_its_own_clock_or_by_ours(
    pair: Streams, silent: int, major: int, said: str
) -> None:
    with PostgresServer(contrib_bin(major)) as server:
        target = connected(server, "postgres", Side.TARGET)
        target.execute("CREATE SCHEMA extensions", "CREATE EXTENSION dblink SCHEMA extensions")
        assert_told(target, pair.space.source, silent, said)
        target.close()


def test_a_subscription_that_nobody_answers_is_not_made(pair: Streams, silent: int) -> None:
    seen_at(pair.space.source, silent)
    with pytest.raises(QueryFailed, match=SAID):
        subscriptions.create(pair.space, 1, NOTHING)
    assert not subscriptions.existing(pair.space.target, pair.space.names)


def test_a_way_back_that_nobody_answers_is_known_before_the_fence(pair: Streams, silent: int) -> None:
    seen_at(pair.space.target, silent)
    back = return_streams.Back(workspace=pair.space, tables=())
    with pytest.raises(QueryFailed, match=SAID):
        back.prepare()
    back.forget()
    assert not subscriptions.shown(pair.space.source, pair.space.names.back)


def test_whoever_cancels_it_before_is_told_as_that(pair: Streams) -> None:
    target = pair.space.target
    with (
        pytest.raises(QueryFailed, match="the statement was cancelled"),
        target.session() as session,
        dialled.bounded(target, session, "nowhere:1"),
    ):
        session.execute("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(1)")
