"""A plain TCP forwarder before a server, whose lines can be reset; it knows nothing of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random

_BLOCK = 1 << 16
_HOST = "127.0.0.1"
# With a linger of nothing a close is a reset: the other end sees ECONNRESET and not an end.
_RESET = struct.pack("ii", 1, 0)


class Forwarder:
    """Listens on a port of its own and leads to ``port`` on this machine."""

    def __init__(self, port: int) -> None:
        self._towards = port
        self._lines: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._in_loop(asyncio.start_server(self._forward, _HOST, 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def reset(self, only: random.Random | None = None) -> int:
        """Reset every line, or one of them by chance; how many there were."""
        return int(self._in_loop(self._reset(only)))

    async def _reset(self, only: random.Random | None) -> int:
        lines = [only.choice(self._lines)] if only is not None and self._lines else list(self._lines)
        for line in lines:
            for end in line:
                _break(end)
        return len(lines)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, towards = await asyncio.open_connection(_HOST, self._towards)
        except OSError:
            _break(writer)
            return
        line = (writer, towards)
        self._lines.append(line)
        await asyncio.gather(_pump(reader, towards), _pump(there, writer))
        self._lines.remove(line)

    def _in_loop(self, awaited: object) -> object:
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result(30)  # type: ignore[arg-type]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _break(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
