"""Rounds on a source whose xids come round: 2^32 lies between two of them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.replication import polling_horizon, polling_ledger
from planrunner.replication.polling_horizon import FAR, Horizon
from planrunner.replication.terms import Pace, Terms
from planrunner.sandbox.servers import PostgresServer, wheel_bin
from tests.integration.replication.test_polling import ROWS, alike, once, open_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.replication.conftest import Streams

_ROUND = 1 << 32
# Each jump is less than half a turn, and everything is frozen before the next.
_JUMPS = (2_000_000_000, 4_000_000_000, _ROUND - 120)
_SEGMENT = 1 << 20


@pytest.fixture
def old_source() -> Iterator[PostgresServer]:
    """A source that has about a hundred xids left before they begin anew."""
    server = PostgresServer(
        wheel_bin(16), settings={"wal_level": "logical", "autovacuum": "off"}, max_life=600
    )
    try:
        for xid in _JUMPS:
            server.start()
            _freeze(server)
            server.stop()
            _advance(server, xid)
        server.start()
        yield server
    finally:
        server.close()


def _freeze(server: PostgresServer) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        names = [row[0] for row in session.execute("SELECT datname FROM pg_database").fetchall()]
    for name in names:
        dsn = server.dsn(server.superuser, name, password=server.password)
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("VACUUM FREEZE")
            session.execute("CHECKPOINT")


def _advance(server: PostgresServer, xid: int) -> None:
    segment = server.data / "pg_xact" / f"{xid // _SEGMENT:04X}"
    if not segment.exists():
        segment.write_bytes(bytes(256 << 10))
    owner = server.data.stat()
    segment.chmod(0o600)
    subprocess.run(["chown", f"{owner.st_uid}:{owner.st_gid}", str(segment)], check=True)
    subprocess.run(
        [server.bin_dir / "pg_resetwal", "-x", str(xid), "-D", str(server.data)],
        check=True,
        capture_output=True,
        user=owner.st_uid,
        group=owner.st_gid,
    )


def _next(streams: Streams) -> int:
    return int(streams.source("SELECT txid_snapshot_xmax(txid_current_snapshot())")[0][0])


def test_rounds_find_every_change_when_the_xids_begin_anew(
    streams: Callable[..., Streams], old_source: PostgresServer, target_server: PostgresServer
) -> None:
    made = streams(old_source, target_server, following=False, terms=Terms(pace=Pace(reconcile=3600)))
    made.source(*ROWS)
    with made.space.source.session(read_only=True) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        polling_ledger.remember(made.space, 1, polling_horizon.now(session))
    once(made)
    assert _next(made) < _ROUND

    number = 0
    with open_transaction(made, "UPDATE orders SET note = 'held over' WHERE id = 2") as session:
        while _next(made) < _ROUND + 30:
            number += 1
            made.source(*[f"UPDATE orders SET note = 'n{number}' WHERE id = {3 + n}" for n in range(20)])
            session.execute("SAVEPOINT s")
            session.execute(f"UPDATE lines SET n = {number} WHERE id = {1 + number % 20}".encode())
            assert once(made).compared == 0
        session.commit()
    once(made)
    assert alike(made)

    made.source("UPDATE orders SET note = 'after' WHERE id = 200")
    found = once(made)
    # What was written before the xids began anew is old, though its number is the higher one.
    assert (found.brought, found.compared) == (1, 0)
    assert alike(made)


def test_a_horizon_reaches_half_as_far_as_ages_tell_apart() -> None:
    now = Horizon(xmin=3 * _ROUND + 5, next=3 * _ROUND + 9)

    assert now.reaches(now.next - FAR)
    assert not now.reaches(now.next - FAR - 1)
    assert not now.reaches(now.next + 1)


@pytest.mark.parametrize("since", [_ROUND, _ROUND + 1, _ROUND + 2])
def test_an_xid_that_none_has_stands_for_the_last_before_it(since: int) -> None:
    assert polling_horizon.changed(since).as_string() == "age(xmin) <= age('4294967295'::xid)"
    assert polling_horizon.changed(_ROUND + 3).as_string() == "age(xmin) <= age('3'::xid)"
