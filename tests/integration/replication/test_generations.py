"""A lost snapshot never costs a finished unit: whole tables, key ranges, streams, under writers that do it all."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from planrunner import failpoints
from planrunner.errors import StepFailed
from planrunner.replication import barrier, generations, merge, ranges, subscriptions, verify
from planrunner.replication.generations import Division
from tests.integration.replication.stage import Churn, Pair, assert_equal, copy_all, follow_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.catalog import Table
    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer

TABLES = 6
PARTS = 12
# Quiet tables of falling size, so that the order of the copy is known, and busy ones of every kind.
QUIET = "".join(
    f"CREATE TABLE q{n} (id int PRIMARY KEY, t text);"
    f" INSERT INTO q{n} SELECT i, repeat('x', 600) FROM generate_series(1, {4000 - 200 * n}) i;"
    for n in range(1, TABLES + 1)
)
BUSY = """
CREATE TABLE busy (id int PRIMARY KEY, v bigint, t text);
INSERT INTO busy SELECT i, i, repeat('b', 40) FROM generate_series(1, 10000) i;
CREATE TABLE emptied (id int PRIMARY KEY, v bigint);
INSERT INTO emptied SELECT i, i FROM generate_series(1, 1000) i;
CREATE TABLE child (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, busy int, v bigint UNIQUE);
ALTER TABLE busy ADD CONSTRAINT positive CHECK (id > -1);
"""
SPLIT = """
CREATE TABLE big (id int PRIMARY KEY, u bigint UNIQUE, t text);
INSERT INTO big SELECT i, i, repeat('y', 750) FROM generate_series(1, 20000) i;
CREATE INDEX ON big (u, id);
ANALYZE big;
"""
WHOLE_MOVES = [
    "INSERT INTO busy SELECT %(b)s % 1000000000 + 20001, %(b)s, 'new' ON CONFLICT DO NOTHING",
    "UPDATE busy SET v = %(b)s WHERE id = %(a)s",
    "DELETE FROM busy WHERE id = %(a)s",
    "TRUNCATE emptied",
    "INSERT INTO emptied SELECT i, %(b)s FROM generate_series(1, 50) i ON CONFLICT DO NOTHING",
    "INSERT INTO child (busy, v) VALUES (%(a)s, %(b)s) ON CONFLICT DO NOTHING",
]
# A key moves far, so mostly into another range; two keys change places within one transaction.
SPLIT_MOVES = [
    "UPDATE big SET t = 'touched ' || %(b)s WHERE id = %(a)s",
    "DELETE FROM big WHERE id = %(a)s",
    "INSERT INTO big VALUES (%(a)s, %(b)s + 100000, 'back') ON CONFLICT DO NOTHING",
    "UPDATE big SET id = (id + 9973) %% 20000 WHERE id = %(a)s AND NOT EXISTS"
    " (SELECT FROM big WHERE id = (%(a)s + 9973) %% 20000)",
    "UPDATE big SET id = id + 100000 WHERE id = %(a)s AND NOT EXISTS (SELECT FROM big WHERE id = %(a)s + 100000)",
]
WHOLE_MOVES[0] = WHOLE_MOVES[0].replace(" % ", " %% ")


WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'other'::regclass"


class Losing:
    """Loses the snapshot once, when the ``at``-th unit of the copy is told as copied."""

    def __init__(self, pair: Pair, at: set[int]) -> None:
        self._pair = pair
        self._at = at
        self.copied: list[str] = []
        self.done_before: dict[str, Any] = {}

    def __call__(self, message: str, fields: Mapping[str, Any]) -> None:
        if not message.startswith("copied "):
            return
        before = len(self.copied)
        self.copied += fields["units"]
        if self._at & set(range(before + 1, len(self.copied) + 1)):
            self.done_before = done(self._pair)
            self._pair.lose_snapshot()


def done(pair: Pair) -> dict[str, Any]:
    with psycopg.connect(pair.theirs) as session:
        return dict(
            session.execute(
                "SELECT unit_id, (rows, bytes, seconds, done)::text FROM planrunner.unit"
            ).fetchall()
        )


def inserted(pair: Pair, table: str) -> int:
    """Rows ever written to a table of the target, by the server's own counter."""
    with psycopg.connect(pair.theirs, autocommit=True) as session:
        session.execute("SELECT pg_stat_force_next_flush()")
        row = session.execute(
            "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = %s", [table]
        ).fetchone()
    assert row is not None
    return int(row[0])


