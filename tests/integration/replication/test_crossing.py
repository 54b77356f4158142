"""A crossing driven by hand: what is told and what is left when something breaks inside the pause."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner import remains
from planrunner.clock import SystemClock
from planrunner.errors import (
    DifferencesFound,
    QueryFailed,
    StepFailed,
)
from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import (
    crossing,
    fence,
)
from planrunner.replication.crossing import NoSwitch, Pause, Position
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.lines import FaultLine
from tests.integration.replication.crossings import SCHEMA, Breaking, takes_writes
from tests.integration.replication.stage import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.postgres.connection import Session
    from planrunner.replication.workspace import Workspace


_numbers = itertools.count(1)


class Leaping(SystemClock):
    """Every look at it is ``leap`` seconds later than the one before."""

    def __init__(self, leap: float) -> None:
        self._leap = leap
        self._ahead = 0.0

    def monotonic(self) -> float:
        self._ahead += self._leap
        return super().monotonic() + self._ahead


class Still(SystemClock):
    """Sleeps no time."""

    def sleep(self, seconds: float) -> None:
        assert seconds > 0


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    logical = {"wal_level": "logical"}
    with (
        PostgresServer(wheel_bin(16), settings=logical) as source,
        PostgresServer(wheel_bin(18), settings=logical) as target,
    ):
        yield source, target


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer]) -> Pair:
    return Pair(*servers, name=f"crossing{next(_numbers)}")


@dataclass
class Through(Pair):
    """The same pair of databases, its source by way of another ``port``."""

    port: int = 0

    def dsn(self, server: PostgresServer) -> str:
        dsn = super().dsn(server)
        return conninfo.make_conninfo(dsn, port=self.port) if server is self.source else dsn


def by_hand(
    space: Workspace,
    *,
    there: fence.Standing | None = None,
    settle: Callable[[Session, Pause], None] = lambda _session, _pause: None,
    keep: Callable[[Session], None] = lambda _: None,
    arrive: Callable[[Pause], None] = lambda _: None,
) -> crossing.Crossing:
    """A crossing from the source that does only what it is given, over all its tables; over none with ``there``."""
    return crossing.Crossing(
        workspace=space,
        to=Side.TARGET,
        fence=fence.Fence(
            names=space.names,
            tables=() if there else catalog.tables(space.source),
            message="moved",
            there=there or fence.standing(space.source, space.names),
            lock_timeout=1,
            dead_man=7,
        ),
        settle=settle,
        keep=keep,
        arrive=arrive,
        way_back=None,
        switch=NoSwitch(),
    )


@contextmanager
def apart(pair: Pair) -> Iterator[Workspace]:
    """Both sides with the lease taken, and nothing between them."""
    pair.create(SCHEMA)
    with pair.workspace() as space:
        space.source.execute("CREATE SCHEMA planrunner")
        space.lease  # noqa: B018
        yield space


def kill(pair: Pair, session: Session) -> None:
    """End a session of the source as an administrator would."""
    with psycopg.connect(pair.source.superuser_dsn, autocommit=True) as somebody:
        pid = session.info.backend_pid
        ended = somebody.execute("SELECT pg_terminate_backend(%s, 60000)", [pid]).fetchone()
        assert ended == (True,)


def test_the_line_that_breaks_in_the_pause_is_told_with_what_becomes_of_the_fence(pair: Pair) -> None:
    def settle(session: Session, _pause: Pause) -> None:
        kill(pair, session)
        session.execute("SELECT 1")

    with apart(pair) as space:
        with pytest.raises(StepFailed, match="The fence was raised then and is rolled back") as told:
            crossing.cross(by_hand(space, settle=settle), 60.0)
        assert (
            "at the latest 7 s after it last heard of us the source does so by itself" in told.value.message
        )
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)


def test_a_statement_that_fails_in_the_pause_is_its_own_news(pair: Pair) -> None:
    def settle(session: Session, _pause: Pause) -> None:
        session.execute("SELECT 1/0")

    with apart(pair) as space:
        with pytest.raises(QueryFailed, match="division by zero"):
            crossing.cross(by_hand(space, settle=settle), 60.0)
        assert takes_writes(pair.ours)


@pytest.mark.parametrize("fence_lives", [True, False])
def test_differences_are_the_news_only_while_the_fence_still_held_writers_back(
    pair: Pair, fence_lives: bool
) -> None:
    def settle(session: Session, _pause: Pause) -> None:
        if not fence_lives:
            kill(pair, session)
        raise DifferencesFound("public.item differs")

    expected = DifferencesFound if fence_lives else StepFailed
    with apart(pair) as space:
        with pytest.raises(expected) as told:
            crossing.cross(by_hand(space, settle=settle), 60.0)
        assert ("public.item differs" in told.value.message) is fence_lives
        assert takes_writes(pair.ours)


def test_a_fence_whose_session_ends_before_the_commit_is_rolled_back_and_that_is_told(pair: Pair) -> None:
    arrived: list[Pause] = []
    with apart(pair) as space:
        made = by_hand(space, keep=lambda session: kill(pair, session), arrive=arrived.append)
        with pytest.raises(StepFailed, match="the COMMIT of the fence, which did not take effect"):
            crossing.cross(made, 60.0)
        assert arrived == []
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)


def test_a_commit_whose_reply_is_lost_is_asked_for_and_gone_on_from(pair: Pair) -> None:
    arrived: list[Pause] = []
    with FaultLine(pair.source.port) as line:
        through = Through(pair.source, pair.target, name=pair.name, port=line.port)
        pair.create(SCHEMA)
        with through.workspace() as space:
            space.source.execute("CREATE SCHEMA planrunner")
            space.lease  # noqa: B018
            made = by_hand(
                space,
                keep=lambda _: line.trap("commit", "lose", match="planrunner_fence"),
                arrive=arrived.append,
            )
            pause = crossing.cross(made, 60.0)
            assert line.counts().lost == 1
            assert arrived == [pause]
            assert "commit" in pause.parts
            assert not takes_writes(pair.ours)
            assert crossing.position(space) is not Position.SOURCE


def test_over_the_budget_before_the_commit_nothing_is_committed(pair: Pair) -> None:
    def settle(_session: Session, pause: Pause) -> None:
        pause.begun -= 61.0

    with apart(pair) as space:
        with pytest.raises(StepFailed, match="over its budget of 60 s"):
            crossing.cross(by_hand(space, settle=settle), 60.0)
        assert takes_writes(pair.ours)


def test_a_pause_begins_when_the_locks_are_there_and_holds_the_time_of_each_part(pair: Pair) -> None:
    clock = SystemClock()
    begun = clock.monotonic()
    with apart(pair) as space:
        pause = crossing.cross(by_hand(space, settle=lambda _, __: clock.sleep(0.2)), 60.0)
        assert begun < pause.begun < clock.monotonic() - 0.2
        assert {"fence", "commit"} <= pause.parts.keys()
        assert sum(pause.parts.values()) < pause.spent()


def test_a_pause_does_not_begin_while_the_locks_are_waited_for_in_vain(pair: Pair) -> None:
    clock = SystemClock()
    purposes: list[str] = []
    with apart(pair) as space, psycopg.connect(pair.ours) as holder:
        holder.execute("UPDATE item SET v = 'held' WHERE id = 1")
        # The first attempt waits for a second.
        release = threading.Timer(1.5, holder.rollback)
        begun = clock.monotonic()
        release.start()
        pause = crossing.cross(by_hand(space, settle=lambda _, __: purposes.extend(remains.listed())), 60.0)
        release.join()
        assert pause.begun - begun >= 1.0
        assert pause.parts["fence"] >= 1.0
        assert any("(the fence: writers wait for its locks), in a transaction" in line for line in purposes)


def test_the_pause_of_clients_that_are_held_begins_with_their_holding(pair: Pair) -> None:
    class Holding(Breaking):
        since: float | None = None

        @contextmanager
        def held(self, to: Side) -> Iterator[None]:
            self.since = SystemClock().monotonic()
            SystemClock().sleep(0.1)
            self.led.append(f"held for {to.value}")
            yield
            self.led.append("let go")

    with apart(pair) as space:
        switch = Holding(at="nowhere")
        pause = crossing.cross(replace(by_hand(space), switch=switch), 60.0)
        assert switch.led == ["held for target", "check", "let go"]
        assert pause.begun == switch.since
        assert 0.1 <= pause.parts["hold traffic"] < 60


def test_where_the_side_that_is_left_is_away_nobody_claims_to_know(pair: Pair) -> None:
    with Through(pair.source, pair.target, name="postgres", port=1).workspace() as space:
        space.clock = Leaping(61.0)
        nothing = fence.Standing(closed=False, tables=frozenset(), whole=frozenset())
        with pytest.raises(StepFailed, match="whether it took effect is not known yet") as told:
            crossing._committed(by_hand(space, there=nothing), 1)
        assert "Make the source reachable and run again at once" in (told.value.remedy or "")


def test_a_session_that_does_not_end_leaves_the_answer_to_the_next_run(pair: Pair) -> None:
    pair.create(SCHEMA)
    with pair.workspace() as space:
        stuck = space.source.open(read_only=False)
        pid = stuck.info.backend_pid
        space.clock = Still()
        # Told to end, it does not come to it: as one whose disk does not answer.
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StepFailed, match=r"whether it took effect is not known yet") as told:
                crossing._committed(by_hand(space), pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert "run again at once" in (told.value.remedy or "")


def test_nobody_to_lead_is_nothing_to_do() -> None:
    nobody = NoSwitch()
    assert not nobody
    nobody.check()
    nobody.after_commit(Side.TARGET)
    nobody.on_rollback(Side.TARGET)
    with nobody.held(Side.TARGET):
        pass


def test_a_pause_knows_what_it_spent_and_what_is_left(pair: Pair) -> None:
    with pair.workspace() as space:
        pause = Pause(space, 60.0, begun=space.clock.monotonic())
        with pause.part("one"):
            pass
        with pause.part("one"), pause.part("two"):
            pass
        assert set(pause.parts) == {"one", "two"}
        assert 0 < pause.left() <= 60
        detail = pause.detail()
        assert set(detail["parts_ms"]) == {"one", "two"}  # type: ignore[arg-type]
        pause.parts = {"one": 1.5}
        assert pause.detail()["parts_ms"] == {"one": 1500.0}
        space.clock = Leaping(61.0)
        with pytest.raises(StepFailed, match="over its budget of 60 s"):
            pause.left()
