"""The role by which a subscription logs in: what it may, who knows its password, and how a resume mends it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.errors import PlanrunnerError, StepBlocked, StepConflict
from planrunner.model import Endpoint, ReplicationLogin, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.postgres.dialler import Kind, Wish
from planrunner.replication import logins, return_streams, slots, subscriptions
from planrunner.replication.ranges import NOTHING
from planrunner.replication.residue import scan
from planrunner.replication.terms import Terms
from planrunner.replication.workspace import Workspace
from planrunner.sandbox.rds_like import ReplicationRights
from planrunner.sandbox.servers import PostgresServer, wheel_bin

from .conftest import Streams, bin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., Streams]

pytestmark = pytest.mark.server
LOUD = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_min_error_statement": "error",
    "log_replication_commands": "on",
}
SENDERS = "SELECT usename::text FROM pg_stat_replication WHERE application_name LIKE 'pr\\_%' ORDER BY 1"


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server)


def another_process(pair: Streams, **terms: Any) -> Workspace:
    """The same plan as a later process sees it: it knows no password of the role's."""
    space = pair.space
    # It takes the plan over, and so it is the one that clears up.
    pair.space = Workspace(
        source=space.source,
        target=space.target,
        plan_id=space.names.plan_id,
        clock=space.clock,
        tell=space.tell,
        terms=Terms(**terms),
    )
    return pair.space


def reconnected(pair: Streams) -> None:
    """End the stream's session on the source, and see its worker come back with what is written meanwhile."""
    before = pair.target("SELECT count(*) FROM lines")[0][0]
    dsn = conninfo.make_conninfo(pair.servers[0].superuser_dsn, dbname=pair.space.source.identity().database)
    # Who made the role may end its sessions, which hold a slot.
    pair.source(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication WHERE application_name = '{pair.name}'"
    )
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("INSERT INTO lines VALUES (%s, 1)", [1000 + before])
    pair.wait_until(lambda: pair.target("SELECT count(*) FROM lines")[0][0] == before + 1)


def password_of(pair: Streams) -> str:
    """What the target's catalogue keeps."""
    ((dial,),) = pair.target(f"SELECT subconninfo FROM pg_subscription WHERE subname = '{pair.name}'")
    return str(conninfo.conninfo_to_dict(dial)["password"])


def test_the_role_replicates_and_may_do_nothing_else(pair: Streams) -> None:
    name = pair.space.names.login
    give_up = SystemClock().monotonic() + 60
    while (name,) not in pair.source(SENDERS):
        assert SystemClock().monotonic() < give_up, "the subscription has not logged in"
    ((*may, limit, verifier),) = pair.source(
        "SELECT rolcanlogin, rolreplication, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolbypassrls,"
        f" rolconnlimit, rolpassword FROM pg_authid WHERE rolname = '{name}'"
    )
    assert may == [True, True, False, False, False, False, False]
    assert 0 < limit < 100
    assert verifier.startswith("SCRAM-SHA-256$")
    assert pair.source(f"SELECT has_table_privilege('{name}', 'orders', 'SELECT')") == [(False,)]
    assert pair.source(
        f"SELECT count(*) FROM pg_shdepend WHERE refobjid = '{name}'::regrole AND refclassid = 'pg_authid'::regclass"
    ) == [(0,)]
    days = pair.source(
        f"SELECT extract(day FROM rolvaliduntil - now()) FROM pg_roles WHERE rolname = '{name}'"
    )
    assert days[0][0] in {29, 30}
    assert len(password_of(pair)) >= 43


def test_a_rotated_password_of_the_plans_login_does_not_touch_the_stream(pair: Streams) -> None:
    password = pair.servers[0].password
    pair.source("ALTER ROLE postgres PASSWORD 'rotated'")
    try:
        with psycopg.connect(pair.space.source.endpoint.dsn, password="rotated", autocommit=True) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication WHERE application_name = %s",
                [pair.name],
            )
            session.execute("INSERT INTO lines VALUES (1, 1)")
            pair.wait_until(lambda: pair.target("SELECT count(*) FROM lines") == [(1,)])
    finally:
        with psycopg.connect(pair.space.source.endpoint.dsn, password="rotated", autocommit=True) as session:
            session.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(sql.Literal(password)))


