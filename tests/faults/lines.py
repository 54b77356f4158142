"""A line that can be broken on purpose: a proxy that reads PostgreSQL's protocol, in a process of its own.

What it does can be changed at any time, and a trap is sprung by what is said: at the n-th COMMIT, in the middle of the
k-th block of rows, after so many bytes. It counts what it saw and what it did.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

LOOPBACK = "127.0.0.1"
_CHUNK = 16 << 10
_CHUNKS_UNDER_WAY = 64
_BACKLOG = 512
_END_SECONDS = 10.0
_SSL, _GSS, _CANCEL = 80877103, 80877104, 80877102
_COMMIT = re.compile(r"\bCOMMIT\s*;?\s*\Z", re.IGNORECASE)
_REMEMBERED = 4000


@dataclass(kw_only=True)
class Counts:
    """What was seen and done. ``startups`` and ``passwords`` went over the line in clear, ``encrypted`` did not."""

    connections: int = 0
    startups: int = 0
    passwords: int = 0
    tls_asked: int = 0
    tls_denied: int = 0
    encrypted: int = 0
    statements: int = 0
    parses: int = 0
    copydata: int = 0
    commits: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    swallowed: int = 0
    resets: int = 0
    lost: int = 0
    sprung: int = 0
    silent: int = 0
    text: str = ""


@dataclass(kw_only=True)
class Wish:
    """How the line is now.

    ``mode``: ``open`` · ``hole`` (whatever is sent is swallowed, whoever dials is accepted and hears nothing) · ``hold``
    (all is kept back and delivered later) · ``refuse`` (whoever dials is reset). ``flap``: open and then ``off`` for so
    many seconds each; ``off`` is ``hold``, or ``refuse`` with a reset of all. ``tls``: ``pass`` · ``strip``.
    """

    mode: str = "open"
    delay: float = 0.0
    bytes_per_second: float | None = None
    flap: float | None = None
    off: str = "hold"
    tls: str = "pass"


@dataclass(kw_only=True)
class Trap:
    """Sprung at the ``nth`` event of its kind from now on whose transaction's text has ``match`` in it.

    ``event``: ``commit``, ``statement``, ``parse``, ``copydata``, ``bytes`` (``nth`` counts them). ``what``: ``lose``
    (the server does it, the client never hears and is reset then) · ``reset`` (in the middle of the message) · ``hole``
    (the line is one from here on) · ``hole after`` (the server gets the message first).
    """

    event: str
    what: str
    nth: int = 1
    match: str = ""
    times: int = 1


class FaultLine:
    """A line to ``port`` of this machine; a context manager."""

    def __init__(self, port: int) -> None:
        self._towards = port
        self.port = 0
        self._child: subprocess.Popen[str] | None = None

    def set(self, **wish: Any) -> None:
        """How the line is from now on; what is not named is as on a good one."""
        self._asked("set", asdict(Wish(**wish)))

    def trap(self, event: str, what: str, **more: Any) -> None:
        """Lay a trap in place of any other."""
        self._asked("trap", asdict(Trap(event=event, what=what, **more)))

    def heal(self) -> None:
        """A good line again, without a trap; what hangs on it from a black hole is reset."""
        self._asked("heal", {})

    def reset(self) -> None:
        """Reset every connection now."""
        self._asked("reset", {})

    def counts(self) -> Counts:
        """What was seen and done so far."""
        return Counts(**self._asked("counts", {}))

    def trail(self) -> list[str]:
        """The text of every transaction that was committed by a COMMIT, in order."""
        return [str(text) for text in self._asked("trail", {})["trail"]]

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.port = self._asked("begin", {"port": self._towards})["listening"]
        return self

    def __exit__(self, *_: object) -> None:
        child = self._child
        if child is None:
            return
        # The end of its input ends the child, also when we are killed.
        child.communicate(timeout=_END_SECONDS)
        self._child = None

    def _asked(self, what: str, how: dict[str, Any]) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps([what, how]) + "\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:
            raise RuntimeError("the proxy has ended; its error is above")
        return dict(json.loads(answer))


class _Wire:
    """One direction of the line, all connections together: when may so many bytes arrive."""

    def __init__(self, proxy: _Proxy) -> None:
        self._proxy = proxy
        self._free_at = 0.0

    async def carried(self, size: int, sent: float) -> None:
        loop, wish = asyncio.get_running_loop(), self._proxy.wish
        due = sent + wish.delay
        if wish.bytes_per_second is not None:
            # A chunk of each connection waits here, so they share the wire fairly.
            self._free_at = max(loop.time(), self._free_at) + size / wish.bytes_per_second
            due = max(due, self._free_at)
        if due > loop.time():
            await asyncio.sleep(due - loop.time())


@dataclass
class _Messages:
    """Cuts one direction into messages. ``typed`` once startup is over, ``opaque`` once it is encrypted."""

    typed: bool
    opaque: bool = False
    held: bytearray = field(default_factory=bytearray)

    def next(self) -> tuple[bytes, bytes] | None:
        """Its type (empty in startup) and all of it; None while there is no whole one."""
        held = self.held
        if self.opaque:
            whole, self.held = bytes(held), bytearray()
            return (b"?", whole) if whole else None
        head = 1 if self.typed else 0
        if len(held) < head + 4:
            return None
        size = head + int.from_bytes(held[head : head + 4])
        if len(held) < size:
            return None
        whole = bytes(held[:size])
        del held[:size]
        return whole[:head], whole


class _Connection:
    """A client and the server it was led to."""

    def __init__(self, proxy: _Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._ups = _Messages(typed=False)
        self._downs = _Messages(typed=True)
        self._answer_awaited = False
        self._text = ""
        self._losing = False
        # What still goes out before a reset.
        self._last = b""
        self.lost = False

    async def live(self) -> None:
        counts = self._proxy.counts
        counts.connections += 1
        if self._proxy.off() == "refuse":
            self.reset()
            return
        if self._proxy.off() == "hole":
            counts.silent += 1
            self.lost = True
            await self._swallow()
            return
        try:
            self._server = await asyncio.open_connection(LOOPBACK, self._proxy.port)
        except OSError:
            self.reset()
            return
        try:
            await asyncio.gather(self._up(), self._down())
        except (OSError, asyncio.IncompleteReadError):
            self.reset()
        finally:
            if not self.lost:
                self._close()

    def reset(self) -> None:
        """End both sides with a RST."""
        self._proxy.counts.resets += 1
        for _, writer in (self._client, *([self._server] if self._server else [])):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()

    def _close(self) -> None:
        for _, writer in (self._client, *([self._server] if self._server else [])):
            writer.close()

    async def _swallow(self) -> None:
        while data := await self._client[0].read(_CHUNK):
            self._proxy.counts.swallowed += len(data)

    async def _up(self) -> None:
        assert self._server is not None
        await self._pump(self._client[0], self._server[1], up=True)

    async def _down(self) -> None:
        assert self._server is not None
        await self._pump(self._server[0], self._client[1], up=False)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        """Read as fast as it comes, up to a limit; deliver when the line has carried it."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(
            4 if self._proxy.wish.bytes_per_second else _CHUNKS_UNDER_WAY
        )

        async def take() -> None:
            data = b"?"
            while data:
                try:
                    data = await reader.read(_CHUNK)
                except OSError:
                    data = b""
                await under_way.put((loop.time(), data))

        taking = loop.create_task(take())
        try:
            while True:
                sent, data = await under_way.get()
                await (self._proxy.up if up else self._proxy.down).carried(len(data), sent)
                while self._proxy.off() == "hold":
                    await asyncio.sleep(0.02)
                if not await self._deliver(data, writer, up=up):
                    return
        finally:
            taking.cancel()

    async def _deliver(self, data: bytes, writer: asyncio.StreamWriter, *, up: bool) -> bool:
        """Hand over what has arrived, message by message; False at the end of this direction."""
        counts = self._proxy.counts
        if self._proxy.off() == "hole":
            # Nobody on the other side learns of anything, an end least of all.
            self.lost = True
            counts.swallowed += len(data)
            return bool(data)
        if not data:
            with suppress(OSError, RuntimeError):
                writer.write_eof()
            return False
        if up:
            counts.bytes_up += len(data)
        else:
            counts.bytes_down += len(data)
        messages = self._ups if up else self._downs
        messages.held += data
        out = bytearray()
        while True:
            if not up and self._answer_awaited and messages.held:
                out += self._tls_answer(bytes([messages.held.pop(0)]))
            message = messages.next()
            if message is None:
                break
            passed = self._seen_up(*message) if up else self._seen_down(*message)
            if passed is None:
                writer.write(bytes(out) + self._last)
                self.reset()
                return False
            out += passed
            if self._proxy.off() == "hole":
                break
        if out:
            writer.write(bytes(out))
            await writer.drain()
        return True

    def _tls_answer(self, answer: bytes) -> bytes:
        self._answer_awaited = False
        if answer == b"S":
            self._proxy.counts.encrypted += 1
            self._ups.opaque = self._downs.opaque = True
        return answer

    def _seen_up(self, kind: bytes, whole: bytes) -> bytes | None:
        """What of a client's message goes on to the server; None ends the connection."""
        proxy, counts = self._proxy, self._proxy.counts
        if proxy.sprung("bytes", len(whole), ""):
            return self._spring(whole)
        if kind == b"":
            return self._startup(whole)
        if kind == b"p":
            counts.passwords += 1
        if kind in {b"Q", b"P"}:
            text = whole[5:].replace(b"\0", b" ").decode("utf-8", "replace").strip()
            self._text = f"{self._text}\n{text}"[-_REMEMBERED:]
            if kind == b"P":
                counts.parses += 1
            counts.statements += 1
            events = ["statement"] + (["parse"] if kind == b"P" else [])
            if kind == b"Q" and _COMMIT.search(text):
                counts.commits += 1
                proxy.trail.append(self._text)
                events.insert(0, "commit")
            if any(proxy.sprung(event, 1, self._text) for event in events):
                return self._spring(whole)
        if kind == b"d":
            counts.copydata += 1
            if proxy.sprung("copydata", 1, self._text):
                return self._spring(whole)
        return whole

    def _startup(self, whole: bytes) -> bytes | None:
        counts = self._proxy.counts
        code = int.from_bytes(whole[4:8])
        if code in {_SSL, _GSS}:
            counts.tls_asked += code == _SSL
            if self._proxy.wish.tls == "strip" or code == _GSS:
                counts.tls_denied += code == _SSL
                self._client[1].write(b"N")
                return b""
            self._answer_awaited = True
        elif code != _CANCEL:
            counts.startups += 1
            self._ups.typed = True
        return whole

    def _seen_down(self, kind: bytes, whole: bytes) -> bytes | None:
        """What of a server's message goes on to the client; None ends the connection."""
        proxy = self._proxy
        if self._losing:
            proxy.counts.swallowed += len(whole)
            # ReadyForQuery: the server is through with it.
            if kind == b"Z":
                proxy.counts.lost += 1
                return None
            return b""
        if kind == b"Z" and whole[5:6] == b"I":
            self._text = ""
        if kind == b"d":
            proxy.counts.copydata += 1
            if proxy.sprung("copydata", 1, self._text):
                return self._spring(whole)
        return self._spring(whole) if proxy.sprung("bytes", len(whole), "") else whole

    def _spring(self, whole: bytes) -> bytes | None:
        proxy = self._proxy
        proxy.counts.sprung += 1
        proxy.counts.text = self._text
        what = proxy.trap.what if proxy.trap else ""
        if proxy.trap is not None:
            proxy.trap.times -= 1
            if proxy.trap.times <= 0:
                proxy.trap = None
        if what == "lose":
            self._losing = True
            return whole
        if what.startswith("hole"):
            self.lost = True
            proxy.wish.mode = "hole"
            return whole if what == "hole after" else b""
        self._last = whole[: len(whole) // 2]
        return None


class _Proxy:
    """Accepts connections, and knows how the line is."""

    def __init__(self) -> None:
        self.port = 0
        self.wish = Wish()
        self.trap: Trap | None = None
        self.counts = Counts()
        self.trail: list[str] = []
        self.up, self.down = _Wire(self), _Wire(self)
        self._living: dict[_Connection, asyncio.Task[None]] = {}
        self._flapping: asyncio.Task[None] | None = None
        self._down_now = False

    def off(self) -> str:
        return self.wish.off if self._down_now else self.wish.mode

    def sprung(self, event: str, amount: int, text: str) -> bool:
        trap = self.trap
        if trap is None or trap.event != event or not re.search(trap.match, text, re.IGNORECASE | re.DOTALL):
            return False
        trap.nth -= amount
        return trap.nth <= 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self._living[connection] = task
        try:
            # Cancelled with the loop, at the end.
            with suppress(asyncio.CancelledError):
                await connection.live()
        finally:
            if not connection.lost:
                self._living.pop(connection, None)

    def do(self, what: str, how: dict[str, Any]) -> dict[str, Any]:
        match what:
            case "set":
                self.wish = Wish(**how)
                self._flap()
            case "trap":
                self.trap = Trap(**how)
            case "heal":
                self.wish, self.trap = Wish(), None
                self._flap()
                self._reset([one for one in self._living if one.lost])
            case "reset":
                self._reset(list(self._living))
            case "trail":
                return {"trail": self.trail}
        return asdict(self.counts)

    def _reset(self, connections: list[_Connection]) -> None:
        for connection in connections:
            connection.lost = False
            connection.reset()
            self._living.pop(connection, None)

    def _flap(self) -> None:
        if self._flapping is not None:
            self._flapping.cancel()
        self._flapping, self._down_now = None, False
        if self.wish.flap is not None:
            self._flapping = asyncio.get_running_loop().create_task(self._flapped(self.wish.flap))

    async def _flapped(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self._down_now = not self._down_now
            if self._down_now and self.wish.off == "refuse":
                self._reset(list(self._living))


async def _serve() -> None:
    """Read the first order, listen, do what is asked; end with the end of the input."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    proxy = _Proxy()
    _, how = json.loads(await orders.readline())
    proxy.port = int(how["port"])
    server = await asyncio.start_server(proxy.accept, LOOPBACK, 0, backlog=_BACKLOG)
    _answer({"listening": server.sockets[0].getsockname()[1]})
    while line := await orders.readline():
        what, how = json.loads(line)
        _answer(proxy.do(what, how))
    server.close()


def _answer(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_serve())
