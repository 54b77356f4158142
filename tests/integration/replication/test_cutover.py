"""A whole cutover without the engine: where writers are after each way in which it can end."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.errors import (
    ConnectionFailed,
    DifferencesFound,
    LeaseLost,
    QueryFailed,
    StepBlocked,
    StepFailed,
)
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.replication import (
    barrier,
    choices,
    crossing,
    cutover,
    fence,
    generations,
    large_objects,
    origins,
    polling_following,
    return_streams,
    rollback,
    subscriptions,
)
from planrunner.replication.crossing import NoSwitch, Position
from planrunner.replication.generations import Division
from planrunner.replication.terms import Pace, Terms
from planrunner.replication.verify import Mode
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.conftest import bin_of
from tests.integration.replication.crossings import SCHEMA, Breaking, takes_writes, terms
from tests.integration.replication.stage import BROKEN, Pair, assert_equal, copy_all, end_who, follow_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import Verification


_numbers = itertools.count(1)


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


def test_a_polled_source_is_left_with_a_last_round(pair: Pair) -> None:
    pair.create(SCHEMA)
    with pair.workspace() as space:
        space.terms = Terms(pace=Pace())
        copy_all(space, division=Division())
        pair.execute("DELETE FROM item WHERE id < 9; UPDATE item SET v = 'new' WHERE id = 9")
        cutover.rehearse(space, terms(), asked_by="a test")
        pair.execute("UPDATE item SET id = 1000 WHERE id = 10; INSERT INTO other VALUES (1)")

        cutover.cut_over(space, terms())

        assert crossing.position(space) is Position.TARGET
        assert space.ledger.effects(cutover.STEP)["verification"]["rows"] == 93
        cutover.retire(space)
    assert_equal(pair)


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
        found = done["verification"]
        assert (found["equal"], found["rows"]) == (True, 100)
        assert (found["sequences"], found["sequences_moved"]) == (1, 1)
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


def test_a_stream_that_stops_behind_the_gate_costs_the_budget_and_says_that_writers_go_on(pair: Pair) -> None:
    class Stopping(NoSwitch):
        def __bool__(self) -> bool:
            return True

        @contextmanager
        def held(self, to: Side) -> Iterator[None]:
            assert to is Side.TARGET
            space.target.execute(subscriptions.dropping(space.names.stream(1))[0])
            while subscriptions.existing(space.target, space.names)[1].pid is not None:
                space.clock.sleep(0.05)
            yield

    with following(pair) as space:
        with pytest.raises(StepFailed, match="; everything was rolled back and writers go on"):
            cutover.cut_over(space, terms(switch=Stopping(), budget=3))
        assert crossing.position(space) is Position.SOURCE
        assert takes_writes(pair.ours)


class Truncating(NoSwitch):
    """Somebody truncates a table as soon as the fence is up; what is streamed comes only once he waits for it."""

    def __init__(self, space: Workspace, leaving: str, stream: str, reader: Server) -> None:
        self.space, self.leaving, self.stream, self.reader = space, leaving, stream, reader
        self.refused: str | None = None

    def __bool__(self) -> bool:
        return True

    @contextmanager
    def held(self, to: Side) -> Iterator[None]:
        assert to is self.reader.side
        self.reader.execute(subscriptions.dropping(self.stream)[0])
        self.wait(lambda: subscriptions.shown(self.reader, self.stream)[self.stream].pid is None)
        assert takes_writes(self.leaving)
        with ThreadPoolExecutor(2) as pool:
            told = pool.submit(self.truncated, pool)
            yield
            self.refused = told.result()

    def truncated(self, pool: ThreadPoolExecutor) -> str:
        with psycopg.connect(self.leaving) as app, psycopg.connect(self.leaving, autocommit=True) as watch:
            there = "SELECT FROM pg_locks WHERE relation = 'item'::regclass AND (mode, granted) = ('{}', {})"
            self.wait(lambda: watch.execute(there.format("ShareRowExclusiveLock", True).encode()).fetchone())
            waiting = pool.submit(app.execute, "TRUNCATE item")
            self.wait(lambda: watch.execute(there.format("AccessExclusiveLock", False).encode()).fetchone())
            self.reader.execute(subscriptions.starting(self.stream))
            return str(waiting.exception(60))

    def wait(self, true: Callable[[], Any]) -> None:
        end = self.space.clock.monotonic() + 30
        while true() in (None, False):
            assert self.space.clock.monotonic() < end
            self.space.clock.sleep(0.005)


def test_a_last_round_is_not_held_up_by_somebody_who_truncates_in_the_pause(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(SCHEMA)
    reached, waiting = threading.Event(), threading.Event()
    real = polling_following.last

    def held_up(*args: Any, **kwargs: Any) -> Verification:
        reached.set()
        assert waiting.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(polling_following, "last", held_up)
    with pair.workspace() as space, ThreadPoolExecutor(2) as pool:
        space.terms = Terms(pace=Pace())
        copy_all(space, division=Division())
        pair.execute("DELETE FROM item WHERE id < 9; UPDATE item SET v = 'new' WHERE id = 9")

        def truncated() -> str:
            assert reached.wait(60)
            with psycopg.connect(pair.ours) as app, psycopg.connect(pair.ours, autocommit=True) as watch:
                told = pool.submit(app.execute, "TRUNCATE item")
                asked = "SELECT FROM pg_locks WHERE relation = 'item'::regclass AND NOT granted"
                while watch.execute(asked).fetchone() is None:
                    space.clock.sleep(0.005)
                waiting.set()
                return str(told.exception(60))

        refused = pool.submit(truncated)
        cutover.cut_over(space, terms(budget=10))
        assert "database has moved to" in refused.result()
        assert space.ledger.effects(cutover.STEP)["verification"]["rows"] == 92
        cutover.retire(space)
    assert_equal(pair)


@pytest.mark.parametrize("mode", [Mode.DIGESTS, Mode.CHANGED])
def test_somebody_who_truncates_a_table_in_the_pause_waits_and_holds_nobody_up(
    pair: Pair, mode: Mode
) -> None:
    with following(pair) as space:
        switch = Truncating(space, pair.ours, space.names.stream(1), space.target)
        cutover.cut_over(space, terms(switch=switch, mode=mode, reverse=True, budget=10))
        assert "database has moved to" in str(switch.refused)
        assert_equal(pair)
        cutover.begin_way_back(space)
        cutover.retire(space)

        back = Truncating(space, pair.theirs, space.names.back, space.source)
        rollback.roll_back(space, terms(switch=back, mode=mode, budget=10))
        assert "database has moved to" in str(back.refused)
        assert takes_writes(pair.ours)


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


@pytest.fixture
def old_pair(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[Pair]:
    """Back to a server of 15, whose subscriptions take in whatever is sent, wherever it came from."""
    with PostgresServer(bin_of(15), settings={"wal_level": "logical"}) as old:
        yield Pair(old, servers[1], name=f"crossing{next(_numbers)}")


def test_a_target_that_crashes_behind_the_cutover_sends_nothing_back_that_came_from_the_source(
    old_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody has written there yet, and the login may not move the origin.
    monkeypatch.setattr(origins, "MAY_MOVE", "SELECT false")
    with following(old_pair) as space:

        def written(point: str) -> None:
            failpoint(point)
            if point == "back.slot_made":
                old_pair.execute("INSERT INTO other SELECT generate_series(1, 20)")
                barrier.wait(space, space.ledger.generations(), timeout=60)

        monkeypatch.setattr(return_streams, "failpoint", written)
        cutover.cut_over(space, terms(reverse=True))
        cutover.retire(space)
        cutover.begin_way_back(space)
        old_pair.target.stop("immediate")
        old_pair.target.start()
    with old_pair.workspace() as space:
        return_streams.wait_back(space, 120)
        assert_equal(old_pair)
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


class Writing(Breaking):
    """Somebody makes a large object in the pause."""

    def __init__(self, dsn: str) -> None:
        super().__init__(at="nowhere")
        self._dsn = dsn
        self.refused = False

    def check(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            session.execute("SET lock_timeout = '50ms'")
            try:
                session.execute("SELECT lo_create(0)")
            except psycopg.errors.LockNotAvailable:
                self.refused = True


class Changing(Breaking):
    """Somebody makes a table when everything was proven, and before writers are stopped."""

    def __init__(self, dsn: str) -> None:
        super().__init__(at="nowhere")
        self._dsn = dsn

    @contextmanager
    def held(self, to: Side) -> Iterator[None]:  # noqa: ARG002
        with psycopg.connect(self._dsn, autocommit=True) as session:
            session.execute("CREATE TABLE latest (id int PRIMARY KEY)")
        yield


def test_a_table_that_is_made_after_the_proofs_stops_the_crossing(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(DifferencesFound, match=r"public\.latest"):
            cutover.cut_over(space, terms(switch=Changing(pair.ours)))
        assert takes_writes(pair.ours)
        assert not takes_writes(pair.theirs)


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
        with pytest.raises(
            StepBlocked, match=r"reverse: true can't bring back what is written to public\.bare"
        ):
            cutover.cut_over(space, terms(reverse=True))
        switch = Writing(pair.ours)
        cutover.cut_over(space, replace(terms(switch=switch), large_objects=objects))
        assert switch.refused
        done = space.ledger.effects(cutover.STEP)
        assert done["late tables"]["rows"] == 4
        assert done["large objects"]["objects"] == 1
        assert {"late tables", "large objects"} <= done["pause"]["parts_ms"].keys()
        assert_equal(pair)
        with psycopg.connect(pair.theirs) as session:
            assert session.execute("SELECT lo_get(4711)").fetchone() == (b"large",)
        cutover.retire(space)


def test_a_source_that_breaks_while_a_table_is_brought_is_the_one_that_is_told(pair: Pair) -> None:
    slow = (
        "CHECK (a > 150 OR current_setting('server_version_num')::int < 180000 OR pg_sleep(0.02)::text = '')"
    )
    pair.create(SCHEMA + f"CREATE TABLE bare (a int, v text, CONSTRAINT slow_on_the_target {slow})")
    with pair.workspace() as space:
        space.choices = choices.Choices.of({"public.bare": "copy_at_cutover"}, "refuse")
        copy_all(space, division=Division())
        follow_all(space)
        pair.execute("INSERT INTO bare SELECT i, repeat('x', 65536) FROM generate_series(1, 500) i")
        with ThreadPoolExecutor(1) as beside:
            ending = beside.submit(end_who, pair.ours, r"COPY.*bare.*TO STDOUT")
            with pytest.raises(StepFailed, match=BROKEN):
                cutover.cut_over(space, terms())
            ending.result()
        assert takes_writes(pair.ours)
        cutover.cut_over(space, terms())
        assert space.ledger.effects(cutover.STEP)["late tables"]["rows"] == 500
        assert_equal(pair)
        cutover.retire(space)


def test_a_source_that_breaks_while_large_objects_are_brought_is_the_one_that_is_told(pair: Pair) -> None:
    pair.create(SCHEMA)
    with pair.workspace() as space:
        copy_all(space, division=Division())
        follow_all(space)
        pair.execute(
            "SELECT lo_from_bytea(0, convert_to(repeat('x', 1048576), 'UTF8')) FROM generate_series(1, 150)"
        )
        objects = large_objects.Terms(owners=False, grants=False)
        with ThreadPoolExecutor(1) as beside:
            ending = beside.submit(end_who, pair.ours, "FETCH.*pieces")
            with pytest.raises(QueryFailed, match=BROKEN):
                cutover.cut_over(space, replace(terms(), large_objects=objects))
            ending.result()
        assert takes_writes(pair.ours)
        cutover.cut_over(space, replace(terms(), large_objects=objects))
        assert space.ledger.effects(cutover.STEP)["large objects"]["objects"] == 150
        cutover.retire(space)


def test_a_target_whose_fence_somebody_took_away_is_noted_as_open(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed):
            cutover.cut_over(space, terms(switch=Breaking(at="to target")))
        fence.lower(space, space.target)
        crossing.open_target(space)
        assert "opened" in space.ledger.effects(cutover.STEP)
        assert takes_writes(pair.theirs)


def test_a_target_that_can_not_be_opened_is_told_with_what_that_means(pair: Pair) -> None:
    with following(pair) as space:
        with pytest.raises(StepFailed):
            cutover.cut_over(space, terms(switch=Breaking(at="to target")))
        space.target.execute("ALTER TABLE planrunner.effect RENAME TO elsewhere")
        with pytest.raises(StepFailed, match="nobody can write on either side before the next run") as told:
            crossing.open_target(space)
        assert "run again at once" in (told.value.remedy or "")
        space.target.execute("ALTER TABLE planrunner.elsewhere RENAME TO effect")
        crossing.open_target(space)
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
