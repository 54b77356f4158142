"""The slow line adds its delay, loses nothing, and is no narrower than asked."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.proxy import SlowLine

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAY = 0.02


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends everything back, then ends its side; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            session, _ = listening.accept()
            threading.Thread(target=_return, args=(session,), daemon=True).start()


def _return(session: socket.socket) -> None:
    with session, suppress(OSError):
        while data := session.recv(1 << 16):
            session.sendall(data)


def returned(line: SlowLine, sent: bytes) -> bytes:
    """Send it all without waiting, end our side, and give what came back until the other side's end."""
    with socket.create_connection((line.host, line.port)) as session:
        sender = threading.Thread(target=_send, args=(session, sent))
        sender.start()
        came = bytearray()
        while data := session.recv(1 << 16):
            came += data
        sender.join()
        return bytes(came)


def _send(session: socket.socket, data: bytes) -> None:
    session.sendall(data)
    session.shutdown(socket.SHUT_WR)


def test_each_round_trip_takes_the_delay_twice_and_is_counted() -> None:
    with echo() as port, SlowLine(port, delay=DELAY) as line:
        with socket.create_connection((line.host, line.port)) as session:
            for _ in range(5):
                begun = time.monotonic()
                session.sendall(b"ping")
                assert session.recv(4, socket.MSG_WAITALL) == b"ping"
                assert time.monotonic() - begun >= 2 * DELAY
        counts = line.counts()
        assert (counts.connections, counts.turns, counts.bytes_up, counts.bytes_down) == (1, 5, 20, 20)


def test_many_chunks_are_on_their_way_at_once() -> None:
    chunks = 200
    with (
        echo() as port,
        SlowLine(port, delay=DELAY) as line,
        socket.create_connection((line.host, line.port)) as session,
    ):
        begun = time.monotonic()
        for _ in range(chunks):
            session.sendall(b"x" * 100)
            threading.Event().wait(0.0005)
        assert len(session.recv(100 * chunks, socket.MSG_WAITALL)) == 100 * chunks
        # One after the other they would take 200 round trips, 8 s.
        assert time.monotonic() - begun < chunks * 2 * DELAY / 2


def test_bytes_of_many_connections_arrive_intact_up_to_the_last() -> None:
    with echo() as port, SlowLine(port, delay=DELAY) as line:
        sent = [os.urandom(3_000_000 + number) for number in range(8)]
        came: dict[int, bytes] = {}
        threads = [
            threading.Thread(target=lambda n=number: came.update({n: returned(line, sent[n])}))
            for number in range(len(sent))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [came[number] == sent[number] for number in range(len(sent))] == [True] * len(sent)


def test_a_cap_holds_for_all_connections_together() -> None:
    size, rate = 400_000, 2_000_000.0
    with echo() as port, SlowLine(port, delay=0, bytes_per_second=rate) as line:
        begun = time.monotonic()
        threads = [threading.Thread(target=returned, args=(line, b"x" * size)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun >= 3 * size / rate
        assert line.counts().bytes_down == 3 * size


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with (
        SlowLine(port) as line,
        socket.create_connection((line.host, line.port)) as session,
        suppress(ConnectionResetError),
    ):
        assert session.recv(1) == b""


def test_only_this_machine_is_dialled() -> None:
    with pytest.raises(ValueError, match="only this machine"):
        SlowLine(5432, host="192.0.2.1")
