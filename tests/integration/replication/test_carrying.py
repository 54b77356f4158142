"""Large objects, settings and roles from an old source to a target whose login is no superuser."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.replication import decisions, large_objects, roles, settings, uncarried
from planrunner.replication.workspace import Workspace
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN_PASSWORD = "migrator's own"
LARGE = (
    "SELECT oid::bigint, md5(lo_get(oid)), pg_get_userbyid(lomowner) FROM pg_largeobject_metadata ORDER BY 1"
)


def opened(side: Side, dsn: str) -> Server:
    parts = conninfo.conninfo_to_dict(dsn)
    secret = Secret(str(parts.pop("password")))
    endpoint = Endpoint(side=side, dsn=conninfo.make_conninfo("", **{**parts, "sslmode": "disable"}))
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: secret, label="test")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with PostgresServer(server_bin(13)) as source, PostgresServer(wheel_bin(18)) as target:
        with psycopg.connect(target.superuser_dsn, autocommit=True) as session:
            session.execute(
                sql.SQL("CREATE ROLE migrator LOGIN CREATEDB CREATEROLE PASSWORD {}").format(LOGIN_PASSWORD)
            )
        yield source, target


class Bench:
    """Two fresh databases of one name, and a workspace between them."""

    def __init__(self, servers: tuple[PostgresServer, PostgresServer]) -> None:
        self.name = f"db_{secrets.token_hex(4)}"
        for server, owner in zip(servers, ("postgres", "migrator"), strict=True):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(self.name), sql.Identifier(owner)
                    )
                )
        self.dsns = tuple(s.dsn("postgres", self.name, password=s.password) for s in servers)
        login = servers[1].dsn("migrator", self.name, password=LOGIN_PASSWORD)
        self.told: list[str] = []
        self.space = Workspace(
            source=opened(Side.SOURCE, self.dsns[0]),
            target=opened(Side.TARGET, login),
            plan_id="0123abcd",
            clock=SystemClock(),
            tell=lambda text, _: self.told.append(text),
        )

    def sql(self, text: str, *, on: int = 0) -> None:
        with psycopg.connect(self.dsns[on], autocommit=True) as session:
            session.execute(text.encode())

    def rows(self, query: str, *, on: int) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsns[on]) as session:
            return session.execute(query.encode()).fetchall()


@pytest.fixture
def bench(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[Bench]:
    made = Bench(servers)
    yield made
    made.space.source.close()
    made.space.target.close()


def test_large_objects_are_levelled_again_and_again(bench: Bench) -> None:
    bench.sql(
        "SELECT lo_from_bytea(200001, 'one'), lo_create(200002), lo_from_bytea(200003, 'three');"
        " SELECT lo_from_bytea(200004, decode(repeat('ab', 3000000), 'hex'))"
    )
    # The bootstrap superuser owns them; the target's login may not act as it, so owners stay out.
    terms = large_objects.Terms(owners=False)
    assert large_objects.strange_owners(bench.space.source, bench.space.target) == ("postgres",)
    first = large_objects.level(bench.space, terms)
    assert first == {"objects": 4, "copied": 4, "removed": 0, "bytes": 3_000_008}
    assert [row[:2] for row in bench.rows(LARGE, on=0)] == [row[:2] for row in bench.rows(LARGE, on=1)]
    assert large_objects.level(bench.space, terms) == {"objects": 4, "copied": 0, "removed": 0, "bytes": 0}
    bench.sql(
        "SELECT lo_put(200004, 2999999, 'xyz'), lo_unlink(200001), lo_put(200002, 5000, 'hole'), lo_create(200005)"
    )
    again = large_objects.level(bench.space, terms)
    assert (again["copied"], again["removed"]) == (3, 1)
    assert [row[:2] for row in bench.rows(LARGE, on=0)] == [row[:2] for row in bench.rows(LARGE, on=1)]


def test_sizes_alone_find_only_objects_of_another_size(bench: Bench) -> None:
    bench.sql("SELECT lo_from_bytea(210001, 'one'), lo_from_bytea(210002, 'two')")
    large_objects.level(bench.space, large_objects.Terms(owners=False))
    bench.sql("SELECT lo_put(210001, 0, 'ONE and more')")
    found = large_objects.level(bench.space, large_objects.Terms(owners=False, sizes_only=True))
    assert found["copied"] == 1
    assert [row[:2] for row in bench.rows(LARGE, on=0)] == [row[:2] for row in bench.rows(LARGE, on=1)]


def test_roles_come_without_what_the_login_may_not_give_and_that_is_told(bench: Bench) -> None:
    bench.sql(
        "CREATE ROLE c_boss LOGIN SUPERUSER; CREATE ROLE c_group; CREATE ROLE c_member LOGIN CREATEDB CREATEROLE;"
        " CREATE ROLE c_stranger; GRANT c_group TO c_member; GRANT pg_monitor TO c_member;"
        " CREATE TABLE t (); GRANT SELECT ON t TO c_group; ALTER TABLE t OWNER TO c_boss"
    )
    absent = roles.missing(bench.space.source, bench.space.target)
    assert [role.name for role in absent] == ["c_boss", "c_group", "c_member"]
    roles.create(bench.space, absent)
    assert bench.rows(
        "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname LIKE 'c\\_%' ORDER BY 1",
        on=1,
    ) == [("c_boss", False, False, False), ("c_group", False, False, False), ("c_member", False, True, True)]
    assert bench.rows(
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'c_member'::regrole ORDER BY 1",
        on=1,
    ) == [("c_group",)]
    told = "\n".join(decisions.told(bench.space))
    for words in (
        "without SUPERUSER",
        "without password: c_boss, c_member",
        '"c_member" belongs to "pg_monitor"',
    ):
        assert words in told
    assert roles.missing(bench.space.source, bench.space.target) == ()


def test_settings_that_the_target_refuses_or_has_otherwise_are_told_and_the_rest_is_carried(
    bench: Bench,
) -> None:
    bench.sql(
        f"ALTER DATABASE {bench.name} SET vacuum_cleanup_index_scale_factor = 0.2;"
        f" ALTER DATABASE {bench.name} SET log_min_messages = 'error'; ALTER DATABASE {bench.name} SET \"a.b.c\" = 'x';"
        f' ALTER DATABASE {bench.name} SET search_path = \'\', "we""ird, one";'
        f" ALTER DATABASE {bench.name} SET work_mem = '7MB'; REVOKE CONNECT ON DATABASE {bench.name} FROM PUBLIC"
    )
    bench.sql(f"ALTER DATABASE {bench.name} SET work_mem = '9MB'", on=1)
    terms = settings.Terms(settings=True, owners=True, grants=True)
    settings.carry(bench.space, terms)
    query = (
        "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase"
        " WHERE datname = current_database() ORDER BY 1"
    )
    assert [row[0] for row in bench.rows(query, on=1)] == [
        'search_path="", "we""ird, one"',
        "work_mem=9MB",
    ]
    told = "\n".join(decisions.told(bench.space))
    # Before a superuser has made a custom setting known, only one may keep it for a database.
    for words in (
        '"a"."b"."c"',
        "vacuum_cleanup_index_scale_factor",
        "log_min_messages",
        "stays '9MB'",
        "OWNER TO",
    ):
        assert words in told
    public = "SELECT datacl::text ~ '[{,]=[^,]*c' FROM pg_database WHERE datname = current_database()"
    assert bench.rows(public, on=1) == [(False,)]
    assert bench.space.target.value("SELECT 1") == 1


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ('"$user", public', ("$user", "public")),
        ('""', ("",)),
        ("", ()),
        ('"a,b", "c""d", e', ("a,b", 'c"d', "e")),
    ],
)
def test_the_names_of_a_list_are_read_as_the_server_wrote_them(value: str, found: tuple[str, ...]) -> None:
    assert settings.names(value) == found


def test_what_stays_behind_is_known_before_the_run(bench: Bench) -> None:
    bench.sql(
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;"
        " CREATE EVENT TRIGGER noticing ON ddl_command_end EXECUTE FUNCTION f(); CREATE TABLE p (id int PRIMARY KEY);"
        " CREATE PUBLICATION of_others FOR TABLE p; CREATE PUBLICATION pr_0123abcd_g1; SELECT lo_create(220001)"
    )
    terms = uncarried.Terms(owners=True, large_objects="skip", empty=("public.e",))
    found = uncarried.decisions(bench.space.source, bench.space.target, bench.space.names, terms)
    told = {d.key: d.text for d in found}
    assert set(told) == {"event triggers", "publications", "unlogged", "large objects", "schema public"}
    assert "noticing" in told["event triggers"]
    assert told["publications"].endswith(": of_others")
    decisions.tell(bench.space, found)
    decisions.tell(bench.space, found)
    assert len(bench.told) == len(found)
    assert decisions.untold(bench.space, found) == ()
