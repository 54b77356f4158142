"""The journal file: whole lines, growing serials, and a torn end that hurts nothing."""

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from planrunner.clock import SystemClock
from planrunner.engine.events import EventKind, Journal, read_events
from planrunner.errors import StateUnfit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.yaml.events.jsonl"


def write(path: Path, *messages: str) -> None:
    journal = Journal(path, clock=SystemClock())
    for message in messages:
        journal.write(EventKind.NEWS, message, step="copy", fields={"rows": 1})
    journal.close()


def test_events_are_read_as_they_were_written(path: Path) -> None:
    write(path, "größe", "two\nlines")
    events = read_events(path)
    assert [(e.serial, e.kind, e.step, e.message, e.fields) for e in events] == [
        (1, EventKind.NEWS, "copy", "größe", {"rows": 1}),
        (2, EventKind.NEWS, "copy", "two\nlines", {"rows": 1}),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_serials_go_on_in_the_next_run(path: Path) -> None:
    write(path, "one")
    write(path, "two")
    assert [event.serial for event in read_events(path)] == [1, 2]


def test_a_torn_last_line_is_passed_over_and_not_glued_to_the_next(path: Path) -> None:
    write(path, "one", "two")
    path.write_bytes(path.read_bytes()[:-20])
    write(path, "three")
    assert [event.message for event in read_events(path)] == ["one", "three"]


def test_threads_do_not_tear_each_others_lines(path: Path) -> None:
    journal = Journal(path, clock=SystemClock())
    threads = [
        threading.Thread(target=lambda: [journal.write(EventKind.NEWS, "x" * 3000) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["serial"] for line in lines] == list(range(1, 401))


def test_a_linked_journal_is_refused(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(StateUnfit):
        Journal(path, clock=SystemClock())
    assert not (tmp_path / "precious").exists()


def test_the_failpoint_kills_at_the_event_it_names(path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from planrunner.clock import SystemClock\n"
        "from planrunner.engine.events import EventKind, Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]), clock=SystemClock())\n"
        "for n in range(9):\n"
        "    journal.write(EventKind.NEWS, str(n))\n"
    )
    environment = {"PLANRUNNER_FAILPOINTS": "journal#3:kill", "PYTHONPATH": ":".join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", script, str(path)], env=environment, check=False)
    assert ended.returncode == -9
    assert [event.message for event in read_events(path)] == ["0", "1", "2"]