def test_a_later_process_gives_a_new_password_to_every_subscription(pair: Streams) -> None:
    former = password_of(pair)

    logins.ready(another_process(pair), pair.space.source)

    assert password_of(pair) != former
    reconnected(pair)


def test_a_process_that_dies_before_it_hands_the_password_over_is_mended_by_the_next(
    pair: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == "login.password_set":
            raise Died

    with monkeypatch.context() as patched:
        patched.setattr(logins, "failpoint", die)
        with pytest.raises(Died):
            logins.ready(another_process(pair), pair.space.source)
    later = another_process(pair)
    assert logins.torn(later, later.source)
    pair.source(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication WHERE application_name = '{pair.name}'"
    )

    logins.ready(later, later.source)

    assert not logins.torn(another_process(pair), later.source)
    reconnected(pair)


def test_a_role_that_somebody_dropped_is_made_anew(pair: Streams) -> None:
    pair.source(f"DROP ROLE {pair.space.names.login}")
    later = another_process(pair)
    assert logins.torn(later, later.source)

    logins.ready(later, later.source)

    reconnected(pair)


def test_a_role_of_its_name_that_is_not_ours_is_left_as_it_is(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = streams(source_server, target_server, following=False)
    name = pair.space.names.login
    pair.source(f"CREATE ROLE {name} NOLOGIN")

    with pytest.raises(StepConflict, match="not ours"):
        subscriptions.create(pair.space, 1, NOTHING)
    logins.drop(pair.space, pair.space.source)

    assert pair.source(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{name}'") == [(False,)]
    pair.source(f"DROP ROLE {name}")


def test_half_of_its_time_is_enough_to_let_it_be_valid_for_longer(pair: Streams) -> None:
    name = pair.space.names.login
    assert not logins.due(pair.space, pair.space.source)
    pair.source(f"ALTER ROLE {name} VALID UNTIL '2001-01-01'")
    assert logins.due(pair.space, pair.space.source)

    longer = another_process(pair, login_lifetime=timedelta(weeks=8))
    logins.renew(longer, longer.source)

    assert not logins.due(longer, longer.source)
    reconnected(pair)


def test_cleanup_drops_it_and_until_then_it_is_named_as_left(pair: Streams) -> None:
    space = pair.space
    left = {(found.kind, found.name) for found in scan(space.source, space.target, space.names)}
    assert ("role", space.names.login) in left
    subscriptions.drop(space, 1)

    logins.drop(space, space.source)

    assert not logins.there(space, space.source)
    assert space.ledger.effects(logins.STEP) == {}


def test_a_database_that_lets_nobody_in_lets_the_role_in_as_long_as_it_is_there(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = streams(source_server, target_server, following=False)
    database = pair.space.source.identity().database
    pair.source(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")

    subscriptions.create(pair.space, 1, NOTHING)
    subscriptions.enable(pair.space, 1)
    reconnected(pair)
    subscriptions.drop(pair.space, 1)
    logins.drop(pair.space, pair.space.source)

    assert not logins.there(pair.space, pair.space.source)


@pytest.fixture(scope="module")
def loud_servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """Two servers that log whatever they are told, by a superuser or not."""
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical", **LOUD}) as source,
        PostgresServer(wheel_bin(18), settings={"wal_level": "logical", **LOUD}) as target,
    ):
        yield source, target


def test_no_log_holds_the_password_nor_its_verifier(
    streams: Make, loud_servers: tuple[PostgresServer, PostgresServer]
) -> None:
    pair = streams(*loud_servers)
    logins.ready(another_process(pair), pair.space.source)
    with pytest.raises(PlanrunnerError):
        _conflicting(pair)
    text = "".join(server.log.read_text() for server in loud_servers)

    assert "COMMENT ON ROLE" in text
    assert password_of(pair) not in text
    assert "CREATE ROLE" not in text
    assert "SCRAM-SHA-256$" not in text
    assert "password=" not in text


def _conflicting(pair: Streams) -> None:
    """A statement with a password that the server refuses."""
    other = another_process(pair)
    with other.writing() as session:
        subscriptions.create_in(other, session, 1, NOTHING)


def test_a_login_that_may_not_silence_the_server_shows_it_the_verifier_at_most(
    streams: Make, loud_servers: tuple[PostgresServer, PostgresServer]
) -> None:
    pair = streams(*loud_servers, following=False)
    pair.source("CREATE ROLE maker LOGIN CREATEROLE REPLICATION PASSWORD 'maker'")
    source = _as(pair.space.source, "maker")
    space = another_process(pair)
    space.source = source

    logins.ready(space, source)

    log = loud_servers[0].log.read_text()
    assert "CREATE ROLE" in log
    assert space.logins[Side.SOURCE].reveal() not in log
    logins.drop(space, source)
    source.close()


def _as(server: Server, login: str) -> Server:
    return server.as_login(login, lambda: Secret(login))


def test_a_login_that_can_make_no_role_lends_its_own_unless_the_plan_insists(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = streams(source_server, target_server, following=False)
    pair.source("CREATE ROLE plain LOGIN REPLICATION PASSWORD 'plain'")
    source = _as(pair.space.source, "plain")
    space = another_process(pair)
    space.source = source
    insisting = another_process(pair, login=Wish.CREATE)
    insisting.source = source

    who = logins.chosen(space, source)
    assert (who.kind, who.lacking) == (Kind.OWN, 'role "plain" lacks CREATEROLE')
    assert logins.credentials(space, source) == {"password": "plain"}
    with pytest.raises(StepBlocked, match='role "plain" lacks CREATEROLE'):
        logins.ready(insisting, source)
    source.close()


def test_a_login_that_the_plan_names_is_used_with_its_own_password(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    pair = streams(source_server, target_server, following=False)
    pair.source("CREATE ROLE streamer LOGIN REPLICATION PASSWORD 'of the streamer'")
    named = ReplicationLogin(login="streamer", password=SecretRef(kind=SecretKind.ENV, locator="STREAMER"))
    known = {"STREAMER": "of the streamer"}

    def resolve(endpoint: Endpoint) -> Secret:
        ref = endpoint.password
        return Secret(known[ref.locator] if ref is not None else pair.servers[0].password)

    space = pair.space
    space.source = Server(
        replace(space.source.endpoint, replication=named), clock=space.clock, resolve=resolve, label="test"
    )

    subscriptions.create(space, 1, NOTHING)
    subscriptions.enable(space, 1)
    reconnected(pair)

    assert ("streamer",) in pair.source(SENDERS)
    assert not logins.there(space, space.source)


@pytest.mark.parametrize("major", [15, 16])
def test_where_rds_replication_is_there_the_role_replicates_by_membership(
    streams: Make, target_server: PostgresServer, major: int
) -> None:
    with PostgresServer(bin_of(major), settings={"wal_level": "logical"}) as server:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE ROLE rds_replication NOLOGIN")
            session.execute("CREATE ROLE master LOGIN CREATEROLE PASSWORD 'master'")
            if major >= 16:
                session.execute("GRANT rds_replication TO master WITH ADMIN TRUE, INHERIT FALSE")
        with ReplicationRights(server):
            pair = streams(server, target_server, following=False)
            space, superuser = pair.space, pair.space.source
            space.source = _as(superuser, "master")
            subscriptions.create(space, 1, NOTHING)
            subscriptions.enable(space, 1)
            reconnected(pair)
            assert (space.names.login,) in pair.source(SENDERS)
            subscriptions.drop(space, 1)
            logins.drop(space, space.source)
            assert not logins.there(space, superuser)
            space.source.close()
            space.source = superuser


def test_the_way_back_has_a_role_of_its_own_on_the_target(pair: Streams) -> None:
    space = pair.space
    back = return_streams.Back(workspace=space, tables=())
    back.prepare()
    assert logins.there(space, space.target)
    later = another_process(pair)
    return_streams.Back(workspace=later, tables=()).start(None)
    pair.wait_until(lambda: (space.names.login_back,) in pair.target(SENDERS))

    return_streams.drop_back(later)

    assert not logins.there(space, space.target)
    assert logins.there(space, space.source)
    assert slots.shown(space.target, space.names.back) == {}
