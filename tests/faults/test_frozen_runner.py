"""A runner that is frozen in the middle of a migration, and another that takes over from it on another machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planrunner.clock import SystemClock
from planrunner.sandbox.demo import Stage, stage
from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, slots, state_in
from tests.acceptance.test_resume import SCALE, application_dsn

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCK = SystemClock()
LOCKED = 5
_PATIENCE_SECONDS = 90


@contextmanager
def frozen_at(scene: Stage, failpoint: str) -> Iterator[subprocess.Popen[str]]:
    """A runner that has stopped itself at that point, at its first passage where none is named.

    At each passage it would stop again after it was woken, where two threads come by.
    """
    passage = failpoint if "#" in failpoint else f"{failpoint}#1"
    child = subprocess.Popen(
        scene.command("run", "--yes", "--no-input"),
        env={**scene.environment(), "PLANRUNNER_FAILPOINTS": f"{passage}:stop"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        give_up = CLOCK.monotonic() + _PATIENCE_SECONDS
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert child.poll() is None, f"it ended before {failpoint}"
            assert CLOCK.monotonic() < give_up, f"it never came to {failpoint}"
            CLOCK.sleep(0.05)
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.communicate()


def elsewhere(scene: Stage, folder: Path) -> Path:
    """The plan and its state as another machine has them: in git, or copied there."""
    shutil.copytree(scene.plan.parent, folder, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
    return folder / scene.plan.name


def run_there(scene: Stage, plan: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(plan) if word == str(scene.plan) else word for word in scene.command("run", *options)]
    return subprocess.run(
        command, env=scene.environment(), capture_output=True, text=True, timeout=180, check=False
    )


@pytest.mark.parametrize(
    "failpoint",
    [
        "copy.after_commit",
        pytest.param("journal#50", marks=pytest.mark.soak),
        "cutover.fenced",
        "cutover.before_commit",
        pytest.param("cutover.retired", marks=pytest.mark.soak),
    ],
)
def test_what_a_frozen_runner_does_after_it_woke_changes_nothing(failpoint: str, tmp_path: Path) -> None:
    with (
        stage(None, None, scale=SCALE) as scene,
        Writer(application_dsn(scene), threads=1, rate=40) as writer,
    ):
        with frozen_at(scene, failpoint) as child:
            plan = elsewhere(scene, tmp_path / "other machine")
            refused = run_there(scene, plan, "--yes", "--no-input")
            assert refused.returncode == LOCKED, refused.stdout + refused.stderr
            assert "--take-over" in refused.stderr
            taken = run_there(scene, plan, "--yes", "--no-input", "--take-over")
            assert taken.returncode == 0, taken.stdout[-2500:] + taken.stderr
            writer.stop()
            source, target = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
            moved = contents(target)
            child.send_signal(signal.SIGCONT)
            told, _ = child.communicate(timeout=_PATIENCE_SECONDS)
            assert child.returncode not in {0, 3}, told[-2500:]
        assert contents(target) == moved == contents(source)
        assert writer.check(target) == []
        assert slots(source) == []
        assert {step["status"] for step in state_in(plan)["steps"].values()} == {"done"}
