"""Much of everything: tables, columns, long rows, long transactions; and little memory, few descriptors, no room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.scene import CLOCK, Migration, migration, servers
from tests.faults.strangers import STEADY, application, execute, flat, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]
    Figure = Callable[[str, object], None]

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

SOAK = bool(os.environ.get("PLANRUNNER_SOAK"))
# A run may take long where others share the machine; what must not grow is measured, not timed.
LONG_SECONDS = 1500
MEGABYTE = 1 << 20
UNHURRIED = "{write_pause_budget: 300s}"
# On a line that seems slow, as any may on a busy machine, there are 16 streams: two sessions and what waits for them
# each, fewer for indexes, and what a run has anyway. With 16 streams 58 descriptors and 44 threads were seen.
MOST_DESCRIPTORS = 120
MOST_THREADS = 64
SMALL = STEADY + "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'one'), (2, 'two');"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    roomy = {"max_locks_per_transaction": "512"}
    with servers(roomy, roomy) as both:
        yield both


@dataclass
class Use:
    """The most that a process and its threads used, in bytes and numbers, while it was looked at."""

    memory: int = 0
    descriptors: int = 0
    threads: int = 0
    said: str = ""
    code: int | None = None


def watched(one: Migration, verb: str, *options: str) -> Use:
    """A run to its end, looked at all the while from /proc."""
    child = one.start(verb, *options)
    use, ended = Use(), threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            try:
                status = dict(
                    line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
                )
                use.descriptors = max(use.descriptors, len(list(Path(f"/proc/{child.pid}/fd").iterdir())))
            except (OSError, ValueError):
                continue  # it has just ended
            if "VmHWM" in status:
                use.memory = max(use.memory, int(status["VmHWM"].split()[0]) << 10)
                use.threads = max(use.threads, int(status["Threads"]))

    watcher = threading.Thread(target=look, name="look", daemon=True)
    watcher.start()
    use.said, _ = child.communicate(timeout=LONG_SECONDS)
    ended.set()
    watcher.join()
    use.code = child.returncode
    return use


def moved(one: Migration, *options: str) -> Use:
    use = watched(one, "run", *options)
    assert use.code == 0, use.said
    return use


def tables(count: int) -> str:
    return STEADY + "".join(
        f"CREATE TABLE t{n} (id int PRIMARY KEY, v text); INSERT INTO t{n} VALUES (1, 'one'), (2, 'two');"
        for n in range(count)
    )


def test_ten_times_as_many_tables_take_a_bounded_share_of_memory_and_no_more_descriptors(
    pair: Pair, tmp_path: Path, record_property: Figure
) -> None:
    few, many = (1000, 10_000) if SOAK else (100, 1000)
    used = []
    for count in (few, many):
        folder = tmp_path / str(count)
        folder.mkdir()
        with migration(pair, folder, f"tables{count}", tables(count), over=UNHURRIED) as one:
            begun = CLOCK.monotonic()
            used.append(moved(one))
            one.assert_moved()
            record_property(
                "figure",
                f"{count} tables: {CLOCK.monotonic() - begun:.0f} s, {used[-1].memory >> 20} MB,"
                f" {used[-1].descriptors} descriptors, {used[-1].threads} threads",
            )
    small, large = used
    # What is known of a table (its columns, its part of the schema) is held; 40 KB of it at the most.
    assert large.memory - small.memory < 40_000 * (many - few), (small, large)
    # How many streams are at work at once hangs on chance where there is little to copy; the most there can be does not.
    assert max(small.descriptors, large.descriptors) < MOST_DESCRIPTORS, (small, large)
    assert max(small.threads, large.threads) < MOST_THREADS, (small, large)


def test_a_long_row_passes_through_and_the_runner_holds_little_of_it(
    pair: Pair, tmp_path: Path, record_property: Figure
) -> None:
    size = 400 if SOAK else 100
    made = f"(SELECT decode(repeat(md5('x'), {size} * 65536 / 2), 'hex'))"
    script = SMALL + f"CREATE TABLE blobs (id int PRIMARY KEY, b bytea); INSERT INTO blobs SELECT 1, {made};"
    script += "ALTER TABLE blobs ALTER b SET STORAGE EXTERNAL;"
    with migration(pair, tmp_path, "long", script, over=UNHURRIED) as one:
        plain = watched(one, "run", "--until", "copy")
        assert plain.code == 0, plain.said
        execute(one.ours, f"INSERT INTO blobs SELECT 2, {made}", "UPDATE blobs SET b = b || 'x' WHERE id = 1")
        use = moved(one)
        record_property(
            "figure",
            f"rows of {size} MB: {plain.memory >> 20} MB for the copy, {use.memory >> 20} MB after it",
        )
        asked = "SELECT id, length(b), md5(b) FROM blobs ORDER BY id"
        assert rows(one.ours, asked) == rows(one.theirs, asked)
        assert one.left() == []
        # A row travels in one message of libpq's; nothing but that copy of it is held.
        assert plain.memory < (150 + 3 * size) * MEGABYTE, plain
        assert use.memory < 150 * MEGABYTE, use


@pytest.mark.soak
def test_a_long_row_that_differs_is_named_without_being_read_whole(
    pair: Pair, tmp_path: Path, record_property: Figure
) -> None:
    size = 100
    script = SMALL + "CREATE TABLE texts (id int PRIMARY KEY, v text);"
    script += f"INSERT INTO texts SELECT 1, repeat('long text ', {size} * 104857);"
    with migration(pair, tmp_path, "differs", script, over=UNHURRIED) as one:
        one.succeeds("run", "--until", "follow")
        execute(one.theirs, "UPDATE texts SET v = v || 'and more'")
        use = watched(one, "verify")
        assert use.code == 7, use.said
        assert "id='1': changed" in flat(use.said)
        record_property("figure", f"a row of {size} MB that differs: {use.memory >> 20} MB")
        assert use.memory < 200 * MEGABYTE, use
        assert len(use.said) < 20_000


@pytest.mark.soak
def test_a_row_that_postgresql_itself_cannot_move_is_named(pair: Pair, tmp_path: Path) -> None:
    # 600 MB as bytes, 1.2 GB as text: PostgreSQL stores the row and can't write it out, nor decode a change of it.
    made = "(SELECT decode(repeat('00', 300 * 1048576), 'hex'))"
    script = SMALL + "CREATE TABLE blobs (id int PRIMARY KEY, b bytea, c bytea);"
    script += "ALTER TABLE blobs ALTER b SET STORAGE EXTENDED;"
    with migration(pair, tmp_path, "toolong", script, over=UNHURRIED) as one:
        one.succeeds("run", "--until", "follow")
        execute(one.ours, f"INSERT INTO blobs SELECT 7, b, b FROM {made} AS made(b)")
        code, said = one.run("run")
        assert code == 1, said
        assert "public.blobs" in flat(said), said
        assert "longer than PostgreSQL can send" in flat(said), said
        assert "cleanup" in flat(said), said


def test_a_long_transaction_while_copying_and_following_costs_the_runner_nothing(
    pair: Pair, tmp_path: Path, record_property: Figure
) -> None:
    count = 10_000_000 if SOAK else 300_000
    with migration(
        pair, tmp_path, "transaction", SMALL + "CREATE TABLE l (id int PRIMARY KEY, v int);"
    ) as one:
        with application(one) as client:
            one.succeeds("run", "--until", "copy")
            execute(one.ours, f"INSERT INTO l SELECT i, i FROM generate_series(1, {count}) i")
            use = watched(one, "run", "--until", "follow")
            assert use.code == 0, use.said
            execute(one.ours, "UPDATE l SET v = v + 1 WHERE id % 2 = 0", "DELETE FROM l WHERE id % 5 = 0")
            more = moved(one)
            client.kept(one.theirs)
        assert rows(one.theirs, "SELECT count(*), sum(v) FROM l") == rows(
            one.ours, "SELECT count(*), sum(v) FROM l"
        )
        record_property(
            "figure", f"{count} rows in a transaction: {use.memory >> 20} and {more.memory >> 20} MB"
        )
        assert max(use.memory, more.memory) < 150 * MEGABYTE


def test_tables_of_two_hundred_and_of_sixteen_hundred_columns_move(pair: Pair, tmp_path: Path) -> None:
    script = SMALL
    for count in (200, 1600):
        columns = ", ".join(f"c{n} int DEFAULT {n}" for n in range(1, count))
        script += f"CREATE TABLE wide{count} (id int PRIMARY KEY, {columns});"
        script += f"INSERT INTO wide{count} SELECT generate_series(1, 20);"
    with migration(pair, tmp_path, "wide", script, over="{verify: changed}") as one:
        one.succeeds("run", "--until", "follow")
        execute(one.ours, "UPDATE wide1600 SET c1599 = 0 WHERE id < 5", "DELETE FROM wide200 WHERE id = 20")
        execute(one.theirs, "UPDATE wide1600 SET c800 = -1 WHERE id = 9")
        code, said = one.run("verify")
        assert code == 7, said
        assert "c800: '800' → '-1'" in said
        one.succeeds("verify", "--repair", "--yes")
        one.succeeds("run")
        one.assert_moved()


def limited(one: Migration, limit: str) -> tuple[int, str]:
    """A run under a limit of prlimit's: its exit code and words."""
    secrets = {"SOURCE_PASSWORD": one.source.password, "TARGET_PASSWORD": one.target.password}
    ended = subprocess.run(
        ["prlimit", f"--{limit}", sys.executable, "-m", "planrunner", "run", "plan.yaml"],
        cwd=one.folder,
        env={**os.environ, **secrets},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG_SECONDS,
        check=False,
    )
    return ended.returncode, ended.stdout


# Each ends the run somewhere; how far it comes is the machine's affair.
LIMITS = (
    ("nofile=12", "may open no more files or connections"),
    ("nofile=16", "may open no more files or connections"),
    ("fsize=3000", ""),
    ("fsize=20000", ""),
    ("as=80000000", ""),
)


def test_limits_of_the_process_are_told_and_cost_nothing_but_another_run(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "limited", SMALL) as one:
        for limit, told in LIMITS:
            code, said = limited(one, limit)
            if limit.startswith("as=") and code == -signal.SIGSEGV:
                # A C library that gets no memory for its own needs may end the process, as kill -9 does.
                continue
            assert code in {0, 1, 6}, (limit, said)
            assert "Traceback" not in said, (limit, said)
            assert "a bug in planrunner" not in said, (limit, said)
            if code:
                assert "error: " in said, (limit, said)
                assert told in flat(said), (limit, said)
        one.succeeds("run")
        one.assert_moved()
