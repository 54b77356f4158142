"""A member's run as a task that any machine can perform: all that it needs, and no secret."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from planrunner.engine.files import run_files
from planrunner.errors import Interrupted
from planrunner.failpoints import failpoint
from planrunner.fleet.log import error_in, tail_of
from planrunner.lifeline import held
from planrunner.pools.likeness import refuse_another
from planrunner.shipped import own_command

if TYPE_CHECKING:
    from collections.abc import Iterator

# By this variable a command that looks a secret up knows for whom.
MEMBER = "PLANRUNNER_MEMBER"


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A file that travels with the plan: its name from the plan's folder, its permissions, what is in it."""

    name: str
    mode: int
    content: bytes


@dataclass(frozen=True, kw_only=True)
class MemberTask:
    """``planrunner run`` of one member. Secrets are found by whoever performs it, as the plan refers to them.

    ``key`` is of this attempt alone, ``code`` the digest of the program that asks, ``state`` what --state says.
    """

    key: str
    code: str
    member: str
    plan: str
    state: str
    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    files: tuple[Parcel, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended: the exit code, negative for a signal, its last error, the end of its log, its report's page."""

    code: int
    told: str | None
    tail: str
    page: str | None


def perform(task: MemberTask) -> Outcome:
    """Run the member here, in a folder that is gone afterwards; PoolUnfit when another program asks.

    The run ends with this process. Whether it may begin is for the lock of its state to say.
    """
    refuse_another(task.code)
    with TemporaryDirectory(prefix="planrunner-member-") as name:
        folder = Path(name)
        _unpack(task, folder / "plan")
        code = _children.run(task, folder)
        page = run_files(folder / "plan" / task.plan).report_html
        return Outcome(
            code=code,
            told=error_in(folder / "log") if code else None,
            tail=tail_of(folder / "log"),
            page=page.read_text("utf-8") if page.exists() else None,
        )


def stop(key: str, times: int) -> None:
    """Ask the run of that task to stop where it can go on, the second time at once; here, or when it comes here."""
    _children.stop(key, times)


class _Children:
    """The runs that this process has started, and the tasks that are to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stops: dict[str, int] = {}

    def run(self, task: MemberTask, folder: Path) -> int:
        """The exit code of a run that has ended."""
        with held() as (descriptor, said), (folder / "log").open("wb") as log:
            with self._lock:
                if task.key in self._stops:
                    return Interrupted.exit_code
                failpoint("errand.before_start")
                # In the plan's folder: what it tells names the plan as the fleet does. A session of its own: Ctrl-C
                # at a terminal comes to the fleet, which passes it on once.
                child = self._running[task.key] = subprocess.Popen(
                    [*own_command(), "run", *_arguments(task)],
                    cwd=folder / "plan",
                    env={**os.environ, **said, MEMBER: task.member},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[descriptor],
                    start_new_session=True,
                )
                failpoint("errand.started")
            try:
                return child.wait()
            finally:
                with self._lock:
                    del self._running[task.key]

    def stop(self, key: str, times: int) -> None:
        with self._lock:
            more = times - self._stops.get(key, 0)
            self._stops[key] = max(times, self._stops.get(key, 0))
            child = self._running.get(key)
            if child is None or more <= 0:
                return
            failpoint("errand.before_signal")
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)


def _unpack(task: MemberTask, folder: Path) -> None:
    folder.mkdir()
    for file in task.files:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        failpoint("errand.unpacked")
        path.chmod(file.mode)


def _arguments(task: MemberTask) -> Iterator[str]:
    yield from (task.plan, "--state", task.state)
    for name, text in task.variables:
        yield from ("--var", f"{name}={text}")
    yield from ("--no-input", *task.words)


_children = _Children()
