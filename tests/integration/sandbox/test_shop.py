"""The shop, the roles around it, and the application that writes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.sandbox.rds_like import Database, ReplicationRights, prepare_source, prepare_target
from planrunner.sandbox.servers import PostgresServer, wheel_bin
from planrunner.sandbox.shop import load_shop
from planrunner.sandbox.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLOCK = SystemClock()
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def home() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=600) as server, ReplicationRights(server):
        yield server


@pytest.fixture(scope="module")
def loaded(home: PostgresServer) -> Database:
    database = prepare_source(home)
    load_shop(database.superuser_dsn, scale=0.02)
    return database


@pytest.fixture
def application(loaded: Database) -> str:
    assert loaded.application_dsn is not None
    return conninfo.make_conninfo(loaded.application_dsn, password=loaded.password)


def _value(dsn: str, query: str, **given: str) -> Any:
    with psycopg.connect(dsn, **given) as session:  # type: ignore[arg-type]  # libpq's words
        row = session.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _until(true: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + 10
    while not true():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.01)


def test_shop_holds_one_of_everything(loaded: Database) -> None:
    query = (
        "SELECT array_agg(DISTINCT relkind::text ORDER BY relkind::text) FROM pg_class"
        " WHERE relowner = 'shop_owner'::regrole AND relkind IN ('r', 'p', 'v', 'm', 'S')"
    )
    assert _value(loaded.superuser_dsn, query) == ["S", "m", "p", "r", "v"]
    unowned = (
        "SELECT count(*) FROM pg_class c WHERE relkind = 'S' AND NOT EXISTS"
        " (SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('a', 'i'))"
    )
    assert _value(loaded.superuser_dsn, unowned) == 2
    keyless = (
        "SELECT string_agg(relname, ',') FROM pg_class c WHERE relkind IN ('r', 'p')"
        " AND relnamespace = 'public'::regnamespace"
        " AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)"
    )
    assert _value(loaded.superuser_dsn, keyless) == "audit_log"


def test_masters_login_reads_nothing_of_the_owners(loaded: Database) -> None:
    query = "SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user"
    assert _value(loaded.dsn, query, password=loaded.password) is False
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        _value(loaded.dsn, "SELECT count(*) FROM orders", password=loaded.password)


def test_membership_in_rds_replication_lets_replicate_until_it_is_taken_back(
    loaded: Database, home: PostgresServer
) -> None:
    login = home.dsn("mover", "shop", password="once")

    def may() -> bool:
        try:
            psycopg.connect(login, replication="database").close()
        except psycopg.OperationalError as refused:
            if "WAL sender" not in str(refused):
                raise
            return False
        return True

    with psycopg.connect(loaded.dsn, password=loaded.password, autocommit=True) as session:
        session.execute("CREATE ROLE mover LOGIN PASSWORD 'once'")
        assert not may()
        session.execute("GRANT rds_replication TO mover")
        _until(may)
        home.restart()
        _until(may)
    with psycopg.connect(loaded.dsn, password=loaded.password, autocommit=True) as session:
        session.execute("REVOKE rds_replication FROM mover")
        _until(lambda: not may())
        session.execute("DROP ROLE mover")


def test_target_login_may_create_subscriptions_without_being_superuser() -> None:
    with PostgresServer(wheel_bin(18), max_life=600) as server:
        target = prepare_target(server)
        query = (
            "SELECT NOT rolsuper AND rolcreatedb AND pg_has_role(oid, 'pg_create_subscription', 'USAGE')"
            " AND has_database_privilege('shop', 'CREATE') FROM pg_roles WHERE rolname = current_user"
        )
        assert _value(target.dsn, query, password=target.password) is True


def test_acknowledged_writes_are_found_after_restart_and_crash(
    home: PostgresServer, loaded: Database, application: str
) -> None:
    with Writer(application, rate=300) as writer:
        _until(lambda: writer.counts().acknowledged > 100)
        home.restart()
        _until(lambda: writer.counts().acknowledged > 200)
        home.stop("immediate")
        home.start()
        _until(lambda: writer.counts().acknowledged > 300)
    counts = writer.stop()

    assert counts.reconnects >= 2
    assert counts.refused == {}
    assert writer.check(loaded.superuser_dsn) == []


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM orders WHERE note LIKE 'w%-%'",
        'DELETE FROM "Order Items" WHERE "Order" IN (SELECT id FROM orders WHERE note LIKE \'w%\')',
        "DELETE FROM audit_log WHERE who LIKE 'w%-%'",
        "INSERT INTO audit_log SELECT * FROM audit_log WHERE who LIKE 'w%-%'",
        "UPDATE events SET payload = '{}' WHERE kind = 'written'",
        "UPDATE customers SET profile = jsonb_set(profile, '{visits}', '7') WHERE profile->>'visits' LIKE '%.%'",
        'DELETE FROM "we""ird" WHERE "sel ect" LIKE \'w%\'',
    ],
)
def test_lost_and_doubled_writes_are_noticed(damage: str, loaded: Database, application: str) -> None:
    with Writer(application, threads=1, rate=2000) as writer:
        _until(lambda: writer.counts().acknowledged > 60)
    assert writer.check(loaded.superuser_dsn) == []
    with psycopg.connect(loaded.superuser_dsn) as session:
        session.execute("SET search_path = public")
        assert session.execute(damage.encode()).rowcount > 0

    assert writer.check(loaded.superuser_dsn) != []


def test_writer_stops_when_it_is_fenced(loaded: Database, application: str) -> None:
    with Writer(application, rate=300) as writer:
        _until(lambda: writer.counts().acknowledged > 20)
        with psycopg.connect(loaded.superuser_dsn, autocommit=True) as session:
            session.execute("ALTER DATABASE shop SET default_transaction_read_only = on")
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop_app'"
            )
        _until(lambda: writer.counts().fenced == 2)
        counts = writer.stop()
    with psycopg.connect(loaded.superuser_dsn, autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute("ALTER DATABASE shop RESET default_transaction_read_only")

    assert counts.acknowledged > 20
    assert writer.check(loaded.superuser_dsn) == []
