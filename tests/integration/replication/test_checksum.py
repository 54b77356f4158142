"""Digests agree between majors exactly when the rows do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import buckets, checksum
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = """
DROP TABLE IF EXISTS t;
DROP TYPE IF EXISTS mood;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE t (id int PRIMARY KEY, s text, n numeric, f float8, c char(5), b bytea, ts timestamptz, iv interval,
  j json, jb jsonb, a text[], m mood, d date, u varchar(9), bits varbit);
INSERT INTO t SELECT i, 's' || i, i / 4.0, i / 3.0, 'x', decode('00ff', 'hex'), '2024-01-01 00:00+00', '1 day',
  '{"a": 1}', '{"a": 1}', ARRAY['x', NULL], 'glad', '2024-02-29', 'v', B'01' FROM generate_series(1, 50) i;
"""


def opened(server: PostgresServer, side: Side) -> Server:
    parts = conninfo.conninfo_to_dict(server.superuser_dsn)
    parts.pop("password")
    endpoint = Endpoint(side=side, dsn=conninfo.make_conninfo("", **{**parts, "sslmode": "disable"}))
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="test")


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, Server, str]]:
    with PostgresServer(wheel_bin(16)) as source, PostgresServer(wheel_bin(18)) as target:
        sides = opened(source, Side.SOURCE), opened(target, Side.TARGET)
        with psycopg.connect(source.superuser_dsn, autocommit=True) as session:
            session.execute(ROWS)
        yield (*sides, target.superuser_dsn)
        for side in sides:
            side.close()


def equal(source: Server, target: Server) -> bool:
    (table,) = catalog.tables(source)
    ours, theirs = checksum.both_sides(source, target, [table], counts_only=False, timeout=30)
    return checksum.verdict(table, ours["public.t"], theirs["public.t"]).equal


def test_the_same_rows_are_equal_whatever_their_enum_oids_and_order(both: tuple[Server, Server, str]) -> None:
    source, target, dsn = both
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CREATE TYPE other AS ENUM ('shifts', 'oids')")
        session.execute(ROWS)
        session.execute("UPDATE t SET s = s WHERE id < 20; DROP TYPE other")
    assert equal(source, target)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET s = NULL WHERE id = 7",
        "UPDATE t SET s = '' WHERE id = 7",
        "UPDATE t SET s = s || ' ' WHERE id = 7",
        "UPDATE t SET s = upper(s) WHERE id = 7",
        "UPDATE t SET n = n + 0.00 WHERE id = 4; UPDATE t SET n = 1.000 WHERE id = 4",
        "UPDATE t SET f = '-0' WHERE id = 7",
        "UPDATE t SET f = f + 1e-15 WHERE id = 1",
        "UPDATE t SET b = decode('00fe', 'hex') WHERE id = 7",
        "UPDATE t SET ts = '2024-01-01 00:00+01' WHERE id = 7",
        "UPDATE t SET iv = '24 hours' WHERE id = 7",
        """UPDATE t SET j = '{"a":1}' WHERE id = 7""",
        """UPDATE t SET jb = '{"a": 1.0}' WHERE id = 7""",
        "UPDATE t SET a = ARRAY['x', 'NULL'] WHERE id = 7",
        "UPDATE t SET a = '[0:1]={x,NULL}' WHERE id = 7",
        "UPDATE t SET m = 'sad' WHERE id = 7",
        "UPDATE t SET d = d + 1 WHERE id = 7",
        "UPDATE t SET bits = B'010' WHERE id = 7",
        "UPDATE t SET s = 's8' WHERE id = 7; UPDATE t SET s = 's7' WHERE id = 8",
        "DELETE FROM t WHERE id = 7",
        "INSERT INTO t (id) VALUES (51)",
        "DELETE FROM t WHERE id = 7; INSERT INTO t SELECT 51, s, n, f, c, b, ts FROM t WHERE id = 8",
    ],
)
def test_a_planted_defect_is_found(both: tuple[Server, Server, str], change: str) -> None:
    source, target, dsn = both
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(ROWS)
        session.execute(change.encode())
    assert not equal(source, target)


@pytest.mark.parametrize("key", [["place"], ["page", "place"], ["total", "along", "key_0"]])
def test_a_key_that_is_called_as_columns_of_the_query_are_cuts_the_table(
    both: tuple[Server, Server, str], key: list[str]
) -> None:
    _, target, dsn = both
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(
            "DROP TABLE IF EXISTS named; CREATE TABLE named AS SELECT i AS place, i AS page, i AS total, i AS along,"
            " i AS key_0, repeat('x', 200) AS note FROM generate_series(1, 2000) i; ANALYZE named"
        )
    (table,) = [one for one in catalog.tables(target) if one.name == "named"]
    cut = buckets.cut(target, table, key, bucket_bytes=table.data_bytes // 8)

    assert cut.count > 4
    assert buckets.narrowed(target, cut, 2, parts=4).count == 4
