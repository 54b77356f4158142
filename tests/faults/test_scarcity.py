"""Places that are all taken: connections, slots, senders, workers. What is missing is named, and a rerun goes on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from tests.faults.breaking import SCRIPT, UNHURRIED, Clerk, finishes, rows
from tests.faults.scene import migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

RUN = ("run", "--yes", "--no-input")
FEW = {"max_connections": "12", "max_replication_slots": "4", "max_wal_senders": "4"}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers(source=FEW, target={"max_connections": "12"}) as both:
        yield both


@contextmanager
def all_taken(dsn: str, **options: str) -> Iterator[None]:
    """Every place that sessions of this kind can have, those reserved for superusers too."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(psycopg.connect(conninfo.make_conninfo(dsn, **options)))
            except psycopg.OperationalError:
                break
        yield


@contextmanager
def slots_taken(one: Migration) -> Iterator[None]:
    """Every replication slot of the source that is free."""
    made: list[str] = []
    with psycopg.connect(one.source.superuser_dsn, autocommit=True) as session:
        try:
            while True:
                name = f"strange_{len(made)}"
                session.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
                made.append(name)
        except psycopg.errors.ConfigurationLimitExceeded:
            yield
        finally:
            for name in made:
                session.execute("SELECT pg_drop_replication_slot(%s)", [name])


def refused(one: Migration, *words: str) -> None:
    """A run stops, resumable, and says all of this."""
    code, said = one.run(*RUN)
    told = " ".join(said.split())
    assert code == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in told, said


@pytest.mark.server
def test_places_that_are_taken_are_named_and_a_rerun_goes_on(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "scarce", SCRIPT, copy="{jobs: 2}", over=UNHURRIED) as one:
        with all_taken(one.ours):
            refused(one, "source: ", "has no connection left", "max_connections")
        with all_taken(one.theirs):
            refused(one, "target: ", "has no connection left", "max_connections")
        with slots_taken(one):
            refused(one, "source: ", "max_replication_slots")
        assert one.left() == [] or all(name.startswith("publication") for name in one.left()), one.left()
        with all_taken(one.ours, replication="database"):
            refused(one, "source: ", "has no connection for replication left", "max_wal_senders")
        one.succeeds(*RUN, "--until", "copy")
        with Clerk(one.ours) as clerk, all_taken(one.ours, replication="database"):
            refused(one, "the other server has no place left for the target's connection", "max_wal_senders")
        target = one.target
        target.restart({"max_logical_replication_workers": "0"})
        refused(one, "max_logical_replication_workers = 0")
        target.restart({"max_logical_replication_workers": "4", "max_worker_processes": "1"})
        refused(one, "max_worker_processes = 1")
        target.restart(without=("max_logical_replication_workers", "max_worker_processes"))
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()
        assert rows(one.ours, "SELECT count(*) FROM pg_replication_slots") == [(0,)]
