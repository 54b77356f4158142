"""Reads files that a person named: never more of them than is sensible, and never waiting for ever."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Whoever decrypts a file into a pipe may ask a key service first.
_PATIENCE_SECONDS = 30.0


def bounded(path: Path, most: int) -> bytes:
    """What the file holds, as far as byte ``most`` + 1, by which the caller knows that it is too large.

    OSError for what can't be read, also for a pipe that gives nothing; ValueError for a name that no file can have.
    """
    # A pipe that nobody writes to would keep a plain open() waiting.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read(handle, most + 1)
    finally:
        os.close(handle)


def regular(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of our own that is no link, pipe or device; OSError for anything else. The handle is the caller's."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return handle


def _read(handle: int, length: int) -> bytes:
    parts: list[bytes] = []
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while length:
        try:
            part = os.read(handle, length)
        except BlockingIOError:
            _wait(handle, deadline)
            continue
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _wait(handle: int, deadline: float) -> None:
    left = max(0.0, deadline - time.monotonic())
    if not select.select([handle], [], [], left)[0]:
        raise TimeoutError(errno.ETIMEDOUT, f"nothing comes out of it within {_PATIENCE_SECONDS:g} s")
