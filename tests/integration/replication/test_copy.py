"""Whole units or nothing: chunks, batches, a lost line, a missing psql, a stray writer, a restarted source."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.errors import StepConflict, StepFailed, ToolFailed
from planrunner.model import Endpoint, Side
from planrunner.postgres.connection import Server
from planrunner.replication import feeds, generations, load, pulse, restore, verify
from planrunner.replication.courier import mendable
from planrunner.replication.generations import Division
from planrunner.replication.schema_dump import Wishes
from planrunner.sandbox.binaries import wheel_bin
from tests.integration.replication.stage import Pair, assert_equal, copy_all, follow_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer

WIDE = """
CREATE TABLE wide (id int PRIMARY KEY, t text, n numeric, at timestamptz DEFAULT now());
INSERT INTO wide SELECT i, repeat('w', 900), i / 7.0 FROM generate_series(1, 30000) i;
CREATE INDEX ON wide (n);
"""
SMALL = "".join(
    f"CREATE TABLE s{n} (id int PRIMARY KEY, t text UNIQUE); INSERT INTO s{n} SELECT i, 'r' || i"
    f" FROM generate_series(1, {n * 3}) i;"
    for n in range(60)
)
CHUNKS = Division(chunk_above=4 << 20)


_numbers = itertools.count(1)


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer]) -> Pair:
    return Pair(*servers, name=f"copy{next(_numbers)}")


def ledger(pair: Pair) -> tuple[dict[str, int], int]:
    with psycopg.connect(pair.theirs) as session:
        units = dict(session.execute("SELECT unit_id, rows FROM planrunner.unit").fetchall())
        (chunks,) = session.execute("SELECT count(*) FROM planrunner.chunk").fetchone() or (0,)
    return units, chunks


ENDING = """
DO $$ DECLARE ended int := 0; gone int[] := '{{}}'; seen text[] := '{{}}'; now_run record;
  began timestamptz := clock_timestamp(); BEGIN
  WHILE ended < {times} AND clock_timestamp() < began + interval '60 s' LOOP
    PERFORM pg_stat_clear_snapshot();
    FOR now_run IN SELECT pid, query FROM pg_stat_activity WHERE datname = {database} AND state = 'active'
        AND query LIKE {query} AND application_name LIKE 'planrunner/%' LOOP
      IF now_run.query <> ALL (seen) THEN
        seen := seen || now_run.query;
      END IF;
      -- One that is on its way out is shown for a while.
      IF ended < {times} AND cardinality(seen) > {spared} AND now_run.pid <> ALL (gone)
         AND pg_terminate_backend(now_run.pid) THEN
        ended := ended + 1;
        gone := gone || now_run.pid;
      END IF;
    END LOOP;
    PERFORM pg_sleep(0.002);
  END LOOP;
