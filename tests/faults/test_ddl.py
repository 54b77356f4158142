"""DDL on the source at every moment of a migration: carried, or told before a writer is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.scene import migration, servers
from tests.faults.strangers import STEADY, application, execute, flat, meanwhile, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

_TABLES = ("added", "lacking", "recolumned", "retyped", "gone", "called", "moved", "keyless", "whole")
SMALL = "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, v text, n int);"
    f" INSERT INTO {name} SELECT i, md5(i::text), i FROM generate_series(1, 50) i;"
    for name in _TABLES
)
# A third of the rows is dead, so that VACUUM FULL moves the others to other pages.
BIG = """
CREATE TABLE big (id int PRIMARY KEY, v text, n int);
INSERT INTO big SELECT i, repeat(md5(i::text), 8), i FROM generate_series(1, 20000) i;
CREATE INDEX big_v ON big (v);
DELETE FROM big WHERE id % 3 = 0;
ANALYZE big;
"""
SCRIPT = (
    STEADY
    + SMALL
    + """
CREATE SCHEMA elsewhere;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'sad');
"""
)
# What is done, what is said of it, and what takes it back: on the source, or where that can't be, on the target too.
CHANGES = (
    ("ALTER TABLE added ADD COLUMN more text", "public.added: column more text was added"),
    ("ALTER TABLE added ADD COLUMN fixed int NOT NULL DEFAULT 7", "column fixed integer NOT NULL was added"),
    ("ALTER TABLE lacking DROP COLUMN v", "public.lacking: column v text was dropped"),
    ("ALTER TABLE recolumned RENAME v TO w", "public.recolumned: column v was renamed to w"),
    ("ALTER TABLE retyped ALTER n TYPE bigint", "public.retyped: column n was integer when the copy began"),
    ("CREATE TABLE fresh (id int PRIMARY KEY)", "table public.fresh was created"),
    ("DROP TABLE gone", "table public.gone was dropped"),
    ("ALTER TABLE called RENAME TO recalled", "table public.called was renamed to public.recalled"),
    ("ALTER TABLE moved SET SCHEMA elsewhere", "table public.moved was renamed to elsewhere.moved"),
    ("ALTER TABLE keyless DROP CONSTRAINT keyless_pkey", "public.keyless: its replica identity was"),
    # Every row can still be told from every other, so there is nothing to mend once the target has the key too.
    ("ALTER TABLE whole REPLICA IDENTITY FULL", ""),
    ("ALTER TYPE mood ADD VALUE 'so so'", "type public.mood: its labels were sad, glad"),
)
BACK = (
    "ALTER TABLE added DROP COLUMN more, DROP COLUMN fixed",
    "ALTER TABLE recolumned RENAME w TO v",
    "ALTER TABLE retyped ALTER n TYPE integer",
    "DROP TABLE fresh",
    "ALTER TABLE recalled RENAME TO called",
    "ALTER TABLE elsewhere.moved SET SCHEMA public",
    "ALTER TABLE keyless ADD PRIMARY KEY (id)",
    "ALTER TABLE whole REPLICA IDENTITY DEFAULT",
)
ON_TARGET = (
    "ALTER TYPE mood ADD VALUE 'so so'",
    "ALTER TABLE lacking DROP COLUMN v",
    "DROP TABLE gone",
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


def test_what_changes_before_the_snapshot_is_simply_copied(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "early", SCRIPT) as one, application(one) as client:
        changes = [change for change, _ in CHANGES if "keyless" not in change]
        code, said = meanwhile(one, "copy.capture.before", changes)
        assert code == 0, said
        one.assert_moved()
        client.kept(one.theirs)


def test_what_changes_before_the_schema_is_dumped_costs_another_run(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "dumped", SCRIPT) as one, application(one) as client:
        changes = [change for change, _ in CHANGES if "keyless" not in change]
        code, said = meanwhile(one, "copy.schema.before", changes)
        assert code == 1, said
        for change, told in CHANGES:
            assert change not in changes or told in flat(said)
        assert "it begins with a snapshot of what is there now" in flat(said)
        client.goes_on()
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


@pytest.mark.parametrize(
    "moment",
    [
        "copy.copy.before",
        pytest.param("copy.before_commit#1", marks=pytest.mark.soak),
        "copy.indexes.before",
        pytest.param("follow.subscribe 1.before", marks=pytest.mark.soak),
        "following",
        pytest.param("over.guard.before", marks=pytest.mark.soak),
        "cutover.guarded",
        "cutover.proven",
    ],
)
def test_ddl_is_told_whole_before_a_writer_is_stopped_and_goes_on_once_mended(
    pair: Pair, tmp_path: Path, moment: str
) -> None:
    with migration(pair, tmp_path, "told", SCRIPT) as one, application(one) as client:
        statements = [change for change, _ in CHANGES]
        if moment == "following":
            one.succeeds("run", "--until", "follow")
            execute(one.ours, *statements)
            code, said = one.run("run")
        else:
            code, said = meanwhile(one, moment, statements)
        assert code in {1, 7}, said
        client.goes_on()
        for _, told in CHANGES:
            assert told in flat(said), told
        execute(one.ours, *BACK)
        execute(one.theirs, *ON_TARGET)
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_a_table_that_was_rewritten_before_its_copy_is_copied_under_another_snapshot(
    pair: Pair, tmp_path: Path
) -> None:
    # An older snapshot sees an empty table after such an ALTER TABLE; when both sides agree again, its rows are there.
    with migration(pair, tmp_path, "rewritten", SCRIPT, copy="{jobs: 1}") as one, application(one) as client:
        code, said = meanwhile(one, "copy.copy.before", ["ALTER TABLE retyped ALTER n TYPE bigint"])
        assert code == 1, said
        assert "column n was integer when the copy began and is bigint now" in flat(said)
        client.goes_on()
        execute(one.theirs, 'ALTER TABLE "public"."retyped" ALTER COLUMN "n" TYPE bigint')
        one.succeeds("run")
        one.assert_moved()
        assert rows(one.theirs, "SELECT count(*) FROM retyped") == [(50,)]
        client.kept(one.theirs)


@pytest.mark.parametrize(
    ("moment", "statements"),
    [
        ("copy.before_commit#3", ["VACUUM FULL big"]),
        ("copy.before_commit#3", ["CLUSTER big USING big_v"]),
        # Values that no stream tells of: the rewriting is seen by the table's file alone.
        ("copy.before_commit#3", ["ALTER TABLE big ALTER v TYPE text USING reverse(v)"]),
        pytest.param("copy.before_commit#3", ["TRUNCATE big CASCADE"], marks=pytest.mark.soak),
        (
            "copy.before_commit#3",
            ["TRUNCATE big, added CASCADE", "INSERT INTO added VALUES (1, 'after', 1)", "VACUUM FULL called"],
        ),
        pytest.param("copy.copy.before", ["CLUSTER big USING big_v"], marks=pytest.mark.soak),
        pytest.param("copy.copy.before", ["TRUNCATE big CASCADE"], marks=pytest.mark.soak),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0].split()[0].lower(),
)
def test_a_table_that_is_rewritten_between_its_chunks_arrives_whole(
    pair: Pair, tmp_path: Path, moment: str, statements: list[str]
) -> None:
    script = SCRIPT + BIG + "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES big);"
    script += "INSERT INTO child SELECT i, i FROM generate_series(1, 50) i WHERE i % 3 > 0;"
    with (
        migration(pair, tmp_path, "chunks", script, copy="{jobs: 2, chunk_above: 1MB}") as one,
        application(one) as client,
    ):
        code, said = meanwhile(one, moment, statements)
        assert code == 0, said
        one.assert_moved()
        client.kept(one.theirs)


def test_rewriting_and_truncating_while_following_is_carried(pair: Pair, tmp_path: Path) -> None:
    script = SCRIPT + "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES added);"
    script += (
        "INSERT INTO child SELECT i, i FROM generate_series(1, 50) i; CREATE INDEX called_v ON called (v);"
    )
    with migration(pair, tmp_path, "following", script) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        execute(
            one.ours,
            "TRUNCATE added CASCADE",
            "INSERT INTO added VALUES (1, 'after', 1)",
            "INSERT INTO child VALUES (1, 1)",
            "VACUUM FULL retyped",
            "CLUSTER called USING called_v",
            "UPDATE retyped SET n = n + 1",
            "VACUUM FULL",
            "TRUNCATE whole RESTART IDENTITY",
        )
        code, said = meanwhile(one, "cutover.proven", ["VACUUM FULL moved", "TRUNCATE keyless"])
        assert code == 0, said
        one.assert_moved()
        client.kept(one.theirs)


def test_ddl_on_a_copied_table_does_not_wait_for_the_end_of_the_copy(pair: Pair, tmp_path: Path) -> None:
    # Whoever came behind it would wait too, so the application would stand still for the hours of a copy.
    with (
        migration(pair, tmp_path, "locks", SCRIPT + BIG, copy="{jobs: 1}") as one,
        application(one) as client,
    ):
        code, said = meanwhile(
            one,
            "copy.before_commit#2",
            [
                "SET lock_timeout = '1s'",
                "ALTER TABLE big ADD CHECK (id > 0)",
                "ALTER TABLE big ALTER n SET STATISTICS 50",
            ],
        )
        client.goes_on()
        assert code == 7, said
        assert "constraint" in said
        execute(one.theirs, "ALTER TABLE big ADD CHECK (id > 0)")
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_what_no_stream_carries_is_missed_at_the_cutover(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "besides", SCRIPT) as one, application(one) as client:
        one.succeeds("run", "--until", "follow")
        made = (
            "CREATE SEQUENCE extra",
            "CREATE INDEX called_n ON called (n)",
            "ALTER TABLE moved ADD CONSTRAINT positive CHECK (n > 0)",
            "CREATE VIEW seen AS SELECT * FROM whole",
        )
        execute(one.ours, *made)
        code, said = one.run("run")
        assert code == 7, said
        client.goes_on()
        for name in ("extra", "called_n", "positive", "seen"):
            assert name in said
        execute(one.theirs, *made)
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


def test_what_is_defined_between_the_proofs_and_the_fence_is_missed_inside_it(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "between", SCRIPT) as one, application(one) as client:
        made = (
            "CREATE INDEX called_n ON called (n)",
            "ALTER TABLE moved ADD CONSTRAINT positive CHECK (n > 0)",
            "ALTER TABLE recolumned ALTER v SET DEFAULT 'x'",
        )
        code, said = meanwhile(one, "cutover.proven", list(made))
        assert code == 7, said
        client.goes_on()
        assert "changed since the gate" in said
        for name in ("called_n", "positive"):
            assert name in said
        execute(one.theirs, *made[:2])
        # The next gate knows the rest.
        code, said = one.run("run")
        assert code == 7, said
        assert "default public.recolumned.v: missing" in said
        execute(one.theirs, made[2])
        one.succeeds("run")
        one.assert_moved()
        client.kept(one.theirs)


PARTED = (
    STEADY
    + """