def finish(pair: Pair, space: Any, losing: Losing, *, streams: int = 1) -> None:
    """Subscribe, catch up and join; what was finished before the loss was never copied again."""
    now = done(pair)
    assert {name: now[name] for name in losing.done_before} == losing.done_before
    assert len(losing.copied) == len(set(losing.copied)) == len(now)
    follow_all(space, streams=streams)


def at_length(cases: range, *, always: set[int]) -> list[Any]:
    """All of the cases, those that are not ``always`` tried only at length."""
    return [pytest.param(n, marks=[] if n in always else [pytest.mark.soak]) for n in cases]


@pytest.mark.parametrize("boundary", at_length(range(1, TABLES + 1), always={1, 4}))
def test_a_snapshot_lost_at_a_table_boundary_costs_no_finished_table(
    servers: tuple[PostgresServer, PostgresServer], boundary: int
) -> None:
    pair = Pair(*servers, name=f"whole{boundary}")
    pair.create(QUIET + BUSY)
    losing = Losing(pair, {boundary})
    pair.on_news = losing
    with Churn(pair.ours, WHOLE_MOVES, seed=boundary) as churn, pair.workspace() as space:
        copy_all(space, division=Division(), jobs=1)
        finish(pair, space, losing)
        churn.stop()
        finish(pair, space, losing)
        assert churn.done > 0
        assert space.ledger.generations() == (3,)
        assert_equal(pair)
        for name in losing.done_before:
            table = name.removeprefix("public.")
            if table.startswith("q"):
                with psycopg.connect(pair.ours) as session:
                    assert session.execute(f"SELECT count(*) FROM {table}").fetchone() == (
                        inserted(pair, table),
                    )
        generations.clear_all(space)


@pytest.mark.parametrize("lost_after", at_length(range(1, 11), always={1, 4, 7, 10}))
def test_a_snapshot_lost_inside_a_split_table_costs_no_finished_range(
    servers: tuple[PostgresServer, PostgresServer], lost_after: int
) -> None:
    pair = Pair(*servers, name=f"split{lost_after}")
    pair.create(SPLIT)
    losing = Losing(pair, {lost_after})
    pair.on_news = losing
    with Churn(pair.ours, SPLIT_MOVES, seed=lost_after) as churn, pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_250_000), jobs=1)
        assert len(ranges.recorded(space)["public.big"].bounds) >= PARTS - 1
        assert space.ledger.generations() == (1, 2)
        finish(pair, space, losing)
        churn.stop()
        finish(pair, space, losing)
        assert churn.done > 0
        assert_equal(pair)
        generations.clear_all(space)
        assert not ranges.made(space)


def test_a_table_that_waits_to_be_split_holds_no_writes_to_those_that_are(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="unheld")
    pair.create(SPLIT + re.sub(r"\bbig\b", "other", SPLIT))
    with pair.workspace() as space, ThreadPoolExecutor(1) as pool, psycopg.connect(pair.ours) as holder:
        holder.execute("INSERT INTO other VALUES (-1, -1, 'written by somebody who has not ended')")
        tables = verify.followed_tables(space)
        preparing = pool.submit(ranges.prepare, space, tables, above=1_250_000)
        with psycopg.connect(pair.ours, autocommit=True) as writer:
            deadline = space.clock.monotonic() + 60
            while not writer.execute(WAITING).fetchall():
                assert not preparing.done()
                assert space.clock.monotonic() < deadline
                space.clock.sleep(0.02)
            writer.execute("SET lock_timeout = '5s'")
            writer.execute("UPDATE big SET t = 'written meanwhile' WHERE id = 1")
        holder.rollback()
        preparing.result()
        assert set(ranges.counts(space)) == {"public.big", "public.other"}
        ranges.drop(space)
        assert not ranges.made(space)


