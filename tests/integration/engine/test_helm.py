"""A run that is paused, resumed and throttled by another process through the home of its state."""

import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from planrunner.clock import SystemClock
from planrunner.engine.events import EventKind
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import Interrupted
from planrunner.state.control import Control
from planrunner.state.file import FileStore

WHEN = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
CLOCK = SystemClock()


@pytest.fixture
def home(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "state.json")


def asked(**wishes: Any) -> Control:
    return Control().changed(who="ana@host", when=WHEN, wishes=wishes)


def told(bench: Any, words: str) -> bool:
    return any(words in event.message for event in bench.events)


def until(holds: Any) -> None:
    deadline = CLOCK.monotonic() + 20
    while not holds():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.02)


def test_a_paused_run_begins_nothing_until_it_is_resumed(bench: Any, home: FileStore) -> None:
    home.steer(asked(paused=True, jobs=2))
    setup = replace(bench.setup(bench.touch("one", "a")), home=home)
    runner = threading.Thread(target=run_plan, args=(setup, RunOptions()))
    runner.start()
    until(lambda: told(bench, "paused by ana@host"))
    assert told(bench, "planrunner resume")
    assert told(bench, "throttled by ana@host: jobs=2")
    CLOCK.sleep(0.5)
    assert bench.made() == {}
    home.steer(asked(paused=False))
    runner.join(20)
    assert not runner.is_alive()
    assert list(bench.made()) == ["a"]
    assert told(bench, "resumed by ana@host")
    assert told(bench, "throttled by ana@host: jobs=plan")


def test_a_signal_ends_a_paused_run(bench: Any, home: FileStore) -> None:
    home.steer(asked(paused=True))
    setup = replace(bench.setup(bench.touch("one", "a")), home=home)
    setup.interruption._received = 15
    with pytest.raises(Interrupted):
        run_plan(setup, RunOptions())
    assert bench.made() == {}


def test_wishes_that_cannot_be_read_are_told_once_and_the_last_ones_stand(
    bench: Any, home: FileStore, tmp_path: Path
) -> None:
    (tmp_path / "state.json.control.json").write_text("{")
    run_plan(replace(bench.setup(bench.touch("one", "a")), home=home), RunOptions())
    warnings = [event for event in bench.events if event.kind is EventKind.WARNING]
    assert len(warnings) == 1
    assert "control file" in warnings[0].message
    assert list(bench.made()) == ["a"]
