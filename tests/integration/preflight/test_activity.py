"""What goes on at the source while it is looked at: held sessions, locks, others' slots, clocks and disks."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.model import Finding, Mark, Side
from planrunner.postgres import preflight_activity, preflight_clock, preflight_disk, preflight_neighbours
from planrunner.postgres.preflight_activity import Patience
from planrunner.postgres.preflight_section import Needs
from tests.integration.preflight.test_servers import PLAN, first, of, remedies, second, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server
__all__ = ["first", "second"]  # fixtures
AT_ONCE = Patience(writing=0.0, idle=0.0, query=0.0)
NEEDS = Needs(plan_id=PLAN, owned=f"pr_{PLAN}_g")
WARN, FAIL = Mark.WARN, Mark.FAIL


@pytest.fixture
def source(place: Callable[..., Any], first: Any) -> Any:  # a fixture
    return place(first)


@pytest.fixture
def target(place: Callable[..., Any], second: Any) -> Any:  # a fixture
    return place(second)


@contextmanager
def session(place: Any, *statements: str, name: str = "the app") -> Iterator[psycopg.Connection[Any]]:
    dsn = conninfo.make_conninfo(place.server.superuser_dsn, dbname=place.database, application_name=name)
    with psycopg.connect(dsn, autocommit=True) as opened:
        for statement in statements:
            opened.execute(statement.encode())
        yield opened


def told(server: Server, code: str, mark: Mark = WARN, patience: Patience = AT_ONCE) -> list[Finding]:
    return of(preflight_activity.activity(server, patience), code, mark)


HELD = {
    "PR0540": ("BEGIN; INSERT INTO t VALUES (1)", "1 open writing transaction, for which the slot"),
    "PR0542": ("BEGIN; SELECT * FROM t", "1 session in a transaction and idle: pid"),
    "PR0544": ("BEGIN; LOCK TABLE t", "1 table locked against reading: public.t by pid"),
}


@pytest.mark.parametrize("code", HELD)
def test_session_that_holds_something_is_named_and_the_remedy_ends_it(source: Any, code: str) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    statements, words = HELD[code]
    server = source.connect()
    with session(source, statements) as app:
        (finding,) = told(server, code)
        assert words in finding.text
        assert str(app.info.backend_pid) in finding.text
        source.execute(*remedies([finding]))
        assert until(lambda: told(server, code), there=False) == []
        with pytest.raises(psycopg.OperationalError):
            app.execute("SELECT 1")


def test_young_transactions_are_no_warning(source: Any) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with session(source, "BEGIN; INSERT INTO t VALUES (1)"):
        found = preflight_activity.activity(source.connect())
        assert [f for f in found if f.code in {"PR0540", "PR0542", "PR0543"} and f.mark is WARN] == []


def test_prepared_transaction_keeps_a_slot_from_being_made_until_the_remedy_has_run(source: Any) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with session(source, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s mine'"):
        pass  # it outlives its session
    server = source.connect()
    making = "SELECT pg_create_logical_replication_slot('made', 'pgoutput', true)"
    (finding,) = told(server, "PR0541")
    assert "it's mine" in finding.text
    assert f"of postgres in {source.database}" in finding.text
    with (
        session(source, "SET lock_timeout = '300ms'") as waiting,
        pytest.raises(psycopg.errors.LockNotAvailable),
    ):
        waiting.execute(making.encode())
    source.execute(*remedies([finding]))
    assert told(server, "PR0541") == []
    with session(source, making):
        pass


@contextmanager
def busy(place: Any, statement: str, name: str = "the app") -> Iterator[None]:
    """Someone else's statement, under way for the length of the block."""
    with session(place, name=name) as opened:

        def work() -> None:
            with suppress(psycopg.Error):
                opened.execute(statement.encode())

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            opened.cancel()
            worker.join(10)


def test_long_query_and_waiting_session_are_named(source: Any) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    server = source.connect()
    with busy(source, "SELECT pg_sleep(60)"):
        (finding,) = until(lambda: told(server, "PR0543"), there=True)
        assert "1 query at work for long: pid" in finding.text
        source.execute(*remedies([finding]))
        assert until(lambda: told(server, "PR0543"), there=False) == []
    with session(source, "BEGIN; LOCK TABLE t"), busy(source, "SELECT * FROM t"):
        (finding,) = until(lambda: told(server, "PR0545"), there=True)
        assert "1 session waiting for a lock: pid" in finding.text
        assert source.value(remedies([finding])[0].removesuffix(";")) != []


