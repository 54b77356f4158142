"""The runner's end of the guardian, a child that resumes PgBouncer when the runner can't."""

from __future__ import annotations

import json
import select
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import conninfo

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.causes import WRONG_PASSWORD
from planrunner.postgres.failures import condensed
from planrunner.shipped import guardian_command
from planrunner.switching.children import plain_environment

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.switching.console import Console
    from planrunner.switching.hooks import Surroundings

_START_SECONDS = 15.0
# The server ends a silent fence a second after the budget; later than that nobody can commit it any more.
MARGIN_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a guardian watches over: the entry, how long a pause may last, and the server with the fence."""

    database: str
    pausing: float
    fenced: Server


class Guardian:
    """A running guardian. It goes when it is told how the pause ended, or after it has acted."""

    def __init__(self, console: Console, task: Task, surroundings: Surroundings) -> None:
        """Start it and wait until it has both sessions; StepFailed when it gets none."""
        answer = self._begun(console, task, surroundings)
        if WRONG_PASSWORD.fits(answer):
            # It may have been rotated a moment ago: it is looked up once more.
            answer = self._begun(console, task, surroundings)
        if answer != "ready":
            raise StepFailed(
                f"the guardian of PgBouncer is not ready: {condensed(answer) or 'it said nothing'}",
                remedy="Nothing was paused. It needs the console and the server with the fence, as the runner does.",
            )

    def _begun(self, console: Console, task: Task, surroundings: Surroundings) -> str:
        """Start the child and tell it what to do; its answer. One that is not ready is gone afterwards."""
        script = Path(__file__).with_name("guard.py")
        try:
            self._child = subprocess.Popen(
                guardian_command(script),
                cwd="/",
                env=plain_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Its own session: Ctrl-C and a closed terminal are for the runner.
                start_new_session=True,
            )
        except OSError as error:
            raise StepFailed(
                f"the guardian of PgBouncer could not be started: {error}",
                remedy="Nothing was paused; run again.",
            ) from error
        failpoint("switch.guardian_started")
        self._tell(_wishes(console, task, surroundings))
        answer = self._answer()
        if answer != "ready":
            self.end("released")
        return answer

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    @property
    def acted(self) -> bool:
        """True when it took the runner for gone, or is gone itself: the pause is not to be relied on."""
        return self._child.poll() is not None

    def pausing(self) -> None:
        """Its deadline counts from now, with the time that PAUSE may take."""
        self._tell("pausing")

    def paused(self) -> None:
        """Its deadline counts from now."""
        self._tell("paused")

    def end(self, word: str) -> None:
        """Tell how the pause ended, ``committed`` or ``released``. Its going is not waited for: clients may be."""
        self._tell(word)
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()
        threading.Thread(target=_reap, args=[self._child], daemon=True).start()

    def _tell(self, word: str) -> None:
        assert self._child.stdin is not None
        # It may have acted and gone already; what that means is found by looking at the console.
        with suppress(OSError, ValueError):
            self._child.stdin.write(f"{word}\n".encode())
            self._child.stdin.flush()

    def _answer(self) -> str:
        assert self._child.stdout is not None
        readable, _, _ = select.select([self._child.stdout], [], [], _START_SECONDS)
        return self._child.stdout.readline().decode("utf-8", "replace").strip() if readable else ""


def _reap(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _wishes(console: Console, task: Task, surroundings: Surroundings) -> str:
    given = task.fenced.parameters()
    label = given["application_name"]
    secret = task.fenced.password()
    # Not the runner's label: a resume ends the sessions that carry it.
    known = {**given, "application_name": label.replace("planrunner/", "planrunner-guardian/", 1)}
    if secret is not None:
        known["password"] = secret.reveal()
    return json.dumps(
        {
            "admin": console.conninfo(),
            "server": conninfo.make_conninfo("", **known),
            "database": task.database,
            "trigger": surroundings.fence_trigger,
            "function": surroundings.fence_function,
            "label": label,
            "pausing_seconds": task.pausing,
            "seconds": surroundings.budget + MARGIN_SECONDS,
        }
    )
