"""A big table that several workers read at the same time: what they tell together is what one reading tells."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.pools import worker
from planrunner.replication import comparison, differences, portions, surveys, verify
from planrunner.replication.lanes import lane
from planrunner.replication.portions import Portions
from planrunner.replication.regions import Tract
from planrunner.replication.tasks import SurveyTask
from planrunner.replication.throttle import Effort
from planrunner.verification import VerifyTerms
from tests.integration.replication.beside import Beside, Losing, workspace
from tests.integration.replication.stage import Pair

if TYPE_CHECKING:
    from concurrent.futures import Future

    from planrunner.replication.regions import Survey
    from planrunner.replication.workspace import Workspace
    from planrunner.sandbox.servers import PostgresServer
    from planrunner.verification import Verification

ROWS = 30_000
BIG = (
    "CREATE TABLE big (id int PRIMARY KEY, w text);"
    f" INSERT INTO big SELECT i, repeat('w', 100) FROM generate_series(1, {ROWS}) i;"
    " CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few SELECT generate_series(1, 10); ANALYZE;"
)
CLOCK = SystemClock()
_numbers = itertools.count(1)


@pytest.fixture
def pair(servers: tuple[PostgresServer, PostgresServer], monkeypatch: pytest.MonkeyPatch) -> Pair:
    for name, server in zip(("SOURCE_WORD", "TARGET_WORD"), servers, strict=True):
        monkeypatch.setenv(name, server.password)
    monkeypatch.setattr(worker, "REST_SECONDS", 0.2)
    monkeypatch.setattr(portions, "LEAST_BYTES", 256 << 10)
    return Pair(*servers, name=f"portions{next(_numbers)}")


def both(pair: Pair, script: str) -> Pair:
    """``script`` on either side."""
    pair.create(script)
    there(pair, script)
    return pair


def there(pair: Pair, script: str) -> None:
    with psycopg.connect(pair.theirs, autocommit=True) as session:
        session.execute(script)  # type: ignore[arg-type]


def found(space: Workspace, *, counts_only: bool = False, **terms: Any) -> Verification:
    scope = comparison.Scope(counts_only=counts_only)
    told = comparison.compare(space, VerifyTerms(**terms), scope, Effort(jobs=3))
    return replace(told, seconds=0.0)


def alike(pair: Pair, **terms: Any) -> tuple[Verification, list[SurveyTask]]:
    """What workers find, which is what threads find; with the tasks that ``big`` took."""
    with workspace(pair) as by_workers, pair.workspace() as by_threads:
        told = found(by_workers, **terms)
        assert told == found(by_threads, **terms)
        assert isinstance(by_workers.pool, Beside)
        return told, of_big(by_workers.pool)


def of_big(pool: Beside) -> list[SurveyTask]:
    surveyed = [task for task in pool.performed if isinstance(task, SurveyTask)]
    return [task for task in surveyed if {tract.table.name for tract in task.tracts} == {"big"}]


class Meeting(Beside):
    """The first two portions wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self._meet = threading.Barrier(2)

    def submit(self, task: Any) -> Future[Any]:
        self.performed.append(task)
        return self._executor.submit(self._met, task, len(of_big(self)))

    def _met(self, task: Any, number: int) -> Any:
        if number in {1, 2} and task in of_big(self):
            self._meet.wait(timeout=60)
        return worker.perform(task)


def test_a_big_table_is_read_by_several_at_the_same_time(pair: Pair) -> None:
    both(pair, BIG)
    with workspace(pair) as space:
        space.pool = meeting = Meeting()
        told = found(space)
        assert told.equal
        assert {t.table: (t.source_rows, t.target_rows) for t in told.tables} == {
            "public.big": (ROWS, ROWS),
            "public.few": (10, 10),
        }
        read = of_big(meeting)
        assert len(read) > 4
        assert len({task.view for task in read}) == 1
        assert read[0].view is not None


