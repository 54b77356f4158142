"""Signals in the middle of a real run: the first ends it safely, the second at once, and the next run goes on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.sandbox.demo import Stage, stage
from planrunner.sandbox.writer import Writer
from planrunner.state.control import Control
from planrunner.state.file import FileStore
from planrunner.steering import Steer
from tests.acceptance.helpers import contents, run, slots, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCK = SystemClock()
# More active sessions than the writer ever has.
BUSY = 4
MAKING, COPIED, BUILDING = "schema.before_commit", "copy.after_commit", "schema.entry_done"
WAITING, COMPARING = "follow.catch up.before", "cutover.guarded"
FENCED, COMMITTED, OPENED = "cutover.fenced", "cutover.after_commit", "cutover.opened"


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with stage(None, None, scale=0.2) as made:
        # One stream, so that the first commit surely leaves a rest, and indexes to build for the next run.
        text = made.plan.read_text()
        one = text.replace("without_replica_identity: full", "without_replica_identity: full, jobs: 1")
        assert one != text
        made.plan.write_text(one)
        yield made


def stopped_at(scene: Stage, point: str) -> subprocess.Popen[str]:
    """A run that is frozen at that point, in a process group of its own, as a shell would start it."""
    child = subprocess.Popen(
        scene.command("run", "--yes", "--no-input"),
        env={**scene.environment(), "PLANRUNNER_FAILPOINTS": f"{point}#1:stop"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until_stopped(child, point)
    return child


def wait_until_stopped(child: subprocess.Popen[str], point: str) -> None:
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    told = child.stdout.read() if child.stdout and not os.WIFSTOPPED(status) else ""
    assert os.WIFSTOPPED(status), f"the run ended before {point}: {told}"


def signalled(child: subprocess.Popen[str], *numbers: signal.Signals) -> str:
    """Send the signals to the whole group, as Ctrl-C does, let it go on, and return what it said on stderr."""
    # Thawed first: to a frozen process the kernel gives a signal in whichever thread wakes up first.
    for number in (signal.SIGCONT, *numbers):
        os.killpg(child.pid, number)
    _, err = child.communicate(timeout=90)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    return err


def hold_up_when_busy(scene: Stage) -> None:
    control = Control(steer=Steer(max_load=BUSY - 1), who="test", when=CLOCK.now())
    FileStore(scene.plan.with_name(f"{scene.plan.name}.state.json")).steer(control)


@contextmanager
def busy(dsn: str) -> Iterator[None]:
    """Sessions that are active on the server for the length of the block."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for _ in range(BUSY)]
        pool = stack.enter_context(ThreadPoolExecutor(BUSY))
        for session in sessions:
            pool.submit(session.execute, "SELECT pg_sleep(60)")
        try:
            yield
        finally:
            for session in sessions:
                session.cancel_safe()


def rows_doubled(dsn: str) -> int:
    with psycopg.connect(dsn) as session:
        row = session.execute("SELECT count(*) - count(DISTINCT unit_id) FROM planrunner.unit").fetchone()
    assert row is not None
    return int(row[0])


def application(scene: Stage) -> str:
    database = scene.source_database
    return conninfo.make_conninfo(database.application_dsn or "", password=database.password)


@pytest.mark.timeout(600)
def test_signals_at_every_stage_lose_nothing_and_double_nothing(scene: Stage) -> None:
    target = scene.target_database.superuser_dsn
    with Writer(application(scene), threads=1, rate=40) as writer:
        # Two at once: the second arrives while the first is being handled.
        said = signalled(stopped_at(scene, MAKING), signal.SIGINT, signal.SIGTERM)
        assert "stopped at once" in said
        assert "source: slot pr_" in said
        assert "holds the copy's snapshot" in said
        assert "planrunner cleanup" in said

        hold_up_when_busy(scene)
        for point, number in ((COPIED, signal.SIGINT), (BUILDING, signal.SIGTERM)):
            child = stopped_at(scene, point)
            # No further unit is begun meanwhile, so that there is a rest for the next run.
            with busy(scene.source_database.superuser_dsn):
                said = signalled(child, number)
            assert f"interrupted by {number.name}" in said, point
        for point, number in (
            (WAITING, signal.SIGHUP),
            (COMPARING, signal.SIGINT),
            (FENCED, signal.SIGTERM),
        ):
            said = signalled(stopped_at(scene, point), number)
            assert f"interrupted by {number.name}" in said, point
            assert "Go on with: planrunner run" in said, point
            assert "running" not in {s["status"] for s in state_of(scene)["steps"].values()}, point
        writes = writer.counts().acknowledged
        deadline = CLOCK.monotonic() + 30
        while writer.counts().acknowledged <= writes and CLOCK.monotonic() < deadline:
            CLOCK.sleep(0.1)
        assert writer.counts().acknowledged > writes, "writers go on once the fence's session is gone"

        # After the commit a signal waits until the target is open: else nobody could write anywhere.
        said = signalled(stopped_at(scene, COMMITTED), signal.SIGINT, signal.SIGTERM)
        assert "stopped at once" in said
        assert "the fence: writers wait for its locks" in said
        assert "Go on with: planrunner run" in said
        signalled(stopped_at(scene, OPENED), signal.SIGINT)
        last = run(scene, "--yes", "--no-input")
        assert last.returncode == 0, last.stdout[-2000:] + last.stderr
        writer.stop()
        assert writer.check(target) == []
    assert contents(scene.source_database.superuser_dsn) == contents(target)
    assert rows_doubled(target) == 0
    assert slots(scene.source_database.superuser_dsn) == []


def test_a_lost_terminal_ends_the_run_safely() -> None:
    with stage(None, None, scale=0.02) as scene:
        master, slave = os.openpty()
        child = subprocess.Popen(
            scene.command("run", "--yes", "--no-input"),
            env={
                **scene.environment(),
                "PLANRUNNER_FAILPOINTS": f"{MAKING}#1:stop",
                "TERM": "xterm",
            },
            stdin=slave,
            stdout=subprocess.DEVNULL,  # nobody would read what is drawn there
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # the only way to a terminal of its own
        )
        os.close(slave)
        wait_until_stopped(child, MAKING)
        os.close(master)  # what a lost ssh does; the kernel sends SIGHUP and SIGCONT
        assert child.wait(60) == 130
        assert state_of(scene)["steps"]["copy"]["status"] == "pending"
        assert "interrupted by SIGHUP" in state_of(scene)["steps"]["copy"]["error"]
        assert run(scene, "--yes", "--no-input").returncode == 0
