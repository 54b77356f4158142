"""The points of the commands beside a run: killed there, each is done again, and does it."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.scene import frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

SCRIPT = """
CREATE TABLE kept (id int PRIMARY KEY, v text);
INSERT INTO kept SELECT i, md5(i::text) FROM generate_series(1, 500) i;
"""
UNFIT = 6
LOCKED = 5


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@dataclass(frozen=True, kw_only=True)
class Told:
    """A command that is killed at a point, and then given again."""

    one: Migration
    options: tuple[str, ...] = ()

    def killed(self, point: str, verb: str, *options: str) -> None:
        code, said = self.one.run(verb, *options, *self.options, failpoints=f"{point}:kill")
        assert code == -signal.SIGKILL, said

    def again(self, verb: str, *options: str) -> str:
        return self.one.succeeds(verb, *options, *self.options)


def on_target(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            # What planrunner itself may do at a table that it has closed to others.
            session.execute("SET session_replication_role = replica")
            session.execute(statement)


HOMES = [("control.replaced", ()), ("control.remote_written", ("--state", "target"))]


@pytest.mark.parametrize(("point", "options"), HOMES)
def test_a_pause_that_was_killed_is_asked_for_or_not_and_can_be_asked_again(
    pair: Pair, tmp_path: Path, point: str, options: tuple[str, ...]
) -> None:
    with migration(pair, tmp_path, "paused", SCRIPT) as one:
        told = Told(one=one, options=options)
        told.again("run", "--until", "copy")
        told.killed(point, "pause")
        assert '"asked": "paused (by' in told.again("status", "--output", "json")
        told.killed(point, "throttle", "jobs=1")
        told.again("resume")
        told.again("run")
        assert one.left() == []


LOST = [
    ("state.set_aside", ()),
    ("state.remote_set_aside", ("--state", "target")),
]


@pytest.mark.parametrize(("point", "options"), LOST)
def test_a_state_whose_rebuilding_was_killed_is_rebuilt_by_the_next(
    pair: Pair, tmp_path: Path, point: str, options: tuple[str, ...]
) -> None:
    with migration(pair, tmp_path, "rebuilt", SCRIPT) as one:
        told = Told(one=one, options=options)
        told.again("run", "--until", "follow")
        if options:
            on_target(one.theirs, "UPDATE planrunner.state SET body = '{}' WHERE name = 'rebuilt'")
        else:
            one.plan.with_name("plan.yaml.state.json").write_text("{}")
        code, said = one.run("run", *options)
        assert code == UNFIT, said
        told.killed(point, "state rebuild", "--yes")
        code, said = one.run("run", *options)
        assert code == UNFIT, f"it began from zero: {said}"
        told.again("state rebuild", "--yes")
        told.again("run")
        assert one.left() == []
        assert_equal(one)


def assert_equal(one: Migration) -> None:
    found = []
    for dsn in (one.ours, one.theirs):
        with psycopg.connect(dsn) as session:
            found.append(session.execute("SELECT id, v FROM kept ORDER BY id").fetchall())
    assert found[0] == found[1] != []


@pytest.mark.parametrize("point", ["repair.before_commit", "repair.after_commit"])
def test_a_repair_that_was_killed_is_whole_or_not_there(pair: Pair, tmp_path: Path, point: str) -> None:
    with migration(pair, tmp_path, "repaired", SCRIPT) as one:
        one.succeeds("run", "--until", "follow")
        on_target(one.theirs, "DELETE FROM kept WHERE id < 4", "UPDATE kept SET v = 'stray' WHERE id = 10")
        Told(one=one).killed(point, "verify", "--repair", "--yes")
        found, said = one.run("verify")
        assert found == (7 if point == "repair.before_commit" else 0), said
        one.succeeds("verify", "--repair", "--yes")
        assert_equal(one)
        one.succeeds("run")
        one.assert_moved()


OVERTAKEN = [("takeover.holder_ended", ()), ("lock.holder_ended", ("--state", "target"))]


@pytest.mark.parametrize(("point", "options"), OVERTAKEN)
def test_a_takeover_that_was_killed_is_taken_up_by_the_next(
    pair: Pair, tmp_path: Path, point: str, options: tuple[str, ...]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with (
        migration(pair, here, "overtaken", SCRIPT) as one,
        frozen(one, "schema.before_commit", "run", *options) as child,
    ):
        shutil.copytree(here, there, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
        for failpoints, wanted in ((f"{point}:kill", -signal.SIGKILL), ("", 0)):
            taker = one.start("run", "--take-over", *options, failpoints=failpoints, folder=there)
            said, _ = taker.communicate(timeout=300)
            assert taker.returncode == wanted, said
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=300)
        assert child.returncode not in {0, 3}, said
        assert "Traceback" not in said
        assert one.left() == []
        assert_equal(one)


def test_a_run_on_another_machine_that_was_killed_while_it_levelled_the_journal_can_go_on(
    pair: Pair, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    options = ("--state", "target")
    with migration(pair, here, "levelled", SCRIPT) as one:
        one.succeeds("run", "--until", "follow", *options)
        shutil.copy(one.plan, there)
        for failpoints, wanted in (("mirror.levelled:kill", -signal.SIGKILL), ("", 0)):
            child = one.start("run", *options, failpoints=failpoints, folder=there)
            said, _ = child.communicate(timeout=300)
            assert child.returncode == wanted, said
        assert one.left() == []
        assert_equal(one)
        # The whole migration is in the journal of the second machine, the first one's part too.
        journal = (there / "plan.yaml.events.jsonl").read_text()
        assert journal.count('"copied public.kept') == 1
