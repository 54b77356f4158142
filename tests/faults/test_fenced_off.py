"""A runner that wakes after another took over, where it only waits or reads: it writes nothing that would tell it."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.faults.breaking import SCRIPT, UNHURRIED, ended, rows
from tests.faults.scene import frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

BIG = "".join(
    f"CREATE TABLE big_{n} (id int PRIMARY KEY, word text);"
    f"INSERT INTO big_{n} SELECT i, repeat('x', 60) FROM generate_series(1, 20000) i;"
    for n in range(2)
)
FOLLOW = ("--until", "follow", "--yes", "--no-input")
TOLD = "another runner has taken over this plan"
STREAMS = """
SELECT count(*) FROM pg_subscription JOIN pg_database d ON d.oid = subdbid AND datname = current_database()
"""
SURE = ("--yes", "--no-input")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def elsewhere(one: Migration, folder: Path) -> Migration:
    """The plan and its state as another machine has them."""
    shutil.copytree(one.folder, folder, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
    return replace(one, folder=folder)


@pytest.mark.server
def test_who_waits_for_what_will_not_come_is_told_that_another_took_over(
    pair: Pair, here: Path, tmp_path: Path
) -> None:
    # A copy that lost its snapshot has two streams to join; the other runner lets them go on, and joins them itself.
    with migration(pair, here, "waiting", SCRIPT + BIG, copy="{jobs: 1}", over=UNHURRIED) as one:
        with frozen(one, "copy.after_commit", "run", *FOLLOW) as child:
            child.kill()
            child.wait()
        with frozen(one, "merge.stopped", "run", *FOLLOW) as child:
            there = elsewhere(one, tmp_path / "there")
            with frozen(there, "merge.slots_made", "run", *FOLLOW, "--take-over") as other:
                child.send_signal(signal.SIGCONT)
                _, said = ended(child)
                assert TOLD in said
                other.send_signal(signal.SIGCONT)
                ended(other, {0})
        assert rows(one.theirs, STREAMS) == [(1,)]
        there.succeeds("run", *SURE)
        there.assert_moved()


@pytest.mark.server
def test_who_reads_what_another_has_taken_away_is_told_so(pair: Pair, here: Path, tmp_path: Path) -> None:
    over = "{verify: changed, write_pause_budget: 60s}"
    with migration(pair, here, "reading", SCRIPT, over=over) as one:
        one.succeeds("run", *FOLLOW)
        # Everything is proven, and what the first pass took is to be read from the ledger.
        with frozen(one, "tracker.advanced#2", "run", *SURE) as child:
            there = elsewhere(one, tmp_path / "there")
            there.succeeds("run", *SURE, "--take-over")
            child.send_signal(signal.SIGCONT)
            _, said = ended(child)
            assert TOLD in said
            assert "bug" not in said
        there.assert_moved()
