"""Child processes of a switch: the plan's own commands, and what they are told."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from planrunner.errors import SecretUnavailable, ToolFailed
from planrunner.postgres.failures import condensed
from planrunner.postgres.tls import of_the_login

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Side
    from planrunner.switching.hooks import Destination, Surroundings

_SHOWN = 1000
# What a Python child needs to find its libraries, and libpq its files; nothing that may hold a password.
_PLAIN = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "SYSTEMROOT")


def plain_environment() -> dict[str, str]:
    """The environment of a child that is told everything through its pipe."""
    kept = of_the_login(os.environ)
    return {n: v for n, v in kept.items() if n in _PLAIN or (n.startswith("PG") and n != "PGPASSWORD")}


def told(to: Side, destination: Destination) -> dict[str, str]:
    """The variables that tell a command where traffic goes."""
    return {
        "PLANRUNNER_TO": to.value,
        "PLANRUNNER_HOST": destination.host,
        "PLANRUNNER_PORT": destination.port,
        "PLANRUNNER_DATABASE": destination.database,
    }


def execute(
    command: Sequence[str], variables: Mapping[str, str], timeout: float, surroundings: Surroundings
) -> None:
    """Run a command to its end, without a shell; ToolFailed with the end of what it said, passwords masked."""
    shown = shlex.join(command)
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ToolFailed(
                f"{shown} could not be started: {error}", remedy="Check the command's name and its rights."
            ) from error
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(
                f"{shown} has not ended within {timeout:g} s{_said(output, surroundings)}",
                remedy="Run it yourself; it must not ask for anything. Or raise its timeout.",
            ) from error
        finally:
            _end(child)
        if code != 0:
            raise ToolFailed(
                f"{shown} ended with exit code {code}{_said(output, surroundings)}",
                remedy="Run it yourself to see why; it is called again by the next run.",
            )


def _said(file: IO[bytes], surroundings: Surroundings) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _SHOWN))
    text = condensed(file.read().decode("utf-8", "replace"), _passwords(surroundings))
    return f": {text}" if text else ""


def _passwords(surroundings: Surroundings) -> list[str]:
    found = []
    for server in (surroundings.source, surroundings.target):
        with suppress(SecretUnavailable):
            secret = server.password()
            found += [secret.reveal()] if secret is not None else []
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        # The whole group: a grandchild would go on and switch something later.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
