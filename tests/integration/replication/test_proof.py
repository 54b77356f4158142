"""Live verification that is kept: proven by bucket under load, resumed, and inside the fence only what changed."""

from __future__ import annotations

import threading
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner import failpoints
from planrunner.errors import StepFailed
from planrunner.replication import generations, rounds, tracker, verify
from planrunner.replication.choices import Choices
from planrunner.replication.ends import Ends
from planrunner.replication.generations import Division
from planrunner.replication.selection import Selection
from planrunner.replication.throttle import Effort
from planrunner.replication.verify import Mode
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.stage import Churn, Pair, copy_all, follow_all
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.workspace import Workspace
    from planrunner.verification import TableVerdict, Verification

# Buckets of some 500 rows.
EFFORT = Effort(bucket_bytes=64 << 10)
BIG = """
CREATE TABLE big (id int PRIMARY KEY, v bigint, t text);
INSERT INTO big SELECT i, i, repeat('b', 60) FROM generate_series(1, 20000) i;
CREATE TABLE small (id int PRIMARY KEY, v bigint);
INSERT INTO small SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE emptied (id int PRIMARY KEY, v bigint);
INSERT INTO emptied SELECT i, i FROM generate_series(1, 1000) i;
CREATE TABLE void (id int PRIMARY KEY);
ANALYZE;
"""
MOVES = [
    "INSERT INTO big SELECT %(b)s %% 1000000 + 20001, %(b)s, 'new' ON CONFLICT DO NOTHING",
    "UPDATE big SET v = %(b)s WHERE id = %(a)s",
    "DELETE FROM big WHERE id = %(a)s",
    "UPDATE big SET id = id + 2000000 WHERE id = %(a)s",
    "UPDATE small SET v = %(b)s WHERE id = %(a)s %% 100",
    "TRUNCATE emptied",
    "INSERT INTO emptied SELECT i, %(b)s FROM generate_series(1, 50) i ON CONFLICT DO NOTHING",
]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    settings = {"wal_level": "logical"}
    with (
        PostgresServer(server_bin(16), settings=settings) as source,
        PostgresServer(server_bin(18), settings=settings) as target,
    ):
        yield source, target


@contextmanager
def followed(
    servers: tuple[PostgresServer, PostgresServer],
    name: str,
    script: str,
    *,
    division: Division | None = None,
    selection: Selection | None = None,
    choices: Choices | None = None,
) -> Iterator[tuple[Pair, Workspace]]:
    """A pair whose source holds what ``script`` makes, copied and followed."""
    pair = Pair(*servers, name=name)
    pair.create(script)
    with pair.workspace() as space:
        space.selection = selection or space.selection
        space.choices = choices or space.choices
        copy_all(space, division=division or Division())
        follow_all(space)
        yield pair, space
    # The test may have let another runner take over.
    with pair.workspace() as space:
        tracker.drop(space)
        generations.clear_all(space)


def verdict(found: Verification, table: str) -> TableVerdict:
    return next(v for v in found.tables if v.table == f"public.{table}")


