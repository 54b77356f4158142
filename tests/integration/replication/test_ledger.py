"""The ledger and its lease on a real server: what is recorded once, who may write, and what is left at the end."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.errors import LeaseLost
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.replication.ledger import Copied, Lease, Ledger, forgetting, forgetting_all
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN, OTHER = "0a1b2c3d", "ffffffff"
FIRST = Copied(generation=1, rows=10, bytes=1000, seconds=0.5)
SECOND = Copied(generation=2, rows=7, bytes=70, seconds=0.25)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(18)) as server:
        yield server


@dataclass
class Target:
    """A database of its own, and the runners that work on it: each knows only what it has seen of the lease."""

    postgres: PostgresServer
    name: str
    runners: list[Server] = field(default_factory=list)

    def runner(self) -> Server:
        dsn = conninfo.make_conninfo(self.postgres.dsn("postgres", self.name), sslmode="disable")
        made = Server(
            Endpoint(side=Side.TARGET, dsn=dsn),
            clock=SystemClock(),
            resolve=lambda _: Secret(self.postgres.password),
            label=f"planrunner/runner{len(self.runners)}",
        )
        self.runners.append(made)
        return made

    def close(self) -> None:
        for runner in self.runners:
            runner.close()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Target]:
    name = f"ledger{next(_numbers)}"
    with psycopg.connect(postgres.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    made = Target(postgres, name)
    yield made
    made.close()


@pytest.fixture
def target(database: Target) -> Server:
    return database.runner()


@pytest.fixture
def elsewhere(database: Target) -> Server:
    """Another runner on the same database."""
    return database.runner()


@contextmanager
def transaction(target: Server) -> Iterator[psycopg.Connection[Any]]:
    with target.transaction() as session:
        yield session


def tables(target: Server) -> list[str]:
    return [
        row[0]
        for row in target.rows(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'planrunner' ORDER BY 1"
        )
    ]


def recorded(target: Server, units: dict[str, Copied], *, plan: str = PLAN) -> Ledger:
    lease, ledger = Lease.take(target, plan), Ledger(target, plan)
    with transaction(target) as session:
        session.execute(ledger.unit_statement(units, lease.epoch))
    return ledger


def test_before_the_first_lease_there_is_nothing_and_nothing_is_made_by_looking(target: Server) -> None:
    ledger = Ledger(target, PLAN)
    assert not ledger.exists()
    assert (ledger.units(), ledger.begun(), ledger.generations()) == ({}, (), ())
    assert ledger.done() == ({}, 0, 0)
    assert (ledger.effects("snapshot"), ledger.all_effects()) == ({}, ())
    ledger.forget("snapshot")
    assert not ledger.removed
    assert tables(target) == []


def test_the_first_lease_makes_the_ledger_and_each_further_one_raises_the_epoch(
    database: Target, target: Server, elsewhere: Server
) -> None:
    first = Lease.take(target, PLAN).epoch
    assert tables(target) == ["chunk", "effect", "lease", "proof", "touched", "unit"]
    assert Lease.take(elsewhere, PLAN).epoch == first + 1
    # Another plan has an epoch of its own.
    other = Lease.take(database.runner(), OTHER).epoch
    rows = target.rows(
        "SELECT plan_id, epoch, holder, heartbeat > clock_timestamp() - interval '1 h' FROM planrunner.lease ORDER BY 1"
    )
    assert [(row[0], row[1], row[3]) for row in rows] == [(PLAN, first + 1, True), (OTHER, other, True)]
    assert all(row[2].startswith("postgres as planrunner/runner") for row in rows)


def test_whoever_was_taken_over_holds_nothing_any_more_and_is_told(
    database: Target, target: Server, elsewhere: Server
) -> None:
    old = Lease.take(target, PLAN)
    old.check(target)
    with transaction(target) as session:
        old.hold(session)
    new = Lease.take(elsewhere, PLAN)
    with (
        pytest.raises(LeaseLost, match="another runner has taken over this plan") as told,
        transaction(target) as session,
    ):
        old.hold(session)
    assert "planrunner status" in (told.value.remedy or "")
    with pytest.raises(LeaseLost):
        old.check(target)
    with pytest.raises(LeaseLost):
        Lease.take(target, PLAN)
    new.check(elsewhere)
    Lease.take(database.runner(), OTHER)
    new.check(elsewhere)


def test_a_lease_that_a_transaction_holds_is_not_raised_before_its_end(target: Server) -> None:
    lease = Lease.take(target, PLAN)
    with transaction(target) as session:
        lease.hold(session)
        with (
            pytest.raises(psycopg.errors.LockNotAvailable),
            psycopg.connect(session.info.dsn, password=session.info.password, autocommit=True) as other,
        ):
            other.execute("SET lock_timeout = '50ms'; UPDATE planrunner.lease SET epoch = epoch + 1")
        # Another transaction of the same runner may hold it too.
        with transaction(target) as second:
            lease.hold(second)


def test_units_are_told_as_they_were_recorded_and_only_the_plans_own(
    target: Server, elsewhere: Server
) -> None:
    ledger = recorded(target, {"public.a": FIRST, "public.b#2": SECOND})
    other = recorded(elsewhere, {"public.a": SECOND}, plan=OTHER)
    assert ledger.exists()
    assert ledger.units() == {"public.a": FIRST, "public.b#2": SECOND}
    assert other.units() == {"public.a": SECOND}
    totals = (FIRST.rows + SECOND.rows, FIRST.bytes + SECOND.bytes)
    assert ledger.done() == ({"public.a": 1, "public.b": 1}, *totals)
    assert ledger.generations() == (1, 2)
    epochs = target.rows(
        "SELECT u.unit_id, u.epoch = l.epoch FROM planrunner.unit u JOIN planrunner.lease l USING (plan_id)"
        " WHERE u.plan_id = %s ORDER BY 1",
        [PLAN],
    )
    assert epochs == [("public.a", True), ("public.b#2", True)]


def test_a_unit_that_is_recorded_twice_is_refused(target: Server) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    with pytest.raises(psycopg.errors.UniqueViolation), target.open(read_only=False) as session:
        session.execute(ledger.unit_statement({"public.a": FIRST}, 1))


def test_chunks_become_a_unit_when_they_are_all_there_and_not_before(target: Server) -> None:
    lease, ledger = Lease.take(target, PLAN), Ledger(target, PLAN)
    with transaction(target) as session:
        session.execute(ledger.chunk_statement("public.a", (1, 2), FIRST, lease.epoch))
        session.execute(ledger.chunk_statement("public.z", (1, 9), FIRST, lease.epoch))
    assert ledger.begun() == ("public.a", "public.z")
    assert ledger.chunk("public.a", 1) == FIRST
    assert ledger.chunk("public.a", 2) is None
    assert Ledger(target, OTHER).chunk("public.a", 1) is None
    assert Ledger(target, OTHER).begun() == ()
    with transaction(target) as session:
        assert ledger.join_chunks(session, "public.a") is None
        assert ledger.join_chunks(session, "public.nowhere") is None
    assert ledger.units() == {}
    later = Copied(generation=1, rows=5, bytes=50, seconds=0.25)
    with transaction(target) as session:
        session.execute(ledger.chunk_statement("public.a", (2, 2), later, lease.epoch + 4))
        made = ledger.join_chunks(session, "public.a")
    whole = Copied(generation=1, rows=15, bytes=1050, seconds=0.75)
    assert made == whole
    assert ledger.units() == {"public.a": whole}
    assert ledger.begun() == ("public.z",)
    assert target.value("SELECT epoch FROM planrunner.unit") == lease.epoch + 4


def test_the_chunks_of_one_unit_are_forgotten_alone(target: Server) -> None:
    lease, ledger = Lease.take(target, PLAN), Ledger(target, PLAN)
    with transaction(target) as session:
        for unit in ("public.a", "public.b"):
            session.execute(ledger.chunk_statement(unit, (1, 2), FIRST, lease.epoch))
        session.execute(Ledger(target, OTHER).chunk_statement("public.a", (1, 2), FIRST, 1))
        ledger.drop_chunks(session, "public.a")
    assert ledger.begun() == ("public.b",)
    assert Ledger(target, OTHER).begun() == ("public.a",)


def test_a_generation_is_given_units_and_tables(target: Server, elsewhere: Server) -> None:
    ledger = recorded(
        target, {"public.a#1": FIRST, "public.a#2": SECOND, "public.b": FIRST, "public.gone": FIRST}
    )
    other = recorded(elsewhere, {"public.b": FIRST}, plan=OTHER)
    with transaction(target) as session:
        ledger.give_units(session, ["public.a#1", "public.b"], 5)
    assert {name: unit.generation for name, unit in ledger.units().items()} == {
        "public.a#1": 5,
        "public.a#2": 2,
        "public.b": 5,
        "public.gone": 1,
    }
    with transaction(target) as session:
        ledger.follow_anew(session, ["public.a", "public.b", "public.new"], 6)
    assert ledger.units() == {
        "public.a": Copied(generation=6, rows=17, bytes=1070, seconds=0.75),
        "public.b": Copied(generation=6, rows=10, bytes=1000, seconds=0.5),
        "public.new": Copied(generation=6, rows=0, bytes=0, seconds=0.0),
    }
    assert other.units() == {"public.b": FIRST}


def test_an_effect_is_recorded_with_its_detail_and_a_second_time_replaces_it(target: Server) -> None:
    Lease.take(target, PLAN)
    ledger = Ledger(target, PLAN)
    with transaction(target) as session:
        ledger.record_effect(session, "snapshot", "pre-data", {"a": 1})
        ledger.record_effect(session, "snapshot", "pre-data", {"b": "it's"})
        ledger.record_effect(session, "snapshot", "indexes", {})
        ledger.record_effect(session, "sync", "pre-data", {"c": None})
        Ledger(target, OTHER).record_effect(session, "snapshot", "pre-data", {})
    assert ledger.effects("snapshot") == {"pre-data": {"b": "it's"}, "indexes": {}}
    assert ledger.effects("nothing") == {}
    assert ledger.all_effects() == (("snapshot", "indexes"), ("snapshot", "pre-data"), ("sync", "pre-data"))
    with transaction(target) as session:
        ledger.forget_effects(session, "snapshot", "pre-data", "unknown")
    assert ledger.all_effects() == (("snapshot", "indexes"), ("sync", "pre-data"))
    assert Ledger(target, OTHER).all_effects() == (("snapshot", "pre-data"),)


def test_what_is_rolled_back_was_never_recorded(target: Server) -> None:
    lease, ledger = Lease.take(target, PLAN), Ledger(target, PLAN)
    with target.open(read_only=False) as session, session.transaction(force_rollback=True):
        ledger.record_effect(session, "snapshot", "pre-data", {})
        session.execute(ledger.unit_statement({"public.a": FIRST}, lease.epoch))
    assert (ledger.all_effects(), ledger.units()) == ((), {})


def test_forgetting_a_step_leaves_the_others_and_the_last_takes_the_ledger_away(target: Server) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    with transaction(target) as session:
        ledger.record_effect(session, "snapshot", "pre-data", {})
        ledger.record_effect(session, "sync", "followed", {})
        session.execute(ledger.chunk_statement("public.b", (1, 2), FIRST, 1))
        session.execute("INSERT INTO planrunner.proof VALUES (%s, 'public.a', 1, 1, 'x', true)", [PLAN])
        session.execute("INSERT INTO planrunner.touched VALUES (%s, 'public.a', '1', 1)", [PLAN])
    ledger.forget("sync")
    assert ledger.all_effects() == (("snapshot", "pre-data"),)
    assert ledger.units() == {"public.a": FIRST}
    assert ledger.begun() == ("public.b",)
    assert not ledger.removed
    ledger.forget("snapshot")
    assert ledger.removed
    assert tables(target) == []
    assert target.value("SELECT to_regnamespace('planrunner') IS NULL")


def test_a_snapshot_that_is_forgotten_first_takes_units_chunks_and_proofs_with_it(target: Server) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    with transaction(target) as session:
        ledger.record_effect(session, "sync", "followed", {})
        session.execute(ledger.chunk_statement("public.b", (1, 2), FIRST, 1))
        session.execute("INSERT INTO planrunner.proof VALUES (%s, 'public.a', 1, 1, 'x', true)", [PLAN])
        session.execute("INSERT INTO planrunner.touched VALUES (%s, 'public.a', '1', 1)", [PLAN])
    ledger.forget("snapshot")
    assert (ledger.units(), ledger.begun()) == ({}, ())
    assert target.rows("SELECT FROM planrunner.proof UNION ALL SELECT FROM planrunner.touched") == []
    assert not ledger.removed
    ledger.forget("sync")
    assert ledger.removed


@pytest.mark.parametrize("what", ["lease", "effect", "unit"])
def test_the_ledger_stays_while_another_plan_has_anything_in_it(target: Server, what: str) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    other = Ledger(target, OTHER)
    with transaction(target) as session:
        if what == "lease":
            session.execute("INSERT INTO planrunner.lease VALUES (%s, 1, 'x')", [OTHER])
        if what == "effect":
            other.record_effect(session, "sync", "followed", {})
        if what == "unit":
            session.execute(other.unit_statement({"public.a": FIRST}, 1))
    ledger.forget("snapshot")
    assert not ledger.removed
    assert tables(target) == ["chunk", "effect", "lease", "proof", "touched", "unit"]


def test_a_schema_that_holds_something_of_anothers_stays_without_the_ledger(target: Server) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    target.execute("CREATE TABLE planrunner.barrier_ffffffff_g1 ()")
    ledger.forget("snapshot")
    assert ledger.removed
    assert tables(target) == ["barrier_ffffffff_g1"]


def test_a_ledger_of_an_older_release_is_forgotten_too(target: Server) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    target.execute("DROP TABLE planrunner.proof, planrunner.touched")
    ledger.forget("snapshot")
    assert ledger.removed
    assert tables(target) == []


def test_the_statements_that_are_shown_beforehand_remove_everything(
    target: Server, elsewhere: Server
) -> None:
    ledger = recorded(target, {"public.a": FIRST})
    recorded(elsewhere, {"public.a": SECOND}, plan=OTHER)
    with transaction(target) as session:
        for step in ("snapshot", "sync"):
            ledger.record_effect(session, step, "done", {})
            Ledger(target, OTHER).record_effect(session, step, "done", {})
        session.execute(forgetting(PLAN, "sync"))
    assert ledger.all_effects() == (("snapshot", "done"),)
    assert len(Ledger(target, OTHER).all_effects()) == 2
    deletes = forgetting_all(PLAN)[:4]
    with transaction(target) as session:
        for statement in deletes:
            session.execute(statement)
    assert ledger.units() == {}
    assert Ledger(target, OTHER).units() == {"public.a": SECOND}
    with transaction(target) as session:
        for statement in forgetting_all(PLAN):
            session.execute(statement)
    assert target.value("SELECT to_regnamespace('planrunner') IS NULL")


def test_a_process_whose_reply_was_lost_takes_its_own_lease_again(database: Target, target: Server) -> None:
    first = Lease.take(target, PLAN).epoch
    # As if the reply to the commit had never come: what it knows is from before.
    target.known_epoch = 0
    assert Lease.take(target, PLAN).epoch == first + 1
    Lease.take(database.runner(), PLAN)
    target.known_epoch = 0
    with pytest.raises(LeaseLost):
        Lease.take(target, PLAN)


def test_a_runner_knows_where_the_epoch_stood_when_it_looked(
    database: Target, target: Server, elsewhere: Server
) -> None:
    Lease.look(target, PLAN)
    assert target.known_epoch == 0
    assert not Lease.is_anothers(target, PLAN)
    Lease.take(elsewhere, PLAN)
    # The first look counts.
    Lease.look(target, PLAN)
    assert target.known_epoch == 0
    assert Lease.is_anothers(target, PLAN)
    assert not Lease.is_anothers(elsewhere, PLAN)
    assert not Lease.is_anothers(database.runner(), PLAN)
    with pytest.raises(LeaseLost):
        Lease.take(target, PLAN)
    # Who removed the ledger has ended the migration for whoever had the lease.
    elsewhere.execute("DROP SCHEMA planrunner CASCADE")
    assert not Lease.is_anothers(target, PLAN)
    assert Lease.is_anothers(elsewhere, PLAN)


def test_no_epoch_of_a_ledger_that_was_removed_comes_again(
    database: Target, target: Server, elsewhere: Server
) -> None:
    old = Lease.take(target, PLAN)
    elsewhere.execute("DROP SCHEMA planrunner CASCADE")
    with pytest.raises(LeaseLost):
        Lease.take(target, PLAN)
    later = [Lease.take(database.runner(), PLAN).epoch for _ in range(3)]
    assert all(epoch > old.epoch for epoch in later)
    assert Lease.is_anothers(target, PLAN)
    with transaction(target) as session, pytest.raises(LeaseLost):
        old.hold(session)


def test_whoever_removed_the_ledger_writes_nothing_once_another_has_made_it_anew(
    target: Server, elsewhere: Server
) -> None:
    Lease.take(target, PLAN)
    ledger = Ledger(target, PLAN)
    ledger.forget("snapshot")
    assert ledger.removed
    assert not Lease.is_anothers(target, PLAN)
    Lease.take(elsewhere, PLAN)
    assert Lease.is_anothers(target, PLAN)


def test_a_look_remembers_the_epoch_of_whoever_has_the_lease(target: Server, elsewhere: Server) -> None:
    found = [Lease.take(elsewhere, PLAN).epoch for _ in range(3)]
    Lease.look(target, PLAN)
    assert target.known_epoch == found[-1]
    # Nobody took it since, so this one may.
    assert Lease.take(target, PLAN).epoch == found[-1] + 1


def test_a_ledger_that_was_made_anew_is_no_ledger_of_this_runners(target: Server) -> None:
    for _ in range(3):
        Lease.take(target, PLAN)
    target.execute("DROP SCHEMA planrunner CASCADE")
    with pytest.raises(LeaseLost):
        Lease.take(target, PLAN)
    # What was made meanwhile is rolled back with it.
    assert tables(target) == []


def test_taking_the_lease_again_makes_no_noise(target: Server) -> None:
    Lease.take(target, PLAN)
    heard: list[str] = []
    opened = target.open

    def listening(**how: Any) -> psycopg.Connection[Any]:
        session = opened(**how)
        session.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        return session

    target.open = listening  # type: ignore[method-assign]
    Lease.take(target, PLAN)
    assert heard == []
