"""Cutover and rollback broken off at every sub-step, under a client that tries both sides every 10 ms.

Never are two sides open, never does an acknowledged write get lost, and the next run goes on from what is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUDGET_SECONDS = 3
PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: {name}}}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{source}/{name}?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{target}/{name}?sslmode=disable
    password: {{secret: {{env: TARGET_PASSWORD}}}}
steps:
  - {{id: copy, uses: snapshot}}
  - {{id: follow, uses: sync}}
  - {{id: over, uses: cutover_verify, with: {{reverse: true, write_pause_budget: {budget}s}}}}
"""
SCHEMA = """
CREATE TABLE acks (id bigint PRIMARY KEY, side text NOT NULL);
CREATE TABLE items (id bigserial PRIMARY KEY, v text);
INSERT INTO items (v) SELECT 'v' || i FROM generate_series(1, 2000) i;
CREATE TABLE other (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item bigint REFERENCES items);
INSERT INTO other (item) SELECT i FROM generate_series(1, 500) i;
"""
# In the order in which they are passed; the COMMIT lies between before_commit and after_commit.
CUTOVER = (
    *("over.guard.before", "cutover.guarded", "over.cutover.before", "back.published", "back.slot_made"),
    *("cutover.locked", "cutover.fenced", "cutover.barrier_passed", "cutover.verified"),
    *("cutover.sequences_carried", "cutover.aligned", "cutover.before_commit"),
)
CUTOVER_COMMITTED = (
    *("cutover.after_commit", "cutover.opened", "cutover.switched", "over.cutover.after"),
    *("over.end replication.before", "cutover.retired", "over.way back.before", "back.started"),
)
ROLLBACK = (
    *("over.rollback.before", "onward.published", "onward.slot_made", "cutover.locked", "cutover.fenced"),
    *("rollback.barrier_passed", "rollback.verified", "rollback.sequences_carried", "cutover.aligned"),
    "cutover.before_commit",
)
ROLLBACK_COMMITTED = (
    *("cutover.after_commit", "rollback.opened", "rollback.switched", "rollback.noted"),
    *("over.rollback.after", "rollback.retired", "onward.started"),
)
HELD = ("cutover.locked", "cutover.fenced", "cutover.aligned", "cutover.before_commit")
GUARDED = "SELECT count(*) FROM pg_trigger WHERE tgname = 'planrunner_fence' AND tgrelid = 'acks'::regclass"
CASES = [
    *[("cutover", point, "kill") for point in (*CUTOVER, *CUTOVER_COMMITTED)],
    *[("cutover", point, "raise") for point in CUTOVER],
    *[("rollback", point, "kill") for point in (*ROLLBACK, *ROLLBACK_COMMITTED)],
    *[("rollback", point, "raise") for point in ROLLBACK],
    *[(verb, point, "stop") for verb in ("cutover", "rollback") for point in (*HELD, "cutover.after_commit")],
]
assert len(CASES) >= 60


def _at_length(verb: str, point: str, mode: str) -> bool:
    """What the others hold to as well: an error where a kill is tried, a frozen rollback."""
    return (mode == "raise" and point not in HELD) or (mode == "stop" and verb == "rollback")


@dataclass
class Client:
    """Inserts its own numbers on one side until it is stopped; ``acked`` holds them with the server's time.

    With ``guarded`` it begins when the side is guarded: before that a stray row would rightly stop the cutover.
    """

    dsn: str
    side: str
    guarded: bool
    acked: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._number = 0 if self.side == "source" else 1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as session:
            while not self._end.wait(0.01):
                if self.guarded:
                    self.guarded = session.execute(GUARDED).fetchone() == (0,)
                    continue
                self._number += 2
                try:
                    row = session.execute(
                        "INSERT INTO acks VALUES (%s, %s) RETURNING extract(epoch FROM clock_timestamp())::float8",
                        [self._number, self.side],
                    ).fetchone()
                except psycopg.errors.ReadOnlySqlTransaction:
                    continue
                assert row is not None
                self.acked.append((self._number, row[0]))


