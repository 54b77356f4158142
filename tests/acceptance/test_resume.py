"""Kills at every journalled event of a whole run, and what the next run makes of it."""

from __future__ import annotations

import random
import subprocess
from itertools import count

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.sandbox.demo import Stage, stage
from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, run, slots, state_of

SCALE = 0.02
FEWEST_EVENTS = 60
LANES = 4
# Every twelfth event; the points between are broken off one by one in tests/faults/test_points.py.
SOME = ((3, 12),)


def application_dsn(scene: Stage) -> str:
    database = scene.source_database
    return conninfo.make_conninfo(database.application_dsn or "", password=database.password)


def assert_moved(scene: Stage) -> None:
    source, target = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
    assert contents(source) == contents(target)
    assert slots(source) == []
    assert scene.api.reboots == 1
    assert {step["status"] for step in state_of(scene)["steps"].values()} == {"done"}
    with psycopg.connect(target) as session:
        assert session.execute("SELECT count(*) FROM pg_subscription").fetchone() == (0,)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("first", "step"),
    [*SOME, *(pytest.param(lane, LANES, marks=pytest.mark.soak) for lane in range(1, LANES + 1))],
)
def test_a_kill_at_every_journalled_event_is_resumed_without_loss(first: int, step: int) -> None:
    for event in count(first, step):
        with (
            stage(None, None, scale=SCALE) as scene,
            Writer(application_dsn(scene), threads=1, rate=40) as writer,
        ):
            killed = run(scene, "--yes", "--no-input", failpoints=f"journal#{event}:kill")
            if killed.returncode == 0:
                break
            assert killed.returncode == -9, killed.stderr
            resumed = run(scene, "--yes", "--no-input")
            assert resumed.returncode == 0, f"event {event}: {resumed.stdout[-2000:]} {resumed.stderr}"
            writer.stop()
            assert writer.check(scene.target_database.superuser_dsn) == [], f"event {event}"
            assert_moved(scene)
    assert event > FEWEST_EVENTS


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.soak) for n in (3, 4, 5))])
def test_kills_at_random_moments_are_resumed_without_loss(seed: int) -> None:
    chance = random.Random(seed)
    with stage(None, None, scale=0.2) as scene, Writer(application_dsn(scene)) as writer:
        for _ in range(3):
            child = subprocess.Popen(
                scene.command("run", "--yes", "--no-input"),
                env=dict(scene.environment()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            SystemClock().sleep(chance.uniform(0.3, 4.0))
            child.kill()
            child.wait()
        resumed = run(scene, "--yes", "--no-input")
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr
        writer.stop()
        assert writer.check(scene.target_database.superuser_dsn) == []
        assert_moved(scene)


def test_a_snapshot_lost_in_mid_copy_costs_no_finished_table() -> None:
    with stage(None, None, scale=2.0) as scene:
        # One stream and more jobs than two, so that a kill after the second commit surely leaves a rest.
        text = scene.plan.read_text()
        one = text.replace("without_replica_identity: full", "without_replica_identity: full, jobs: 1")
        assert one != text
        scene.plan.write_text(one)
        killed = run(scene, "--yes", "--no-input", failpoints="copy.after_commit#2:kill")
        assert killed.returncode == -9
        target = scene.target_database.superuser_dsn
        with psycopg.connect(target) as session:
            first = session.execute("SELECT unit_id, done FROM planrunner.unit").fetchall()
        assert 2 <= len(first) < 15
        resumed = run(scene, "--yes", "--no-input")
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr
        with psycopg.connect(target) as session:
            units = dict(session.execute("SELECT unit_id, done FROM planrunner.unit").fetchall())
            generations = session.execute(
                "SELECT DISTINCT generation FROM planrunner.unit ORDER BY 1"
            ).fetchall()
        assert all(units[name] == done for name, done in first)
        # Copied under two snapshots, then joined.
        assert generations == [(3,)]
        assert_moved(scene)


def test_a_second_run_beside_a_running_one_is_refused() -> None:
    with stage(None, None, scale=SCALE) as scene:
        first = subprocess.Popen(
            scene.command("run", "--yes", "--no-input"),
            env=dict(scene.environment()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        SystemClock().sleep(1.5)
        assert first.poll() is None
        second = run(scene, "--yes", "--no-input")
        assert second.returncode == 5
        assert "Traceback" not in second.stderr
        assert first.wait(120) == 0
