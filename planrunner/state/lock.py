"""Keeps two runners off one state file; the lock dies with the process that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from planrunner.errors import LockedByAnother, StateUnfit
from planrunner.failpoints import failpoint
from planrunner.reading import regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.ports import Clock

# ``status`` takes the lock for an instant to see whether it is free; a runner must not fail for that.
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock; ``since`` in UTC, ISO 8601."""

    pid: int
    host: str
    user: str
    since: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}, process {self.pid}, since {self.since}"

    def to_json(self) -> str:
        """The holder as text."""
        return json.dumps(asdict(self))


def myself(clock: Clock) -> Holder:
    """This process as a holder from now on."""
    return Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        user=_user(),
        since=clock.now().isoformat(timespec="seconds"),
    )


def from_json(text: str | bytes) -> Holder:
    """The holder of ``to_json``; one that can't be read is unnamed."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder(pid=0, host="?", user="?", since="?")


def refusal(holder: Holder, lock: str) -> LockedByAnother:
    """The error of a lock that ``holder`` has; ``lock`` says where it lies."""
    return LockedByAnother(
        f"another run works on this plan: {holder} ({lock})",
        remedy="Wait for it (planrunner status PLAN shows how far it is), or end it; that frees its lock.",
    )


@contextmanager
def locked(path: Path, clock: Clock) -> Iterator[None]:
    """Hold the lock file for the length of the block; LockedByAnother names who has it."""
    descriptor = _opened(path)
    try:
        _take(descriptor, path, clock)
        _sign(descriptor, clock)
        failpoint("lock.signed")
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> Holder | None:
    """Who holds the lock right now; None when nobody does. A holder that can't be read is unnamed."""
    try:
        descriptor = regular(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signed(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return regular(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StateUnfit(
            f"cannot open lock file {path}: {error.strerror}",
            remedy="Make its folder writable, or keep the state elsewhere with --state.",
        ) from error


def _take(descriptor: int, path: Path, clock: Clock) -> None:
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            clock.sleep(_PAUSE_SECONDS)
        else:
            return
    raise refusal(_signed(descriptor), f"lock file {path}")


def _sign(descriptor: int, clock: Clock) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, myself(clock).to_json().encode(), 0)


def _signed(descriptor: int) -> Holder:
    return from_json(os.pread(descriptor, 4096, 0))


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
