"""Ways to break a server, and a client whose acknowledged writes must survive all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from tests.faults.runner import abort
from tests.faults.scene import CLOCK, PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

SCRIPT = """
CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, balance int NOT NULL);
INSERT INTO account SELECT i, 'owner ' || i, i % 97 FROM generate_series(1, 3000) i;
CREATE INDEX ON account (owner);
CREATE TABLE entry (id bigserial PRIMARY KEY, account int NOT NULL REFERENCES account, note text);
INSERT INTO entry (account, note) SELECT 1 + i % 3000, repeat('x', i % 50) FROM generate_series(1, 4000) i;
CREATE TABLE said (id int PRIMARY KEY, word text);
"""
# A busy machine is no fault of ours: only what is broken on purpose may stop a cutover.
UNHURRIED = "{write_pause_budget: 60s}"
_FENCED = "25006"


class Clerk:
    """Writes one row after another for the length of the block, and keeps which of them were acknowledged.

    A server that is away is dialled again; one that is closed by the fence ends the work.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self.acknowledged: set[int] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _write_on(self) -> None:
        number = 0
        while not self._ended.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as session:
                    while not self._ended.wait(0.01):
                        number += 1
                        session.execute("INSERT INTO said VALUES (%s, 'aye')", [number])
                        self.acknowledged.add(number)
            except psycopg.Error as error:
                if error.sqlstate == _FENCED:
                    return
                self._ended.wait(0.05)

    def assert_kept(self, dsn: str) -> None:
        with psycopg.connect(dsn) as session:
            there = {row[0] for row in session.execute("SELECT id FROM said").fetchall()}
        assert self.acknowledged <= there, sorted(self.acknowledged - there)[:10]


def once(moment: str) -> str:
    """The failpoint at its first passage only: a runner that goes on is not to stop there again."""
    return moment if "#" in moment else f"{moment}#1"


def crash(server: PostgresServer) -> None:
    """SIGQUIT: every process ends at once, nothing is flushed."""
    server.stop("immediate")


def slay(server: PostgresServer) -> None:
    """SIGKILL to the postmaster and to each of its children, all at once."""
    postmaster = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in (postmaster, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not server.running, "the postmaster has ended")


def wait_until(holds: Callable[[], Any], what: str, *, pause: float = 0.05) -> None:
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert CLOCK.monotonic() < give_up, f"never came: {what}"
        CLOCK.sleep(pause)


def ended(child: subprocess.Popen[str], codes: Container[int] = (0, 1)) -> tuple[int, str]:
    """The exit code of a runner that goes on by itself, and what it said; never a traceback or a bug's code."""
    try:
        said, _ = child.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        abort(child)
        said, _ = child.communicate()
        raise AssertionError(f"it did not end within {PATIENCE_SECONDS} s: {said}") from None
    assert child.returncode in codes, said
    assert "Traceback" not in said, said
    return child.returncode, said


def finishes(one: Migration, *, most: int = 3) -> list[str]:
    """Run again until it is done, as an operator would; what the runs before had said."""
    told = []
    for _ in range(most):
        code, said = one.run("run", "--yes", "--no-input")
        if code == 0:
            return told
        assert code == 1, said
        told.append(said)
    raise AssertionError("\n----\n".join(told))


def rows(dsn: str, query: str, *params: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as session:
        return session.execute(query.encode(), params or None).fetchall()


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


def until_told(one: Migration, words: str, *, after: int = 0) -> str:
    """Wait until the journal of the plan's runs has a message with ``words`` beyond serial ``after``; that message."""
    found: list[str] = []

    def told() -> bool:
        found[:] = [e["message"] for e in events(one) if e["serial"] > after and words in e["message"]]
        return bool(found)

    try:
        wait_until(told, words)
    except AssertionError as error:
        raise AssertionError(f"{error}; the last were {[e['message'] for e in events(one)[-5:]]}") from None
    return found[0]


def events(one: Migration) -> list[dict[str, Any]]:
    """The journal so far; a last line that is still being written is left for the next look."""
    journal = one.plan.with_name("plan.yaml.events.jsonl")
    if not journal.exists():
        return []
    whole, _, _ = journal.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines() if line]


def write_wal(dsn: str, megabytes: int) -> None:
    """Write so much WAL that no table holds."""
    execute(
        dsn,
        "SELECT count(pg_logical_emit_message(false, 'noise', repeat('x', 1 << 20))) FROM"
        f" generate_series(1, {megabytes})",
    )


@contextmanager
def lock_held(dsn: str, table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[int]:
    """A stranger's open transaction that holds a lock for the length of the block; its pid."""
    with psycopg.connect(dsn, application_name="stranger") as session:
        session.execute("SET lock_timeout = '30s'")
        session.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        yield session.info.backend_pid
        # Its lock goes with it; somebody may have ended it before.
        session.close()


@contextmanager
def stalled(one: Migration) -> Iterator[None]:
    """The target's apply worker is frozen for the length of the block: it holds no lock, and applies nothing."""
    found = "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL"
    wait_until(lambda: rows(one.theirs, found), "an apply worker is there")
    (pid,) = rows(one.theirs, found)[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def begin_anew(one: Migration) -> None:
    """What a message that tells of a lost stream says: clean up, empty the target, run again."""
    one.succeeds("cleanup", "--yes")
    execute(one.theirs, "DROP TABLE entry, account, said")
    finishes(one)
    one.assert_moved()