def target(pair: Pair, script: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(pair.theirs, autocommit=True) as session:
        cursor = session.execute(script.encode())
        return cursor.fetchall() if cursor.description else []


def in_pause(space: Workspace, proven: verify.Proven | None) -> Verification:
    """What the cutover does once writers are stopped: the barrier, then the comparison."""
    Ends.forward(space).wait(60)
    return verify.still(space, verify.followed_tables(space), counts_only=False, timeout=60, proven=proven)


def assert_rows_are_counted(dsn: str, found: Verification) -> None:
    with psycopg.connect(dsn) as session:
        for each in found.tables:
            (count,) = session.execute(f"SELECT count(*) FROM {each.table}").fetchone() or (None,)
            assert (each.source_rows, each.target_rows) == (count, count), each


@pytest.mark.parametrize("seed", [1, 2])
def test_every_table_is_proven_under_load_and_what_changed_again_in_the_pause(
    servers: tuple[PostgresServer, PostgresServer], seed: int
) -> None:
    with followed(servers, f"load{seed}", BIG) as (pair, space):
        with Churn(pair.ours, MOVES, seed=seed) as churn:
            assert verify.live(space, effort=EFFORT).equal
            proven = verify.prove(space, effort=EFFORT)
            assert proven.found.equal, proven.found.differences
            churn.stop()
        assert churn.done > 0
        found = in_pause(space, proven)
        assert found.equal, found.differences
        assert len(found.tables) == 4
        assert_rows_are_counted(pair.ours, found)
        assert verdict(found, "void").how == "live, 0 of 1 buckets again inside the pause"


def test_a_planted_difference_in_the_middle_of_a_big_table_is_found_under_load(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "planted", BIG) as (pair, space):
        pair.execute("CREATE TABLE away AS SELECT 1")
        target(pair, "UPDATE big SET t = t || ' ' WHERE id = 10007")
        elsewhere = [move for move in MOVES if "big" not in move]
        # The row itself is left alone; all around it is written.
        around = [move.replace("%(a)s", "(%(a)s / 2 * 2)") for move in MOVES if "big" in move]
        with Churn(pair.ours, [*elsewhere, *around]):
            for found in (verify.live(space, effort=EFFORT), verify.prove(space, effort=EFFORT).found):
                assert [v.table for v in found.tables if not v.equal] == ["public.big"]
                assert "their contents differ" in str(verdict(found, "big").detail)


def test_a_verification_that_was_cut_off_compares_only_the_rest(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_ROUND_BUCKETS", (4, 4))
    ledger = "SELECT relation, bucket, xmin::text FROM planrunner.proof ORDER BY 1, 2"
    with followed(servers, "resumed", BIG) as (pair, space):
        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "_armed", {"verify.recorded#3": "raise"})
            patched.setattr(failpoints, "_passed", type(failpoints._passed)())
            with pytest.raises(StepFailed, match="failpoint"):
                verify.prove(space, effort=EFFORT)
        before = target(pair, ledger)
        assert 0 < len(before) < 38
        with pair.workspace() as again:
            proven = verify.prove(again, effort=EFFORT)
            assert proven.found.equal
            after = target(pair, ledger)
            assert set(before) < set(after)
            assert len(after) == sum(cut.count for cut in proven.book.cuts.values())
            assert in_pause(again, proven).equal


@pytest.mark.parametrize("point", ["tracker.recorded", "tracker.advanced"])
def test_changes_are_marked_once_though_the_tracker_was_cut_off(
    servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with followed(servers, point.replace(".", "_"), BIG) as (pair, space):
        verify.prove(space, effort=EFFORT)
        pair.execute("DELETE FROM big WHERE id IN (7, 10007); INSERT INTO big VALUES (0, 0, 'zero')")
        with monkeypatch.context() as patched:
            patched.setattr(failpoints, "_armed", {point: "raise"})
            with pytest.raises(StepFailed, match="failpoint"):
                verify.prove(space, effort=EFFORT)
        with pair.workspace() as again:
            found = in_pause(again, verify.prove(again, effort=EFFORT))
            assert found.equal
            assert_rows_are_counted(pair.ours, found)


def test_the_pause_reads_only_what_changed(servers: tuple[PostgresServer, PostgresServer]) -> None:
    def read(dsn: str) -> int:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("SELECT pg_stat_force_next_flush()")
            row = session.execute(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'big'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    with followed(servers, "touched", BIG) as (pair, space):
        proven = verify.prove(space, effort=EFFORT)
        assert (proven.pending, proven.found.equal) == (0, True)
        pair.execute(
            "UPDATE big SET v = 0 WHERE id = 10007; DELETE FROM big WHERE id = 3; INSERT INTO big VALUES (0, 0, '')"
        )
        Ends.forward(space).wait(60)
        # Sessions tell their figures as they end.
        space.source.close()
        space.target.close()
        before = [read(dsn) for dsn in (pair.ours, pair.theirs)]
        found = in_pause(space, proven)
        space.source.close()
        space.target.close()
        assert found.equal
        big = verdict(found, "big")
        assert (big.again, big.rows_again, big.source_rows, big.target_rows) == (0, 3, 20000, 20000)
        assert big.how == "live, 3 rows by their keys again inside the pause"
        after = [read(dsn) for dsn in (pair.ours, pair.theirs)]
        assert all(now - then < 100 for now, then in zip(after, before, strict=True)), (before, after)


@pytest.mark.parametrize(
    ("change", "loss", "told"),
    [
        ("INSERT INTO big VALUES (0, 0, 'new')", "DELETE FROM big WHERE id = 0", "target"),
        ("UPDATE big SET v = -1 WHERE id = 777", "UPDATE big SET v = 777 WHERE id = 777", "contents differ"),
        ("DELETE FROM big WHERE id = 777", "INSERT INTO big VALUES (777, 777, 'back')", "target"),
        ("UPDATE big SET id = -5 WHERE id = 777", "UPDATE big SET id = 777 WHERE id = -5", "contents differ"),
        ("UPDATE big SET v = v + 1", "UPDATE big SET v = 0 WHERE id = 19999", "contents differ"),
    ],
)
def test_a_change_that_was_lost_after_the_proof_is_found_in_the_pause(
    lossy: tuple[Pair, Workspace, verify.Proven], change: str, loss: str, told: str
) -> None:
    pair, space, proven = lossy
    pair.execute(change)
    Ends.forward(space).wait(60)
    target(pair, loss)
    found = in_pause(space, proven)
    assert [v.table for v in found.tables if not v.equal] == ["public.big"]
    assert told in str(verdict(found, "big").detail)
    assert verdict(found, "big").how != "whole, inside the pause" or "v + 1" in change


def test_a_change_that_was_lost_is_found_by_its_key_in_the_next_live_verification(
    lossy: tuple[Pair, Workspace, verify.Proven],
) -> None:
    pair, space, _ = lossy
    pair.execute("INSERT INTO big VALUES (0, 0, 'new')")
    Ends.forward(space).wait(60)
    target(pair, "DELETE FROM big WHERE id = 0")
    found = verify.prove(space, effort=EFFORT).found
    assert found.differences == ("public.big: 20001 rows on the source, 20000 on the target",)


@pytest.fixture
def lossy(
    servers: tuple[PostgresServer, PostgresServer], request: pytest.FixtureRequest
) -> Iterator[tuple[Pair, Workspace, verify.Proven]]:
    """A database proven equal, that may be damaged."""
    with followed(servers, f"lossy{zlib.crc32(request.node.name.encode())}", BIG) as (pair, space):
        proven = verify.prove(space, effort=EFFORT)
        assert proven.found.equal
        yield pair, space, proven


KINDS = """
CREATE SCHEMA "o'dd";
CREATE DOMAIN "o'dd".code AS text CHECK (value <> '');
CREATE TYPE "o'dd".color AS ENUM ('red', 'blue', 'green');
CREATE TABLE composite (a int, b uuid, "c %s" text, v int, PRIMARY KEY (a, b, "c %s"));
INSERT INTO composite SELECT i % 7, md5(i::text)::uuid, 'k' || i, i FROM generate_series(1, 3000) i;
CREATE TABLE texts (k varchar(80) PRIMARY KEY, v int);
INSERT INTO texts SELECT CASE i % 3 WHEN 0 THEN 'é' WHEN 1 THEN 'Z' ELSE 'a' END || i || repeat('x', 60), i
FROM generate_series(1, 3000) i;
CREATE TABLE uuids (k uuid PRIMARY KEY, v int, t text);
INSERT INTO uuids SELECT md5(i::text)::uuid, i, repeat('t', 60) FROM generate_series(1, 3000) i;
CREATE TABLE numbers (k numeric PRIMARY KEY, v int, t text);
INSERT INTO numbers SELECT (i - 1500) / 8.0, i, repeat('t', 60) FROM generate_series(1, 3000) i;
CREATE TABLE times (k timestamptz PRIMARY KEY, v int, t text);
INSERT INTO times SELECT '2024-01-01'::timestamptz + i * interval '7.7 s', i, repeat('t', 60)
FROM generate_series(1, 3000) i;
CREATE TABLE domains (k "o'dd".code PRIMARY KEY, v int);
INSERT INTO domains SELECT 'd' || i, i FROM generate_series(1, 200) i;
CREATE TABLE enums (k "o'dd".color PRIMARY KEY, v int);
INSERT INTO enums VALUES ('blue', 1), ('red', 2);
CREATE TABLE fulls (k int PRIMARY KEY, v int, t text);
INSERT INTO fulls SELECT i, i, repeat('t', 60) FROM generate_series(1, 3000) i;
ALTER TABLE fulls REPLICA IDENTITY FULL;
CREATE TABLE keyless (k int, v int);
INSERT INTO keyless SELECT i % 100, 1 FROM generate_series(1, 300) i;
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE indexed (id int PRIMARY KEY, k int NOT NULL UNIQUE, v int, g int GENERATED ALWAYS AS (v * 2) STORED);
INSERT INTO indexed SELECT i, -i, i FROM generate_series(1, 3000) i;
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_k_key;
CREATE TABLE appended (k int, v int);
INSERT INTO appended SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE parted (k int PRIMARY KEY, v int) PARTITION BY RANGE (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (1000) TO (100000);
INSERT INTO parted SELECT i, i FROM generate_series(1, 1999) i;
ANALYZE;
"""
CHANGED = (
    ("composite", "UPDATE composite SET v = -v WHERE v = 1500", 1),
    ("composite", "UPDATE composite SET \"c %s\" = 'moved' WHERE v = 1501", 2),
    ("texts", "DELETE FROM texts WHERE v = 1500", 1),
    ("texts", "UPDATE texts SET k = 'ß' || k WHERE v = 1501", 2),
    ("uuids", "INSERT INTO uuids VALUES ('80000000-0000-0000-0000-000000000000', -1, 't')", 1),
    ("numbers", "UPDATE numbers SET v = -v WHERE k = 0.5", 1),
    ("numbers", "INSERT INTO numbers VALUES ('NaN', 0, 't')", 1),
    ("times", "INSERT INTO times VALUES ('infinity', 0, 't'), ('0044-03-15 BC', 0, 't')", 2),
    ("domains", "UPDATE domains SET v = -v WHERE k = 'd7'", 1),
    ("enums", "INSERT INTO enums VALUES ('green', 3)", 1),
    ("fulls", "UPDATE fulls SET k = -k WHERE k = 1500", 2),
    ("indexed", "UPDATE indexed SET v = 0 WHERE id = 1500", 1),
    ("indexed", "DELETE FROM indexed WHERE id = 1501", 1),
    ("parted_2", "UPDATE parted SET v = -v WHERE k = 1500", 1),
)


def test_keys_of_every_kind_tell_which_rows_changed(servers: tuple[PostgresServer, PostgresServer]) -> None:
    choices = Choices.of({"public.appended": "insert_only"}, "refuse")
    with followed(servers, "kinds", KINDS, choices=choices) as (pair, space):
        proven = verify.prove(space, effort=EFFORT)
        assert (proven.pending, proven.found.equal) == (0, True), proven.found.differences
        cut = {name.removeprefix("public."): c.count > 1 for name, c in proven.book.cuts.items()}
        assert [name for name, several in cut.items() if several] == sorted(
            {"composite", "fulls", "indexed", "numbers", "parted_2", "texts", "times", "uuids"} - {"parted_2"}
        )
        for _, change, _ in CHANGED:
            pair.execute(change)
        pair.execute("DELETE FROM keyless WHERE k = 50")
        touched: dict[str, int] = {}
        for table, _, rows in CHANGED:
            touched[table] = touched.get(table, 0) + rows
        found = in_pause(space, proven)
        assert found.equal, found.differences
        assert {n: verdict(found, n).rows_again for n in touched} == touched
        assert {verdict(found, n).again for n in touched} == {0}
        # Nothing names its rows; of the other the stream tells inserts alone.
        assert verdict(found, "keyless").how == verdict(found, "appended").how == "whole, inside the pause"
        assert_rows_are_counted(pair.ours, found)
        spoilt = {
            "numbers": "k = 'NaN'",
            "times": "k = 'infinity'",
            "enums": "k = 'green'",
            "domains": "k = 'd7'",
        }
        spoilt |= {"composite": "\"c %s\" = 'moved'", "texts": "k LIKE 'ß%'", "uuids": "v = -1"}
        spoilt |= {"fulls": "k = -1500", "indexed": "id = 1500", "parted_2": "k = 1500"}
        for table, row in spoilt.items():
            target(pair, f"UPDATE {table} SET v = 99 WHERE {row}")
        found = in_pause(space, proven)
        assert {v.table.removeprefix("public.") for v in found.tables if not v.equal} == set(spoilt)


def test_rows_that_enter_and_leave_a_filter_are_compared_again(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    selection = Selection.of({"rows": {"public.big": "id <= 10000"}})
    with followed(servers, "filtered", BIG, selection=selection) as (pair, space):
        proven = verify.prove(space, effort=EFFORT)
        assert (proven.pending, proven.found.equal) == (0, True), proven.found.differences
        assert proven.book.cuts["public.big"].count > 10
        pair.execute(
            "UPDATE big SET id = 30000 WHERE id = 5000; UPDATE big SET id = 5000 WHERE id = 15000;"
            "UPDATE big SET id = 40000 WHERE id = 6000; DELETE FROM big WHERE id = 17000"
        )
        found = in_pause(space, proven)
        assert found.equal, found.differences
        big = verdict(found, "big")
        assert (big.source_rows, big.target_rows, big.again, big.rows_again) == (9999, 9999, 0, 2)
        target(pair, "INSERT INTO big VALUES (6000, 0, 'still there')")
        assert not verdict(in_pause(space, proven), "big").equal


SPLIT = """
CREATE TABLE big (id int PRIMARY KEY, t text);
INSERT INTO big SELECT i, repeat('y', 750) FROM generate_series(1, 20000) i;
ANALYZE;
"""


def test_a_split_table_of_two_streams_is_followed_by_one_tracker(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    pair = Pair(*servers, name="split_proof")
    pair.create(SPLIT)
    copied: list[str] = []

    def on_news(message: str, fields: Any) -> None:
        if message.startswith("copied "):
            copied.extend(fields["units"])
            if len(copied) == 4:
                pair.lose_snapshot()

    pair.on_news = on_news
    with pair.workspace() as space:
        copy_all(space, division=Division(split_above=1_250_000), jobs=1)
        assert space.ledger.generations() == (1, 2)
        for generation in space.ledger.generations():
            generations.follow(space, verify.followed_tables(space), generation)
        proven = verify.prove(space, effort=EFFORT)
        assert (proven.pending, proven.found.equal) == (0, True), proven.found.differences
        pair.execute("UPDATE big SET id = id + 19000 WHERE id = 1001; DELETE FROM big WHERE id = 19001")
        found = in_pause(space, proven)
        assert (found.equal, verdict(found, "big").rows_again) == (True, 3), found.differences
        # It reaches the tracker as a marker, and the streams as one each.
        pair.execute("TRUNCATE big; INSERT INTO big VALUES (1, 'first'), (19999, 'last')")
        found = in_pause(space, proven)
        assert found.equal, found.differences
        assert verdict(found, "big").how == "whole, inside the pause"
        assert verdict(found, "big").source_rows == 2
        tracker.drop(space)
        generations.clear_all(space)


def test_more_changes_than_are_kept_by_key_take_the_proof_of_their_buckets(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "many", BIG) as (pair, space):
        proven = verify.prove(space, effort=EFFORT)
        pair.execute("UPDATE big SET v = v + 1 WHERE id <= 9000")
        big = verdict(found := in_pause(space, proven), "big")
        assert found.equal
        assert big.again is not None
        assert big.buckets is not None
        assert 0 < big.again < big.buckets / 2
        assert big.rows_again
        assert_rows_are_counted(pair.ours, found)
        # Brought down again before the next pause.
        proven = verify.prove(space, effort=EFFORT)
        assert (proven.pending, proven.found.equal) == (0, True)


def test_a_table_that_no_stream_carries_is_compared_whole_in_the_pause(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "unpublished", BIG) as (pair, space):
        both = "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1)"
        pair.execute(both)
        target(pair, both)
        proven = verify.prove(space, effort=EFFORT)
        assert proven.found.equal, proven.found.differences
        pair.execute("INSERT INTO later VALUES (2)")
        found = in_pause(space, proven)
        assert [v.table for v in found.tables if not v.equal] == ["public.later"]


def test_a_small_database_is_compared_whole_without_a_tracker_and_a_short_pause_asks_for_one(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "modes", BIG) as (_pair, space):
        found, proven = verify.before_pause(space, Mode.AUTO, budget=60, effort=EFFORT)
        assert (found.equal, proven, tracker.exists(space)) == (True, None, False)
        whole = in_pause(space, proven)
        assert {v.how for v in whole.tables} == {"whole, inside the pause"}
        found, proven = verify.before_pause(space, Mode.AUTO, budget=0.001, effort=EFFORT)
        assert found.equal
        assert proven is not None
        assert tracker.exists(space)
        assert verdict(in_pause(space, proven), "big").again == 0
        assert verify.before_pause(space, Mode.DIGESTS, budget=0.001)[1] is None
        counted, proven = verify.before_pause(space, Mode.COUNTS, budget=60)
        assert (counted.equal, proven) == (True, None)


def test_what_the_tracker_cannot_vouch_for_is_compared_anew(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "anew", BIG) as (pair, space):
        assert not tracker.exists(space)
        verify.prove(space, effort=EFFORT)
        assert tracker.exists(space)
        with psycopg.connect(pair.ours, autocommit=True) as session:
            session.execute("SELECT pg_drop_replication_slot(%s)", [space.names.tracker])
        # Nobody saw this one go.
        target(pair, "UPDATE small SET v = -1 WHERE id = 50")
        found = verify.prove(space, effort=EFFORT).found
        assert [v.table for v in found.tables if not v.equal] == ["public.small"]
        pair.execute("ALTER TABLE void ADD COLUMN more int")
        target(pair, "ALTER TABLE void ADD COLUMN more int; INSERT INTO void VALUES (1, 1)")
        found = verify.prove(space, effort=EFFORT).found
        assert [v.table for v in found.tables if not v.equal] == ["public.small", "public.void"]
        tracker.drop(space)
        tracker.drop(space)
        assert not tracker.exists(space)
        assert target(pair, "SELECT count(*) FROM planrunner.proof") == [(0,)]
        assert target(pair, "SELECT count(*) FROM planrunner.touched") == [(0,)]
        assert space.ledger.effects("proof") == {}


def test_the_way_back_is_proven_with_publisher_and_subscriber_exchanged(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with followed(servers, "mirrored", BIG) as (pair, space):
        Ends.forward(space).wait(60)
        generations.clear_all(space)
        target(
            pair, "CREATE TABLE mark (n int PRIMARY KEY); CREATE PUBLICATION back FOR TABLES IN SCHEMA public"
        )
        pair.execute("CREATE TABLE mark (n int PRIMARY KEY)")
        with psycopg.connect(pair.ours, autocommit=True) as session:
            session.execute(
                f"CREATE SUBSCRIPTION back CONNECTION '{pair.theirs}' PUBLICATION back WITH (copy_data = false)"
            )
        marks = iter(range(1000))

        def wait(timeout: float) -> float:
            begun, mark = space.clock.monotonic(), next(marks)
            target(pair, f"INSERT INTO mark VALUES ({mark})")
            while not space.source.value("SELECT EXISTS (SELECT FROM public.mark WHERE n = %s)", [mark]):
                assert space.clock.monotonic() - begun < timeout
            return space.clock.monotonic() - begun

        ends = Ends(publisher=space.target, subscriber=space.source, publications=("back",), wait=wait)
        with Churn(pair.theirs, MOVES):
            proven = verify.prove(space, ends=ends, effort=EFFORT)
            assert proven.found.equal, proven.found.differences
        target(pair, "INSERT INTO big VALUES (-1, 0, 'there'), (-2, 0, 'too')")
        wait(60)
        tables = [t for t in verify.followed_tables(space) if t.name != "mark"]
        found = verify.still(space, tables, counts_only=False, timeout=60, proven=proven)
        assert found.equal, found.differences
        assert_rows_are_counted(pair.theirs, found)
        pair.execute("DELETE FROM big WHERE id = -1")
        big = verdict(verify.still(space, tables, counts_only=False, timeout=60, proven=proven), "big")
        assert not big.equal
        assert big.source_rows == big.target_rows - 1
        pair.execute("DROP SUBSCRIPTION back")


def test_a_busy_source_makes_the_live_comparison_wait(servers: tuple[PostgresServer, PostgresServer]) -> None:
    with followed(servers, "busy", BIG) as (pair, space):
        asleep = threading.Thread(target=pair.execute, args=("SELECT pg_sleep(2.5)",))
        asleep.start()
        while not space.source.value(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%')"
        ):
            pass
        found = verify.live(space, effort=Effort(max_load=0))
        asleep.join()
        assert found.equal
        assert [news for news in pair.news if "waits" in news] == [
            "live comparison waits: 1 sessions are active on the source, max_load is 0"
        ]


@pytest.mark.parametrize("majors", [(13, 18), (15, 16)])
def test_other_versions_prove_and_follow_alike(majors: tuple[int, int]) -> None:
    settings = {"wal_level": "logical"}
    with (
        PostgresServer(server_bin(majors[0]), settings=settings) as source,
        PostgresServer(server_bin(majors[1]), settings=settings) as theirs,
        followed((source, theirs), "versions", BIG + KINDS) as (pair, space),
    ):
        space.choices = Choices.of("insert_only", "refuse")
        with Churn(pair.ours, MOVES):
            proven = verify.prove(space, effort=EFFORT)
            assert proven.found.equal, proven.found.differences
        pair.execute("UPDATE composite SET v = -v WHERE v = 1500; DELETE FROM texts WHERE v = 1500")
        found = in_pause(space, proven)
        assert found.equal, found.differences
        assert verdict(found, "composite").rows_again == 1
        assert_rows_are_counted(pair.ours, found)
        target(pair, "UPDATE composite SET v = 0 WHERE v = -1500")
        assert not verdict(in_pause(space, proven), "composite").equal
