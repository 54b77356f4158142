"""A crossing driven by hand: where writers are after each way in which it can end."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import (
    ConnectionFailed,
    DifferencesFound,
    LeaseLost,
    QueryFailed,
    StepBlocked,
    StepFailed,
)
from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import (
    choices,
    crossing,
    cutover,
    fence,
    gate,
    generations,
    large_objects,
    return_streams,
    subscriptions,
)
from planrunner.replication.crossing import NoSwitch, Pause, Position
from planrunner.replication.generations import Division
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.lines import FaultLine
from tests.integration.replication.stage import Pair, assert_equal, copy_all, follow_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.postgres.connection import Session
    from planrunner.replication.workspace import Workspace

SCHEMA = """
CREATE TABLE item (id bigserial PRIMARY KEY, v text);
INSERT INTO item (v) SELECT 'v' || i FROM generate_series(1, 100) i;
CREATE TABLE other (id int PRIMARY KEY);
"""
WRITE = "INSERT INTO item (v) VALUES ('new')"
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


class Breaking(NoSwitch):
    """Leads traffic, and breaks where it is told to."""

    def __init__(self, *, at: str) -> None:
        self.at = at
        self.led: list[str] = []

    def __bool__(self) -> bool:
        return True

    def check(self) -> None:
        self._pass("check")

    def after_commit(self, to: Side) -> None:
        self._pass(f"to {to.value}")

    def on_rollback(self, to: Side) -> None:
        self._pass(f"not to {to.value}")

    def _pass(self, what: str) -> None:
        if what == self.at:
            raise StepFailed(f"broken at {what}")
        self.led.append(what)


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


@contextmanager
def following(pair: Pair) -> Iterator[Workspace]:
    pair.create(SCHEMA)
    with pair.workspace() as space:
        copy_all(space, division=Division())
        follow_all(space)
        yield space
    # Whoever holds the lease by now, this one takes it.
    with pair.workspace() as last:
        generations.clear_all(last)


def terms(
    *, budget: float = 60.0, switch: crossing.Switch | None = None, reverse: bool = False
) -> cutover.Terms:
    return cutover.Terms(
        budget=budget,
        lock_timeout=0.5,
        headroom=100,
        gate=gate.Terms(),
        switch=switch or NoSwitch(),
        reverse=reverse,
    )


def takes_writes(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as session:
        try:
            session.execute(WRITE)
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
    return True


def test_after_a_cutover_writers_are_on_the_target_and_there_is_none_to_make(pair: Pair) -> None:
    with following(pair) as space:
        assert crossing.position(space) is Position.SOURCE
        assert crossing.aligned_at(space) is None
        switch = Breaking(at="nowhere")
        cutover.cut_over(space, terms(switch=switch))
        assert switch.led == ["check", "to target"]
        assert crossing.position(space) is Position.TARGET
        assert not takes_writes(pair.ours)
        assert_equal(pair)
        assert takes_writes(pair.theirs)
        done = space.ledger.effects(cutover.STEP)
        assert {"opened", "switched", "pause", "verification"} <= done.keys()
        assert done["verification"]["equal"] is True
        assert set(done["pause"]["parts_ms"]) >= {
            "fence",
            "barrier",
            "verification",
            "sequences",
            "commit",
            "open",
        }
        assert done["pause"]["total_ms"] > 0
        with pytest.raises(StepBlocked, match="the target takes the writes since the cutover"):
            cutover.guard(space)
        assert takes_writes(pair.theirs)


def test_a_rehearsal_measures_everything_and_changes_nothing(pair: Pair) -> None:
    with following(pair) as space:
        for who in ("ana", "bo"):
            switch = Breaking(at="nowhere")
            cutover.rehearse(space, terms(switch=switch), asked_by=who)
            assert switch.led == ["not to target"]
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)
        assert not takes_writes(pair.theirs)
        kept = cutover.rehearsals(space)
        assert [run["asked_by"] for run in kept] == ["ana", "bo"]
        assert any("everything was rolled back" in line for line in pair.news)
        assert space.ledger.effects(cutover.STEP).keys() & {"opened", "switched", "pause"} == set()


def test_over_the_budget_everything_is_rolled_back_and_the_time_is_accounted_for(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(
            StepFailed, match=r"over its budget of 0\.001 s \(fence \d+ ms.*writers go on"
        ) as told:
            cutover.cut_over(space, terms(budget=0.001))
        assert "write_pause_budget" in (told.value.remedy or "")
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)
        assert not takes_writes(pair.theirs)
        cutover.cut_over(space, terms())
        assert crossing.position(space) is Position.TARGET


@pytest.mark.parametrize("reverse", [False, True])
def test_what_breaks_before_the_commit_leaves_the_source_as_it_was(pair: Pair, reverse: bool) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed, match="broken at check"):
            cutover.cut_over(space, terms(switch=Breaking(at="check"), reverse=reverse))
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)
        slots = space.target.rows(
            "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
        )
        assert slots == []


def test_what_breaks_after_the_commit_is_between_the_sides_until_it_is_finished(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed, match="broken at to target"):
            cutover.cut_over(space, terms(switch=Breaking(at="to target")))
        assert crossing.position(space) is Position.GOING
        assert not takes_writes(pair.ours)
        with pytest.raises(StepBlocked, match="finish it with `planrunner run PLAN`"):
            cutover.guard(space)
        switch = Breaking(at="nowhere")
        cutover.arrive(space, terms(switch=switch))
        assert switch.led == ["to target"]
        assert crossing.position(space) is Position.TARGET
        assert "pause" not in space.ledger.effects(cutover.STEP)
        # Once more does no harm: the fence there is open already.
        cutover.arrive(space, terms())
        assert takes_writes(pair.theirs)


@pytest.mark.parametrize("rehearse", [True, False])
def test_a_way_back_leads_what_is_written_on_the_target_home_and_a_rehearsal_leaves_none(
    pair: Pair, rehearse: bool
) -> None:
    with following(pair) as space:
        wanted = terms(reverse=True)
        if rehearse:
            cutover.rehearse(space, wanted, asked_by="ana")
            assert not return_streams.back_exists(space)
            assert crossing.position(space) is Position.SOURCE
            return
        cutover.cut_over(space, wanted)
        aligned = crossing.aligned_at(space)
        assert aligned is not None
        cutover.retire(space)
        assert subscriptions.existing(space.target, space.names) == {}
        assert takes_writes(pair.theirs)
        cutover.begin_way_back(space)
        return_streams.wait_back(space, 120)
        assert_equal(pair)
        return_streams.drop_back(space)


def test_what_breaks_after_the_commit_keeps_the_way_back_that_was_prepared(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed, match="broken at to target"):
            cutover.cut_over(space, terms(switch=Breaking(at="to target"), reverse=True))
        assert crossing.position(space) is Position.GOING
        assert return_streams.back_exists(space)
        return_streams.drop_back(space)


@pytest.mark.parametrize("away", ["source", "target"])
def test_a_server_that_goes_before_the_commit_leaves_the_way_back_to_the_next_attempt(
    pair: Pair, away: str
) -> None:
    server: PostgresServer = getattr(pair, away)

    class Leaving(Breaking):
        def check(self) -> None:
            server.stop("immediate")
            super().check()

    with following(pair) as space:
        try:
            with pytest.raises(StepFailed, match="broken at check"):
                cutover.cut_over(space, terms(switch=Leaving(at="check"), reverse=True))
        finally:
            server.start()
        # Where the fence can't be asked for, nothing of the way back is touched.
        warned = [line for line in pair.news if "the way back that was prepared is still there" in line]
        assert len(warned) == (1 if away == "target" else 0)
        assert return_streams.back_exists(space)
        assert takes_writes(pair.ours)
        cutover.cut_over(space, terms(reverse=True))
        assert crossing.position(space) is Position.TARGET
        return_streams.drop_back(space)


def test_what_no_stream_carries_is_brought_inside_the_pause(pair: Pair) -> None:
    pair.create(SCHEMA + "CREATE TABLE bare (a int); INSERT INTO bare VALUES (1), (1), (NULL);")
    with pair.workspace() as space:
        space.choices = choices.Choices.of({"public.bare": "copy_at_cutover"}, "refuse")
        copy_all(space, division=Division())
        follow_all(space)
        assert {table.qualified for table in cutover.to_guard(space)} == {
            "public.bare",
            "public.item",
            "public.other",
        }
        pair.execute("INSERT INTO bare VALUES (2); SELECT lo_from_bytea(4711, 'large')")
        objects = large_objects.Terms(owners=False, grants=False)
        cutover.cut_over(space, replace(terms(), large_objects=objects))
        done = space.ledger.effects(cutover.STEP)
        assert done["late tables"]["rows"] == 4
        assert done["large objects"]["objects"] == 1
        assert {"late tables", "large objects"} <= done["pause"]["parts_ms"].keys()
        assert_equal(pair)
        with psycopg.connect(pair.theirs) as session:
            assert session.execute("SELECT lo_get(4711)").fetchone() == (b"large",)
        cutover.retire(space)


def test_a_target_whose_fence_somebody_took_away_is_noted_as_open(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed):
            cutover.cut_over(space, terms(switch=Breaking(at="to target")))
        fence.lower(space, space.target)
        crossing.open_target(space)
        assert "opened" in space.ledger.effects(cutover.STEP)
        assert takes_writes(pair.theirs)


def test_the_source_is_opened_again_by_whoever_holds_the_lease(pair: Pair) -> None:
    with following(pair) as space:
        cutover.cut_over(space, terms())
        with pair.workspace() as other:
            other.lease  # noqa: B018  # taken over
            with pytest.raises((LeaseLost, ConnectionFailed)):
                crossing.open_source(space)
            assert not takes_writes(pair.ours)
            crossing.open_source(other)
        assert takes_writes(pair.ours)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (Position.SOURCE, None),
        (Position.TARGET, "the target takes the writes since the cutover"),
        (Position.GOING, "finish it with `planrunner run PLAN`"),
        (Position.RETURNING, "finish it with `planrunner rollback PLAN`"),
    ],
)
def test_a_target_is_closed_only_while_the_source_takes_the_writes(
    where: Position, reason: str | None
) -> None:
    found = cutover.impossible(where)
    assert found is None if reason is None else reason in (found or "")


def test_a_return_that_is_not_finished_is_told_from_one_that_is(pair: Pair) -> None:
    with following(pair) as space:
        space.done(cutover.STEP, crossing.RETURNED, {"finished": False})
        assert crossing.position(space) is Position.RETURNING
        with pytest.raises(StepBlocked, match="a rollback was broken off after its commit"):
            cutover.guard(space)
        space.done(cutover.STEP, crossing.RETURNED, {"finished": True})
        assert crossing.position(space) is Position.SOURCE


def test_a_target_that_this_plan_brought_nothing_to_is_never_closed(pair: Pair) -> None:
    pair.create(SCHEMA)
    with pair.workspace() as space:
        assert {table.qualified for table in cutover.to_guard(space)} == {"public.item", "public.other"}
        with pytest.raises(StepBlocked, match="this plan has brought nothing there"):
            cutover.guard(space)
        assert not fence.there_is(space.target, space.names)


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
        space.clock = Leaping(61.0)
        with pytest.raises(StepFailed, match="over its budget of 60 s"):
            pause.left()


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
