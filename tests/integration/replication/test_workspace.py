"""What a run shares: who may write on either side, and what becomes of a former run's sessions and snapshots."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LeaseLost, PlanrunnerError, QueryFailed, SnapshotLost, StepFailed
from planrunner.replication import generations, selection_record, verify
from planrunner.replication.generations import Division
from planrunner.replication.ledger import Lease
from planrunner.replication.selection import Selection
from planrunner.replication.takeover import end_stale_sessions
from planrunner.replication.workspace import Freezing, Way
from tests.integration.replication.stage import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, at timestamptz);
CREATE TABLE other (id int PRIMARY KEY);
"""
_numbers = itertools.count(1)


class Hurrying(SystemClock):
    """Ten seconds pass at each look and with each sleep; ``slept`` counts those."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self.slept = 0

    def monotonic(self) -> float:
        self._ahead += 10.0
        return self._ahead

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds < 1
        self.slept += 1
        super().sleep(seconds)


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer]) -> Pair:
    made = Pair(*servers, name=f"space{next(_numbers)}")
    made.create(SCHEMA)
    return made


@contextmanager
def runner(pair: Pair, name: str) -> Iterator[Workspace]:
    """A workspace whose sessions the servers take for another process's."""
    with pair.workspace() as space:
        for server in (space.source, space.target):
            server.rename(f"planrunner/{pair.plan_id}/{name}")
        yield space


def alive(server: Server, session: psycopg.Connection[tuple[object, ...]]) -> bool:
    pid = session.info.backend_pid
    return bool(server.value("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", [pid]))


def sides(space: Workspace) -> tuple[Server, Server]:
    return space.source, space.target


