"""Rows that come from a standby which stands still, while the source is written to: either way of freezing, any kills.

The standby is a real one that streams, the writer keeps a ledger of every answer, and its judge has the last word.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.breaking import execute, rows, wait_until
from tests.faults.referee.judge import judge
from tests.faults.referee.tables import digests, prepare
from tests.faults.scene import servers
from tests.faults.standbys import reading_from, standby
from tests.faults.writing import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration
    from tests.faults.writing import Writing

    Pair = tuple[PostgresServer, PostgresServer]

_BALLAST = 6
SCRIPT = "\n".join(
    f"CREATE TABLE ballast_{n} (id int PRIMARY KEY, note text NOT NULL);"
    f" INSERT INTO ballast_{n} SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 6000) i;"
    for n in range(_BALLAST)
)
UNHURRIED = "{write_pause_budget: 60s}"
# In the order in which a run comes by; the second of a pair is met by the run that goes on.
CAPTURED = (
    *("slot.before_create", "slot.created", "frozen.before_record", "frozen.captured"),
    "barrier.marked",
)
COPIED = ("frozen.recorded", "copy.before_commit#2", "copy.after_commit#3", "copy.before_commit#3")
BEGUN = (
    *("subscription.before_create", "subscription.created", "origin.before_move", "origin.moved"),
    *("subscription.before_enable", "subscription.enabled"),
)
KILLED = {
    "pause": (
        *CAPTURED,
        *("standby.before_pause", "standby.paused"),
        *COPIED,
        *("copy.thaw.before", "standby.before_resume", "standby.resumed", "frozen.before_ended"),
        *BEGUN,
    ),
    "promote": (
        *CAPTURED,
        *("standby.before_promote", "standby.promoted"),
        *COPIED,
        *("copy.thaw.before", "frozen.before_ended"),
        *BEGUN,
    ),
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@contextmanager
def written(
    pair: Pair, folder: Path, freeze: str, more: str = ""
) -> Iterator[tuple[Migration, PostgresServer, Writing]]:
    """A migration that reads from a standby, while the referee's client writes to the source."""
    name = f"frozen_{freeze}"
    copy = f"{{jobs: 2, from: replica, freeze: {freeze}, without_replica_identity: full{more}}}"
    with (
        standby(pair[0]) as replica,
        reading_from(replica, pair, folder, name, SCRIPT, copy=copy, over=UNHURRIED) as one,
    ):
        prepare(one.ours)
        with writing(folder / "ledger", one.ours, one.theirs, rate=250) as client:
            client.until(50)
            yield one, replica, client


def assert_arrived(one: Migration, client: Writing) -> None:
    """Cut over under load; every acknowledged transaction is there once, and both sides are equal."""
    client.until(50)
    one.succeeds("run", "--yes", "--no-input")
    client.until(50)
    client.stop()
    verdict = judge(one.theirs, client.ledger, former=one.ours)
    assert verdict.clean, verdict
    assert verdict.acknowledged > 150
    assert one.left() == []


def generations(one: Migration) -> list[int]:
    found = rows(one.theirs, "SELECT DISTINCT generation FROM planrunner.unit ORDER BY 1")
    return [row[0] for row in found]


def equal_at_rest(one: Migration) -> None:
    """With the subscription caught up while nobody writes, both sides have the same digests."""

    def same() -> bool:
        return digests(one.ours) == digests(one.theirs)

    wait_until(same, "equal digests", pause=0.5)


@pytest.mark.server
@pytest.mark.parametrize("freeze", [pytest.param("pause", marks=pytest.mark.soak), "promote"])
def test_what_is_written_meanwhile_arrives_once(freeze: str, pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, freeze) as (one, replica, client):
        said = one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert "the standby stands still at" in " ".join(said.split())
        assert generations(one) == [1]
        client.until(50)
        recovering = rows(
            replica.superuser_dsn,
            "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END",
        )
        assert recovering == [(True, "not paused") if freeze == "pause" else (False, None)]
        assert_arrived(one, client)


@pytest.mark.server
@pytest.mark.parametrize(
    ("freeze", "points"),
    [
        ("pause", ("frozen.captured", "standby.paused", "copy.before_commit#3", "origin.moved")),
        pytest.param("pause", KILLED["pause"], marks=pytest.mark.soak),
        pytest.param("promote", KILLED["promote"], marks=pytest.mark.soak),
    ],
    ids=["pause", "pause-everywhere", "promote-everywhere"],
)
def test_kills_cost_a_unit_each_and_never_a_generation(
    freeze: str, points: tuple[str, ...], pair: Pair, tmp_path: Path
) -> None:
    with written(pair, tmp_path, freeze) as (one, _, client):
        copied = 0
        for point in points:
            code, said = one.run(
                "run", "--yes", "--no-input", "--until", "follow", failpoints=f"{point}:kill"
            )
            assert code == -signal.SIGKILL, f"{point}: {said}"
            now = _units(one)
            assert now >= copied, f"{point}: what was copied is kept"
            copied = now
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        client.until(50)
        # The cutover is done then, and the generation half taken away.
        code, said = one.run("run", "--yes", "--no-input", failpoints="frozen.before_forget:kill")
        assert code == -signal.SIGKILL, said
        assert_arrived(one, client)


def _units(one: Migration) -> int:
    with psycopg.connect(one.theirs) as session:
        if session.execute("SELECT to_regclass('planrunner.unit')").fetchone() == (None,):
            return 0
        row = session.execute("SELECT count(*) FROM planrunner.unit").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.server
@pytest.mark.soak
def test_a_standby_that_goes_on_costs_a_generation_and_no_row(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, "pause") as (one, replica, client):
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="copy.after_commit#3:kill"
        )
        assert code == -signal.SIGKILL, said
        execute(replica.superuser_dsn, "SELECT pg_wal_replay_resume()")
        client.until(50)
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert_arrived(one, client)


@pytest.mark.server
@pytest.mark.soak
def test_several_streams_and_ranges_begin_at_one_end(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, "pause", ", streams: 2, split_above: 1MB") as (one, _, client):
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="copy.after_commit#2:kill"
        )
        assert code == -signal.SIGKILL, said
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1, 2]
        client.until(50)
        assert_arrived(one, client)


@pytest.mark.server
@pytest.mark.soak
def test_both_sides_are_equal_once_nobody_writes(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, "pause") as (one, _, client):
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        client.until(50)
        client.stop()
        equal_at_rest(one)
