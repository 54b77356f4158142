"""The target crashes before it has flushed what it applied: with a worker that was started anew just before.

A new worker confirms everything up to where it begins, flushed or not. The target's WAL writer is slow here, so that
the time in which a crash takes what was confirmed lasts seconds instead of tenths of one.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.breaking import SCRIPT, UNHURRIED, Clerk, crash, execute, finishes, rows, wait_until
from tests.faults.scene import frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]

FOLLOW = ("run", "--until", "follow", "--yes", "--no-input")
TALK = """
CREATE PROCEDURE talk(n int) LANGUAGE plpgsql AS
$$ BEGIN FOR i IN 1..n LOOP INSERT INTO said VALUES (-i, 'much'); COMMIT; END LOOP; END $$
"""
FALSE, TRUE = "{synchronous_commit: false}", "{synchronous_commit: true}"
ANEW = (*FOLLOW, "--rerun", "follow")
_TIMES = 8


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    slow = {"wal_writer_delay": "10s", "wal_retrieve_retry_interval": "100ms", "autovacuum": "off"}
    with servers(target=slow) as both:
        yield both


def confirmed(one: Migration) -> Any:
    ((found,),) = rows(
        one.ours,
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database() AND active",
    ) or [(None,)]
    return found


def stream(one: Migration) -> str:
    ((name,),) = rows(one.theirs, "SELECT subname::text FROM pg_subscription")
    return str(name)


def commits(one: Migration) -> str:
    ((found,),) = rows(one.theirs, "SELECT subsynccommit FROM pg_subscription")
    return str(found)


def restarted_and_crashed(one: Migration) -> None:
    """Its line breaks, the new worker confirms, and the target crashes."""
    before = confirmed(one)
    rows(one.ours, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    wait_until(lambda: confirmed(one) not in {None, before}, "the new worker has confirmed something")
    crash(one.target)
    one.target.start()


def caught_up(one: Migration, clerk: Clerk) -> None:
    """The last row is there; whether those before it are is another question."""
    last = max(clerk.acknowledged)
    wait_until(lambda: rows(one.theirs, "SELECT FROM said WHERE id >= %s", last), "the last row has come")


def lost(one: Migration, clerk: Clerk) -> set[int]:
    # Those that come meanwhile may still be on their way.
    before = set(clerk.acknowledged)
    caught_up(one, clerk)
    return before - {number for (number,) in rows(one.theirs, "SELECT id FROM said")}


@pytest.mark.server
def test_what_was_confirmed_is_flushed(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "flushed", SCRIPT, over=UNHURRIED) as one, Clerk(one.ours) as clerk:
        one.succeeds(*FOLLOW)
        assert commits(one) == "on"
        for _ in range(3):
            caught_up(one, clerk)
            restarted_and_crashed(one)
        assert lost(one, clerk) == set()
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
def test_what_was_confirmed_and_not_flushed_is_lost_and_found_and_mended(pair: Pair, tmp_path: Path) -> None:
    options = {"follow": FALSE, "over": UNHURRIED}
    with migration(pair, tmp_path, "unflushed", SCRIPT, **options) as one, Clerk(one.ours) as clerk:
        said = one.succeeds(*FOLLOW)
        assert "synchronous_commit: false: a crash of the target may lose what it has confirmed" in said
        for _ in range(_TIMES):
            caught_up(one, clerk)
            restarted_and_crashed(one)
            if lost(one, clerk):
                break
        else:
            pytest.fail(f"nothing was lost in {_TIMES} crashes: there is nothing to warn of")
        code, said = one.run("run", "--yes", "--no-input")
        assert code == 7, said
        assert "public.said" in said
        one.succeeds("verify", "--repair", "--yes")
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
@pytest.mark.parametrize("point", [None, "subscription.stopped"])
def test_a_stream_goes_on_with_another_way_to_commit(point: str | None, pair: Pair, tmp_path: Path) -> None:
    options = {"follow": FALSE, "over": UNHURRIED}
    with migration(pair, tmp_path, "otherwise", SCRIPT, **options) as one, Clerk(one.ours) as clerk:
        one.succeeds(*FOLLOW)
        assert commits(one) == "off"
        ((worker,),) = rows(one.theirs, "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL")
        one.plan.write_text(one.plan.read_text().replace(FALSE, TRUE))
        if point is not None:
            with frozen(one, f"{point}#1", *ANEW) as child:
                child.send_signal(signal.SIGKILL)
                child.wait()
        one.succeeds(*(ANEW if point is None else FOLLOW))
        assert commits(one) == "on"
        restarted_and_crashed(one)
        assert lost(one, clerk) == set()
        assert rows(one.theirs, "SELECT FROM pg_stat_subscription WHERE pid = %s", worker) == []
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@contextmanager
def slowly(server: PostgresServer) -> Iterator[None]:
    """Each flush of the server's takes 50 ms longer, for the length of the block."""
    postmaster = (server.data / "postmaster.pid").read_text().splitlines()[0]
    calls = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=50000")
    child = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-p", postmaster, *calls])
    try:
        yield
    finally:
        child.terminate()
        child.wait()


@pytest.mark.server
@pytest.mark.skipif(which("strace") is None, reason="strace makes the disk slow")
def test_a_disk_that_is_too_slow_for_a_flush_each_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        servers(target={"fsync": "on", "autovacuum": "off"}) as both,
        migration(both, tmp_path, "slow", SCRIPT + TALK, follow="{max_lag: 64kB}", over=UNHURRIED) as one,
    ):
        one.succeeds("run", "--until", "copy", "--yes", "--no-input")
        execute(one.ours, "SET synchronous_commit = off", "CALL talk(30000)")
        with slowly(one.target):
            said = one.succeeds(*FOLLOW)
        assert "the target's disk can't flush as many transactions as the source commits" in said
        assert commits(one) == "off"
        name = stream(one)
        said = one.succeeds("run", "--yes", "--no-input", "--until", "over", "--rerun", "follow")
        assert f"{name} could not keep up with a flush for each transaction" in said
        one.assert_moved()
