"""The processes that work on members: each a ``planrunner run`` of its own, so that none can pull another down."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.reading import regular
from planrunner.shipped import own_command
from planrunner.state.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Member

# By this variable a command that looks a secret up knows for whom.
MEMBER = "PLANRUNNER_MEMBER"
_TAIL_BYTES = 65_536
_LONGEST_ERROR = 2_000


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended: its exit code, negative for a signal, and its error as it was told; both None where unknown."""

    code: int | None
    told: str | None


class Hand:
    """A run that is ours: ``planrunner run`` of one member, its words in the member's log."""

    def __init__(
        self, member: Member, folder: Folder, words: tuple[str, ...], environ: Mapping[str, str]
    ) -> None:
        self.member = member
        self._log = folder.log(member.name)
        command = [*own_command(), "run", *arguments(member, folder), "--no-input", *words]
        descriptor = _opened(self._log)
        try:
            self._begin = os.fstat(descriptor).st_size
            failpoint("fleet.before_start")
            # A group of its own: Ctrl-C at the terminal comes to the fleet, which passes it on once.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={**environ, MEMBER: member.name},
                process_group=0,
            )
            failpoint("fleet.started")
        finally:
            os.close(descriptor)

    def poll(self) -> Ended | None:
        """How it ended; None while it works."""
        code = self._child.poll()
        return (
            None
            if code is None
            else Ended(code=code, told=error_in(self._log, self._begin) if code else None)
        )

    def stop(self) -> None:
        """Ask it to stop where it can go on later."""
        failpoint("fleet.before_signal")
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)


class Stranger:
    """A run of a member that somebody else began, such as a fleet that was killed: it is waited for."""

    def __init__(self, member: Member, folder: Folder) -> None:
        self.member = member
        self._store = FileStore(folder.state(member.name))

    def poll(self) -> Ended | None:
        """Nothing is known of how it ended; None while it works."""
        return None if self._store.holder() is not None else Ended(code=None, told=None)

    def stop(self) -> None:
        """It is not ours to stop."""


def arguments(member: Member, folder: Folder) -> tuple[str, ...]:
    """The plan and the options that lead to a member's plan and state."""
    variables = [word for name, text in member.variables.items() for word in ("--var", f"{name}={text}")]
    return (str(member.plan), "--state", str(folder.state(member.name)), *variables)


def error_in(log: Path, begin: int) -> str | None:
    """The last error that was written to the log behind ``begin``, with what to do about it."""
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        if starts:
            first, *rest = lines[starts[-1] :]
            below = [line.strip() for line in rest if line.startswith("  ")]
            return "\n".join((first.removeprefix("error: "), *below))[:_LONGEST_ERROR]
    return None


def _opened(log: Path) -> int:
    try:
        return regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise StateUnfit(
            f"cannot open {log}: {error.strerror}", remedy="Make the fleet's folder writable."
        ) from error
