"""A standby that is brought to a stand: where, what it waits for, what is refused, what it costs the source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from planrunner.errors import SnapshotLost, StepBlocked, StepConflict, StepFailed
from planrunner.model import Mark, Side
from planrunner.postgres.lsn import Lsn
from planrunner.replication import freezing, frozen, frozen_checks, standby
from planrunner.replication.workspace import Freezing, Way
from tests.faults.standbys import standby as streaming

from .conftest import Streams, connected, dsn_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from planrunner.postgres.connection import Server
    from planrunner.replication.freezing import Stand
    from planrunner.sandbox.servers import PostgresServer

    Make = Callable[..., Streams]

pytestmark = pytest.mark.server
PHYSICAL = "physical_of_the_standby"
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
CANCELLED = """
SELECT confl_snapshot FROM pg_stat_database_conflicts WHERE datname = current_database()
"""


@pytest.fixture(scope="module")
def follower(source_server: PostgresServer) -> Iterator[PostgresServer]:
    """A standby that streams through a physical slot."""
    with streaming(source_server, PHYSICAL) as server:
        yield server
    with psycopg.connect(source_server.superuser_dsn, autocommit=True) as session:
        session.execute("SELECT pg_drop_replication_slot(%s)", [PHYSICAL])


@pytest.fixture
def pair(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer, follower: PostgresServer
) -> Iterator[Streams]:
    """Streams whose rows are to come from the standby, which replays at the end."""
    made = streams(source_server, target_server, following=False)
    database = made.space.source.identity().database
    server = connected(follower, database, Side.REPLICA)
    made.space.freezing = Freezing(server=server, way=Way.PAUSE)
    made.wait_until(lambda: _there(follower, database))
    yield made
    if standby.look(server).recovering:
        standby.resume(server)
    server.close()


def _there(server: PostgresServer, database: str) -> bool:
    with psycopg.connect(server.superuser_dsn) as session:
        found = session.execute("SELECT FROM pg_database WHERE datname = %s", [database])
        return found.fetchone() is not None


def on_replica(pair: Streams, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn_of(pair.space.bulk), autocommit=True) as session:
        cursor = session.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def frozen_at(pair: Streams) -> Stand:
    return freezing.freeze(pair.space, 1, freezing.written(pair.space.source))


def test_it_shows_what_was_committed_before_and_nothing_later(pair: Streams) -> None:
    pair.source("INSERT INTO lines VALUES (1, 1)")
    stand = frozen_at(pair)
    pair.source("INSERT INTO lines VALUES (2, 2)")
    held = frozen.Still(pair.space.bulk, 1, stand)

    session = held.begin()
    rows = session.execute("SELECT id FROM public.lines").fetchall()
    held.confirm()
    session.close()

    assert rows == [(1,)]
    assert held.alive()


def test_one_that_goes_on_is_noticed_before_what_was_read_counts(pair: Streams) -> None:
    held = frozen.Still(pair.space.bulk, 1, frozen_at(pair))
    session = held.begin()
    on_replica(pair, standby.RESUME)

    assert not held.alive()
    with pytest.raises(SnapshotLost, match="its replay goes on"):
        held.confirm()
    session.close()


def test_one_that_was_paused_again_elsewhere_is_noticed_too(pair: Streams) -> None:
    held = frozen.Still(pair.space.bulk, 1, frozen_at(pair))
    on_replica(pair, standby.RESUME)
    pair.source("INSERT INTO lines VALUES (1, 1)")
    pair.wait_until(lambda: on_replica(pair, "SELECT id FROM public.lines"))
    standby.pause(pair.space.bulk, pair.space.clock)

    with pytest.raises(SnapshotLost, match="it has replayed up to"):
        held.confirm()


def test_it_does_not_stop_where_a_table_is_locked(pair: Streams) -> None:
    with psycopg.connect(dsn_of(pair.space.source)) as owner:
        owner.execute("LOCK TABLE public.lines IN ACCESS EXCLUSIVE MODE")
        owner.execute("INSERT INTO public.lines VALUES (1, 1)")
        pair.source("SELECT pg_switch_wal()")
        pair.wait_until(lambda: standby.locked(pair.space.bulk))

        def free_it(text: str, _fields: object) -> None:
            pair.told.append(text)
            owner.rollback()

        pair.space.tell = free_it
        stand = frozen_at(pair)

    assert any("public.lines: locked there as it stood" in text for text in pair.told)
    session = frozen.Still(pair.space.bulk, 1, stand).begin()
    assert session.execute("SELECT count(*) FROM public.lines").fetchone() == (0,)
    session.close()


def test_what_somebody_else_has_paused_is_left_alone(pair: Streams) -> None:
    standby.pause(pair.space.bulk, pair.space.clock)

    with pytest.raises(StepConflict, match="somebody else has paused its replay"):
        frozen_at(pair)
    assert standby.look(pair.space.bulk).paused


def test_another_cluster_is_refused(pair: Streams, target_server: PostgresServer) -> None:
    other = connected(target_server, pair.space.target.identity().database, Side.REPLICA)
    pair.space.freezing = Freezing(server=other, way=Way.PAUSE)

    with pytest.raises(StepBlocked, match="not a standby of it"):
        freezing.refuse_strange(pair.space)
    assert [f.code for f in frozen_checks.findings(pair.space) if f.mark is Mark.FAIL] == ["PR1602"]
    other.close()


class Aurora:
    """What AWS tells of a source that is the writer of an Aurora cluster."""

    def way(self) -> Way:
        return Way.CLONE

    def lacking(self) -> str | None:
        return None

    def make(self, way: Way, generation: int, since: datetime) -> Server:
        raise AssertionError((way, generation, since))

    def found(self, generation: int) -> Server | None:
        raise AssertionError(generation)

    def remove(self, way: Way, last: int) -> None:
        raise AssertionError((way, last))


def test_an_aurora_that_does_not_tell_where_a_clone_begins_is_refused_before_one_is_made(
    pair: Streams,
) -> None:
    pair.space.freezing = Freezing(server=None, way=Way.RESTORE, restorer=Aurora())

    found = {f.code: f for f in frozen_checks.findings(pair.space)}
    assert {code: f.mark for code, f in found.items()} == {
        "PR1609": Mark.FAIL,
        "PR1610": Mark.PASS,
        "PR1607": Mark.PASS,
    }
    assert "aurora_volume_logical_start_lsn()" in found["PR1609"].text
    with pytest.raises(StepFailed, match="lacks aurora_volume_logical_start_lsn"):
        standby.cloned_at(pair.space.source)


def test_an_aurora_that_does_not_replicate_logically_yet_has_the_function(pair: Streams) -> None:
    name = "pg_catalog.aurora_volume_logical_start_lsn()"
    body = "BEGIN RAISE 'wal_level must be set to logical' USING ERRCODE = '55000'; END"
    with psycopg.connect(dsn_of(pair.space.source), autocommit=True) as owner:
        owner.execute(f"CREATE FUNCTION {name} RETURNS pg_lsn LANGUAGE plpgsql AS $${body}$$".encode())
        tells = standby.tells_where_cloned(pair.space.source)
        owner.execute(f"DROP FUNCTION {name}".encode())

    assert tells
    assert not standby.tells_where_cloned(pair.space.source)


def test_a_source_that_subscribes_is_not_copied_by_its_storage(pair: Streams) -> None:
    pair.space.freezing = Freezing(server=None, way=Way.RESTORE, restorer=Aurora())
    with psycopg.connect(dsn_of(pair.space.source), autocommit=True) as owner:
        owner.execute("CREATE SUBSCRIPTION from_others CONNECTION '' PUBLICATION p WITH (connect = false)")
        # With an address that refuses at once: the worker finds nobody.
        owner.execute("ALTER SUBSCRIPTION from_others CONNECTION 'host=127.0.0.1 port=1 dbname=x'")
        owner.execute("ALTER SUBSCRIPTION from_others ENABLE")
        found = {f.code: f for f in frozen_checks.findings(pair.space)}
        owner.execute("ALTER SUBSCRIPTION from_others DISABLE")
        after = {f.code: f.mark for f in frozen_checks.findings(pair.space)}
        owner.execute("ALTER SUBSCRIPTION from_others SET (slot_name = NONE)")
        owner.execute("DROP SUBSCRIPTION from_others")

    assert (found["PR1610"].mark, "from_others" in found["PR1610"].text) == (Mark.FAIL, True)
    assert after["PR1610"] is Mark.PASS


def test_of_a_clone_the_database_alone_must_be_the_same(pair: Streams, target_server: PostgresServer) -> None:
    name = pair.space.source.identity().database
    with psycopg.connect(target_server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    pair.space.done(freezing.STEP, freezing.BEGUN, {"way": "clone"})
    for database, same in ((name, True), (pair.space.target.identity().database, False)):
        other = connected(target_server, database, Side.REPLICA)
        pair.space.freezing = Freezing(server=other, way=Way.RESTORE)
        with nullcontext() if same else pytest.raises(StepBlocked, match="not a standby of it"):
            freezing.refuse_strange(pair.space)
        other.close()
    with psycopg.connect(target_server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_the_checks_tell_what_is_there(pair: Streams) -> None:
    found = {f.code: f.mark for f in frozen_checks.findings(pair.space)}
    assert set(found) == {f"PR160{n}" for n in range(1, 9)}
    assert {code for code, mark in found.items() if mark is not Mark.PASS} == {"PR1608"}

    standby.pause(pair.space.bulk, pair.space.clock)
    paused = {f.code for f in frozen_checks.findings(pair.space) if f.mark is Mark.FAIL}
    assert paused == {"PR1605"}


def test_the_source_keeps_no_wal_for_a_standby_that_is_paused(pair: Streams) -> None:
    frozen_at(pair)
    pair.fill_wal(40)

    def kept() -> int:
        query = "SELECT (pg_current_wal_flush_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = "
        return int(pair.source(f"{query}'{PHYSICAL}'")[0][0])

    pair.wait_until(lambda: kept() < 1 << 20)
    now = standby.look(pair.space.bulk)
    assert now.end is not None
    received = standby.received(pair.space.bulk)
    assert received is not None
    assert received - now.end > 35 << 20


def test_a_query_that_replay_cancels_is_asked_again(pair: Streams) -> None:
    with impatient(pair, "0"):
        pair.source("INSERT INTO lines SELECT n, 0 FROM generate_series(1, 10) n")
        pair.wait_until(lambda: on_replica(pair, "SELECT id FROM public.lines"))
        query = "SELECT count(*) FROM public.lines, (SELECT pg_sleep(2)) AS slept"
        with ThreadPoolExecutor(max_workers=1) as pool:
            asked = pool.submit(pair.space.bulk.value, query)
            pair.wait_until(lambda: on_replica(pair, ASLEEP) == [(1,)])
            pair.source("DELETE FROM lines", "VACUUM lines")
            assert asked.result() == 0
        pair.wait_until(lambda: on_replica(pair, CANCELLED)[0][0] > 0)


def test_rows_that_were_removed_meanwhile_do_not_keep_it_from_its_promotion(
    pair: Streams, source_server: PostgresServer
) -> None:
    with streaming(source_server) as other:
        server = connected(other, pair.space.source.identity().database, Side.REPLICA)
        assert pair.space.freezing is not None
        pair.space.freezing = replace(pair.space.freezing, server=server)
        with impatient(pair, "100ms"):
            standby.pause(server, pair.space.clock)
            # What its replay does first is to remove what every older snapshot still sees.
            pair.source("INSERT INTO lines VALUES (1, 1)", "DELETE FROM lines", "VACUUM lines")
            written = freezing.written(pair.space.source)
            pair.wait_until(lambda: (standby.received(server) or Lsn(0)) >= written)

            standby.promote(server, pair.space.clock)
            assert not standby.look(server).recovering
        server.close()


@contextmanager
def impatient(pair: Streams, delay: str) -> Iterator[None]:
    """The replica waits no longer than that for a query that needs what its replay removes."""
    on_replica(pair, f"ALTER SYSTEM SET max_standby_streaming_delay = '{delay}'")
    on_replica(pair, "SELECT pg_reload_conf()")
    yield
    on_replica(pair, "ALTER SYSTEM RESET max_standby_streaming_delay")
    on_replica(pair, "SELECT pg_reload_conf()")
