"""The state file under a hostile kernel and hostile hands: never a wrong load, never a silent start from zero.

A tracer kills the writer at every system call of a save, or lets that call fail with ENOSPC and with EIO.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from planrunner.errors import StateUnfit
from planrunner.state.codec import from_json, to_json
from planrunner.state.file import BACKUPS, FileStore
from planrunner.state.record import State, StepState
from tests.faults.state_writer import MARK, REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITER = Path(__file__).with_name("state_writer.py")
_CALL = re.compile(r"\A(?:\d+ +)?(\w+)\(")
# What a save has to do with files; the rest of its calls (memory, locks of the interpreter) is not the disk's.
_ON_FILES = frozenset(
    {"openat", "open", "read", "write", "close", "fsync", "fdatasync", "lseek", "getdents64"}
    | {"rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "fchmod", "readlink"}
    | {"newfstatat", "fstat", "stat", "lstat"}
)
# A fourth serial has three backups: every file that a save moves is there.
_SERIAL = 4
_NOBODY = 65534
STATE = State(
    lineage="l",
    plan="orders",
    plan_digest="d",
    plan_id="0011aabb",
    steps={"copy": StepState(uses="snapshot")},
)


@dataclass(frozen=True, kw_only=True)
class SystemCall:
    """The ``nth`` call of that name in the writer's life."""

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name}#{self.nth}"


def filled(path: Path) -> FileStore:
    store = FileStore(path)
    for serial in range(1, _SERIAL + 1):
        store.save(replace(STATE, serial=serial))
    return store