def test_many_threads_that_need_the_lease_take_it_once(pair: Pair) -> None:
    with pair.workspace() as space:
        start = threading.Barrier(8)
        epochs: list[int] = []

        def need() -> None:
            start.wait()
            epochs.append(space.lease.epoch)

        threads = [threading.Thread(target=need) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stored = space.target.value("SELECT epoch FROM planrunner.lease")
        assert epochs == [stored] * 8


def test_nothing_is_taken_before_the_first_write(pair: Pair) -> None:
    with pair.workspace() as space:
        assert space.ledger.effects("snapshot") == {}
        space.let_go()
        assert not space.ledger.exists()
        space.done("snapshot", "begun", {"of": 2})
        space.done("snapshot", "ended")
        assert space.ledger.effects("snapshot") == {"begun": {"of": 2}, "ended": {}}


def test_a_former_runs_sessions_are_ended_on_both_sides_and_no_others(pair: Pair) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        theirs = [server.open(read_only=False) for server in sides(former)]
        ours = [server.open(read_only=False) for server in sides(space)]
        for server in sides(former):
            server.rename("planrunner/ffffffff/of-another-plan")
        strangers = [server.open(read_only=False) for server in sides(former)]
        for server, session in zip(sides(space), theirs, strict=True):
            assert alive(server, session)
        space.lease  # noqa: B018  # taken
        for place, server in enumerate(sides(space)):
            assert not alive(server, theirs[place])
            assert alive(server, ours[place])
            assert alive(server, strangers[place])


def test_a_session_that_a_former_run_opens_while_it_is_taken_over_is_ended_too(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        opened: list[psycopg.Connection[tuple[object, ...]]] = []
        take = Lease.take

        def meanwhile(target: Server, plan_id: str) -> Lease:
            opened.extend(server.open(read_only=False) for server in sides(former))
            return take(target, plan_id)

        monkeypatch.setattr(Lease, "take", meanwhile)
        space.lease  # noqa: B018
        for server, session in zip(sides(space), opened, strict=True):
            assert not alive(server, session)


def test_it_is_told_how_many_sessions_were_ended(pair: Pair) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        left = [former.source.open(read_only=True) for _ in range(3)]
        assert end_stale_sessions(space.source, pair.plan_id) == 3
        with pytest.raises(psycopg.OperationalError):
            left[0].execute("SELECT 1")


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
def test_a_session_that_does_not_end_stops_the_next_run_before_it_writes(pair: Pair, side: int) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        stuck = sides(former)[side].open(read_only=False)
        clock = Hurrying()
        space.clock = clock
        # Told to end, it does not come to it: as one whose disk does not answer.
        os.kill(stuck.info.backend_pid, signal.SIGSTOP)
        try:
            with pytest.raises(StepFailed, match="sessions of a former run of this plan do not end") as told:
                space.lease  # noqa: B018
        finally:
            os.kill(stuck.info.backend_pid, signal.SIGCONT)
        assert told.value.message.startswith(("source:", "target:")[side])
        assert f"planrunner/{pair.plan_id}" in (told.value.remedy or "")
        # Thirty seconds of patience, at ten a look.
        assert clock.slept == 3
        epoch = space.target.value("SELECT epoch FROM planrunner.lease")
        assert space.lease.epoch == epoch + 1


def test_a_transaction_that_holds_the_epoch_and_does_not_end_stops_the_next_run(pair: Pair) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        epoch = former.lease.epoch
        space.clock = Hurrying()
        writing = former.writing()
        stuck = writing.__enter__()
        os.kill(stuck.info.backend_pid, signal.SIGSTOP)
        try:
            with pytest.raises(
                StepFailed, match="target: the sessions of a former run of this plan do not end"
            ):
                space.lease  # noqa: B018
            assert space.target.value("SELECT epoch FROM planrunner.lease") == epoch
        finally:
            os.kill(stuck.info.backend_pid, signal.SIGCONT)
        assert space.lease.epoch == epoch + 1
        with pytest.raises(QueryFailed):
            writing.__exit__(None, None, None)


def test_a_lease_that_can_not_be_taken_is_told_in_the_server_s_words(pair: Pair) -> None:
    refusing = (
        "CREATE FUNCTION planrunner.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON planrunner.lease EXECUTE FUNCTION planrunner.refuse()",
    )
    with runner(pair, "former") as former, runner(pair, "next") as space:
        former.lease  # noqa: B018
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            for statement in refusing:
                session.execute(statement.encode())
        with pytest.raises(QueryFailed, match="not now"):
            space.lease  # noqa: B018


def test_a_runner_in_full_flight_does_not_hold_off_who_takes_over(pair: Pair) -> None:
    with runner(pair, "former") as former, runner(pair, "next") as space:
        former.lease  # noqa: B018
        ended: list[PlanrunnerError] = []

        def flying() -> None:
            while not any(isinstance(error, LeaseLost) for error in ended):
                for server in sides(former):
                    try:
                        server.open(read_only=False)
                    except PlanrunnerError as error:
                        ended.append(error)

        flight = threading.Thread(target=flying)
        flight.start()
        space.lease  # noqa: B018
        flight.join(60)
        assert not flight.is_alive()


def test_a_latecomer_ends_nobodys_sessions(pair: Pair) -> None:
    with runner(pair, "late") as late, runner(pair, "other") as other:
        Lease.look(late.target, pair.plan_id)
        other.lease  # noqa: B018  # taken over
        theirs = [server.open(read_only=False) for server in sides(other)]
        with pytest.raises(LeaseLost):
            late.lease  # noqa: B018
        assert all(alive(server, session) for server, session in zip(sides(other), theirs, strict=True))


def test_whoever_was_taken_over_opens_no_session_that_may_write(pair: Pair) -> None:
    with runner(pair, "first") as first, runner(pair, "other") as other:
        first.lease  # noqa: B018
        other.lease  # noqa: B018  # taken over
        for server in sides(first):
            with pytest.raises(LeaseLost):
                server.open(read_only=False)
            server.open(read_only=True).close()
        for server in sides(other):
            server.open(read_only=False).close()


def test_whoever_only_waits_learns_that_another_took_over(pair: Pair) -> None:
    with runner(pair, "first") as first, runner(pair, "other") as other:
        first.lease  # noqa: B018

        def wait(times: int) -> None:
            for _ in range(times):
                first.rest(0.2)

        wait(8)
        other.lease  # noqa: B018  # taken over
        with pytest.raises(LeaseLost):
            wait(50)
        other.rest(0.2)


def test_the_ledgers_own_remover_may_still_write_until_another_has_begun_anew(pair: Pair) -> None:
    with runner(pair, "remover") as space, runner(pair, "other") as other:
        space.done("snapshot", "begun")
        space.ledger.forget("snapshot")
        assert space.ledger.removed
        for server in sides(space):
            server.execute("CREATE TABLE public.still (v int)")
        other.lease  # noqa: B018  # the ledger is made anew
        for server in sides(space):
            with pytest.raises(LeaseLost):
                server.execute("CREATE TABLE public.no_more (v int)")


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
def test_a_change_of_either_side_is_whole_and_the_lease_holders(pair: Pair, side: int) -> None:
    with runner(pair, "first") as first, runner(pair, "other") as other:
        server = sides(first)[side]
        with first.writing_to(server) as session:
            session.execute("CREATE TABLE public.kept (v int)")
        assert first.ledger.exists()
        with suppress(ZeroDivisionError), first.writing_to(server) as session:
            session.execute("CREATE TABLE public.lost (v int)")
            assert 1 / 0
        found = "SELECT to_regclass('public.kept') IS NOT NULL, to_regclass('public.lost') IS NOT NULL"
        assert server.row(found) == (True, False)
        other.lease  # noqa: B018  # taken over
        with pytest.raises(LeaseLost), first.writing_to(server):
            pass


def test_a_transaction_on_the_target_holds_the_lease_to_its_end(pair: Pair) -> None:
    with pair.workspace() as space:
        with space.writing(), psycopg.connect(pair.theirs, autocommit=True) as other:
            other.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE planrunner.lease SET epoch = epoch + 1")
        with space.writing_to(space.target), psycopg.connect(pair.theirs, autocommit=True) as other:
            other.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE planrunner.lease SET epoch = epoch + 1")


def test_the_budget_of_wal_is_held_to_for_the_length_of_a_block_whatever_ends_it(pair: Pair) -> None:
    with pair.workspace() as space:
        assert not space.may_give_up
        with suppress(ZeroDivisionError), space.giving_up():
            assert space.may_give_up
            assert 1 / 0
        assert not space.may_give_up


def test_the_snapshots_of_a_round_are_alive_together_and_given_back_together(pair: Pair) -> None:
    with pair.workspace() as space:
        space.let_go()
        generations.begin(space, verify.followed_tables(space), Division(streams=2))
        held = space.round
        assert held is not None
        assert sorted(held.snapshots) == [1, 2]
        assert held.alive()
        held.snapshots[2].close()
        assert not held.alive()
        assert held.snapshots[1].name
        space.close()
        assert space.round is None
        for snapshot in held.snapshots.values():
            with pytest.raises(SnapshotLost):
                snapshot.name  # noqa: B018
        generations.clear_all(space)


@pytest.mark.parametrize("restored", [True, False])
def test_the_line_to_a_restored_server_is_given_back_and_to_a_standby_is_the_runs(
    pair: Pair, *, restored: bool
) -> None:
    with pair.workspace() as space, runner(pair, "elsewhere") as other:
        pid = other.source.value("SELECT pg_backend_pid()")
        # Who restores is not asked any more.
        restorer = cast("Any", object()) if restored else None
        space.freezing = Freezing(server=other.source, way=Way.RESTORE, restorer=restorer)
        space.close()
        gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
        give_up = SystemClock().monotonic() + 30
        while restored and not space.source.value(gone, [pid]):
            assert SystemClock().monotonic() < give_up
            SystemClock().sleep(0.05)
        assert space.source.value(gone, [pid]) == restored
        space.freezing = None


def test_the_instants_of_a_selection_stay_where_they_were_first_asked_for(pair: Pair) -> None:
    wish = Selection.of({"since": {"public.item": {"column": "at", "window": "1d"}}})
    now = [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)]

    class Days(SystemClock):
        def now(self) -> datetime:
            return now.pop(0)

    with pair.workspace() as space:
        assert space.selection.everything
    with pair.workspace() as space:
        space._wished = wish
        space.clock = Days()
        first = space.selection
        assert not first.recorded
        assert space.selection is first
        selection_record.record(space)
        assert space.selection.recorded
        assert space.selection.instants == first.instants
        assert len(now) == 1
