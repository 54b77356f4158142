"""What a security group does, for the sandbox: a port that answers those whom a rule lets in, and nobody else."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Self

from planrunner.sandbox.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CHUNK = 1 << 16


class Firewall:
    """A port before a server's; a context manager. It judges each new connection by the rules of that moment.

    ``rules`` gives the ranges that are let in. Whoever is not gets no answer at all, as packets that are dropped get
    none; connections that are open stay so, as AWS's do when a rule goes.
    """

    def __init__(self, port: int, rules: Callable[[], Iterable[str]]) -> None:
        self._to = port
        self._rules = rules
        self._door = socket.create_server((HOST, 0))
        self.port = int(self._door.getsockname()[1])
        self.admitted = self.dropped = 0
        self._lines: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="firewall", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._thread.join(30)

    def refuse(self) -> None:
        """Close the port for good: whoever dials it is refused, as by a machine on which nothing listens."""
        with suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        with self._lock:
            for line in self._lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
                line.close()
            self._lines.clear()

    def _serve(self) -> None:
        while True:
            try:
                line, (peer, *_) = self._door.accept()
            except OSError:
                return
            self._keep(line)
            if any(ip_address(peer) in ip_network(cidr) for cidr in self._rules()):
                self.admitted += 1
                self._join(line)
            else:
                # It is kept, or its end would be an answer.
                self.dropped += 1

    def _keep(self, line: socket.socket) -> None:
        with self._lock:
            self._lines.add(line)

    def _join(self, line: socket.socket) -> None:
        try:
            there = socket.create_connection((HOST, self._to))
        except OSError:
            line.close()
            return
        self._keep(there)
        for one, another in ((line, there), (there, line)):
            threading.Thread(target=self._carry, args=(one, another), daemon=True).start()

    def _carry(self, one: socket.socket, another: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(_CHUNK):
                another.sendall(data)
        for line in (one, another):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