@dataclass
class Scene:
    """A database pair with its plan; both clients write from ``clients`` on."""

    servers: tuple[PostgresServer, PostgresServer]
    folder: Path
    name: str

    def dsn(self, side: int) -> str:
        server = self.servers[side]
        return server.dsn("postgres", self.name, password=server.password)

    def start(self, verb: str, *options: str, failpoints: str = "") -> subprocess.Popen[str]:
        passwords = {"SOURCE_PASSWORD": self.servers[0].password, "TARGET_PASSWORD": self.servers[1].password}
        return subprocess.Popen(
            [sys.executable, "-m", "planrunner", verb, "plan.yaml", *options],
            cwd=self.folder,
            env={**os.environ, **passwords, "PLANRUNNER_FAILPOINTS": failpoints},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def succeeds(self, verb: str, *options: str) -> None:
        child = self.start(verb, *options)
        told, _ = child.communicate(timeout=120)
        assert child.returncode == 0, told

    def broken_off(self, verb: str, point: str, mode: str) -> None:
        """Begin ``verb`` and break it off at ``point``."""
        child = self.start(verb, *asked(verb), failpoints=f"{point}:{mode}")
        if mode == "stop":
            _wait_stopped(child.pid)
            # The dead man's switch is the budget and a second.
            SystemClock().sleep(BUDGET_SECONDS + 1.5)
            os.kill(child.pid, signal.SIGCONT)
        told, _ = child.communicate(timeout=120)
        if mode == "kill":
            assert child.returncode == -signal.SIGKILL, told
        if mode == "raise":
            assert child.returncode == 1, told
            assert f"failpoint {point} was reached" in " ".join(told.split())
        if mode == "stop":
            assert child.returncode == (0 if point == "cutover.after_commit" else 1), told
            assert "Traceback" not in told


def asked(verb: str) -> tuple[str, ...]:
    return ("--no-input",) if verb == "run" else ("--yes",)


def _wait_stopped(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        SystemClock().sleep(0.02)
    raise AssertionError("the run never came to the failpoint")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    logical = {"wal_level": "logical"}
    with (
        PostgresServer(wheel_bin(16), settings=logical) as source,
        PostgresServer(wheel_bin(18), settings=logical) as target,
    ):
        yield source, target


@contextmanager
def following(servers: tuple[PostgresServer, PostgresServer], folder: Path, name: str) -> Iterator[Scene]:
    """A pair whose target follows; both databases are gone at the end."""
    scene = Scene(servers, folder, name)
    for server in servers:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(scene.dsn(0)) as session:
        session.execute(SCHEMA)
    text = PLAN.format(name=name, source=servers[0].port, target=servers[1].port, budget=BUDGET_SECONDS)
    (folder / "plan.yaml").write_text(text)
    scene.succeeds("run", "--no-input", "--until", "follow")
    yield scene
    scene.succeeds("cleanup", "--yes")
    for side, server in enumerate(servers):
        with psycopg.connect(scene.dsn(side)) as session:
            assert session.execute(
                "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
            ).fetchone() == (0,)
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("verb", "point", "mode"),
    [pytest.param(*case, marks=[pytest.mark.soak] if _at_length(*case) else []) for case in CASES],
)
def test_a_crossing_broken_off_loses_nothing_and_never_opens_two_sides(
    servers: tuple[PostgresServer, PostgresServer], tmp_path: Path, verb: str, point: str, mode: str
) -> None:
    name = "p" + "".join(c if c.isalnum() else "_" for c in f"{verb}_{point}_{mode}".lower())
    with following(servers, tmp_path, name) as scene:
        command = "run" if verb == "cutover" else "rollback"
        if verb == "rollback":
            scene.succeeds("run", "--no-input")
        clients = [
            Client(scene.dsn(0), "source", guarded=False),
            Client(scene.dsn(1), "target", guarded=verb == "cutover"),
        ]
        leaving, entering = clients if verb == "cutover" else reversed(clients)
        for client in clients:
            client.start()
        scene.broken_off(command, point, mode)
        acked = len(leaving.acked)
        if point in (*CUTOVER, *ROLLBACK):
            assert not entering.acked
            _wait_until(lambda: len(leaving.acked) > acked)
        resumed = time.time()
        scene.succeeds(command, *asked(command))
        _wait_until(lambda: bool(entering.acked))
        for client in clients:
            client.stop()
        # Whoever left wrote for the last time before the first who arrived.
        assert max(at for _, at in leaving.acked) < min(at for _, at in entering.acked)
        # Not for as long as it takes a machine to start a runner, but never for good: a busy one takes its time.
        assert _longest_gap(leaving, entering, since=resumed) < BUDGET_SECONDS + 30
        there = _acks(scene.dsn(1 if verb == "cutover" else 0))
        assert {number for client in clients for number, _ in client.acked} <= there


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        SystemClock().sleep(0.02)


def _longest_gap(leaving: Client, entering: Client, *, since: float) -> float:
    times = sorted([since, *(at for c in (leaving, entering) for _, at in c.acked if at > since)])
    return max(after - before for before, after in pairwise(times))


def _acks(dsn: str) -> set[int]:
    with psycopg.connect(dsn) as session:
        return {row[0] for row in session.execute("SELECT id FROM acks").fetchall()}
