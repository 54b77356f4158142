"""A slow line: a TCP proxy that delivers every byte later and holds none back, in a process of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import subprocess
import sys
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

LOOPBACK = "127.0.0.1"
# What one connection may have on its way in one direction. At 20 ms that is 3 GB/s: no limit that is felt.
_WINDOW_BYTES = 64 << 20
# A narrow line holds little more than what is on it, or its sender would believe it had sent long before.
_LEAST_WINDOW_BYTES = 256 << 10
_BACKLOG = 512
_END_SECONDS = 10.0


@dataclass(kw_only=True)
class Counts:
    """What went over the line. A turn is a client that speaks after the server has: somebody waited."""

    connections: int = 0
    turns: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class SlowLine:
    """A line to ``port`` of this machine, ``delay`` seconds long each way; a context manager.

    ``bytes_per_second`` caps each direction, all connections together. Connections are accepted at once:
    the round trip of TCP's own handshake is not charged. ValueError for a host that is not loopback.
    """

    def __init__(
        self,
        port: int,
        *,
        delay: float = 0.02,
        bytes_per_second: float | None = None,
        host: str = LOOPBACK,
    ) -> None:
        self._order = {
            "host": _loopback(host),
            "port": port,
            "delay": delay,
            "bytes_per_second": bytes_per_second,
        }
        self.host = LOOPBACK
        self.port = 0
        self._child: subprocess.Popen[str] | None = None

    def counts(self) -> Counts:
        """What went over the line so far."""
        return Counts(**self._asked("counts"))

    def __enter__(self) -> Self:
        # Its own process: the proxy must not compete with a runner for one interpreter lock.
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.port = self._asked(json.dumps(self._order))["listening"]
        return self

    def __exit__(self, *_: object) -> None:
        child = self._child
        if child is None:
            return
        # The end of its input ends the child, also when we are killed.
        child.communicate(timeout=_END_SECONDS)
        self._child = None

    def _asked(self, line: str) -> dict[str, int]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(line + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError("the proxy has ended; its error is above")
        return dict(json.loads(answer))


def _loopback(host: str) -> str:
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"the proxy dials only this machine, not {host}")
    return host


class _Wire:
    """One direction for all connections: tells when what is sent now arrives."""

    def __init__(self, delay: float, bytes_per_second: float | None) -> None:
        self._delay = delay
        self._rate = bytes_per_second
        self._free_at = 0.0
        self.window = _WINDOW_BYTES
        if bytes_per_second is not None:
            self.window = max(_LEAST_WINDOW_BYTES, int(2 * delay * bytes_per_second))

    def arrival(self, size: int, now: float) -> float:
        """When ``size`` bytes sent at ``now`` are at the other side, in the loop's time."""
        if self._rate is None:
            return now + self._delay
        # The wire carries one chunk after the other; each is sent when the one before has left.
        self._free_at = max(now, self._free_at) + size / self._rate
        return self._free_at + self._delay


class _End(asyncio.Protocol):
    """One end of a connection: what it receives is written at its peer, when the wire has carried it."""

    def __init__(self, wire: _Wire, exchange: _Exchange, *, is_client: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._wire = wire
        self._exchange = exchange
        self._is_client = is_client
        self._travelling: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._ended = False
        self._writable = True
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._exchange.spoke(len(data), is_client=self._is_client)
        self._send(data)

    def eof_received(self) -> bool:
        # An empty chunk is the end; it travels behind the data, and the other direction stays open.
        self._ended = True
        self._send(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._send(b"")
        if self.peer is not None:
            self.peer.forget()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self.peer is not None:
            self.peer.deliver()

    def forget(self) -> None:
        """Nobody is left to deliver to."""
        self._travelling.clear()
        self._bytes = 0

    def deliver(self) -> None:
        """Hand over what has arrived by now, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        peer = self.peer
        if peer is None or peer.transport is None:
            return
        # The loop's timer may fire a clock tick early; without the allowance it would spin.
        now = self._loop.time() + 1e-6
        while self._travelling and peer._writable and self._travelling[0][0] <= now:
            _, data = self._travelling.popleft()
            self._bytes -= len(data)
            peer.put(data)
        if self._travelling and peer._writable:
            self._timer = self._loop.call_at(self._travelling[0][0], self.deliver)
        self._take_or_hold()

    def put(self, data: bytes) -> None:
        """Write at this end; the empty chunk ends it."""
        if self.transport is None or self.transport.is_closing():
            return
        if data:
            self.transport.write(data)
        elif self.peer is not None and self.peer.transport is not None and self.peer.transport.is_closing():
            self.transport.close()
        else:
            self.transport.write_eof()

    def _send(self, data: bytes) -> None:
        self._travelling.append((self._wire.arrival(len(data), self._loop.time()), data))
        self._bytes += len(data)
        if self._timer is None:
            self.deliver()
        else:
            self._take_or_hold()

    def _take_or_hold(self) -> None:
        """Stop reading while too much is under way, or while the peer takes nothing."""
        take = self._bytes < self._wire.window
        if take == self._reading or self._ended or self.transport is None or self.transport.is_closing():
            return
        self._reading = take
        if take:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class _Exchange:
    """Who of one connection spoke last; keeps the counts."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._client_spoke = False
        counts.connections += 1

    def spoke(self, size: int, *, is_client: bool) -> None:
        if is_client:
            self._counts.bytes_up += size
            self._counts.turns += not self._client_spoke
        else:
            self._counts.bytes_down += size
        self._client_spoke = is_client


class _Proxy:
    """Accepts connections and dials the server for each."""

    def __init__(self, host: str, port: int, delay: float, bytes_per_second: float | None) -> None:
        self._address = (_loopback(host), port)
        self._up = _Wire(delay, bytes_per_second)
        self._down = _Wire(delay, bytes_per_second)
        self._dialling: set[asyncio.Task[None]] = set()
        self.counts = Counts()

    def accept(self) -> _End:
        exchange = _Exchange(self.counts)
        client = _End(self._up, exchange, is_client=True)
        task = asyncio.get_running_loop().create_task(self._dial(client, exchange))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return client

    async def _dial(self, client: _End, exchange: _Exchange) -> None:
        server = _End(self._down, exchange, is_client=False)
        server.peer = client
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, *self._address)
        except OSError:
            if client.transport is not None:
                client.transport.abort()
            return
        client.peer = server
        client.deliver()


async def _serve() -> None:
    """Read the order, listen, answer questions; end with the end of the input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    proxy = _Proxy(**json.loads(await reader.readline()))
    server = await loop.create_server(proxy.accept, LOOPBACK, 0, backlog=_BACKLOG)
    _answer({"listening": server.sockets[0].getsockname()[1]})
    while await reader.readline():
        _answer(asdict(proxy.counts))
    server.close()


def _answer(what: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve())
