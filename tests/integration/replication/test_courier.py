"""One stream of the copy by hand: whole, in chunks, in batches; what is told, and what is kept of what fails."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.errors import LeaseLost, QueryFailed, StepConflict, StepFailed
from planrunner.postgres.wire import Wire
from planrunner.replication import generations, restore, verify
from planrunner.replication.copy import Chunk, Courier
from planrunner.replication.courier import StreamSession
from planrunner.replication.generations import Division
from planrunner.replication.handing import here
from planrunner.replication.jobs import Job
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.units import Unit
from tests.integration.replication.stage import Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer

BIG = """
CREATE TABLE big (id int PRIMARY KEY, t text);
INSERT INTO big SELECT i, repeat('w', 900) FROM generate_series(1, 30000) i;
"""
_numbers = itertools.count(1)


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer]) -> Pair:
    return Pair(*servers, name=f"courier{next(_numbers)}")


def ledger(pair: Pair) -> tuple[dict[str, int], int]:
    with psycopg.connect(pair.theirs) as session:
        units = dict(session.execute("SELECT unit_id, rows FROM planrunner.unit").fetchall())
        (chunks,) = session.execute("SELECT count(*) FROM planrunner.chunk").fetchone() or (0,)
    return units, chunks


@contextmanager
def courier(space: Workspace) -> Iterator[Courier]:
    """One stream under a snapshot of the source, with the target's tables made."""
    generations.begin(space, verify.followed_tables(space), Division())
    restore.pre_data(space, Wishes())
    assert space.round is not None
    snapshot = space.round.snapshots[1]
    reader, writer = snapshot.begin(), space.target.open(read_only=False)
    place = replace(here(space, lambda: None), psql=None)
    yield Courier(place=place, snapshot=snapshot, reading=Wire(reader, place.check), writer=writer)
    reader.close()
    writer.close()
    generations.clear_all(space)


WAYS: dict[str, Callable[[Courier, Unit], object]] = {
    "whole": lambda stream, unit: stream.copy_whole(unit),
    "chunk": lambda stream, unit: stream.copy_chunk(unit, Chunk(number=1, of=2, first=0, last=1)),
    "batch": lambda stream, unit: stream.copy_batch([unit]),
}
FEW = "CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few SELECT generate_series(1, 10);"


def left_of(pair: Pair) -> tuple[int, dict[str, int], int]:
    with psycopg.connect(pair.theirs) as session:
        (rows,) = session.execute("SELECT count(*) FROM few").fetchone() or (None,)
    return (rows, *ledger(pair))


@pytest.mark.parametrize("way", WAYS)
def test_a_runner_that_was_taken_over_copies_nothing(pair: Pair, way: str) -> None:
    pair.create(FEW)
    with pair.workspace() as space, courier(space) as stream:
        (unit,) = [Unit(table=table) for table in verify.followed_tables(space)]
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute("UPDATE planrunner.lease SET epoch = epoch + 1")
        with pytest.raises(LeaseLost):
            WAYS[way](stream, unit)
        stream.writer.close()
        assert left_of(pair) == (0, {}, 0)
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute("UPDATE planrunner.lease SET epoch = epoch - 1")


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_a_trigger_of_the_target_swallows_are_missed_and_nothing_is_kept(
    pair: Pair, way: str
) -> None:
    pair.create(FEW)
    with pair.workspace() as space, courier(space) as stream:
        (unit,) = [Unit(table=table) for table in verify.followed_tables(space)]
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute(
                "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW; END';"
                " CREATE TRIGGER swallow BEFORE INSERT ON few FOR EACH ROW EXECUTE FUNCTION swallow()"
            )
        with pytest.raises(
            StepFailed,
            match=r"public\.few: the source sent 10 rows, the target took 9; nothing of it was kept",
        ):
            WAYS[way](stream, unit)
        stream.writer.close()
        assert left_of(pair) == (0, {}, 0)


def test_a_row_that_comes_to_the_target_after_all_were_looked_at_is_not_emptied(pair: Pair) -> None:
    pair.create(FEW)
    with pair.workspace() as space, courier(space) as stream:
        (unit,) = [Unit(table=table) for table in verify.followed_tables(space)]
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute("INSERT INTO few VALUES (-1)")
        with pytest.raises(
            StepConflict, match=r"public\.few: holds rows that this plan did not put there"
        ) as told:
            stream.copy_whole(unit)
        assert "Empty it, or move it away" in (told.value.remedy or "")
        stream.writer.close()
        assert left_of(pair) == (1, {}, 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_copied_is_told_as_the_ledger_has_it(pair: Pair, way: str) -> None:
    pair.create(FEW)
    with pair.workspace() as space, courier(space) as stream:
        (unit,) = [Unit(table=table) for table in verify.followed_tables(space)]
        told = WAYS[way](stream, unit)
        there: Any = space.ledger.chunk(unit.id, 1) if way == "chunk" else space.ledger.units()
        assert there == ({unit.id: told} if way == "whole" else told)
        (copied,) = [there] if way == "chunk" else there.values()
        # Binary: a signature of 19 bytes, ten rows of 2 + 4 + 4, an end of 2.
        assert (copied.generation, copied.rows, copied.bytes) == (1, 10, 121)
        assert 0 < copied.seconds < 600
        assert left_of(pair)[0] == 10


def test_a_stream_that_is_to_stop_keeps_nothing(pair: Pair) -> None:
    pair.create(BIG)
    with pair.workspace() as space, courier(space) as stream:
        (unit,) = [Unit(table=table) for table in verify.followed_tables(space)]
        asked = itertools.count()

        def check() -> None:
            if next(asked) > 20:
                raise StepFailed("stopped")

        with pytest.raises(StepFailed, match="stopped"):
            replace(stream, place=replace(stream.place, check=check)).copy_whole(unit)
        stream.writer.close()
        assert ledger(pair) == ({}, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", ["source", "target"])
def test_the_side_that_refuses_is_the_one_that_is_told(pair: Pair, side: str, way: str) -> None:
    pair.create(FEW + "CREATE TABLE other (id int PRIMARY KEY);")
    with pair.workspace() as space, courier(space) as stream:
        few, other = sorted(
            (Unit(table=table) for table in verify.followed_tables(space)), key=lambda unit: unit.id
        )
        if side == "source":
            few = replace(few, table=replace(few.table, where="1 / (id - 7) IS NOT NULL"))
        else:
            with psycopg.connect(pair.theirs, autocommit=True) as session:
                session.execute("ALTER TABLE few ADD CHECK (1 / (id - 7) IS NOT NULL)")
        chunk = Chunk(number=1, of=2, first=0, last=1) if way == "chunk" else None
        job = Job(units=(few, other) if way == "batch" else (few,), chunk=chunk)
        sessions = StreamSession(stream.place, stream.snapshot)
        with pytest.raises(QueryFailed, match=rf"^{side}: copy public\.few: division by zero"):
            sessions.copied(job)
        sessions.close()
        assert left_of(pair) == (0, {}, 0)
