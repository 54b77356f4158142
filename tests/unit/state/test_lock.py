"""The lock on a state file, held by real processes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LockedByAnother, StateUnfit
from planrunner.state.lock import holder, locked

HOLD = """
import sys, pathlib
from planrunner.clock import SystemClock
from planrunner.state.lock import locked
with locked(pathlib.Path(sys.argv[1]), SystemClock()):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.yaml.state.json.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_a_second_process_is_refused_and_told_who_holds(path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedByAnother) as refused, locked(path, SystemClock()):
        pass
    assert f"process {other.pid}" in refused.value.message
    assert os.uname().nodename in refused.value.message


def test_looking_names_the_holder(path: Path, other: subprocess.Popen[str]) -> None:
    found = holder(path)
    assert found is not None
    assert found.pid == other.pid


def test_the_death_of_the_holder_frees_the_lock(path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(path) is None
    with locked(path, SystemClock()):
        found = holder(path)
    assert found is not None
    assert found.pid == os.getpid()


def test_nobody_holds_a_lock_that_was_given_back(path: Path) -> None:
    with locked(path, SystemClock()):
        pass
    assert holder(path) is None
    with locked(path, SystemClock()):
        pass


def test_a_linked_lock_file_is_refused(path: Path, tmp_path: Path) -> None:
    goal = tmp_path / "precious"
    goal.write_text("keep me")
    path.symlink_to(goal)
    with pytest.raises(StateUnfit), locked(path, SystemClock()):
        pass
    assert goal.read_text() == "keep me"


def test_a_holder_that_cannot_be_read_is_unnamed(path: Path, other: subprocess.Popen[str]) -> None:
    path.write_text("damaged")
    found = holder(path)
    assert found is not None
    assert str(found) == "?@?, process 0, since ?"
    path.write_text('{"pid": 1, "surprise": 2}')
    assert holder(path) == found
    assert other.poll() is None


def test_an_account_without_a_name_signs_with_its_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a container that is run under a number of its own.
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with locked(path, SystemClock()):
        found = holder(path)
    assert found is not None
    assert found.user == "54321"


def test_a_look_at_the_lock_does_not_cost_a_runner_its_turn(path: Path) -> None:
    looking = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(looking, fcntl.LOCK_SH)

    class Waiting(SystemClock):
        def sleep(self, seconds: float) -> None:
            assert seconds == pytest.approx(0.1)
            fcntl.flock(looking, fcntl.LOCK_UN)

    with locked(path, Waiting()):
        assert holder(path) is not None
    os.close(looking)


def test_a_signature_is_as_long_as_its_holder_and_no_longer(path: Path) -> None:
    path.write_text("x" * 3000)
    with locked(path, SystemClock()):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert path.stat().st_mode & 0o777 == 0o644 & ~os.umask(os.umask(0o022))


def test_a_folder_that_is_not_there_is_told(path: Path) -> None:
    with (
        pytest.raises(StateUnfit, match=r"cannot open lock file .*: No such file or directory") as told,
        locked(path.parent / "nowhere" / "lock", SystemClock()),
    ):
        pass
    assert "--state" in (told.value.remedy or "")


def test_nobody_holds_a_lock_that_was_never_taken(path: Path) -> None:
    assert holder(path) is None
    assert not path.exists()
