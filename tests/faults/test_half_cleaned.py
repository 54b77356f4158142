"""A cleanup of an abandoned migration that is broken off: no run goes on with what is left, and it can be finished."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.scene import PATIENCE_SECONDS, frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

SCRIPT = """
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept SELECT i, md5(i::text) FROM generate_series(1, 500) i;
"""
UNFIT = 6


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.mark.parametrize("point", ["cleanup.begun", "slot.dropped", "ledger.forgotten", "cleanup.removed"])
def test_a_run_refuses_what_is_half_cleaned_until_the_cleanup_is_finished(
    pair: Pair, tmp_path: Path, point: str
) -> None:
    with migration(pair, tmp_path, "halfway", SCRIPT) as one:
        one.succeeds("run", "--until", "follow")
        killed, said = one.run("cleanup", "--yes", failpoints=f"{point}:kill")
        assert killed == -signal.SIGKILL, said
        code, said = one.run("run")
        assert code == UNFIT, said
        assert "a cleanup of this plan was broken off" in said
        assert "planrunner cleanup" in said
        one.succeeds("cleanup", "--yes")
        assert one.left() == []
        assert {step["status"] for step in one.state()["steps"].values()} == {"pending"}
        with psycopg.connect(one.theirs, autocommit=True) as session:
            session.execute("DROP TABLE kept")
        one.succeeds("run")
        one.assert_moved()


@pytest.mark.parametrize(
    "point", ["cleanup.begun", "subscription.dropped", "ledger.forgotten", "slot.dropped"]
)
def test_a_cleanup_that_wakes_when_another_has_begun_anew_takes_nothing_from_it(
    pair: Pair, tmp_path: Path, point: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with migration(pair, here, "anew", SCRIPT) as one:
        one.succeeds("run", "--until", "follow")
        with frozen(one, point, "cleanup", "--yes") as child:
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))

            def elsewhere(verb: str, *options: str) -> None:
                other = one.start(verb, *options, folder=there)
                said, _ = other.communicate(timeout=PATIENCE_SECONDS)
                assert other.returncode == 0, said

            elsewhere("cleanup", "--yes", "--take-over")
            with psycopg.connect(one.theirs, autocommit=True) as session:
                left = session.execute("SELECT to_regnamespace('planrunner')::text").fetchone()
                assert left == (None,)
                session.execute("DROP TABLE kept")
            # As many runs as came before: the epochs of the ledger that is made anew must not be those of the former.
            elsewhere("run", "--until", "copy")
            elsewhere("run", "--until", "follow")
            before = sorted(one.left())
            assert [line.split()[0] for line in before] == ["publication", "slot", "subscription"]
            child.send_signal(signal.SIGCONT)
            said, _ = child.communicate(timeout=PATIENCE_SECONDS)
            assert child.returncode not in {0, 3}, said
            assert sorted(one.left()) == before
            elsewhere("run")
        assert one.left() == []
