"""A TCP address that can be led to another server in mid-life, as a name or a failover address is."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

_HOST = "127.0.0.1"
_BLOCK = 1 << 16


class Relay:
    """Passes bytes to ``port``; ``lead_to`` cuts every line and leads new ones elsewhere, to nobody for None."""

    def __init__(self, port: int) -> None:
        self._to: int | None = port
        self._listener = socket.create_server((_HOST, 0))
        self._lines: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lead_to(self, port: int | None) -> None:
        with self._lock:
            self._to = port
            for line in self._lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            self._lines.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.lead_to(None)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                try:
                    far = socket.create_connection((_HOST, self._to)) if self._to else None
                except OSError:
                    far = None
                if far is None:
                    near.close()
                    continue
                self._lines |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(reads: socket.socket, writes: socket.socket) -> None:
    with suppress(OSError):
        while block := reads.recv(_BLOCK):
            writes.sendall(block)
    for line in (reads, writes):
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
