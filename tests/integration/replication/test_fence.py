"""The fence stops everyone but replication, opens at once, and lies in nobody's way while it stands open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors, sql

from planrunner.errors import StepFailed
from planrunner.postgres import catalog
from planrunner.replication import crossing, cutover, fence, generations
from planrunner.replication.generations import Division
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.stage import Pair, assert_equal, copy_all, follow_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.workspace import Workspace

SCHEMA = """
CREATE TABLE plain (id int PRIMARY KEY, v text);
INSERT INTO plain SELECT i, 'v' FROM generate_series(1, 20) i;
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE high PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, 'v' FROM generate_series(1, 200, 10) i;
CREATE TABLE mother (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (mother);
CREATE TABLE "od""d;--" (id int PRIMARY KEY);
CREATE FUNCTION quietly() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO plain VALUES (1000, ''f'')';
"""
WRITES = [
    "INSERT INTO plain VALUES (999, 'x')",
    "UPDATE plain SET v = 'x'",
    "DELETE FROM plain WHERE false",
    "TRUNCATE plain",
    "COPY plain FROM PROGRAM 'echo 998'",
    "MERGE INTO plain p USING (SELECT 1) s ON false WHEN NOT MATCHED THEN INSERT VALUES (997, 'm')",
    "INSERT INTO plain VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'x'",
    "WITH gone AS (DELETE FROM plain RETURNING 1) SELECT count(*) FROM gone",
    "INSERT INTO parted VALUES (50, 'x')",
    "INSERT INTO low VALUES (51, 'x')",
    "UPDATE high SET v = 'x'",
    "TRUNCATE parted",
    "DELETE FROM mother",
    "INSERT INTO child VALUES (3)",
    'INSERT INTO "od""d;--" VALUES (3)',
    "SELECT quietly()",
    "SET session_replication_role = replica; INSERT INTO plain VALUES (996, 'r')",
    "SET default_transaction_read_only = off; INSERT INTO plain VALUES (995, 'r')",
    "DO $$ BEGIN INSERT INTO plain VALUES (994, 'd'); END $$",
    "EXPLAIN ANALYZE INSERT INTO plain VALUES (993, 'e')",
]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    logical = {"wal_level": "logical"}
    with PostgresServer(wheel_bin(16), settings=logical) as source, PostgresServer(wheel_bin(18)) as target:
        yield source, target


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer], request: pytest.FixtureRequest) -> Pair:
    made = Pair(*servers, name=request.node.name[:40].lower().replace("[", "_").replace("]", "_"))
    made.create(SCHEMA)
    return made


def tables(space: Workspace) -> tuple[catalog.Table, ...]:
    return catalog.tables(space.source)


def close(space: Workspace) -> None:
    space.source.execute("CREATE SCHEMA IF NOT EXISTS planrunner")
    fence.close_quietly(space, space.source, tables(space), fence.moved_to(space.target, "0"))


def refused(pair: Pair, statements: str) -> str:
    with (
        psycopg.connect(pair.ours, autocommit=True) as session,
        pytest.raises(errors.ReadOnlySqlTransaction) as told,
    ):
        session.execute(statements.encode())
    return str(told.value)


def test_a_closed_side_refuses_every_way_to_write_even_to_a_superuser_and_opens_at_once(pair: Pair) -> None:
    with pair.workspace() as space, psycopg.connect(pair.ours, autocommit=True) as writer:
        close(space)
        assert fence.standing(space.source, space.names).closed
        for statement in WRITES:
            assert f"127.0.0.1:{pair.target.port}" in refused(pair, statement), statement
        with pytest.raises(errors.ReadOnlySqlTransaction):
            writer.execute("INSERT INTO plain VALUES (500, 'same session')")
        # A reader that holds its locks keeps nobody from opening.
        with psycopg.connect(pair.ours) as reader:
            reader.execute("SELECT * FROM plain")
            space.source.execute(fence.opening(space.names))
        writer.execute("INSERT INTO plain VALUES (500, 'same session')")
        assert not fence.standing(space.source, space.names).closed
        fence.lower(space, space.source)
        assert not fence.there_is(space.source, space.names)


def test_replication_goes_through_a_closed_target_and_nobody_else(pair: Pair) -> None:
    with pair.workspace() as space:
        copy_all(space, division=Division())
        follow_all(space)
        cutover.guard(space)
        pair.execute(
            "INSERT INTO plain VALUES (300, 'late'); UPDATE parted SET v = 'moved', id = id + 57 WHERE id = 91;"
            ' TRUNCATE low; DELETE FROM child; INSERT INTO child VALUES (7); TRUNCATE "od""d;--"'
        )
        follow_all(space)
        assert_equal(pair)
        with (
            psycopg.connect(pair.theirs) as session,
            pytest.raises(errors.ReadOnlySqlTransaction, match="not open"),
        ):
            session.execute("INSERT INTO plain VALUES (301, 'stray')")
        assert crossing.position(space) is crossing.Position.SOURCE
        generations.clear_all(space)


def test_a_trigger_that_someone_disabled_is_mended_when_the_side_is_closed_again(pair: Pair) -> None:
    with pair.workspace() as space:
        close(space)
        pair.execute("ALTER TABLE plain DISABLE TRIGGER planrunner_fence")
        close(space)
        refused(pair, WRITES[0])
        space.source.execute(fence.opening(space.names))
        pair.execute("CREATE TABLE younger (id int PRIMARY KEY)")
        close(space)
        refused(pair, "INSERT INTO younger VALUES (1)")


def test_a_fence_that_gets_no_locks_yields_and_leaves_nothing(pair: Pair) -> None:
    with pair.workspace() as space, psycopg.connect(pair.ours) as holder:
        holder.execute("UPDATE plain SET v = 'held' WHERE id = 1")
        wanted = fence.Fence(
            names=space.names,
            tables=tables(space),
            message="moved",
            there=fence.standing(space.source, space.names),
            lock_timeout=0.05,
            dead_man=5,
        )
        session = space.source.open(read_only=False)
        with pytest.raises(StepFailed, match=r"could not be locked.*pid \d+ \("):
            fence.raise_fence(space, space.source, session, wanted, patience=0.5)
        session.close()
        pair.execute("INSERT INTO plain VALUES (400, 'goes on')")
        assert not fence.there_is(space.source, space.names)


def test_triggers_are_taken_from_tables_in_use_without_holding_writers_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LOCK_PATIENCE_SECONDS", 1.0)
    with pair.workspace() as space, psycopg.connect(pair.ours) as reader:
        close(space)
        reader.execute("SELECT * FROM plain")
        assert fence.lower(space, space.source) == ("public.plain",)
        pair.execute("INSERT INTO plain VALUES (700, 'passes'); INSERT INTO mother VALUES (700)")
        assert fence.standing(space.source, space.names).tables == {"public.plain"}
        reader.rollback()
        assert fence.lower(space, space.source) == ()
        assert not fence.there_is(space.source, space.names)


def test_a_side_whose_tables_are_held_is_not_closed_and_its_holder_is_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "LOCK_PATIENCE_SECONDS", 1.0)
    with pair.workspace() as space, psycopg.connect(pair.ours) as holder:
        holder.execute("UPDATE plain SET v = 'held' WHERE id = 1")
        with pytest.raises(StepFailed, match="triggers could not be changed within a minute") as told:
            close(space)
        assert told.value.message.startswith("source: ")
        assert f"pid {holder.info.backend_pid} (" in told.value.message
        assert "pg_terminate_backend" in (told.value.remedy or "")
        assert not fence.standing(space.source, space.names).closed
        holder.rollback()
        close(space)
        assert "public.plain" in fence.fenced(space.source, space.names)


def test_the_fence_names_the_tables_that_it_stops_and_none_while_it_stands_open(pair: Pair) -> None:
    with pair.workspace() as space:
        assert fence.fenced(space.source, space.names) == ()
        close(space)
        stopped = fence.fenced(space.source, space.names)
        assert stopped == tuple(sorted(table.qualified for table in tables(space)))
        assert len(stopped) == 7
        assert fence.standing(space.source, space.names).whole == frozenset(stopped)
        for place, trigger in enumerate(("planrunner_fence", "planrunner_fence_truncate")):
            table = ("plain", "mother")[place]
            pair.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
            found = fence.standing(space.source, space.names)
            assert found.tables == frozenset(stopped)
            assert found.whole == frozenset(stopped) - {"public.plain", f"public.{table}"}
        # One that replication would fire no more is not whole either.
        close(space)
        pair.execute("ALTER TABLE plain ENABLE TRIGGER planrunner_fence")
        assert fence.standing(space.source, space.names).whole == frozenset(stopped) - {"public.plain"}
        space.source.execute(fence.opening(space.names))
        assert fence.fenced(space.source, space.names) == ()
        # Lowered twice, the second has nothing to do.
        assert fence.lower(space, space.source) == ()
        assert fence.lower(space, space.source) == ()


def test_further_locks_are_held_with_those_of_the_tables_or_without_any(pair: Pair) -> None:
    with pair.workspace() as space:
        space.source.execute("CREATE SCHEMA planrunner")
        wanted = fence.Fence(
            names=space.names,
            tables=(),
            message="moved",
            there=fence.standing(space.source, space.names),
            lock_timeout=5,
            dead_man=60,
            also=(sql.SQL("LOCK TABLE public.plain IN EXCLUSIVE MODE"),),
        )
        session = space.source.open(read_only=False)
        fence.raise_fence(space, space.source, session, wanted)
        with (
            psycopg.connect(pair.ours, autocommit=True) as writer,
            pytest.raises(errors.LockNotAvailable),
        ):
            writer.execute("SET lock_timeout = '50ms'; UPDATE plain SET v = 'x'")
        session.execute("COMMIT")
        session.close()
        assert fence.there_is(space.source, space.names)


def test_a_silent_fence_is_rolled_back_by_its_server(pair: Pair) -> None:
    with pair.workspace() as space:
        space.source.execute("CREATE SCHEMA planrunner")
        wanted = fence.Fence(
            names=space.names,
            tables=tables(space),
            message="moved",
            there=fence.standing(space.source, space.names),
            lock_timeout=5,
            dead_man=0.5,
        )
        session = space.source.open(read_only=False)
        fence.raise_fence(space, space.source, session, wanted)
        # Waits for the locks of a fence that says nothing more.
        pair.execute("UPDATE plain SET v = 'goes on'")
        with pytest.raises((psycopg.OperationalError, errors.IdleInTransactionSessionTimeout)):
            session.execute("COMMIT")
        session.close()
        assert not fence.there_is(space.source, space.names)