def test_a_truncate_of_a_table_split_across_generations_takes_away_each_streams_own_rows(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="truncated")
    pair.create(SPLIT)
    losing = Losing(pair, {3, 7})
    pair.on_news = losing
    with pair.workspace() as space:
        # Between the snapshots of two generations: the first one's stream brings it, the second's copy has it.
        def on_news(message: str, fields: Mapping[str, Any]) -> None:
            losing(message, fields)
            if message.startswith("the copy goes on") and "again" not in pair.name:
                pair.execute(
                    "TRUNCATE big; INSERT INTO big SELECT i, -i, 'fresh' FROM generate_series(1, 20000, 7) i"
                )

        pair.on_news = on_news
        copy_all(space, division=Division(split_above=1_250_000), jobs=1)
        assert len(space.ledger.generations()) == 3
        finish(pair, space, losing)
        assert_equal(pair)
        # While all streams follow, within a transaction that writes before and after it.
        pair.execute(
            "BEGIN; DELETE FROM big WHERE id < 5000; TRUNCATE big;"
            " INSERT INTO big SELECT i, i, 'last' FROM generate_series(1, 20000, 11) i; COMMIT"
        )
        finish(pair, space, losing)
        assert_equal(pair)
        generations.clear_all(space)
        pair.execute("TRUNCATE big")


def test_a_split_table_that_one_generation_copied_is_followed_as_a_whole(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="one_piece")
    pair.create(SPLIT)
    with pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_250_000))
        follow_all(space)
        pair.execute("TRUNCATE big; INSERT INTO big VALUES (1, 1, 'only')")
        follow_all(space)
        assert_equal(pair)
        with psycopg.connect(pair.theirs) as session:
            (published,) = session.execute("SELECT subpublications FROM pg_subscription").fetchone() or ([],)
        assert published == [space.names.stream(1), space.names.whole(1)]
        generations.clear_all(space)


def test_a_transaction_of_a_million_rows_during_a_lost_snapshot_arrives_once(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="million")
    pair.create(QUIET + SPLIT + "CREATE TABLE many (id int PRIMARY KEY);")
    losing = Losing(pair, {4})

    def on_news(message: str, fields: Mapping[str, Any]) -> None:
        losing(message, fields)
        if message.startswith("the copy goes on"):
            pair.execute(
                "BEGIN; INSERT INTO many SELECT generate_series(1, 1000000);"
                " UPDATE big SET u = -u; UPDATE q6 SET t = 'all of them'; COMMIT"
            )

    pair.on_news = on_news
    with pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_000_000))
        finish(pair, space, losing)
        pair.execute("DELETE FROM many WHERE id % 2 = 0")
        finish(pair, space, losing)
        assert_equal(pair)
        generations.clear_all(space)


def test_several_streams_share_the_tables_and_meet_at_the_barrier(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="streams")
    pair.create(QUIET + BUSY + SPLIT)
    losing = Losing(pair, {1})
    pair.on_news = losing
    with Churn(pair.ours, [*WHOLE_MOVES, *SPLIT_MOVES]) as churn, pair.workspace() as space:
        copy_all(space, division=Division(streams=3, split_above=1_000_000), jobs=1)
        assert len(space.ledger.generations()) > 3
        finish(pair, space, losing, streams=3)
        assert len(space.ledger.generations()) == 3
        churn.stop()
        finish(pair, space, losing, streams=3)
        assert_equal(pair)
        generations.clear_all(space)
        with psycopg.connect(pair.ours) as session:
            assert session.execute(
                "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
            ).fetchone() == (0,)
            assert session.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def test_one_keeper_ended_after_another_is_replaced(servers: tuple[PostgresServer, PostgresServer]) -> None:
    pair = Pair(*servers, name="keepers")
    pair.create(QUIET)
    with pair.workspace() as space, psycopg.connect(pair.ours, autocommit=True) as session:
        generations.begin(space, verify.followed_tables(space), Division())
        assert space.round is not None
        (held,) = space.round.snapshots.values()
        seen = {held.name}
        for _ in range(3):
            keepers = (
                "backend_xmin IS NOT NULL AND application_name LIKE 'planrunner/%' AND state LIKE 'idle in%'"
            )
            session.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid ="
                f" (SELECT min(pid) FROM pg_stat_activity WHERE {keepers})"
            )
            assert held.alive()
            seen.add(held.name)
        assert len(seen) > 1
        copy_all(space, division=Division())
        assert space.ledger.generations() == (1,)
        generations.clear_all(space)


