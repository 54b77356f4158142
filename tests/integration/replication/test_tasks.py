"""Tasks as a worker performs them, in this process: again, too late, for a shift that is over, for another program."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LeaseLost, PoolUnfit, QueryFailed, SecretUnavailable, WorkerLost
from planrunner.pools import worker
from planrunner.replication import comparison, generations, restore, shift, surveys, verify
from planrunner.replication.building import Build, Piece
from planrunner.replication.copy import Chunk
from planrunner.replication.generations import Division
from planrunner.replication.jobs import Job
from planrunner.replication.regions import Tract
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.shift import Kind
from planrunner.replication.tasks import BuildTask, CopyTask, SurveyTask
from planrunner.replication.throttle import Effort
from planrunner.replication.units import Unit
from planrunner.verification import VerifyTerms
from tests.integration.replication.beside import Beside, Losing, workspace
from tests.integration.replication.stage import Pair, assert_equal, copy_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.tasks import LeasedSite
    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer
    from planrunner.verification import Verification

CLOCK = SystemClock()
FEW = """
CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few SELECT generate_series(1, 10);
CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 20);
"""
SOME = (
    "".join(
        f"CREATE TABLE s{n} (id int PRIMARY KEY, w text);"
        f" INSERT INTO s{n} SELECT i, repeat('w', 400) FROM generate_series(1, {n * 900}) i;"
        for n in range(6)
    )
    + "CREATE INDEX w5 ON s5 (w);"
)
_numbers = itertools.count(1)


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch) -> Pair:
    for name, server in zip(("SOURCE_WORD", "TARGET_WORD"), servers, strict=True):
        monkeypatch.setenv(name, server.password)
    monkeypatch.setattr(worker, "REST_SECONDS", 0.2)
    return Pair(*servers, name=f"tasks{next(_numbers)}")


@contextmanager
def shift_of(space: Workspace) -> Iterator[tuple[LeasedSite, str]]:
    """A shift under generation 1, the target's tables made; with the name of the snapshot."""
    generations.begin(space, verify.followed_tables(space), Division())
    restore.pre_data(space, Wishes())
    assert space.round is not None
    with shift.at_work(space, Kind.COPY) as site:
        yield site, space.round.snapshots[1].name


def units(space: Workspace) -> list[Unit]:
    return [Unit(table=table) for table in verify.followed_tables(space)]


def task(site: LeasedSite, snapshot: str, *of: Unit, chunk: Chunk | None = None) -> CopyTask:
    return CopyTask(site=site, generation=1, token=snapshot, job=Job(units=of, chunk=chunk))


def rows(pair: Pair, table: str) -> int:
    with psycopg.connect(pair.theirs) as session:
        row = session.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("count", [1, 2], ids=["a table", "a batch"])
def test_a_task_that_is_performed_again_tells_what_is_on_record(pair: Pair, count: int) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        asked = task(site, snapshot, *units(space)[:count])
        first = worker.perform(asked)
        assert worker.perform(asked) == first
        assert space.ledger.units() == first
        assert [rows(pair, table) for table in ("few", "other")] == [10, 20][:count] + [0] * (2 - count)