CREATE TABLE parts (id int, d int, v text, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT i, i % 2 + 1, 'x' FROM generate_series(1, 100) i;
CREATE TABLE parts_4 (LIKE parts INCLUDING ALL);
INSERT INTO parts_4 VALUES (1, 4, 'was there');
"""
)


@pytest.mark.parametrize("moment", ["following", "copy.before_commit#1", "cutover.guarded"])
def test_partitions_that_come_and_go_are_told_and_followed_once_the_target_has_them(
    pair: Pair, tmp_path: Path, moment: str
) -> None:
    changes = (
        "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES IN (3)",
        "INSERT INTO parts VALUES (1, 3, 'new')",
        "ALTER TABLE parts DETACH PARTITION parts_2",
        "ALTER TABLE parts ATTACH PARTITION parts_4 FOR VALUES IN (4)",
        "INSERT INTO parts VALUES (2, 4, 'attached')",
        "UPDATE parts_2 SET v = 'detached'",
    )
    with migration(pair, tmp_path, "parted", PARTED) as one, application(one) as client:
        if moment == "following":
            one.succeeds("run", "--until", "follow")
            execute(one.ours, *changes)
            code, said = one.run("run")
        else:
            code, said = meanwhile(one, moment, changes)
        assert code in {1, 7}, said
        assert "table public.parts_3 was created" in flat(said)
        client.goes_on()
        execute(one.ours, "DROP TABLE parts_3")
        # The rows of the others are followed all the while; that they hang elsewhere is seen at the cutover.
        code, said = one.run("run")
        assert code == 7, said
        assert "parts_2" in said
        client.goes_on()
        execute(one.theirs, "ALTER TABLE parts DETACH PARTITION parts_2")
        code, said = one.run("run")
        assert code == 7, said
        assert "inheritance public.parts_4 from public.parts: missing" in said
        client.goes_on()
        execute(one.theirs, "ALTER TABLE parts ATTACH PARTITION parts_4 FOR VALUES IN (4)")
        one.succeeds("run")
        one.assert_moved()
        assert rows(one.theirs, "SELECT count(*) FROM parts_4") == [(2,)]
        client.kept(one.theirs)
