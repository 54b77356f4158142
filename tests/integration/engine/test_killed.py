"""A runner that is killed at any event, and a second one beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planrunner.engine.events import EventKind, read_events
from planrunner.engine.files import run_files
from planrunner.state.file import FileStore

WORKER = Path(__file__).with_name("killed_run.py")


def run(bench: Any, failpoints: str = "") -> subprocess.CompletedProcess[str]:
    given = {
        "folder": str(bench.folder),
        "source": bench.source,
        "target": bench.target,
        "password": bench.password,
    }
    return subprocess.run(
        [sys.executable, str(WORKER), json.dumps(given)],
        env={
            **os.environ,
            "PLANRUNNER_FAILPOINTS": failpoints,
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_kill_at_any_event_is_resumed_to_the_same_end(bench: Any) -> None:
    killed = 0
    while True:
        for path in bench.folder.iterdir():
            if path.is_file():
                path.unlink()
        for path in bench.files.iterdir():
            path.unlink()
        first = run(bench, f"journal#{killed + 1}:kill")
        if first.returncode == 0:
            break
        assert first.returncode == -9, first.stderr
        killed += 1
        resumed = run(bench)
        assert resumed.returncode == 0, resumed.stderr
        # ``once`` and never ``onceagain``: no action was performed twice.
        assert bench.made() == {"a": "once", "b": "once", "c": "once"}
        events = read_events(run_files(bench.folder / "tiny.yaml").events)
        assert [event.serial for event in events] == list(range(1, len(events) + 1))
    whole = read_events(run_files(bench.folder / "tiny.yaml").events)
    assert killed == sum(event.kind is not EventKind.FINDING for event in whole) > 10


@pytest.mark.parametrize("point", ["one.a.before", "one.a.after", "two.c.before", "two.c.after"])
def test_a_kill_around_an_action_is_resumed_without_doing_it_twice(bench: Any, point: str) -> None:
    assert run(bench, f"{point}:kill").returncode == -9
    assert run(bench).returncode == 0
    assert bench.made() == {"a": "once", "b": "once", "c": "once"}


def test_a_failure_leaves_a_report_and_a_state(bench: Any) -> None:
    assert run(bench, "two.c.before:raise").returncode == 1
    files = run_files(bench.folder / "tiny.yaml")
    told = json.loads(files.report_json.read_text())
    assert told["result"] == "failed"
    assert [step["status"] for step in told["steps"]] == ["done", "done", "failed"]
    assert "failpoint two.c.before" in files.report_markdown.read_text()
    state = FileStore(files.state).load()
    assert state is not None
    assert state.steps["two"].half_done
