"""Metered lines: a TCP proxy before a server that gives each client process a token bucket of its own.

Who a connection belongs to is told by the application_name of its first message, which planrunner's processes have of
their own; so no TLS. What the server sends takes tokens, what a client sends does not: it is little.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Self

LOOPBACK = "127.0.0.1"
# As much as a bucket holds: what may come at once after a silence.
BURST_BYTES = 256 << 10
_BLOCK_BYTES = 64 << 10
_END_SECONDS = 10.0


class MeteredLines:
    """Lines to ``port`` of this machine, each of ``bytes_per_second``, in a process of its own; a context manager."""

    def __init__(self, port: int, *, bytes_per_second: float) -> None:
        self._order = (str(port), str(bytes_per_second))
        self.port = 0
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *self._order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self.port = int(self._child.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child is not None
        # The end of its input ends the child, also when we are killed.
        self._child.communicate(timeout=_END_SECONDS)


class Bucket:
    """Fills at ``rate`` bytes a second up to ``BURST_BYTES``; whoever takes more waits until it is there."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = float(BURST_BYTES)
        self._at = now

    def take(self, size: int, now: float) -> float:
        """Take ``size`` tokens; the seconds until they are there."""
        self._tokens = min(BURST_BYTES, self._tokens + (now - self._at) * self._rate) - size
        self._at = now
        return max(0.0, -self._tokens / self._rate)


def name_of(startup: bytes) -> str:
    """The application_name of a connection's first message; empty where it tells none."""
    words = startup[8:].split(b"\0")
    told = dict(zip(words[::2], words[1::2], strict=False))
    return told.get(b"application_name", b"").decode()


class _Proxy:
    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._rate = rate
        self._buckets: dict[str, Bucket] = {}

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            startup = struct.pack("!I", length) + await reader.readexactly(length - 4)
            now = asyncio.get_running_loop().time()
            bucket = self._buckets.setdefault(name_of(startup), Bucket(self._rate, now))
            theirs, there = await asyncio.open_connection(LOOPBACK, self._port)
            there.write(startup)
            up = asyncio.create_task(_carry(reader, there, None))
            await _carry(theirs, writer, bucket)
            up.cancel()
            there.close()
        writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket | None) -> None:
    with suppress(OSError):
        while block := await reader.read(_BLOCK_BYTES):
            if bucket is not None:
                await asyncio.sleep(bucket.take(len(block), asyncio.get_running_loop().time()))
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _serve(port: int, rate: float) -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(_Proxy(port, rate).accept, LOOPBACK, 0, backlog=256)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    ended = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    await ended.read()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