def test_a_chunk_is_copied_once_before_and_after_its_unit_is_whole(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        unit = units(space)[0]
        asked = task(site, snapshot, unit, chunk=Chunk(number=1, of=1, first=0, last=None))
        worker.perform(asked)
        worker.perform(asked)
        with space.writing() as session:
            assert space.ledger.join_chunks(session, unit.id) is not None
        worker.perform(asked)
        assert rows(pair, "few") == 10


def test_a_chunk_that_comes_to_its_end_after_its_unit_is_whole_is_refused(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        unit = units(space)[0]
        worker.perform(task(site, snapshot, unit, chunk=Chunk(number=1, of=1, first=0, last=None)))
        with space.writing() as session:
            copied = space.ledger.join_chunks(session, unit.id)
        assert copied is not None
        # The twin has its rows in, and did not know.
        with pytest.raises(QueryFailed, match="unit_pkey"), space.writing() as session:
            session.execute(space.ledger.chunk_statement(unit.id, (1, 1), copied, site.epoch))


def test_a_task_of_a_shift_that_is_over_changes_nothing(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space:
        with shift_of(space) as (site, snapshot):
            few, other = units(space)
            worker.perform(task(site, snapshot, few))
        with pytest.raises(LeaseLost):
            worker.perform(task(site, snapshot, other))
        assert rows(pair, "other") == 0
        with shift.at_work(space, Kind.COPY) as later:
            with pytest.raises(LeaseLost):
                worker.perform(task(site, snapshot, other))
            worker.perform(task(later, snapshot, other))
        assert rows(pair, "other") == 20


def test_whoever_is_at_work_when_a_shift_ends_is_stopped(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, ThreadPoolExecutor(1) as thread:
        with shift_of(space) as (site, snapshot):
            few = units(space)[0]
            with psycopg.connect(pair.theirs) as blocker:
                blocker.execute("LOCK TABLE few IN SHARE MODE")
                begun = thread.submit(worker.perform, task(site, snapshot, few))
                waiting = (
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'few'::regclass)"
                )
                while blocker.execute(waiting).fetchone() != (True,):
                    CLOCK.sleep(0.05)
                    assert not begun.done()
                shift._replace(space, site, "another")
                with pytest.raises(LeaseLost):
                    begun.result(30)
        assert rows(pair, "few") == 0
        assert space.ledger.units() == {}


def test_a_task_of_another_program_is_not_performed(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        wrong = task(replace(site, code="0123456789abcdef"), snapshot, units(space)[0])
        with pytest.raises(PoolUnfit, match="has another planrunner") as told:
            worker.perform(wrong)
        assert "Install the same planrunner" in (told.value.remedy or "")
        assert rows(pair, "few") == 0


def test_a_worker_looks_for_secrets_on_its_own_machine_each_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        monkeypatch.delenv("TARGET_WORD")
        with pytest.raises(SecretUnavailable, match="env:TARGET_WORD is not set"):
            worker.perform(task(site, snapshot, units(space)[0]))
        monkeypatch.setenv("TARGET_WORD", pair.target.password)
        worker.perform(task(site, snapshot, units(space)[0]))
        assert rows(pair, "few") == 10


def test_a_worker_that_rests_gives_its_sessions_back(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space) as (site, snapshot):
        worker.perform(task(site, snapshot, units(space)[0]))
        label = f"planrunner/{site.crew}/%"
        query = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE %s"
        assert space.source.value(query, [label]) > 0
        give_up = CLOCK.monotonic() + 30
        while any(server.value(query, [label]) for server in (space.source, space.target)):
            assert CLOCK.monotonic() < give_up, "they were kept"
            CLOCK.sleep(0.1)


def indexes_of(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as session:
        return session.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
        ).fetchall()


def pieces(*names: str) -> tuple[Piece, ...]:
    return tuple(
        Piece(sql=f"CREATE INDEX {name} ON public.few (id);", key=f"INDEX {name}", type="INDEX")
        for name in names
    )


def test_an_index_that_is_asked_for_again_is_built_once(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space), shift.at_work(space, Kind.BUILD) as site:
        asked = BuildTask(site=site, build=Build(preamble="", memory="4MB", pieces=pieces("one", "two")))
        worker.perform(asked)
        worker.perform(asked)
        assert {"INDEX one", "INDEX two"} <= space.ledger.effects(restore.STEP).keys()


def test_an_index_that_is_built_twice_at_the_same_time_is_there_once(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space), shift.at_work(space, Kind.BUILD) as site:
        asked = BuildTask(site=site, build=Build(preamble="", memory="4MB", pieces=pieces("one")))
        with psycopg.connect(pair.theirs) as blocker, ThreadPoolExecutor(2) as threads:
            blocker.execute("LOCK TABLE few IN SHARE ROW EXCLUSIVE MODE")
            both = [threads.submit(worker.perform, asked) for _ in range(2)]
            waiting = "SELECT count(*)::int FROM pg_locks WHERE NOT granted AND relation = 'few'::regclass"
            while blocker.execute(waiting).fetchone() != (2,):
                CLOCK.sleep(0.05)
                assert not any(one.done() for one in both)
            blocker.rollback()
            for one in both:
                one.result(30)
        assert "INDEX one" in space.ledger.effects(restore.STEP)


def test_an_index_that_somebody_else_made_is_not_taken_for_ours(pair: Pair) -> None:
    pair.create(FEW)
    with workspace(pair) as space, shift_of(space), shift.at_work(space, Kind.BUILD) as site:
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            session.execute("CREATE INDEX one ON few (id)")
        asked = BuildTask(site=site, build=Build(preamble="", memory="4MB", pieces=pieces("one")))
        with pytest.raises(QueryFailed, match="already exists"):
            worker.perform(asked)
        assert "INDEX one" not in space.ledger.effects(restore.STEP)


def test_a_copy_by_workers_is_the_copy(pair: Pair) -> None:
    pair.create(SOME)
    with workspace(pair) as space:
        copy_all(space, division=Division(chunk_above=1 << 20), jobs=2)
        assert_equal(pair)
        assert "beside" in pair.news
        pool = space.pool
        assert isinstance(pool, Beside)
        copies = [one for one in pool.performed if isinstance(one, CopyTask)]
        assert len({one.site for one in copies}) == 1
        assert any(one.job.chunk is not None for one in copies)
        assert any(len(one.job.units) > 1 for one in copies)
        pieces = [p.key for one in pool.performed if isinstance(one, BuildTask) for p in one.build.pieces]
        assert len(pieces) == len(set(pieces)) == 7
        assert indexes_of(pair.theirs) == indexes_of(pair.ours)
        assert {name: copied.rows for name, copied in space.ledger.units().items()} == {
            f"public.s{n}": n * 900 for n in range(6)
        }


APART = (
    "UPDATE s3 SET w = 'other' WHERE id = 7; DELETE FROM s4 WHERE id = 9; INSERT INTO s0 VALUES (1, 'more');"
)
LOOKED = comparison._Looked(scope=comparison.Scope(), behind=None, effort=Effort(jobs=3), whole=True)


def epoch(pair: Pair) -> Any:
    with psycopg.connect(pair.theirs) as session:
        return session.execute("SELECT epoch FROM planrunner.lease").fetchone()


def found(space: Workspace, **terms: Any) -> Verification:
    return replace(comparison.compare(space, VerifyTerms(**terms), comparison.Scope()), seconds=0.0)


@pytest.fixture
def copied(pair: Pair) -> Pair:
    """Both sides with the same rows, of ``SOME``."""
    pair.create(SOME)
    with pair.workspace() as space:
        copy_all(space, division=Division())
        generations.clear_all(space)
    return pair


def test_a_comparison_by_workers_finds_what_one_by_threads_finds(copied: Pair) -> None:
    before = epoch(copied)
    with workspace(copied) as by_workers, copied.workspace() as by_threads:
        equal = found(by_workers)
        assert equal == found(by_threads)
        assert [(table.equal, table.target_rows) for table in equal.tables] == [
            (True, n * 900) for n in range(6)
        ]
        with psycopg.connect(copied.theirs) as session:
            session.execute(APART)
        apart = found(by_workers)
        assert apart == found(by_threads)
        assert {one.table for one in apart.rows} == {"public.s0", "public.s3", "public.s4"}
        assert found(by_workers, sample=1.0) == found(by_threads, sample=1.0)
        pool = by_workers.pool
        assert isinstance(pool, Beside)
        assert {type(one) for one in pool.performed} == {SurveyTask}
        assert len(pool.performed) == 3 * 6
        assert by_workers._lease is None
    # Whoever holds the lease meanwhile keeps it.
    assert epoch(copied) == before


def test_small_tables_are_looked_at_together(pair: Pair) -> None:
    pair.create(
        "".join(f"CREATE TABLE s{n} (id int PRIMARY KEY); INSERT INTO s{n} VALUES (1);" for n in range(70))
    )
    with workspace(pair) as space:
        with psycopg.connect(pair.theirs, autocommit=True) as session:
            for n in range(70):
                session.execute(f"CREATE TABLE s{n} (id int PRIMARY KEY)")  # type: ignore[arg-type]
                session.execute(f"INSERT INTO s{n} VALUES ({1 if n != 33 else 2})")  # type: ignore[arg-type]
        assert [one.table for one in found(space).tables if not one.equal] == ["public.s33"]
        pool = space.pool
        assert isinstance(pool, Beside)
        looked_at = [tract.table.name for task in pool.performed for tract in task.tracts]
        assert sorted(looked_at) == sorted(f"s{n}" for n in range(70))
        assert len(pool.performed) < 70


def test_a_comparison_by_workers_repairs_from_here(copied: Pair) -> None:
    with psycopg.connect(copied.theirs) as session:
        session.execute(APART)
    with workspace(copied) as space:
        mended = found(space, mend=lambda _: True)
        assert mended.equal
        pool = space.pool
        assert isinstance(pool, Beside)
        assert len(pool.performed) == 6
    assert_equal(copied)


def test_a_row_whose_key_is_null_is_told_and_mended(copied: Pair) -> None:
    with psycopg.connect(copied.theirs) as session:
        session.execute(
            "ALTER TABLE s3 DROP CONSTRAINT s3_pkey; ALTER TABLE s3 ALTER id DROP NOT NULL;"
            " INSERT INTO s3 VALUES (NULL, 'stray')"
        )
    with workspace(copied) as space:
        (told,) = found(space).rows
        assert [row.key for row in told.shown] == [{"id": None}]
        assert [one.table for one in found(space, mend=lambda _: True).tables if not one.equal] == []
    assert rows(copied, "s3") == 3 * 900


def test_whoever_surveys_may_not_write(copied: Pair) -> None:
    with workspace(copied) as space, surveys.at_work(space) as surveyors:
        tables = verify.followed_tables(space)
        writing = replace(tables[1], where="nextval('public.counted') > 0")
        with psycopg.connect(copied.ours) as session:
            session.execute("CREATE SEQUENCE counted")
        with pytest.raises(QueryFailed, match="read-only transaction"):
            surveyors.survey(Tract(table=writing), moving=False)
        # The session that failed is given up, the next task has another.
        (found,) = surveyors.survey(Tract(table=tables[1]), moving=False)
        assert not found.different


def test_what_workers_read_for_nobody_is_ended(copied: Pair) -> None:
    waiting = "SELECT count(*)::int FROM pg_locks WHERE NOT granted AND relation = 's1'::regclass"
    reading = (
        "SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active'"
        " AND application_name LIKE 'planrunner/%/survey/%'"
    )
    with workspace(copied) as space, psycopg.connect(copied.theirs) as blocker:
        blocker.execute("LOCK TABLE s1 IN ACCESS EXCLUSIVE MODE")

        def give_up() -> None:
            with comparison._rows(space, verify.followed_tables(space), VerifyTerms(), LOOKED):
                while blocker.execute(waiting).fetchone() != (1,):
                    CLOCK.sleep(0.05)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            give_up()
        give_up_at = CLOCK.monotonic() + 10
        while blocker.execute(reading).fetchone() != (0,):
            assert CLOCK.monotonic() < give_up_at, "they go on"
            CLOCK.sleep(0.05)
        pool = space.pool
        assert isinstance(pool, Beside)
        # The lock is held still: they were called off and did not come to their end.
        assert blocker.execute(waiting).fetchone() == (0,)


def test_a_survey_elsewhere_whose_worker_is_lost_is_asked_for_once_more(copied: Pair) -> None:
    with workspace(copied) as space:
        space.pool = losing = Losing(1)
        assert found(space).equal
        assert len(losing.performed) == 6 + 1
        assert "a worker ended: it is given to another" in copied.news
        space.pool = Losing(1000)
        with pytest.raises(WorkerLost, match="a worker ended"):
            found(space)
