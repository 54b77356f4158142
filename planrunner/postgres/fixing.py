"""Performs what mends a finding: on a server in a transaction of its own, or by a program of this machine."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

from planrunner.errors import ToolFailed
from planrunner.failpoints import failpoint
from planrunner.masking import masked

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server

_SECONDS = 60.0


def execute(server: Server, statement: str) -> None:
    """Execute one statement of a fix; QueryFailed leaves nothing of it behind."""
    failpoint("fix.before")
    # Checks compose their statements of literals and identifiers; what comes here is their text.
    with server.transaction() as session:
        session.execute(statement.encode())
    failpoint("fix.after")


def run(command: str) -> None:
    """Run one command line of this machine, without a shell; ToolFailed with what it said."""
    failpoint("fix.before")
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolFailed(f"{command}: {error}", remedy="Do it by hand.") from error
    if done.returncode:
        said = masked(done.stderr.strip()) or f"exit code {done.returncode}"
        raise ToolFailed(f"{command}: {said}", remedy="Do it by hand, as the owner of what it changes.")
    failpoint("fix.after")
