"""A crossing driven by hand: where writers are after each way in which it can end."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import ConnectionFailed, LeaseLost, StepBlocked, StepFailed
from planrunner.model import Side
from planrunner.replication import crossing, cutover, fence, gate, generations
from planrunner.replication.crossing import NoSwitch, Pause, Position
from planrunner.replication.generations import Division
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.stage import Pair, assert_equal, copy_all, follow_all

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def test_a_session_that_does_not_end_leaves_the_answer_to_the_next_run(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(SCHEMA)
    with pair.workspace() as space, psycopg.connect(pair.ours) as somebody:
        made = crossing.Crossing(
            workspace=space,
            to=Side.TARGET,
            fence=fence.Fence(
                names=space.names,
                tables=(),
                message="",
                there=fence.standing(space.source, space.names),
                lock_timeout=1,
                dead_man=1,
            ),
            settle=lambda _session, _pause: None,
            keep=lambda _: None,
            arrive=lambda _: None,
            way_back=None,
            switch=NoSwitch(),
        )
        # One that the server never gets rid of is not to be had: it is looked at again and again.
        monkeypatch.setattr(space.source, "rows", lambda *_: [(True,)])
        space.clock = Still()
        with pytest.raises(StepFailed, match=r"whether it took effect is not known yet") as told:
            crossing._committed(made, somebody.info.backend_pid)
        assert "run again at once" in (told.value.remedy or "")


def test_nobody_to_lead_is_nothing_to_do() -> None:
    nobody = NoSwitch()
    assert not nobody
    nobody.check()
    nobody.after_commit(Side.TARGET)
    nobody.on_rollback(Side.TARGET)
    with nobody.held(Side.TARGET):
        pass