def test_rows_that_differ_are_found_in_the_first_and_the_last_portion_and_beyond_them(pair: Pair) -> None:
    both(pair, BIG)
    there(
        pair,
        f"UPDATE big SET w = 'other' WHERE id = {ROWS}; DELETE FROM big WHERE id = 1;"
        f" INSERT INTO big VALUES (-5, 'w'), ({ROWS} + 7, 'w')",
    )
    told, read = alike(pair)
    (rows,) = told.rows
    assert {int(row.key["id"] or 0) for row in rows.shown} == {-5, 1, ROWS, ROWS + 7}
    assert len(read) > 4


def test_a_difference_in_most_portions_is_found_whole(pair: Pair) -> None:
    both(pair, BIG)
    there(pair, "DELETE FROM big WHERE id % 1000 = 0")
    told, read = alike(pair)
    (big,) = [one for one in told.tables if one.table == "public.big"]
    assert (big.equal, big.source_rows - big.target_rows) == (False, ROWS // 1000)
    assert len(read) > 8


@pytest.mark.parametrize("terms", [{"sample": 0.2}, {"counts_only": True}], ids=str)
def test_samples_and_counts_are_taken_by_portions_too(pair: Pair, terms: dict[str, Any]) -> None:
    both(pair, BIG)
    there(pair, "DELETE FROM big WHERE id % 1000 = 0")
    told, read = alike(pair, **terms)
    assert not told.equal
    assert len(read) > 4


@pytest.mark.parametrize(
    ("key", "names", "value", "ends"),
    [
        ("a int, b int, PRIMARY KEY (a, b)", "a, b", "i / 7, i", "(-1, 0), (99999, 1)"),
        ("a numeric PRIMARY KEY", "a", "i * 1.5", "(-1e40), ('NaN')"),
        (
            "a timestamptz PRIMARY KEY",
            "a",
            "timestamptz '2020-01-01' + i * interval '1 s'",
            "('-infinity'), ('infinity')",
        ),
        ("a uuid PRIMARY KEY", "a", "lpad(to_hex(i), 32, '0')::uuid", f"('{'0' * 32}'), ('{'f' * 32}')"),
        ('"or" bigint PRIMARY KEY', '"or"', "i", f"({-(2**63)}), ({2**63 - 1})"),
    ],
    ids=["two columns", "numeric", "time", "uuid", "a word of SQL"],
)
def test_keys_of_other_types_are_cut_with_the_values_at_their_ends(
    pair: Pair, key: str, names: str, value: str, ends: str
) -> None:
    both(
        pair,
        f"CREATE TABLE big ({key}, w text DEFAULT repeat('w', 100));"
        f" INSERT INTO big ({names}) SELECT {value} FROM generate_series(1, {ROWS}) i;"
        f" INSERT INTO big ({names}) VALUES {ends}; ANALYZE",
    )
    told, read = alike(pair)
    assert told.equal
    assert told.tables[0].source_rows == ROWS + 2
    assert len(read) > 4
    there(pair, f"UPDATE big SET w = 'other' WHERE ({names}) IN ({ends})")
    told, _ = alike(pair)
    (rows,) = told.rows
    assert rows.total == 2


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE big (id int, w text);"
        f" INSERT INTO big SELECT i, repeat('w', 100) FROM generate_series(1, {ROWS}) i",
        "CREATE TABLE big (id text PRIMARY KEY, w text);"
        f" INSERT INTO big SELECT lpad(i::text, 9, '0'), repeat('w', 100) FROM generate_series(1, {ROWS}) i",
        "CREATE TABLE big (id uuid PRIMARY KEY, w text);"
        f" INSERT INTO big SELECT md5(i::text)::uuid, repeat('w', 100) FROM generate_series(1, {ROWS}) i",
    ],
    ids=["no key", "a text", "in no order"],
)
def test_a_table_whose_ranges_are_not_cheap_to_read_stays_whole(pair: Pair, script: str) -> None:
    both(pair, f"{script}; ANALYZE")
    there(pair, "DELETE FROM big WHERE ctid = '(3,4)'")
    told, read = alike(pair)
    assert not told.equal
    assert len(read) == 1
    assert read[0].view is None