@pytest.mark.parametrize("point", ["slots_made", "stopped", "advanced", "taken_over"])
def test_a_join_that_was_killed_is_taken_up_again(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    pair = Pair(*servers, name=f"join_{point}")
    pair.create(QUIET + SPLIT)
    losing = Losing(pair, {4})
    pair.on_news = losing
    with Churn(pair.ours, SPLIT_MOVES) as churn:
        with pair.workspace() as space, monkeypatch.context() as patched:
            copy_all(space, division=Division(split_above=1_250_000), jobs=1)
            # A kill leaves no time to put anything back.
            patched.setattr(failpoints, "_armed", {f"merge.{point}": "raise"})
            patched.setattr(merge, "undo", lambda _: None)
            with pytest.raises(StepFailed, match="failpoint"):
                follow_all(space)
        with pair.workspace() as space:
            finish(pair, space, losing)
            churn.stop()
            finish(pair, space, losing)
            assert_equal(pair)
            assert len(space.ledger.generations()) == 1
            assert generations.left(space) == space.ledger.generations()
            generations.clear_all(space)


def followed_apart(space: Workspace) -> tuple[Table, ...]:
    """Copy everything, and follow each generation by a stream of its own; the tables."""
    copy_all(space, division=Division(), jobs=1)
    tables = verify.followed_tables(space)
    for generation in space.ledger.generations():
        generations.follow(space, tables, generation)
    barrier.wait(space, space.ledger.generations(), timeout=120)
    return tables


def test_a_marker_of_a_former_join_that_comes_late_stops_no_stream(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(*servers, name="late_marker")
    pair.create(QUIET)
    pair.on_news = Losing(pair, {2})
    with pair.workspace() as space, ThreadPoolExecutor(1) as pool:
        tables = followed_apart(space)
        # The second one's worker takes in nothing for a while.
        pid = subscriptions.existing(space.target, space.names)[2].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(failpoints, "_armed", {"merge.stopped": "raise"})
                patched.setattr(merge, "undo", lambda _: None)
                with pytest.raises(StepFailed, match="failpoint"):
                    merge.merge(space, tables, streams=1)
            pair.execute("INSERT INTO q6 SELECT i, 'between' FROM generate_series(100001, 100040) i")
            joined = pool.submit(merge.merge, space, tables, streams=1)
            markers = f"SELECT count(*) FROM planrunner.{space.names.barrier(2)} WHERE stop"
            while space.source.value(sql.SQL(markers)) < 2:
                space.clock.sleep(0.01)
        finally:
            os.kill(pid, signal.SIGCONT)
        joined.result(120)
        barrier.wait(space, space.ledger.generations(), timeout=120)
        assert space.ledger.generations() == (3,)
        assert_equal(pair)
        generations.clear_all(space)


def test_a_source_that_crashes_behind_a_join_sends_nothing_again(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(*servers, name="advanced")
    # Without a key nothing on the target refuses a row that comes twice.
    pair.create(QUIET + "CREATE TABLE keyless (v int); ALTER TABLE keyless REPLICA IDENTITY FULL;")
    pair.on_news = Losing(pair, {2})
    with pair.workspace() as space:
        tables = followed_apart(space)

        def between(point: str) -> None:
            if point == "merge.slots_made":
                pair.execute("INSERT INTO keyless SELECT generate_series(1, 20)")

        with monkeypatch.context() as patched:
            patched.setattr(merge, "undo", lambda _: None)
            patched.setattr(merge, "failpoint", lambda point: (between(point), failpoints.failpoint(point)))
            patched.setattr(failpoints, "_armed", {"merge.taken_over": "raise"})
            with pytest.raises(StepFailed, match="failpoint"):
                merge.merge(space, tables, streams=1)
        # The slot stands where it was made again: its advance was not written out yet.
        pair.source.stop("immediate")
        pair.source.start()
    with pair.workspace() as space:
        merge.undo(space)
        barrier.wait(space, space.ledger.generations(), timeout=120)
        assert space.ledger.generations() == (3,)
        assert_equal(pair)
        generations.clear_all(space)


def test_streams_that_a_former_join_has_stopped_go_on_whenever_its_undoing_breaks_off(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(*servers, name="let_go")
    pair.create(QUIET)
    pair.on_news = Losing(pair, {2})
    with pair.workspace() as space:
        tables = followed_apart(space)

        def breaks_off(point: str, *, undone: bool) -> None:
            with monkeypatch.context() as patched:
                patched.setattr(failpoints, "_armed", {point: "raise"})
                if not undone:
                    patched.setattr(merge, "undo", lambda _: None)
                with pytest.raises(StepFailed, match="failpoint"):
                    merge.merge(space, tables, streams=1)
            # Nothing else of it is undone.
            generations.clear(space, 3)

        breaks_off("merge.advanced", undone=False)
        assert not any(s.enabled for s in subscriptions.existing(space.target, space.names).values())
        breaks_off("merge.before_start", undone=False)
        breaks_off("merge.before_let_go", undone=True)
        pair.execute("INSERT INTO q6 SELECT i, 'between' FROM generate_series(100001, 100040) i")
        merge.merge(space, tables, streams=1)
        barrier.wait(space, space.ledger.generations(), timeout=120)
        assert_equal(pair)
        generations.clear_all(space)


TOASTED = """
CREATE TABLE big (id int PRIMARY KEY, t text, w text);
ALTER TABLE big ALTER w SET STORAGE EXTERNAL;
INSERT INTO big SELECT i, repeat('y', 750), CASE WHEN i % 10 = 0 THEN repeat(md5(i::text), 100) END
FROM generate_series(1, 20000) i;
ANALYZE big;
"""


def test_a_table_with_values_out_of_line_is_not_split(servers: tuple[PostgresServer, PostgresServer]) -> None:
    pair = Pair(*servers, name="toasted")
    pair.create(TOASTED)
    with pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_250_000))
        assert not ranges.recorded(space)
        follow_all(space)
        assert_equal(pair)
        generations.clear_all(space)


def test_values_out_of_line_come_along_when_a_row_moves_into_another_streams_range(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="toasted_full")
    pair.create(TOASTED + "ALTER TABLE big REPLICA IDENTITY FULL;")
    losing = Losing(pair, {4})

    def on_news(message: str, fields: Mapping[str, Any]) -> None:
        losing(message, fields)
        if message.startswith("the copy goes on"):
            pair.execute(
                "UPDATE big SET id = id + 100000 WHERE id % 10 = 0 AND id < 3000;"
                " UPDATE big SET id = -id WHERE id % 10 = 0 AND id BETWEEN 15000 AND 18000"
            )

    pair.on_news = on_news
    with pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_250_000), jobs=1)
        assert ranges.recorded(space)
        for generation in space.ledger.generations():
            generations.follow(space, verify.followed_tables(space), generation)
        pair.execute("UPDATE big SET id = -id WHERE id % 10 = 0 AND id BETWEEN 18000 AND 19000")
        finish(pair, space, losing)
        assert_equal(pair)
        generations.clear_all(space)
