"""Child processes of a switch: the plan's own commands, and what they are told."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from planrunner.errors import SecretUnavailable, ToolFailed
from planrunner.failpoints import failpoint
from planrunner.masking import masked
from planrunner.postgres.failures import condensed
from planrunner.postgres.tls import of_the_login

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from planrunner.model import Side
    from planrunner.postgres.connection import Server
    from planrunner.switching.hooks import Destination, Surroundings

_SHOWN = 1000
# Enough for the longest secret before the part that is shown.
_LOOKED_AT = 200_000
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
    """Run a switch's command to its end; ToolFailed with the end of what it said, passwords masked."""
    called(Call(command=command, variables=variables, timeout=timeout, servers=surroundings.servers))


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command of the plan: ``variables`` go over our own environment, ``timeout`` in seconds.

    ``secrets`` and the passwords of ``servers`` are masked in what it says.
    """

    command: Sequence[str]
    variables: Mapping[str, str]
    timeout: float
    servers: Sequence[Server]
    secrets: Sequence[str] = ()
    folder: Path | None = None


def called(call: Call) -> str:
    """Run a command to its end, without a shell, and return the end of what it said.

    ToolFailed where it can't be started, takes too long or ends with another exit code than 0; ``settled`` unless it
    had to be ended.
    """
    shown = masked(shlex.join(call.command))
    failpoint("child.before_start")
    with tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                call.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **call.variables},
                cwd=call.folder,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _settled(
                f"{shown} could not be started: {error}", "Check the command's name and its rights."
            ) from error
        try:
            code = child.wait(call.timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(
                f"{shown} has not ended within {call.timeout:g} s{_said(output, call)}",
                remedy="Run it yourself; it must not ask for anything. Or raise its timeout.",
            ) from error
        finally:
            _end(child)
        failpoint("child.ended")
        said = _said(output, call)
        if code != 0:
            raise _settled(
                f"{shown} ended with exit code {code}{said}",
                "Run it yourself to see why; it is called again by the next run.",
            )
        return said.removeprefix(": ")


def _settled(message: str, remedy: str) -> ToolFailed:
    error = ToolFailed(message, remedy=remedy)
    error.settled = True
    return error


def _said(file: IO[bytes], call: Call) -> str:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - _LOOKED_AT))
    secrets = [*call.secrets, *_passwords(call.servers)]
    # Only then is it cut: a half of a secret would not be known as one.
    text = condensed(file.read().decode("utf-8", "replace"), secrets)[-_SHOWN:]
    return f": {text}" if text else ""


def _passwords(servers: Sequence[Server]) -> list[str]:
    found = []
    for server in servers:
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
