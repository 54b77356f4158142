"""What the stand-in for RDS denies its master user, statement by statement, on old and new servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.errors import UsageError
from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.replication import apply_error
from planrunner.replication.subscriptions import Subscription
from planrunner.sandbox.rds_like import Database, ReplicationRights, prepare_rds_target, prepare_source
from planrunner.sandbox.rds_limits import RDS_ADMIN
from planrunner.sandbox.servers import PostgresServer
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.server
CLOCK = SystemClock()
DENIED = "42501"
# What RDS denies a master user, and with which SQLSTATE.
DENIALS = {
    "SELECT rolpassword FROM pg_authid": DENIED,
    "SELECT passwd FROM pg_shadow": DENIED,
    "SELECT umoptions FROM pg_user_mapping": DENIED,
    "SELECT subconninfo FROM pg_subscription": DENIED,
    "SELECT data FROM pg_largeobject": DENIED,
    "SELECT pg_read_file('PG_VERSION')": DENIED,
    "SELECT pg_read_binary_file('PG_VERSION')": DENIED,
    "SELECT pg_ls_dir('.')": DENIED,
    "SELECT lo_import('/etc/hostname')": DENIED,
    "SELECT lo_export(1, '/tmp/never')": DENIED,
    "COPY mine FROM '/etc/hostname'": DENIED,
    "COPY mine TO '/tmp/never'": DENIED,
    "COPY mine FROM PROGRAM 'id'": DENIED,
    "COPY mine TO PROGRAM 'cat'": DENIED,
    "GRANT pg_read_server_files TO migrator": DENIED,
    "GRANT pg_write_server_files TO rds_superuser": DENIED,
    "GRANT pg_execute_server_program TO migrator": DENIED,
    "ALTER SYSTEM SET work_mem = '1MB'": DENIED,
    "SELECT pg_reload_conf()": DENIED,
    "SET allow_system_table_mods = on": DENIED,
    "SET ROLE rdsadmin": DENIED,
    "SET SESSION AUTHORIZATION rdsadmin": DENIED,
    "GRANT rdsadmin TO migrator": DENIED,
    "ALTER ROLE rdsadmin PASSWORD 'guessed'": DENIED,
    "DROP ROLE rdsadmin": DENIED,
    "ALTER ROLE migrator SUPERUSER": DENIED,
    "CREATE ROLE other SUPERUSER": DENIED,
    "CREATE ROLE other BYPASSRLS": DENIED,
    "ALTER ROLE migrator REPLICATION": DENIED,
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rdsadmin'": DENIED,
    "UPDATE pg_database SET datallowconn = true": DENIED,
    "CREATE FUNCTION c() RETURNS int LANGUAGE c AS 'libc'": DENIED,
    "CREATE FUNCTION i() RETURNS int LANGUAGE internal AS 'now'": DENIED,
    "CREATE CAST (int AS text) WITHOUT FUNCTION": DENIED,
    "LOAD 'library'": DENIED,
    "SELECT * FROM pg_hba_file_rules": DENIED,
    "SELECT pg_switch_wal()": DENIED,
    "SELECT pg_promote()": DENIED,
}
# What RDS allows its master user and stock PostgreSQL allows superusers alone: the stand-in is stricter.
STRICTER = {
    "CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION fires()": DENIED,
    "CREATE PUBLICATION everything FOR ALL TABLES": DENIED,
    "CREATE TABLESPACE elsewhere LOCATION '/tmp/never'": DENIED,
    "SELECT pg_replication_origin_create('mine')": DENIED,
    "SET log_statement = 'none'": DENIED,
}
# Allowed on RDS, and here; (statement, first major in which stock PostgreSQL can give it to a role).
ALLOWED = (
    ("SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", 13),
    ("SELECT pg_drop_replication_slot('mine')", 13),
    ("SELECT query FROM pg_stat_activity", 13),
    ("SHOW data_directory", 13),
    ("CREATE ROLE replicator LOGIN PASSWORD 'once' VALID UNTIL '2040-01-01'", 13),
    ("GRANT rds_replication TO replicator", 13),
    ("GRANT rds_password, rds_iam TO replicator", 13),
    ("REVOKE rds_replication FROM replicator", 13),
    ("DROP ROLE replicator", 13),
    ("CHECKPOINT", 15),
    ("SET session_replication_role = replica", 15),
    ("RESET session_replication_role", 15),
    ("CREATE SUBSCRIPTION mine CONNECTION 'host=::1 password=x' PUBLICATION p WITH (connect = false)", 16),
)


@dataclass(frozen=True, kw_only=True)
class Home:
    """A server that stands for RDS, and its database."""

    server: PostgresServer
    database: Database

    def master(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.database.dsn, password=self.database.password, autocommit=True)


@pytest.fixture(scope="module", params=[14, 15, 16, 18])
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    settings = {"wal_level": "logical"}
    with PostgresServer(
        server_bin(request.param), superuser=RDS_ADMIN, settings=settings, max_life=600
    ) as server:
        database = prepare_source(server)
        with psycopg.connect(database.superuser_dsn, autocommit=True) as session:
            session.execute("GRANT CREATE ON SCHEMA public TO migrator")
            session.execute("GRANT CREATE ON DATABASE shop TO migrator")
        with ReplicationRights(server):
            home = Home(server=server, database=database)
            with home.master() as session:
                session.execute("CREATE TABLE mine (line text)")
                session.execute(
                    "CREATE FUNCTION fires() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"
                )
            _until_it_replicates(home)
            yield home


def _until_it_replicates(home: Home) -> None:
    for _ in range(500):
        try:
            psycopg.connect(
                home.database.dsn, password=home.database.password, replication="database"
            ).close()
        except psycopg.OperationalError:
            CLOCK.sleep(0.01)
        else:
            return
    pytest.fail("a member of rds_replication was never let replicate")


def _state(session: psycopg.Connection[tuple[object, ...]], statement: str) -> str | None:
    try:
        session.execute(statement.encode())
    except psycopg.Error as refused:
        return refused.sqlstate
    return None


def test_what_rds_denies_is_denied_with_the_same_sqlstate(home: Home) -> None:
    with home.master() as session:
        met = {statement: _state(session, statement) for statement in {**DENIALS, **STRICTER}}
    assert met == {**DENIALS, **STRICTER}


def test_what_rds_allows_its_master_user_is_allowed_where_a_stock_server_can(home: Home) -> None:
    major = home.server.version[0]
    with home.master() as session:
        met = {statement: _state(session, statement) for statement, _ in ALLOWED}
    assert met == {statement: None if major >= since else DENIED for statement, since in ALLOWED}


def test_members_of_rds_replication_replicate_while_their_attribute_shows_false(home: Home) -> None:
    with home.master() as session:
        for query in (
            "SELECT rolreplication FROM pg_roles WHERE rolname = current_user",
            "SELECT userepl FROM pg_user WHERE usename = current_user",
        ):
            assert session.execute(query.encode()).fetchone() == (False,)
        held = session.execute(
            "SELECT rolcreaterole, rolcreatedb, rolbypassrls, rolsuper, pg_has_role('rds_superuser', 'USAGE'),"
            " pg_has_role('rds_replication', 'USAGE') FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert held == (True, True, False, False, True, True)
    with psycopg.connect(
        home.database.dsn, password=home.database.password, replication="database"
    ) as session:
        assert session.execute("IDENTIFY_SYSTEM").fetchone() is not None


def test_an_attribute_that_was_given_by_another_way_does_not_last(home: Home) -> None:
    def has() -> bool:
        with psycopg.connect(home.database.superuser_dsn) as session:
            row = session.execute(
                "SELECT count(*) FROM pg_authid WHERE rolname = 'sly' AND rolreplication"
            ).fetchone()
        return row == (1,)

    with home.master() as session:
        given = _state(session, "CREATE ROLE sly LOGIN REPLICATION")
        if home.server.version[0] < 16:
            assert given == DENIED
            return
        assert given is None
        deadline = CLOCK.monotonic() + 10
        while has():
            assert CLOCK.monotonic() < deadline
            CLOCK.sleep(0.01)
        session.execute("DROP ROLE sly")


def test_nobody_enters_rdsadmins_database_nor_replicates_physically(home: Home) -> None:
    for given in ({"dbname": "rdsadmin"}, {"replication": "true"}):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf"):
            psycopg.connect(home.database.dsn, password=home.database.password, **given)  # type: ignore[arg-type]


def test_master_user_grants_what_it_made_and_belongs_to_none_of_it(home: Home) -> None:
    with home.master() as session:
        member = session.execute("SELECT pg_has_role('shop_owner', 'USAGE')").fetchone()
        assert member == (False,)
        assert _state(session, "GRANT shop_owner TO migrator") is None
        assert _state(session, "REVOKE shop_owner FROM migrator") is None


def test_login_that_reads_everything_and_calls_nothing_still_learns_what_it_may(home: Home) -> None:
    """RDS gives its master user pg_read_all_data since 15, which opens views whose functions stay closed."""
    with psycopg.connect(home.database.superuser_dsn, autocommit=True) as session:
        session.execute("CREATE ROLE reader LOGIN PASSWORD 'once'; GRANT pg_read_all_data TO reader")
    endpoint = Endpoint(
        side=Side.TARGET,
        dsn=home.server.dsn("reader", "shop"),
        password=SecretRef(kind=SecretKind.ENV, locator="X"),
    )
    server = Server(endpoint, clock=CLOCK, resolve=lambda _: Secret("once"), label="test")
    some = Subscription(
        oid=1,
        name="s",
        enabled=True,
        slot="s",
        publications="p",
        pid=None,
        errors=0,
        conflicts={},
    )
    try:
        assert server.value("SELECT has_table_privilege('pg_replication_origin_status', 'SELECT')") is True
        assert apply_error.position(server, some) is None
    finally:
        server.close()


def test_a_target_of_rds_is_the_master_users_own() -> None:
    with PostgresServer(server_bin(18), superuser=RDS_ADMIN, max_life=300) as server:
        target = prepare_rds_target(server)
        with psycopg.connect(target.dsn, password=target.password) as session:
            row = session.execute(
                "SELECT pg_get_userbyid(datdba), pg_has_role('pg_create_subscription', 'USAGE'), rolsuper"
                " FROM pg_database, pg_roles WHERE datname = current_database() AND rolname = current_user"
            ).fetchone()
        assert row == ("migrator", True, False)


def test_a_stand_in_for_a_target_before_16_is_refused() -> None:
    with (
        PostgresServer(server_bin(15), max_life=300) as server,
        pytest.raises(UsageError, match="only a superuser can create subscriptions"),
    ):
        prepare_rds_target(server)
