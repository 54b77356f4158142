"""Another server takes over an address: a stranger, or a standby that was promoted; neither is taken for the former."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.breaking import (
    SCRIPT,
    UNHURRIED,
    Clerk,
    crash,
    ended,
    execute,
    finishes,
    once,
    rows,
    wait_until,
)
from tests.faults.relay import Relay
from tests.faults.scene import frozen, migration, servers
from tests.faults.standbys import standby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Pair = tuple[PostgresServer, PostgresServer]

NAME = "promoted"
UNFIT = 6
_OURS = (
    "SELECT nspname FROM pg_namespace WHERE nspname = 'planrunner' UNION ALL SELECT slot_name FROM pg_replication_slots"
    " UNION ALL SELECT pubname FROM pg_publication UNION ALL SELECT relname FROM pg_class WHERE relname = 'account'"
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@contextmanager
def stranger(like: PostgresServer, major: int) -> Iterator[PostgresServer]:
    """Another cluster with the same database, login and password."""
    settings = {"wal_level": "logical"}
    with PostgresServer(wheel_bin(major), settings=settings, password=like.password) as other:
        execute(other.superuser_dsn, f"CREATE DATABASE {NAME}")
        yield other


@pytest.mark.server
@pytest.mark.parametrize(
    ("which", "moment"),
    [
        ("source", "copy.after_commit#1"),
        ("source", "cutover.locked"),
        ("target", "cutover.guarded"),
        pytest.param("source", "schema.before_commit", marks=pytest.mark.soak),
        pytest.param("source", "login.password_set", marks=pytest.mark.soak),
        pytest.param("source", "cutover.fenced", marks=pytest.mark.soak),
        pytest.param("target", "schema.entry_done#3", marks=pytest.mark.soak),
        pytest.param("target", "copy.after_commit#1", marks=pytest.mark.soak),
        pytest.param("target", "cutover.after_commit", marks=pytest.mark.soak),
    ],
)
def test_another_cluster_at_the_address_is_never_touched(
    which: Literal["source", "target"], moment: str, pair: Pair, tmp_path: Path
) -> None:
    place = 0 if which == "source" else 1
    with Relay(pair[place].port) as relay, stranger(pair[place], (16, 18)[place]) as other:
        ports = (relay.port, pair[1].port) if place == 0 else (pair[0].port, relay.port)
        with (
            migration(pair, tmp_path, NAME, SCRIPT, ports=ports, over=UNHURRIED) as one,
            Clerk(one.ours) as clerk,
        ):
            with frozen(one, once(moment), "run", "--yes", "--no-input") as child:
                relay.lead_to(other.port)
                child.send_signal(signal.SIGCONT)
                code, said = ended(child, codes={1, UNFIT})
            assert f"{which}: another server answers at its address" in " ".join(said.split()), said
            there = rows(other.dsn("postgres", NAME, password=other.password), _OURS)
            assert there == []
            # A run that only starts now is told by what is on record.
            code, said = one.run("run", "--yes", "--no-input")
            assert code == UNFIT, said
            relay.lead_to(pair[place].port)
            finishes(one)
            clerk.stop()
            clerk.assert_kept(one.theirs)
            one.assert_moved()


@pytest.mark.server
def test_a_promoted_standby_is_told_by_the_slots_it_lacks(tmp_path: Path) -> None:
    with (
        servers() as (source, target),
        standby(source) as heir,
        Relay(source.port) as relay,
        migration(
            (source, target), tmp_path, NAME, SCRIPT, ports=(relay.port, target.port), over=UNHURRIED
        ) as one,
    ):
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        execute(one.ours, "INSERT INTO said VALUES (1, 'before')")
        at = rows(one.ours, "SELECT pg_current_wal_flush_lsn()::text")[0][0]
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: rows(heir.superuser_dsn, replayed, at)[0][0], "the standby has everything")
        # Before it is promoted: a name that leads to a reader.
        relay.lead_to(heir.port)
        code, said = one.run("run", "--yes", "--no-input")
        assert code == 1, said
        assert "standby" in said, said
        crash(source)
        rows(heir.superuser_dsn, "SELECT pg_promote()")
        ours = heir.dsn("postgres", NAME, password=heir.password)
        execute(ours, "INSERT INTO said VALUES (2, 'after')")
        code, said = one.run("run", "--yes", "--no-input")
        told = " ".join(said.split())
        assert code == 1, said
        assert "is gone" in told, said
        assert "timeline 2" in told, said
        code, said = one.run("status")
        assert "gone" in said or "missing" in said, said
        # As it says: clean up, empty the target, begin anew.
        one.succeeds("cleanup", "--yes")
        execute(one.theirs, "DROP TABLE entry, account, said")
        one.succeeds("run", "--yes", "--no-input")
        with psycopg.connect(one.theirs) as session:
            moved = session.execute("SELECT id, word FROM said ORDER BY 1").fetchall()
        assert moved == [(1, "before"), (2, "after")]
        assert rows(ours, "SELECT slot_name FROM pg_replication_slots") == []
        source.start()