WORK = {
    "CREATE INDEX CONCURRENTLY ON t (id)": "CREATE INDEX CONCURRENTLY",
    "VACUUM FULL t": "VACUUM FULL",
    "CLUSTER t USING t_pkey": "CLUSTER",
    "REINDEX TABLE t": "REINDEX",
}


@pytest.mark.parametrize("statement", WORK)
def test_maintenance_under_way_is_told(source: Any, statement: str) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    server = source.connect()
    # It waits for this one, and so stays at work.
    with session(source, "BEGIN; INSERT INTO t VALUES (1)"), busy(source, statement):
        (finding,) = until(lambda: told(server, "PR0546"), there=True)
        assert f"{WORK[statement]} by pid" in finding.text
    assert until(lambda: told(server, "PR0546"), there=False) == []


def test_create_index_concurrently_waits_for_a_snapshot_as_the_copy_holds_it(source: Any) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with (
        session(source, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1") as copy,
        busy(source, "CREATE INDEX CONCURRENTLY grown ON t (id)"),
    ):
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'virtualxid'"
        assert until(lambda: [1] * source.value(waiting), there=True) == [1]  # type: ignore[type-var,list-item]
        copy.execute("COMMIT")
        assert until(lambda: [1] * source.value(waiting), there=False) == []  # type: ignore[type-var]


def test_vacuum_against_wraparound_is_told_and_keeps_a_publication_waiting(source: Any) -> None:
    # Such a vacuum is an autovacuum that names itself so; it is slowed down here, so that it can be met.
    source.execute(
        "CREATE TABLE old (id int PRIMARY KEY, fill text) WITH (autovacuum_freeze_max_age = 100000,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
        "INSERT INTO old SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n",
        "ALTER SYSTEM SET autovacuum_naptime = '1s'",
        "SELECT pg_reload_conf()",
        "CREATE PROCEDURE age() LANGUAGE plpgsql AS 'BEGIN FOR n IN 1..110000 LOOP"
        " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'",
        "SET synchronous_commit = off",
        "CALL age()",
    )
    server = source.connect()
    try:
        (finding,) = until(lambda: told(server, "PR0546"), there=True)
        assert "a vacuum against wraparound by pid" in finding.text
        with (
            session(source, "SET lock_timeout = '1500ms'") as us,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            us.execute("CREATE PUBLICATION p FOR TABLE old")
    finally:
        source.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def test_login_that_sees_no_other_session_says_so_until_it_may(source: Any) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    login = source.role()
    server = source.connect(login)
    with session(source, "BEGIN; INSERT INTO t VALUES (1)"):
        # Of another's session it sees that it wrote, and not since when.
        assert told(server, "PR0540", patience=Patience()) == []
        (finding,) = told(server, "PR0547")
        assert f'GRANT pg_read_all_stats TO "{login}";' in str(finding.remedy)
        source.execute(*remedies([finding]))
        assert told(server, "PR0547") == []
        assert len(told(server, "PR0540")) == 1


def test_database_near_wraparound_is_told(source: Any) -> None:
    # As the catalogue would tell it; two thousand million transactions take too long.
    source.execute(
        "UPDATE pg_database SET datfrozenxid = ((txid_current() - 1300000000 + 4294967296)"
        f" % 4294967296)::text::xid WHERE datname = '{source.database}'"
    )
    try:
        (finding,) = told(source.connect(), "PR0548")
        assert f"The source's database {source.database} is 1,300,000,0" in finding.text
    finally:
        source.execute(
            "UPDATE pg_database SET datfrozenxid = (SELECT datfrozenxid FROM pg_database WHERE datname = 'template1')"
            f" WHERE datname = '{source.database}'"
        )


class _Shifted(SystemClock):
    """This machine's clock, an hour late."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)


def test_clock_that_differs_is_told_with_the_difference(source: Any) -> None:
    server = source.connect()
    assert preflight_clock.clock(server).mark is Mark.PASS
    server.clock = _Shifted()
    finding = preflight_clock.clock(server)
    assert finding.mark is WARN
    assert finding.text == "Source's clock is 60 min ahead of this machine's"


def test_target_disk_that_is_too_small_fails_with_what_is_missing(source: Any, target: Any) -> None:
    here = target.connect(side=Side.TARGET)
    fits = preflight_disk.target(here, 1 << 20)
    assert fits.mark is Mark.PASS
    assert "are free" in fits.text
    # A sparse file: the server takes the file's length for the table's size, and nothing reads it.
    source.execute("CREATE TABLE huge (id int)")
    path = source.server.data / source.value("SELECT pg_relation_filepath('huge')")
    os.truncate(path, 1 << 43)
    try:
        size = preflight_disk.arriving(source.connect(), NEEDS)
        finding = preflight_disk.target(here, size)
        # What the plan leaves out needs no room.
        without = replace(NEEDS, left_out=lambda _: {("public", "huge")})
        assert preflight_disk.arriving(source.connect(), without) == 0
    finally:
        os.truncate(path, 0)
    assert finding.mark is FAIL
    assert "Target will need about 10.0 TB more: 8.0 TB as on the source" in finding.text
    assert "Give the target's disk" in str(finding.remedy)


def test_disk_that_cannot_be_seen_is_said_to_be_unseen(target: Any) -> None:
    # data_directory is told to superusers and members of pg_read_all_settings alone.
    here = target.connect(target.role(), side=Side.TARGET)
    finding = preflight_disk.target(here, 1 << 43)
    assert finding.mark is Mark.PASS
    assert "SQL can't tell what is free there" in finding.text


def test_folder_without_room_for_the_state_is_told() -> None:
    # /proc has no room at all.
    (finding,) = of(preflight_disk.own_files(replace(NEEDS, folder=Path("/proc"))), "PR0110", WARN)
    assert finding.text == "0 B are free in /proc, for the plan's state"


def test_fast_growth_of_wal_is_told_with_how_long_there_is_room(
    source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = source.connect()
    source.execute(
        "CHECKPOINT", "CREATE TABLE t AS SELECT n, repeat('x', 200) FROM generate_series(1, 50000) n"
    )
    monkeypatch.setattr(preflight_disk, "_SHORTEST_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(preflight_disk, "_HOURS_OF_ROOM", 0.0)
    (finding,) = of(preflight_disk.wal(server), "PR0536", Mark.PASS)
    assert "of WAL an hour (seen over" in finding.text
    monkeypatch.setattr(preflight_disk, "_HOURS_OF_ROOM", 1e9)
    (finding,) = of(preflight_disk.wal(server), "PR0536", WARN)
    assert "are free, room for" in finding.text


def test_missing_synchronized_standby_holds_a_failover_slot_back_until_the_remedy_has_run(
    source: Any,
) -> None:
    needs = replace(NEEDS, failover=True)
    server = source.connect()

    def failures() -> Sequence[Finding]:
        return of(preflight_neighbours.neighbours(server, needs), "PR0552", FAIL)

    assert failures() == []
    source.execute("ALTER SYSTEM SET synchronized_standby_slots = 'away'", "SELECT pg_reload_conf()")
    try:
        (finding,) = until(failures, there=True)
        assert "standbys that are not there: away" in finding.text
        assert of(preflight_neighbours.neighbours(server, NEEDS), "PR0552", FAIL) == []
        source.execute(*remedies([finding]))
        assert until(failures, there=False) == []
    finally:
        source.execute("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def test_standby_that_streams_is_told_when_the_slot_stays_on_the_primary(source: Any, tmp_path: Path) -> None:
    server = source.connect()

    def warned(needs: Needs) -> Sequence[Finding]:
        return of(preflight_neighbours.neighbours(server, needs), "PR0551", WARN)

    assert warned(NEEDS) == []
    dsn = conninfo.make_conninfo(source.server.superuser_dsn, application_name="standby1")
    dsn = " ".join(part for part in dsn.split() if not part.startswith("dbname="))
    command = [
        source.server.bin_dir / "pg_receivewal",
        "--no-loop",
        f"--directory={tmp_path}",
        f"--dbname={dsn}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as standby:
        try:
            (finding,) = until(lambda: warned(NEEDS), there=True)
            assert finding.text.startswith("1 standby streams from the source")
            assert warned(replace(NEEDS, failover=True)) == []
        finally:
            standby.terminate()
    assert until(lambda: warned(NEEDS), there=False) == []


def test_slots_of_the_plan_itself_are_no_others(source: Any) -> None:
    names = [f"pr_{PLAN}_v", f"pr_{PLAN}_g1"]
    for name in names:
        source.execute(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    try:
        assert of(preflight_neighbours.neighbours(source.connect(), NEEDS), "PR0550", WARN) == []
    finally:
        source.execute(*(f"SELECT pg_drop_replication_slot('{name}')" for name in names))
