"""``status --watch`` while a server is away: drawn on a terminal, a line for each change elsewhere, and it goes on."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from planrunner.clock import SystemClock
from planrunner.engine.book import fresh_state
from planrunner.engine.files import run_files
from planrunner.loading import load
from planrunner.model import StepStatus
from planrunner.state.file import FileStore
from planrunner.state.lock import locked
from planrunner.state.record import StepState
from tests.integration.cli.conftest import environment
from tests.terminal import terminal

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: shop}
connections:
  source: {dsn: "postgresql://m@127.0.0.1:1/app?sslmode=disable"}
  target: {dsn: "postgresql://m@127.0.0.1:2/app?sslmode=disable"}
steps:
  - {id: copy, uses: snapshot}
"""
WORDS = ("status", "plan.yaml", "--watch", "--interval", "0.2")


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """The lock file of a plan whose copy is at work, as its state says; nothing listens at its servers' ports."""
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    files = run_files(path, None)
    now = SystemClock().now()
    step = StepState(uses="snapshot", status=StepStatus.RUNNING, started=now, resumed=now, attempts=1)
    state = replace(fresh_state(load(path)), plan_id="0123abcd", steps={"copy": step})
    store = FileStore(files.state)
    store.load()
    store.save(state)
    return files.lock


def test_on_a_terminal_who_is_away_is_drawn_until_the_run_ends(lock: Path, tmp_path: Path) -> None:
    with ExitStack() as run:
        run.enter_context(locked(lock, SystemClock()))
        with terminal([*WORDS], folder=tmp_path, environment=environment(), kind="xterm") as there:
            there.expect("a run is at work")
            there.expect("away, looked for again: ")
            there.expect("away, looked for again: ")
            run.close()
            there.expect("no run is at work")
            assert there.wait() == 0
    assert "Traceback" not in there.shown


def test_a_terminal_that_can_not_redraw_gets_lines(lock: Path, tmp_path: Path) -> None:
    with ExitStack() as run:
        run.enter_context(locked(lock, SystemClock()))
        with terminal([*WORDS], folder=tmp_path, environment=environment()) as there:
            there.expect("a run is at work")
            there.expect("away: ")
            run.close()
            there.expect("no run is at work")
            assert there.wait() == 0


def test_elsewhere_a_server_that_is_away_is_one_line(lock: Path, tmp_path: Path) -> None:
    with locked(lock, SystemClock()):
        child = subprocess.Popen(
            [sys.executable, "-m", "planrunner", *WORDS],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert child.stdout is not None
        told = ""
        while "away: " not in told:
            line = child.stdout.readline()
            assert line, told
            told += line
        # More looks than one find the same.
        SystemClock().sleep(1)
    rest, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert (told + rest).count("away: ") == 1
    assert "no run is at work" in rest
