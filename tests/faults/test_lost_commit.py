"""The line breaks while the cutover's commit waits at the source: nobody else can see yet what it will become."""

from __future__ import annotations

import signal
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest

from tests.faults.scene import CLOCK, PATIENCE_SECONDS, Migration, frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

SCRIPT = """
CREATE TABLE item (id bigserial PRIMARY KEY, v text);
INSERT INTO item (v) SELECT 'v' || i FROM generate_series(1, 500) i;
"""
AT_IT = "SELECT pid, client_port FROM pg_stat_activity WHERE datname = %s AND wait_event = 'SyncRep'"


class Line:
    """A TCP line to a server of which one connection can be torn, named by the port that the server sees."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: dict[int, tuple[socket.socket, socket.socket]] = {}
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # A thread in accept() is woken by this, not by a close.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for port in list(self._pairs):
            self.tear(port)

    def tear(self, port: int) -> None:
        """Both ends get a reset."""
        for end in self._pairs[port]:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._pairs[server.getsockname()[1]] = (client, server)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)


@contextmanager
def waiting_for_a_standby(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """Every commit of the server waits for a standby that is not there, until the block ends."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("SET synchronous_commit = local")
        server.reload({"synchronous_standby_names": "nobody"})
        try:
            until(session, "SHOW synchronous_standby_names", [], ("nobody",))
            until_commits_wait(server, session)
            yield session
        finally:
            server.reload({"synchronous_standby_names": ""})


def until_commits_wait(server: PostgresServer, session: psycopg.Connection[Any]) -> None:
    """The checkpointer tells the others of the setting, when it comes to it: until then commits go through."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as probe:

        def commit_until_one_waits() -> None:
            with suppress(psycopg.OperationalError):
                while True:
                    probe.execute("SELECT pg_current_xact_id()")

        committing = threading.Thread(target=commit_until_one_waits, daemon=True)
        committing.start()
        waits = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        )
        until(session, waits, [probe.info.backend_pid])
        committing.join(PATIENCE_SECONDS)
        assert not committing.is_alive()


def until(session: psycopg.Connection[Any], query: str, given: list[object], wanted: object = ...) -> Any:
    """The first row of a query, when there is one, or when it is the one that is waited for."""
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    while True:
        row = session.execute(query, given).fetchone()  # type: ignore[call-overload]
        if row == wanted or (wanted is ... and row is not None):
            return row
        assert CLOCK.monotonic() < give_up, query
        CLOCK.sleep(0.02)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers() as both:
        yield both


@pytest.mark.parametrize("reverse", ["false", "true"])
def test_a_commit_that_is_still_under_way_is_not_taken_for_a_rollback(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, reverse: str
) -> None:
    options = {"over": f"{{write_pause_budget: 60s, reverse: {reverse}}}"}
    with (
        Line(pair[0].port) as line,
        migration(
            pair, tmp_path, f"late_{reverse}", SCRIPT, ports=(line.port, pair[1].port), **options
        ) as one,
        frozen(one, "cutover.before_commit") as child,
    ):
        with waiting_for_a_standby(pair[0]) as session:
            child.send_signal(signal.SIGCONT)
            pid, port = until(session, AT_IT, [one.name])
            line.tear(port)
            # Only the runner can end it: nothing of it comes or goes any more.
            gone = "SELECT count(*)::int FROM pg_stat_activity WHERE pid = %s"
            until(session, gone, [pid], (0,))
        said, _ = child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == 0, said
        moved(one)


def moved(one: Migration) -> None:
    """The source refuses, the target takes a row, and what is written there comes back where that was wanted."""
    with (
        psycopg.connect(one.ours, autocommit=True) as session,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        session.execute("INSERT INTO item (v) VALUES ('late')")
    with psycopg.connect(one.theirs, autocommit=True) as session:
        session.execute("INSERT INTO item (v) VALUES ('new')")
    if "reverse: true" in one.plan.read_text():
        with psycopg.connect(one.ours, autocommit=True) as session:
            until(session, "SELECT v FROM item WHERE v = 'new'", [])
    one.succeeds("cleanup", "--yes")