def test_a_table_whose_target_lacks_the_key_stays_whole(pair: Pair) -> None:
    both(pair, BIG)
    there(
        pair,
        "ALTER TABLE big DROP CONSTRAINT big_pkey; ALTER TABLE big ALTER id DROP NOT NULL;"
        " INSERT INTO big VALUES (NULL, 'w')",
    )
    told, read = alike(pair)
    (big,) = [one for one in told.tables if one.table == "public.big"]
    assert (big.equal, big.source_rows, big.target_rows) == (False, ROWS, ROWS + 1)
    assert len(read) == 1


def cut(space: Workspace) -> Portions:
    table = next(t for t in verify.followed_tables(space) if t.name == "big")
    made = portions.cut_of(space.source, space.target, table, 512 << 10)
    assert made is not None
    assert made.count > 4
    return Portions(space, made, Tract(table=table))


def surveyed(space: Workspace, script: str, *, moving: bool, pair: Pair) -> Survey:
    """Of ``big``, where the first portion was read before ``script``, and the others after."""
    parts = cut(space)
    with surveys.at_work(space) as surveyors:
        told = [parts.survey(surveyors, 1, moving=moving)]
        pair.execute(script)
        there(pair, script)
        told += [parts.survey(surveyors, number, moving=moving) for number in range(2, parts.count + 1)]
    assert told[:-1] == [None] * (parts.count - 1)
    assert told[-1] is not None
    return told[-1]


MOVED = f"UPDATE big SET id = -id WHERE id > {ROWS} - 50"


@pytest.mark.parametrize("moving", [False, True])
def test_a_row_that_goes_to_a_portion_that_was_read_is_counted_once(pair: Pair, moving: bool) -> None:
    both(pair, BIG)
    with workspace(pair) as space:
        told = surveyed(space, MOVED, moving=moving, pair=pair)
        assert (told.source_rows, told.target_rows, told.different) == (ROWS, ROWS, False)


@pytest.mark.parametrize("moving", [False, True])
def test_a_row_that_is_missing_is_found_wherever_it_goes_meanwhile(pair: Pair, moving: bool) -> None:
    both(pair, BIG)
    there(pair, f"DELETE FROM big WHERE id = {ROWS} - 3")
    with workspace(pair) as space:
        told = surveyed(space, MOVED, moving=moving, pair=pair)
        assert (told.source_rows, told.target_rows, told.different) == (ROWS, ROWS - 1, True)


def test_where_the_rows_differ_is_told_no_wider_than_need_be(pair: Pair) -> None:
    both(pair, BIG)
    there(pair, f"UPDATE big SET w = 'other' WHERE id IN (77, {ROWS})")
    with workspace(pair) as space:
        told = surveyed(space, "SELECT 1", moving=True, pair=pair)
        assert told.within is not None
        with lane(space.source, space.target) as mine:
            table = next(t for t in verify.followed_tables(space) if t.name == "big")
            assert differences.find(mine, table, within=told.within).total == 2
        with psycopg.connect(pair.ours) as session:
            row = session.execute(b"SELECT count(*) FROM big WHERE " + told.within.as_bytes()).fetchone()
        assert row is not None
        assert 2 <= row[0] < 5000


def test_a_portion_whose_worker_is_lost_is_read_once_more(pair: Pair) -> None:
    both(pair, BIG)
    with workspace(pair) as space:
        space.pool = losing = Losing(1)
        assert found(space).equal
        read = of_big(losing)
        assert (
            len(read)
            == len({task.tracts[0].within.as_string() for task in read if task.tracts[0].within}) + 1
        )


def test_the_view_is_given_back(pair: Pair) -> None:
    both(pair, BIG)
    held = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    with workspace(pair) as space:
        parts = cut(space)
        with surveys.at_work(space) as surveyors:
            assert parts.survey(surveyors, 1, moving=False) is None
            assert [server.value(held) for server in (space.source, space.target)] == [1, 1]
            parts.close()
            # A server notices a moment later that a session has ended.
            give_up = CLOCK.monotonic() + 30
            while [server.value(held) for server in (space.source, space.target)] != [0, 0]:
                assert CLOCK.monotonic() < give_up, "it is held still"
                CLOCK.sleep(0.05)
