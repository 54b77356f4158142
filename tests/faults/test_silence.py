"""A line that has fallen silent frees whoever waits on it, a child too; a good one lets a statement take its time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import ConnectionFailed
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres import tools
from planrunner.postgres.connection import Server
from planrunner.postgres.heartbeat import watched
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.lines import FaultLine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

# The promise is 30 s, and it takes 24; the rest is for a machine that is busy.
NOTICED_SECONDS = 45
LONG_STATEMENT_SECONDS = 30
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=600) as made:
        yield made


def over(line: FaultLine, postgres: PostgresServer, side: Side) -> Server:
    dsn = conninfo.make_conninfo(
        host="127.0.0.1", port=line.port, user="postgres", dbname="postgres", sslmode="disable"
    )
    return Server(
        Endpoint(side=side, dsn=dsn, password=None),
        clock=CLOCK,
        resolve=lambda _: Secret(postgres.password),
        label="silence",
    )


def slept(server: Server, seconds: float) -> float:
    """How long a statement that says nothing took, or was left to take."""
    began = CLOCK.monotonic()
    with server.session() as session:
        session.execute("SELECT pg_sleep(%s)", [seconds])
    return CLOCK.monotonic() - began


def child_slept(server: Server, password: str) -> None:
    with tools.dialling(server.parameters(), Secret(password)) as handed:
        tools.run_tool(
            [wheel_bin(16) / "psql", "-X", "-d", handed.dial, "-c", "SELECT pg_sleep(200)"],
            handed=handed,
            what="sleep",
            line=server.line,
        )


def test_a_silent_line_frees_whoever_waits_and_a_good_one_lets_a_long_statement_be(
    postgres: PostgresServer,
) -> None:
    with FaultLine(postgres.port) as silent, FaultLine(postgres.port) as good, ThreadPoolExecutor(3) as pool:
        source, target = over(silent, postgres, Side.SOURCE), over(good, postgres, Side.TARGET)
        told: list[str] = []
        source.line.told = told.append
        with watched(source), watched(target):
            long = pool.submit(slept, target, LONG_STATEMENT_SECONDS)
            waiting = [pool.submit(slept, source, 200), pool.submit(child_slept, source, postgres.password)]
            while silent.counts().statements < 4:
                # The session's settings and its question, the child's question, and a heartbeat.
                CLOCK.sleep(0.1)
            silent.set(mode="hole")
            began = CLOCK.monotonic()
            for freed in waiting:
                with pytest.raises(ConnectionFailed, match="has answered nothing for 20 s") as caught:
                    freed.result(NOTICED_SECONDS)
                assert caught.value.sqlstate == "08006"
                assert "firewall" in str(caught.value.remedy)
            assert CLOCK.monotonic() - began < NOTICED_SECONDS
            # It asks on, so that it knows when the line is good again.
            silent.heal()
            assert slept(source, 0) >= 0
            assert long.result(120) >= LONG_STATEMENT_SECONDS
        assert [f"127.0.0.1:{silent.port}" in line for line in told] == [True] * len(told)
        assert told
        source.close()
        target.close()


def test_those_in_line_behind_a_dial_that_nobody_answers_have_its_answer(postgres: PostgresServer) -> None:
    many = 8
    with FaultLine(postgres.port) as line, ThreadPoolExecutor(many) as pool:
        server, together = over(line, postgres, Side.TARGET), Barrier(many)
        line.set(mode="hole")

        def asked() -> object:
            together.wait()
            return server.value("SELECT 1")

        for waiting in [pool.submit(asked) for _ in range(many)]:
            with pytest.raises(ConnectionFailed, match="does not answer"):
                waiting.result(300)
        # One dialled for all of them; whoever came to it late did so once more.
        assert line.counts().connections <= 2
        line.heal()
        assert server.value("SELECT 1") == 1
        server.close()
