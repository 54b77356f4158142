"""Sessions of ours are ended, and backends killed, one after another: what was finished stays finished."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.breaking import SCRIPT, UNHURRIED, Clerk, ended, finishes, once, rows, wait_until
from tests.faults.scene import frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

RUN = ("run", "--yes", "--no-input")
# Two that are copied by themselves, so that one is in when the snapshot is lost.
LARGER = SCRIPT + "".join(
    f"CREATE TABLE {name} (id int PRIMARY KEY, text text);"
    f" INSERT INTO {name} SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 1500) i;"
    for name in ("first", "second")
)
_OURS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'planrunner/%' AND datname = current_database()"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


def end_one_after_another(dsn: str, which: str = "") -> int:
    """Each session of ours on that side, waiting until it is gone before the next; how many there were."""
    pids = [row[0] for row in rows(dsn, _OURS + which)]
    for pid in pids:
        rows(dsn, "SELECT pg_terminate_backend(%s, 5000)", pid)
    return len(pids)


def serves(dsn: str) -> bool:
    try:
        rows(dsn, "SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.server
def test_units_copied_before_the_keepers_were_ended_stay_copied(pair: Pair, tmp_path: Path) -> None:
    with (
        migration(pair, tmp_path, "keepers", LARGER, copy="{jobs: 1}", over=UNHURRIED) as one,
        Clerk(one.ours) as clerk,
    ):
        with frozen(one, "copy.after_commit#1", *RUN, "--until", "copy") as child:
            before = rows(one.theirs, "SELECT unit_id FROM planrunner.unit")
            assert before != []
            assert end_one_after_another(one.ours, " AND state LIKE 'idle in transaction%'") >= 2
            child.send_signal(signal.SIGCONT)
            code, said = ended(child)
        assert code == 0, said
        kept = rows(one.theirs, "SELECT unit_id FROM planrunner.unit WHERE generation = 1")
        assert set(before) <= set(kept)
        assert rows(one.theirs, "SELECT count(*) > 0 FROM planrunner.unit WHERE generation = 2") == [(True,)]
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
@pytest.mark.parametrize(
    "moment",
    [
        "schema.entry_done#2",
        "cutover.fenced",
        pytest.param("schema.before_commit", marks=pytest.mark.soak),
        pytest.param("copy.before_commit#1", marks=pytest.mark.soak),
        pytest.param("login.password_set", marks=pytest.mark.soak),
        pytest.param("cutover.guarded", marks=pytest.mark.soak),
        pytest.param("cutover.before_commit", marks=pytest.mark.soak),
        pytest.param("cutover.after_commit", marks=pytest.mark.soak),
        pytest.param("cutover.retired", marks=pytest.mark.soak),
    ],
)
def test_all_sessions_of_a_run_are_ended_and_it_goes_on(moment: str, pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "sessions", SCRIPT, over=UNHURRIED) as one, Clerk(one.ours) as clerk:
        with frozen(one, once(moment), *RUN) as child:
            assert end_one_after_another(one.ours) + end_one_after_another(one.theirs) > 1
            child.send_signal(signal.SIGCONT)
            ended(child)
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
def test_killed_backends_take_both_servers_through_recovery_and_no_row_is_lost(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "killed", SCRIPT, over=UNHURRIED) as one, Clerk(one.ours) as clerk:
        with frozen(one, "cutover.fenced#1", *RUN) as child:
            kill(one.ours, _OURS)
            child.send_signal(signal.SIGCONT)
            code, said = ended(child)
            assert code == 1, said
        with frozen(one, "cutover.guarded#1", *RUN) as child:
            found = "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL"
            wait_until(lambda: rows(one.theirs, found), "an apply worker is there")
            kill(one.theirs, found)
            kill(one.ours, "SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL")
            child.send_signal(signal.SIGCONT)
            ended(child)
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


def kill(dsn: str, query: str) -> None:
    """SIGKILL to the first backend that is found: its postmaster ends all the others and recovers."""
    wait_until(lambda: serves(dsn) and rows(dsn, query), query)
    began = "SELECT pg_postmaster_start_time(), pg_conf_load_time()"
    assert rows(dsn, began)
    (pid,) = rows(dsn, query)[0]
    with psycopg.connect(dsn, autocommit=True) as witness:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(psycopg.Error):
            witness.execute("SELECT pg_sleep(60)")
    wait_until(lambda: serves(dsn), "the server is through its recovery")