END $$
"""


def ended(pair: Pair, query: str, *, times: int = 1, spared: int = 0) -> threading.Thread:
    """A thread that ends sessions of ours running ``query``, ``times`` in all, once more than ``spared`` have begun."""
    session = psycopg.connect(pair.source.superuser_dsn, autocommit=True)
    loop = sql.SQL(ENDING).format(
        times=sql.Literal(times),
        database=sql.Literal(pair.name),
        query=sql.Literal(query),
        spared=sql.Literal(spared),
    )

    def enough(message: str, _fields: Mapping[str, Any]) -> None:
        if message.startswith("the copy goes on after"):
            session.cancel()

    def watch() -> None:
        # The server looks by itself: a thread of ours would wait for those that copy.
        with session, suppress(psycopg.errors.QueryCanceled):
            session.execute(loop)

    pair.on_news = enough
    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_chunks_of_a_table_become_one_unit(pair: Pair) -> None:
    pair.create(WIDE + SMALL)
    with pair.workspace() as space:
        copy_all(space, division=CHUNKS, jobs=3)
        units, chunks = ledger(pair)
        assert units["public.wide"] == 30000
        assert (len(units), chunks) == (61, 0)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_the_pace_that_is_told_adds_up_to_what_was_copied(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "SECONDS", 0.0)
    told: list[Mapping[str, Any]] = []
    pair.on_news = lambda _, fields: told.append(fields)
    pair.create(WIDE + SMALL)
    with pair.workspace() as space:
        space.terms = replace(space.terms, poll=0.01)
        copy_all(space, division=CHUNKS, jobs=3)
        copied = sum(unit.bytes for unit in space.ledger.units().values())
        generations.clear_all(space)
    samples = [fields for fields in told if "moved_bytes" in fields]
    assert samples
    assert sum(fields["moved_bytes"] for fields in samples) == copied
    assert sum(fields["bytes"] for fields in told if {"units", "bytes"} <= fields.keys()) == copied


def test_a_snapshot_lost_between_chunks_leaves_no_row_twice(pair: Pair) -> None:
    pair.create(WIDE + SMALL)
    lost = threading.Event()

    def lose(message: str, fields: Mapping[str, Any]) -> None:
        # A small table is told of while chunks of the big one are in, and others on their way.
        if message.startswith("copied ") and not lost.is_set():
            lost.set()
            pair.lose_snapshot()

    pair.on_news = lose
    with pair.workspace() as space:
        copy_all(space, division=CHUNKS, jobs=2)
        assert lost.is_set()
        assert ledger(pair)[1] == 0
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_a_line_that_breaks_in_mid_stream_costs_the_chunk_and_not_the_generation(pair: Pair) -> None:
    pair.create(WIDE)
    with pair.workspace() as space:
        ender = ended(pair, "COPY (SELECT%wide%")
        copy_all(space, division=CHUNKS, jobs=2)
        ender.join()
        assert space.ledger.generations() == (1,)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_a_chunk_that_fails_again_and_again_begins_its_table_anew_under_the_same_snapshot(pair: Pair) -> None:
    pair.create(WIDE)
    with pair.workspace() as space:
        # Two streams: a third chunk begins when one is in, and from there each fails.
        ender = ended(pair, "COPY (SELECT%wide%", times=200, spared=2)
        copy_all(space, division=CHUNKS, jobs=2)
        ender.join()
        assert any(line.startswith("the copy goes on after") for line in pair.news)
        assert space.ledger.generations() == (1,)
        assert ledger(pair) == ({"public.wide": 30000}, 0)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


@pytest.mark.parametrize("division", [CHUNKS, Division()], ids=["chunks", "whole"])
def test_without_psql_the_copy_goes_over_a_session_of_our_own(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, division: Division
) -> None:
    def nowhere(_source: Any) -> None:
        return None

    monkeypatch.setattr(feeds.Psql, "find", nowhere)
    pair.create(WIDE + SMALL)
    with pair.workspace() as space:
        copy_all(space, division=division)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_a_stray_row_on_the_target_is_not_overwritten(pair: Pair) -> None:
    pair.create(WIDE)
    with pair.workspace() as space:
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute("CREATE TABLE wide (id int, t text, n numeric, at timestamptz)")
            session.execute("INSERT INTO wide VALUES (-1, 'a stranger''s')")
        with pytest.raises(StepConflict, match=r"public\.wide: holds rows that this plan did not put there"):
            load_only(space)
        with psycopg.connect(pair.theirs) as session:
            assert session.execute("SELECT count(*) FROM wide").fetchone() == (1,)
        generations.clear_all(space)


def test_the_error_that_stopped_the_streams_is_told_and_not_that_they_were_stopped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(SMALL)
    plainly, failed, called = load.Load._stream, threading.Event(), itertools.count()

    def late(self: load.Load, number: int) -> None:
        try:
            plainly(self, number)
        except StepFailed:
            failed.set()
            # The others, which are stopped because of it, come to their end before.
            SystemClock().sleep(1)
            raise

    def finished(_: object) -> None:
        if next(called) == 0:
            raise StepFailed("an index can't be built")
        failed.wait(60)

    monkeypatch.setattr(load.Load, "_stream", late)
    with pair.workspace() as space:
        restore.pre_data(space, Wishes())
        tables = verify.followed_tables(space)
        ways = load.Ways(jobs=4, division=Division(), finished=finished, check=lambda: None)
        with pytest.raises(StepFailed, match="an index can't be built"):
            load.copy_rest(space, tables, ways)
        generations.clear_all(space)


def load_only(space: Workspace) -> None:
    tables = verify.followed_tables(space)
    generations.begin(space, tables, Division())
    ways = load.Ways(jobs=2, division=Division(), finished=lambda _: None, check=lambda: None)
    load.copy_rest(space, tables, ways)


def test_a_source_that_restarts_during_the_copy_costs_the_units_in_hand(pair: Pair) -> None:
    pair.create(WIDE + SMALL.replace("CREATE TABLE s", "CREATE TABLE z").replace("INTO s", "INTO z"))
    restarted = threading.Event()

    def restart(message: str, _fields: Mapping[str, Any]) -> None:
        if message.startswith("copied ") and not restarted.is_set():
            restarted.set()
            pair.source.restart()

    pair.on_news = restart
    with pair.workspace() as space:
        copy_all(space, division=Division(), jobs=1)
        assert restarted.is_set()
        assert space.ledger.generations() == (1, 2)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


@pytest.mark.parametrize("server", ["source", "target"])
def test_a_server_that_crashes_during_the_copy_loses_nothing(
    servers: tuple[PostgresServer, PostgresServer], server: str
) -> None:
    pair = Pair(*servers, name=f"crash_{server}")
    pair.create(WIDE + SMALL)
    crashed = threading.Event()
    victim: PostgresServer = getattr(pair, server)

    def crash(message: str, _fields: Mapping[str, Any]) -> None:
        if message.startswith("copied ") and not crashed.is_set():
            crashed.set()
            victim.stop("immediate")
            victim.start()

    pair.on_news = crash
    with pair.workspace() as space:
        copy_all(space, division=Division(), jobs=2)
        assert crashed.is_set()
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_a_psql_that_can_not_connect_is_told_in_its_own_words_and_tried_again() -> None:
    endpoint = Endpoint(side=Side.SOURCE, dsn="host=127.0.0.1 port=1 user=nobody dbname=none sslmode=disable")
    away = Server(endpoint, clock=SystemClock(), resolve=lambda _: None, label="planrunner/test")
    psql = feeds.Psql(program=wheel_bin(16) / "psql", version=160000)
    # More than a pipe holds: psql is gone before it has read it.
    statement = sql.SQL("COPY (SELECT {}) TO STDOUT").format(sql.Literal("x" * (1 << 20)))
    with (
        pytest.raises(ToolFailed, match="connection to server") as failed,
        psql.feed(away, "0-0-1", statement),
    ):
        pass
    assert mendable(failed.value)
