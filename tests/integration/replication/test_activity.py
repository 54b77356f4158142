"""Who writes to a side, as a login sees it that may not look into other sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres import sessions
from planrunner.postgres.connection import Server
from planrunner.replication import activity
from planrunner.replication.names import Names
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = Names(plan_id="0123abcd")
# Autovacuum has no name of an application: only its ANALYZE takes long, with a transaction id of its own.
SLOWLY_ANALYSED = """
CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  IF current_setting('application_name') = '' THEN
    PERFORM pg_current_xact_id(), pg_sleep(0.2);
  END IF;
  RETURN n;
END $$;
CREATE TABLE item (id int);
CREATE INDEX ON item (slow(id));
INSERT INTO item SELECT generate_series(1, 150);
"""
ANALYSING = """
SELECT FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE backend_type = 'autovacuum worker' AND locktype = 'transactionid' AND mode = 'ExclusiveLock'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(18), settings={"autovacuum_naptime": "1s"}) as made:
        with psycopg.connect(made.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE ROLE narrow LOGIN PASSWORD 'narrow'")
        yield made


@pytest.fixture
def narrow(server: PostgresServer) -> Iterator[Server]:
    dsn = f"{server.dsn('narrow', 'postgres')} sslmode=disable"
    opened = Server(
        Endpoint(side=Side.TARGET, dsn=dsn),
        clock=SystemClock(),
        resolve=lambda _: Secret("narrow"),
        label="planrunner/0123abcd",
    )
    yield opened
    opened.close()


def test_what_the_server_does_by_itself_is_nobody_who_writes(server: PostgresServer, narrow: Server) -> None:
    clock = SystemClock()
    with (
        psycopg.connect(server.superuser_dsn, autocommit=True, application_name="test") as session,
        psycopg.connect(server.superuser_dsn, application_name="stranger") as stranger,
    ):
        session.execute(SLOWLY_ANALYSED)
        give_up = clock.monotonic() + 120
        while session.execute(ANALYSING).rowcount == 0:
            assert clock.monotonic() < give_up
            clock.sleep(0.1)
        assert activity.strangers(narrow, NAMES, []).equal
        stranger.execute("SELECT pg_current_xact_id()")
        found = activity.strangers(narrow, NAMES, [])
        assert session.execute(ANALYSING).rowcount == 1, "autovacuum was done too early"
        (told,) = found.detail
        assert told.startswith(f"pid {stranger.info.backend_pid} (")
        stranger.rollback()


def test_sessions_that_are_hidden_from_a_login_take_places_all_the_same(
    server: PostgresServer, narrow: Server
) -> None:
    with (
        psycopg.connect(server.superuser_dsn, autocommit=True) as session,
        psycopg.connect(server.superuser_dsn),
        psycopg.connect(server.superuser_dsn, replication="database", autocommit=True) as sender,
    ):
        assert sender.info.backend_pid
        kinds = "SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend'"
        # The narrow login's own, and the two beside it; a sender takes its place elsewhere.
        assert sessions.clients(narrow) == (3, 3)
        assert narrow.value(kinds) == 1
        row = session.execute(kinds.encode()).fetchone()
        assert row == (3,)
