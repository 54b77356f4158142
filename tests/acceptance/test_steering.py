"""A run whose state lies on the target, watched, paused and resumed from another folder, as from another machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from planrunner.clock import SystemClock
from planrunner.sandbox.demo import Stage, stage

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = SystemClock()


def call(scene: Stage, plan: Path, *words: str, code: int = 0) -> str:
    """``planrunner`` with the plan put in the place of PLAN; stdout and stderr together."""
    ended = subprocess.run(
        command(scene, plan, *words),
        env=environment(scene),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def command(scene: Stage, plan: Path, *words: str) -> list[str]:
    head = scene.command("run")[:3]
    return [*head, *(str(plan) if word == "PLAN" else word for word in words), *scene.variables()]


def environment(scene: Stage) -> dict[str, str]:
    return {**scene.environment(), "PLANRUNNER_STATE": "target"}


def started(scene: Stage, plan: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(scene, plan, *words),
        env=environment(scene),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_at_work(scene: Stage, plan: Path) -> None:
    deadline = CLOCK.monotonic() + 60
    while json.loads(call(scene, plan, "status", "PLAN", "--output", "json"))["running"] is None:
        assert CLOCK.monotonic() < deadline


def test_a_run_is_watched_and_steered_from_another_machine(tmp_path: Path) -> None:
    with stage(None, None, scale=0.2) as scene:
        elsewhere = tmp_path / scene.plan.name
        shutil.copyfile(scene.plan, elsewhere)
        assert "no run is at work; the next one will wait" in call(scene, elsewhere, "pause", "PLAN")
        assert "jobs=1" in call(scene, elsewhere, "throttle", "PLAN", "jobs=1", "index_jobs=1")
        assert "expected a number from 1 on" in call(scene, elsewhere, "throttle", "PLAN", "jobs=0", code=2)

        run = started(scene, scene.plan, "run", "PLAN", "--yes", "--no-input")
        until_at_work(scene, elsewhere)
        watch = started(
            scene, elsewhere, "status", "PLAN", "--watch", "--interval", "0.2", "--output", "json"
        )
        refused = call(scene, elsewhere, "run", "PLAN", "--yes", "--no-input", code=5)
        assert f"process {run.pid}" in refused
        assert "asked: paused, jobs=1, index_jobs=1" in call(scene, elsewhere, "status", "PLAN")
        marked = ("state", "mark", "PLAN", "copy", "--as", "done", "--because", "x", "--yes")
        call(scene, elsewhere, *marked, code=5)
        assert "goes on within seconds" in call(scene, elsewhere, "resume", "PLAN")
        told, _ = run.communicate(timeout=120)
        assert run.returncode == 0, told
        assert "paused by" in told
        assert "resumed by" in told

        looks: list[dict[str, Any]] = [
            json.loads(line) for line in watch.communicate(timeout=60)[0].splitlines()
        ]
        assert watch.returncode == 0
        assert any(look["paused"] for look in looks)
        assert looks[-1]["running"] is None
        assert {step["status"] for step in looks[-1]["steps"]} == {"done"}

        # Nothing but the plan is here: state and events come from the target.
        assert [path.name for path in tmp_path.iterdir()] == [elsewhere.name]
        report = json.loads(call(scene, elsewhere, "report", "PLAN", "--format", "json"))
        assert report["result"] == "migrated"
        assert report["began"] is not None
        history = call(scene, elsewhere, "state", "history", "PLAN")
        assert "resumed by" in history
        assert "(backup 5)" in history
        nonsense = ("state", "mark", "PLAN", "cutover", "--as", "pending", "--because", "x", "--yes")
        assert "planrunner rollback" in call(scene, elsewhere, *nonsense, code=2)
        assert not scene.plan.with_name(f"{scene.plan.name}.state.json").exists()