def traced(path: Path, *inject: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the writer under the tracer; its outcome, and the lines of the trace."""
    strace = shutil.which("strace")
    assert strace is not None, "strace is missing: apt-get install strace"
    trace = path.with_suffix(".trace")
    # As deterministic as an interpreter is: its calls are counted.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | quiet
    ended = subprocess.run(
        [strace, "-o", str(trace), *inject, sys.executable, "-m", "tests.faults.state_writer", str(path)],
        env=environment,
        cwd=_WRITER.parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended, trace.read_text(errors="replace").splitlines()


def calls_of_a_save(lines: list[str]) -> Iterator[SystemCall]:
    """The calls on files between the two marks."""
    seen: Counter[str] = Counter()
    marks = 0
    for line in lines:
        found = _CALL.match(line)
        if found is None:
            continue
        seen[found[1]] += 1
        marks += MARK in line
        if marks == 1 and found[1] in _ON_FILES:
            yield SystemCall(name=found[1], nth=seen[found[1]])


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[SystemCall]:
    path = tmp_path_factory.mktemp("rehearsal") / "orders.state.json"
    filled(path)
    ended, lines = traced(path)
    assert ended.returncode == 0, ended.stderr
    found = list(calls_of_a_save(lines))
    names = {call.name for call in found}
    assert {"fsync", "write", "openat"} <= names, sorted(names)
    assert len(found) > 20
    return found


def disturbed_within_the_save(lines: list[str], call: SystemCall, word: str) -> bool:
    """Whether the disturbance met the save; the interpreter may make a call more or less before it."""
    marked = next((i for i, line in enumerate(lines) if MARK in line), None)
    return marked is not None and any(word in line for line in lines[marked:])


def loadable(store: FileStore, *serials: int) -> State:
    state = FileStore(store.path).load()
    assert state is not None, "a silent start from zero"
    assert state.serial in serials
    assert state == replace(STATE, serial=state.serial)
    kept = [kept.serial for kept in FileStore(store.path).history()]
    assert kept == sorted(kept, reverse=True)
    return state


def goes_on(store: FileStore, state: State) -> None:
    """The next run saves as if nothing had been, and nothing of the disturbed one is left lying."""
    again = FileStore(store.path)
    again.load()
    again.save(replace(state, serial=state.serial + 1))
    expected = {store.path.name, *(store.backup(n).name for n in range(1, BACKUPS + 1))}
    assert {p.name for p in store.path.parent.iterdir()} - expected <= {store.path.with_suffix(".trace").name}


def test_a_writer_killed_at_any_call_leaves_the_old_state_or_the_new(
    calls: list[SystemCall], tmp_path: Path
) -> None:
    met = 0
    for number, call in enumerate(calls):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = filled(folder / "orders.state.json")
        ended, lines = traced(store.path, "-e", f"inject={call.name}:signal=KILL:when={call.nth}")
        assert ended.returncode != 0, f"{call}: the writer was not killed"
        met += disturbed_within_the_save(lines, call, "SIGKILL")
        goes_on(store, loadable(store, _SERIAL, _SERIAL + 1))
    assert met >= len(calls) * 0.9, f"{met} of {len(calls)} kills met the save"


@pytest.mark.parametrize("failure", ["ENOSPC", "EIO"])
def test_a_call_that_fails_costs_nothing_and_is_told(
    calls: list[SystemCall], tmp_path: Path, failure: str
) -> None:
    told = met = 0
    for number, call in enumerate(calls):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = filled(folder / "orders.state.json")
        ended, lines = traced(store.path, "-e", f"inject={call.name}:error={failure}:when={call.nth}")
        if not disturbed_within_the_save(lines, call, "(INJECTED)"):
            continue
        met += 1
        # What is said to be saved is saved; what is refused has left the old state or the new one.
        assert ended.returncode in {0, REFUSED}, f"{call}: {ended.stdout}{ended.stderr}"
        told += ended.returncode == REFUSED
        if ended.returncode == REFUSED:
            assert "state file" in ended.stdout
        serials = (_SERIAL + 1,) if ended.returncode == 0 else (_SERIAL, _SERIAL + 1)
        goes_on(store, loadable(store, *serials))
    assert met >= len(calls) * 0.9, f"{met} of {len(calls)} failures met the save"
    assert told >= 5, f"only {told} of {met} failures were told"


def test_a_failed_fsync_is_never_a_saved_state(calls: list[SystemCall], tmp_path: Path) -> None:
    for number, call in enumerate(c for c in calls if c.name == "fsync"):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = filled(folder / "orders.state.json")
        ended, lines = traced(store.path, "-e", f"inject=fsync:error=EIO:when={call.nth}")
        assert disturbed_within_the_save(lines, call, "(INJECTED)")
        assert ended.returncode == REFUSED, ended.stderr


def test_any_byte_that_changes_is_noticed_or_says_the_same(tmp_path: Path) -> None:
    store = filled(tmp_path / "orders.state.json")
    whole = store.path.read_bytes()
    good = from_json(whole.decode())
    refused = 0
    for offset in range(len(whole)):
        for other in (whole[offset] ^ 1, whole[offset] ^ 32, 0):
            store.path.write_bytes(whole[:offset] + bytes([other]) + whole[offset + 1 :])
            try:
                assert FileStore(store.path).load() == good, f"byte {offset} as {other}"
            except StateUnfit:
                refused += 1
    # Blanks between the words are nobody's loss.
    assert refused > len(whole)


def test_every_cut_and_every_growth_is_noticed(tmp_path: Path) -> None:
    store = filled(tmp_path / "orders.state.json")
    whole = store.path.read_bytes()
    for length in range(len(whole) - 1):
        store.path.write_bytes(whole[:length])
        with pytest.raises(StateUnfit):
            FileStore(store.path).load()
    for more in (b"{}", b"\0", whole):
        store.path.write_bytes(whole + more)
        with pytest.raises(StateUnfit):
            FileStore(store.path).load()


def test_two_states_mixed_at_any_byte_are_noticed(tmp_path: Path) -> None:
    # A file system that lost half of a write in place would show this.
    old, new = to_json(replace(STATE, serial=1)).encode(), to_json(replace(STATE, serial=2)).encode()
    assert len(old) == len(new)
    store = FileStore(tmp_path / "orders.state.json")
    for offset in range(1, len(old)):
        store.path.write_bytes(new[:offset] + old[offset:])
        try:
            assert FileStore(store.path).load() in [from_json(old.decode()), from_json(new.decode())]
        except StateUnfit:
            continue


@pytest.mark.parametrize("number", range(2, BACKUPS + 1))
def test_an_older_copy_put_back_is_refused(tmp_path: Path, number: int) -> None:
    store = FileStore(tmp_path / "orders.state.json")
    for serial in range(1, 8):
        store.save(replace(STATE, serial=serial))
    shutil.copy2(store.backup(number), store.path)
    with pytest.raises(StateUnfit, match=f"an older copy: it holds serial {7 - number}, its newest backup 6"):
        FileStore(store.path).load()


def test_the_newest_backup_may_be_put_back_as_the_remedy_says(tmp_path: Path) -> None:
    store = filled(tmp_path / "orders.state.json")
    store.path.write_text("{")
    with pytest.raises(StateUnfit) as refused:
        FileStore(store.path).load()
    remedy = refused.value.remedy or ""
    command = remedy.partition("cp ")[2].partition(";")[0].split()
    shutil.copy2(command[0], command[1])
    goes_on(store, loadable(store, _SERIAL - 1))


def test_the_state_of_another_plan_is_not_overwritten(tmp_path: Path) -> None:
    store = filled(tmp_path / "orders.state.json")
    again = FileStore(store.path)
    again.load()
    with pytest.raises(StateUnfit, match="another migration"):
        again.save(replace(STATE, lineage="m", serial=99))
    assert FileStore(store.path).load() == replace(STATE, serial=_SERIAL)


def next_serial(path: Path) -> None:
    store = FileStore(path)
    state = store.load()
    assert state is not None
    store.save(replace(state, serial=state.serial + 1))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give root's rights over files away for the length of the block."""
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(("what", "mode"), [("folder", 0o555), ("file", 0o000), ("folder", 0o000)])
def test_what_may_not_be_written_or_read_is_told_and_left(tmp_path: Path, what: str, mode: int) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    store = filled(folder / "orders.state.json")
    for path in (folder, *folder.iterdir()):
        os.chown(path, _NOBODY, _NOBODY)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder if what == "folder" else store.path).chmod(mode)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with as_nobody(), pytest.raises(StateUnfit, match=f"cannot (read|write) state file {store.path}"):
        next_serial(store.path)
    folder.chmod(0o755)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
