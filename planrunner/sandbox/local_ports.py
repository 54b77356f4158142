"""Ports of 127.0.0.1 for throw-away servers, each claimed for as long as its server may restart on it."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from planrunner.errors import UsageError

HOST = "127.0.0.1"
# Below the range from which systems take ports of outgoing connections: none is taken while the
# server restarts.
_PORTS = range(20000, 32000)
_ATTEMPTS = 200


class Claim:
    """A free port that no other sandbox of this machine takes until it is released, or this process ends.

    Nobody listens on it while a server restarts: only a lock tells others that it is taken.
    """

    def __init__(self) -> None:
        chooser = secrets.SystemRandom()
        for _ in range(_ATTEMPTS):
            port = chooser.choice(_PORTS)
            lock = Path(tempfile.gettempdir()) / f"planrunner-port-{port}.lock"
            descriptor = _locked(lock)
            if descriptor is None:
                continue
            if _is_free(port):
                self.port = port
                self._lock = lock
                self._descriptor = descriptor
                return
            os.close(descriptor)
        raise UsageError(f"no free port on {HOST} between {_PORTS[0]} and {_PORTS[-1]} for a sandbox server")

    def release(self) -> None:
        """Let others have it; safe to call twice."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._lock.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def _locked(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        # Another user's.
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had it may have removed it meanwhile: then it keeps nobody away.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
