"""DDL on the source after the copy began stops the run with the exact difference, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from planrunner.errors import StepFailed
from planrunner.postgres import catalog
from planrunner.replication import barrier, drift, generations, shape, slots
from planrunner.replication.generations import Division
from planrunner.replication.terms import Terms
from planrunner.replication.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.sandbox.servers import PostgresServer
    from tests.integration.replication.conftest import Streams

    Make = Callable[..., Streams]


@pytest.fixture(params=["old_server", "source_server"])
def pair(streams: Make, target_server: PostgresServer, request: pytest.FixtureRequest) -> Streams:
    return streams(request.getfixturevalue(request.param), target_server)


@pytest.fixture
def newer(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server)


@pytest.fixture
def copying(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server, following=False)


def look(streams: Streams, *, following: bool = True) -> None:
    """What every wait and every run does: a watch that knows nothing yet looks."""
    Watch(streams.space, (1,), following=following, acting=True).look()


def drifted(streams: Streams, *, following: bool = True) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        look(streams, following=following)
    assert caught.value.message.startswith("source: ")
    assert "planrunner run" in str(caught.value.remedy)
    return caught.value


# What is done on the source, what must be said of it, and the statement that mends it on the target.
STOPPING = [
    (
        "ALTER TABLE orders ADD COLUMN status text",
        "table public.orders: column status text was added after the copy began",
        'ALTER TABLE "public"."orders" ADD COLUMN "status" text;',
    ),
    (
        "ALTER TABLE orders RENAME COLUMN note TO remark",
        "table public.orders: column note was renamed to remark after the copy began",
        'ALTER TABLE "public"."orders" RENAME COLUMN "note" TO "remark";',
    ),
    (
        "ALTER TABLE lines ALTER COLUMN n TYPE bigint",
        "table public.lines: column n was integer when the copy began and is bigint now",
        'ALTER TABLE "public"."lines" ALTER COLUMN "n" TYPE bigint;',
    ),
    (
        "ALTER TABLE lines ALTER COLUMN n SET NOT NULL",
        "table public.lines: column n became NOT NULL after the copy began",
        'ALTER TABLE "public"."lines" ALTER COLUMN "n" SET NOT NULL;',
    ),
    (
        "ALTER TABLE lines RENAME TO positions",
        "table public.lines was renamed to public.positions after the copy began",
        'ALTER TABLE "public"."lines" RENAME TO "positions";',
    ),
    (
        "ALTER TYPE mood ADD VALUE 'so so' BEFORE 'glad'",
        "type public.mood: its labels were sad, glad when the copy began and are sad, so so, glad now",
        """ALTER TYPE "public"."mood" ADD VALUE 'so so'""",
    ),
]


@pytest.mark.parametrize(("ddl", "told", "statement"), STOPPING)
def test_ddl_stops_the_run_until_the_target_has_it_too(
    pair: Streams, ddl: str, told: str, statement: str
) -> None:
    look(pair)
    pair.source(ddl)
    error = drifted(pair)
    assert error.message == f"source: {told}"
    assert statement in str(error.remedy)
    assert drifted(pair).message == error.message
    pair.target(ddl)
    look(pair)
    assert "the target has the source's change too; going on" in pair.told
    barrier.wait(pair.space, (1,), timeout=30)
    known = drift.recorded(pair.space)
    assert known is not None
    assert known.digest == shape.digest(pair.space.source)


@pytest.mark.parametrize(
    ("ddl", "told", "statement"),
    [
        (
            "ALTER TABLE orders DROP COLUMN note",
            "table public.orders: column note text was dropped after the copy began",
            'ALTER TABLE "public"."orders" DROP COLUMN "note";',
        ),
        (
            "DROP TABLE lines",
            "table public.lines was dropped after the copy began",
            'DROP TABLE "public"."lines";',
        ),
    ],
)
def test_what_replication_passes_over_in_silence_stops_the_run_once(
    pair: Streams, ddl: str, told: str, statement: str
) -> None:
    pair.source(ddl)
    error = drifted(pair)
    assert error.message == f"source: {told}"
    assert statement in str(error.remedy)
    assert "once it has applied all that came before" in str(error.remedy)
    look(pair)
    barrier.wait(pair.space, (1,), timeout=30)


def reading_of(error: StepFailed) -> list[str]:
    """What the remedy grants to the login of the subscription, which so far reads no table."""
    return re.findall(r"GRANT [^;]+;", str(error.remedy))


def test_a_new_table_stops_the_run_until_it_is_followed(pair: Streams) -> None:
    pair.source('CREATE TABLE "New" (id int PRIMARY KEY)', 'INSERT INTO "New" VALUES (1)')
    error = drifted(pair)
    assert (
        error.message
        == "source: table public.New was created after the copy began; its rows are not followed"
    )
    published = f'ALTER PUBLICATION {pair.name} ADD TABLE ONLY "public"."New";'
    refreshed = f"ALTER SUBSCRIPTION {pair.name} REFRESH PUBLICATION;"
    assert published in str(error.remedy)
    assert refreshed in str(error.remedy)
    pair.target('CREATE TABLE "New" (id int PRIMARY KEY)')
    drifted(pair)
    reading = reading_of(error)
    assert [text.split(" TO ")[0] for text in reading] == [
        'GRANT USAGE ON SCHEMA "public"',
        'GRANT SELECT ON TABLE "public"."New"',
    ]
    pair.source(published, *reading)
    pair.target(refreshed)
    pair.wait_until(
        lambda: (
            pair.target("SELECT srsubstate FROM pg_subscription_rel WHERE srrelid = '\"New\"'::regclass")
            == [("r",)]
        )
    )
    look(pair)
    pair.source('INSERT INTO "New" VALUES (2)')
    barrier.wait(pair.space, (1,), timeout=30)
    assert pair.target('SELECT id FROM "New" ORDER BY id') == [(1,), (2,)]


def test_a_new_table_that_is_dropped_again_is_no_drift(newer: Streams) -> None:
    newer.source("CREATE TABLE fresh (id int)")
    assert 'DROP TABLE "public"."fresh";' in str(drifted(newer).remedy)
    newer.source("DROP TABLE fresh")
    look(newer)


def test_while_rows_are_copied_a_new_table_waits_for_the_next_generation(copying: Streams) -> None:
    copying.source("CREATE TABLE fresh (id int PRIMARY KEY)")
    assert "The next generation copies and follows it" in str(drifted(copying, following=False).remedy)
    copying.target("CREATE TABLE fresh (id int PRIMARY KEY)")
    look(copying, following=False)


def test_a_further_generation_is_not_begun_before_a_difference_is_settled(copying: Streams) -> None:
    space = copying.space
    copying.source("CREATE TABLE fresh (id int PRIMARY KEY)")
    fresh = [table for table in catalog.stored_tables(space.source) if table.name == "fresh"]
    with pytest.raises(StepFailed, match=r"table public\.fresh was created after the copy began"):
        generations.begin(space, fresh, Division())
    assert list(slots.existing(space.source, space.names)) == [1]
    copying.target("CREATE TABLE fresh (id int PRIMARY KEY)")
    generations.begin(space, fresh, Division())
    known = drift.recorded(space)
    assert known is not None
    assert "public.fresh" in known.by_name
    space.let_go()
    generations.clear(space, 2)


def test_while_rows_are_copied_a_rename_is_best_taken_back(copying: Streams) -> None:
    copying.source("ALTER TABLE orders RENAME COLUMN note TO remark")
    back = 'ALTER TABLE "public"."orders" RENAME COLUMN "remark" TO "note";'
    assert back in str(drifted(copying, following=False).remedy)
    copying.source(back)
    look(copying, following=False)


def test_a_dropped_primary_key_is_told_as_the_applications_trouble(pair: Streams) -> None:
    pair.source("ALTER TABLE lines DROP CONSTRAINT lines_pkey")
    error = drifted(pair)
    assert error.message == (
        "source: table public.lines: its replica identity was the primary key (id) when the copy began and is no primary"
        " key now"
    )
    statement = 'ALTER TABLE "public"."lines" ADD PRIMARY KEY ("id");'
    assert f"At once take it back on the source: {statement}" in str(error.remedy)
    pair.source(statement)
    look(pair)


def test_every_difference_is_told_at_once(newer: Streams) -> None:
    newer.source(
        "ALTER TABLE lines ADD COLUMN x int",
        "ALTER TABLE orders DROP COLUMN note",
        "CREATE TABLE fresh (a int)",
    )
    message = drifted(newer).message
    assert "column x integer was added" in message
    assert "column note text was dropped" in message
    assert "table public.fresh was created" in message


def test_a_table_dropped_and_made_anew_is_not_taken_for_the_old_one(newer: Streams) -> None:
    anew = ("DROP TABLE lines", "CREATE TABLE lines (id int PRIMARY KEY, n int)")
    newer.source(*anew, "INSERT INTO lines VALUES (1, 1)")
    error = drifted(newer)
    assert error.message == (
        "source: table public.lines was dropped and created anew after the copy began; its rows are not followed"
    )
    newer.target(*anew)
    newer.source(f"ALTER PUBLICATION {newer.name} ADD TABLE ONLY lines", *reading_of(error))
    drifted(newer)
    newer.target(f"ALTER SUBSCRIPTION {newer.name} REFRESH PUBLICATION")
    newer.wait_until(lambda: newer.target("SELECT id FROM lines") == [(1,)])
    newer.wait_until(
        lambda: newer.target("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'") == [(0,)]
    )
    look(newer)


def test_a_copied_table_that_is_made_anew_while_others_are_copied_needs_a_new_beginning(
    copying: Streams,
) -> None:
    copying.source("DROP TABLE lines", "CREATE TABLE lines (id int PRIMARY KEY, n int)")
    assert "begin anew" in str(drifted(copying, following=False).remedy)
    drifted(copying, following=False)


def test_what_replication_does_not_rely_on_is_no_drift(newer: Streams) -> None:
    newer.source(
        "CREATE INDEX ON lines (n)",
        "CREATE UNLOGGED TABLE scratch (a int)",
        "CREATE VIEW seen AS SELECT * FROM lines",
        "ANALYZE",
        "ALTER TABLE lines ALTER COLUMN n SET DEFAULT 3",
        "COMMENT ON TABLE lines IS 'x'",
        "TRUNCATE lines",
    )
    look(newer)


def test_an_apply_error_that_ddl_explains_is_told_as_that_ddl(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = streams(source_server, target_server, terms=Terms(poll=0.5, check_every=3600))
    watch = Watch(pair.space, (1,), following=True, acting=True)
    watch.look()
    pair.source("ALTER TABLE lines ADD COLUMN x int", "INSERT INTO lines VALUES (1, 1, 1)")
    with pytest.raises(StepFailed, match=r"public\.lines: column x integer was added after the copy began"):
        barrier.wait(pair.space, (1,), timeout=60, watch=watch)
    pair.target("ALTER TABLE lines ADD COLUMN x int")
    barrier.wait(pair.space, (1,), timeout=30)
    assert pair.target("SELECT x FROM lines") == [(1,)]


def test_a_command_that_changes_nothing_records_no_drift(newer: Streams) -> None:
    newer.source("ALTER TABLE orders DROP COLUMN note")
    Watch(newer.space, (1,), following=True, acting=False).look()
    drifted(newer)


def test_a_shape_comes_back_from_the_ledger_as_it_was(newer: Streams) -> None:
    known = drift.recorded(newer.space)
    assert known == shape.read(newer.space.source)
