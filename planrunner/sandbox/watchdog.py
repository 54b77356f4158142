"""Ends a sandbox server and removes its folder once nobody is left who would.

Runs as a child in a session of its own: ``python watchdog.py FOLDER SECONDS``. Its standard input is
a pipe whose other end only the parent holds, so that end of file means the parent is gone, however
it went. ``keep`` on the pipe lets the server live on for the rest of its time without the parent.
It imports nothing of planrunner, so that it starts at once and needs no environment.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_STOP_SECONDS = 10.0
_REMOVE_SECONDS = 30.0


def main(folder: Path, life: float) -> None:
    """Wait for the end of the parent or of ``life`` seconds, then leave nothing behind."""
    wait_for_end(folder, time.monotonic() + life)
    remove(folder)


def wait_for_end(folder: Path, deadline: float) -> None:
    """Return when the parent is gone (unless it said ``keep``), the folder is, or time is up."""
    heard = b""
    watched = [0]
    while folder.exists() and (left := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select(watched, [], [], min(left, 5.0))
        if not readable:
            continue
        told = os.read(0, 64)
        heard += told
        if not told and b"keep" not in heard:
            return
        if not told:
            watched = []


def remove(folder: Path) -> None:
    """Stop the server of ``folder`` and remove the folder, also while initdb is still filling it."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        stop(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)  # noqa: TID251  # a script of its own, without the Clock


def stop(data: Path) -> None:
    """Stop the server on ``data``: immediately, then by force."""
    pid = postmaster(data)
    if pid is None:
        return
    deadline = time.monotonic() + _STOP_SECONDS
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
        # The lock file tells the end: the process itself may stay a zombie where nobody reaps orphans.
        while postmaster(data) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.02)  # noqa: TID251


def postmaster(data: Path) -> int | None:
    """The server's process as its lock file names it; negative there while initdb is at work."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return abs(int(lines[0])) or None
    except (OSError, ValueError, IndexError):
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
