"""What is read of the tables, whoever holds them."""

from __future__ import annotations

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

SCRIPT = (
    "CREATE TABLE held (id int PRIMARY KEY, v text)",
    "INSERT INTO held SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i",
    "CREATE TABLE free (id int PRIMARY KEY, v text)",
    "INSERT INTO free SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i",
    "ANALYZE",
)


@pytest.mark.server
@pytest.mark.timeout(120)
def test_a_table_that_somebody_holds_for_himself_is_told_without_waiting_for_him() -> None:
    with PostgresServer(wheel_bin(16)) as postgres:
        with psycopg.connect(postgres.superuser_dsn, autocommit=True) as session:
            for statement in SCRIPT:
                session.execute(statement.encode())
        server = Server(
            Endpoint(side=Side.SOURCE, dsn=f"{postgres.superuser_dsn} sslmode=disable"),
            clock=SystemClock(),
            resolve=lambda _: None,
            label="catalog",
        )
        before = {table.name: table for table in catalog.tables(server)}
        with psycopg.connect(postgres.superuser_dsn) as stranger:
            stranger.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
            meanwhile = {table.name: table for table in catalog.tables(server)}
        server.close()
    assert meanwhile["free"] == before["free"]
    assert meanwhile["held"].pages == before["held"].pages > 300
    assert meanwhile["held"].data_bytes == meanwhile["held"].pages * 8192
    assert meanwhile["held"].columns == before["held"].columns
