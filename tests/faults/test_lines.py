"""The fault proxy itself: each fault really happens, as a plain client and the server see it."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.lines import FaultLine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=600) as made:
        with psycopg.connect(made.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE TABLE noted (what text)")
        yield made


@pytest.fixture
def line(server: PostgresServer) -> Iterator[FaultLine]:
    with FaultLine(server.port) as made:
        yield made


def dialled(server: PostgresServer, line: FaultLine, **more: Any) -> psycopg.Connection[Any]:
    dsn = conninfo.make_conninfo(server.superuser_dsn, port=line.port, sslmode="disable")
    return psycopg.connect(dsn, **more)


def noted(server: PostgresServer, what: str) -> int:
    with psycopg.connect(server.superuser_dsn) as session:
        row = session.execute("SELECT count(*) FROM noted WHERE what = %s", [what]).fetchone()
        assert row is not None
        return int(row[0])


def silent_for(session: psycopg.Connection[Any], seconds: float) -> bool:
    """True when the session's socket has nothing to read for so long, not even an end."""
    with socket.socket(fileno=socket.dup(session.fileno())) as raw:
        raw.settimeout(seconds)
        try:
            raw.recv(1)
        except TimeoutError:
            return True
        except ConnectionResetError:
            return False
    return False


def test_the_reply_of_the_wanted_commit_is_lost_though_the_server_has_committed(
    server: PostgresServer, line: FaultLine
) -> None:
    with dialled(server, line) as session:
        line.trap("commit", "lose", nth=2)
        session.execute("INSERT INTO noted VALUES ('first')")
        session.commit()
        session.execute("INSERT INTO noted VALUES ('second')")
        with pytest.raises(psycopg.OperationalError):
            session.commit()
    assert (noted(server, "first"), noted(server, "second")) == (1, 1)
    counts = line.counts()
    assert (counts.commits, counts.lost, counts.sprung) == (2, 1, 1)
    assert "second" in counts.text
    assert "second" in line.trail()[1]
    assert "first" not in line.trail()[1]


def test_a_commit_of_matching_text_alone_springs_the_trap(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line) as session:
        line.trap("commit", "reset", match="INTO noted.*wanted")
        session.execute("INSERT INTO noted VALUES ('other')")
        session.commit()
        session.execute("INSERT INTO noted VALUES ('wanted')")
        with pytest.raises(psycopg.OperationalError):
            session.commit()
    # Half a COMMIT is none.
    assert (noted(server, "other"), noted(server, "wanted")) == (1, 0)


def test_a_copy_is_reset_in_the_middle_of_its_rows(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line) as session:
        line.trap("copydata", "reset", nth=3)
        came = []
        with (
            pytest.raises(psycopg.OperationalError),
            session.cursor().copy(
                "COPY (SELECT repeat('x', 100000) FROM generate_series(1, 9)) TO STDOUT"
            ) as rows,
        ):
            came += list(rows)
        assert line.counts().copydata == 3
    with dialled(server, line) as session:
        line.trap("copydata", "reset", nth=2)
        with (  # noqa: PT012  # which of them meets it is the client's affair
            pytest.raises(psycopg.OperationalError),
            session.cursor().copy("COPY noted FROM STDIN") as rows,
        ):
            for _ in range(4):
                rows.write(b"torn\n" * 10000)
    assert noted(server, "torn") == 0


def test_a_session_is_reset_after_it_has_parsed(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line, autocommit=True) as session:
        line.trap("parse", "reset")
        assert session.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            session.execute("INSERT INTO noted VALUES (%s)", ["parsed"])
    assert noted(server, "parsed") == 0
    assert line.counts().parses == 1


def test_a_black_hole_swallows_all_and_tells_nobody(server: PostgresServer, line: FaultLine) -> None:
    with closing(dialled(server, line, autocommit=True)) as session:
        line.set(mode="hole")
        session.pgconn.send_query(b"INSERT INTO noted VALUES ('swallowed')")
        assert silent_for(session, 0.5)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            dialled(server, line, connect_timeout=2)
        assert noted(server, "swallowed") == 0
        counts = line.counts()
        assert counts.swallowed > 0
        assert counts.silent == 1
        line.heal()
        # What hung on it has lost bytes, so it can only be reset.
        assert not silent_for(session, 5)
    with dialled(server, line) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_black_hole_after_a_statement_lets_the_server_do_it(
    server: PostgresServer, line: FaultLine
) -> None:
    with closing(dialled(server, line, autocommit=True)) as session:
        line.trap("statement", "hole after", match="done unheard")
        session.pgconn.send_query(b"INSERT INTO noted VALUES ('done unheard')")
        assert silent_for(session, 0.5)
        assert noted(server, "done unheard") == 1


def test_a_flapping_line_delivers_late_or_resets(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line, autocommit=True) as session:
        line.set(flap=0.4, off="hold")
        began = time.monotonic()
        waits = []
        while time.monotonic() - began < 2:
            asked = time.monotonic()
            session.execute("SELECT 1")
            waits.append(time.monotonic() - asked)
        assert max(waits) > 0.3
        line.set(flap=0.2, off="refuse")
        refused = answered = 0
        while not (refused and answered):
            try:
                with dialled(server, line) as other:
                    other.execute("SELECT 1")
                    answered += 1
            except psycopg.OperationalError:
                refused += 1
            assert time.monotonic() - began < 60


def test_a_narrow_line_takes_its_time_and_a_long_one_too(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line, autocommit=True) as session:
        line.set(bytes_per_second=125_000)
        began = time.monotonic()
        row = session.execute("SELECT repeat('x', 250000)").fetchone()
        assert row is not None
        assert len(row[0]) == 250_000
        assert time.monotonic() - began > 1.7
        line.set(delay=0.1)
        began = time.monotonic()
        session.execute("SELECT 1")
        assert time.monotonic() - began > 0.19


def test_tls_is_stripped(server: PostgresServer, line: FaultLine) -> None:
    line.set(tls="strip")
    dsn = conninfo.make_conninfo(server.superuser_dsn, port=line.port)
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(dsn, sslmode="require")
    assert (line.counts().tls_denied, line.counts().startups) == (1, 0)
    with psycopg.connect(dsn, sslmode="prefer") as session:
        assert not session.pgconn.ssl_in_use
    assert (line.counts().tls_denied, line.counts().startups) == (2, 1)


def test_every_connection_is_reset_at_once_and_by_bytes(server: PostgresServer, line: FaultLine) -> None:
    with dialled(server, line) as one, dialled(server, line) as other:
        line.reset()
        for session in (one, other):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
    with dialled(server, line) as session:
        line.trap("bytes", "reset", nth=50_000)
        session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
