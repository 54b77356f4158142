"""A state that is lost in the middle of a migration: never a silent start from zero, and made anew from the ledger."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from planrunner.sandbox.demo import Stage, stage
from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, run, slots, state_of
from tests.acceptance.test_resume import SCALE, application_dsn

if TYPE_CHECKING:
    from pathlib import Path

UNFIT, WAITS, USAGE = 6, 4, 2


def rebuild(scene: Stage, *options: str) -> subprocess.CompletedProcess[str]:
    command = scene.command("state", "--no-input", *options)
    command.insert(command.index("state") + 1, "rebuild")
    return subprocess.run(
        command, env=scene.environment(), capture_output=True, text=True, timeout=120, check=False
    )


def state_files(scene: Stage) -> list[Path]:
    return sorted(scene.plan.parent.glob(f"{scene.plan.name}.state.json*"))


def lose(scene: Stage) -> None:
    for path in state_files(scene):
        path.unlink()


def destroy(scene: Stage) -> None:
    for path in state_files(scene):
        path.write_bytes(path.read_bytes()[:70])


@pytest.mark.parametrize(
    ("failpoint", "loss"),
    [
        ("copy.after_commit#3:kill", lose),
        ("journal#45:kill", destroy),
        ("cutover.barrier_passed:kill", lose),
        ("cutover.after_commit:kill", destroy),
        ("cutover.retired:kill", lose),
    ],
)
def test_a_lost_state_is_told_and_made_anew(failpoint: str, loss: object) -> None:
    assert callable(loss)
    with (
        stage(None, None, scale=SCALE) as scene,
        Writer(application_dsn(scene), threads=1, rate=40) as writer,
    ):
        killed = run(scene, "--yes", "--no-input", failpoints=failpoint)
        assert killed.returncode == -9, f"{killed.returncode}: {killed.stdout[-1500:]}{killed.stderr[-1500:]}"
        loss(scene)

        refused = run(scene, "--yes", "--no-input")
        assert refused.returncode == UNFIT, refused.stdout + refused.stderr
        assert "state rebuild" in refused.stderr or "backup" in refused.stderr
        assert rebuild(scene).returncode == WAITS
        made = rebuild(scene, "--yes")
        assert made.returncode == 0, made.stdout + made.stderr
        assert "by the target's ledger and the servers" in made.stdout

        resumed = run(scene, "--yes", "--no-input")
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr
        writer.stop()
        assert writer.check(scene.target_database.superuser_dsn) == []
        source, target = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
        assert contents(source) == contents(target)
        assert slots(source) == []
        assert scene.api.reboots == 1
        assert {step["status"] for step in state_of(scene)["steps"].values()} == {"done"}


def test_after_the_end_every_step_is_found_done_and_nothing_is_done_again() -> None:
    with stage(None, None, scale=SCALE) as scene:
        assert run(scene, "--yes", "--no-input").returncode == 0
        before = state_of(scene)
        refused = rebuild(scene, "--yes")
        assert refused.returncode == USAGE
        assert "nothing to make anew" in refused.stderr
        destroy(scene)
        made = rebuild(scene, "--yes")
        assert made.returncode == 0, made.stdout + made.stderr
        assert ".aside.1" in made.stdout
        after = state_of(scene)
        assert {k: s["status"] for k, s in after["steps"].items()} == {
            k: s["status"] for k, s in before["steps"].items()
        }
        assert after["plan_id"] == before["plan_id"]
        assert all("rebuilt" in mark["why"] for mark in after["marks"])
        calls = len(scene.api.changes)
        again = run(scene, "--yes", "--no-input")
        assert again.returncode == 0, again.stderr
        assert len(scene.api.changes) == calls


def test_where_the_target_knows_nothing_there_is_nothing_to_make_it_from() -> None:
    with stage(None, None, scale=SCALE) as scene:
        refused = rebuild(scene, "--yes")
        assert refused.returncode == USAGE
        assert "knows nothing of this plan" in refused.stderr
        assert state_files(scene) == [] or all("lock" in path.name for path in state_files(scene))
