"""Rights and logins: what a login lacks is told, and its remedy, run by who may, mends it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.model import Finding, Mark, RdsInstance, Side
from planrunner.postgres import (
    preflight_capacity,
    preflight_login,
    preflight_settings,
    preflight_source,
    preflight_target,
    preflight_versions,
)
from planrunner.sandbox.servers import PostgresServer
from planrunner.steps.validate import Validate
from tests.integration.preflight.test_servers import NEEDS, of, remedies
from tests.servers import MAJORS, server_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server
WARN, FAIL = Mark.WARN, Mark.FAIL


def rights(server: Server, mark: Mark, code: str, needs: Any = NEEDS) -> list[Finding]:
    return of(preflight_source.permissions(server, needs), code, mark)


OWNED = (
    "CREATE SCHEMA other",
    "CREATE TABLE other.t (id serial PRIMARY KEY)",
    "ALTER SCHEMA other OWNER TO {owner}",
    "ALTER TABLE other.t OWNER TO {owner}",
)


@pytest.mark.parametrize("code", ["PR0301", "PR0302", "PR0303", "PR0304", "PR0305", "PR0306"])
def test_right_that_the_source_s_login_lacks_is_told_and_its_grant_mends_it(source: Any, code: str) -> None:
    owner, login = source.role("NOLOGIN"), source.role()
    source.execute(*(statement.format(owner=owner) for statement in OWNED))
    server = source.connect(login)
    (finding,) = rights(server, FAIL, code)
    assert finding.why
    source.execute(*remedies([finding]))
    if code == "PR0301":  # RDS's stand-in follows the membership a moment later
        source.execute(f"ALTER ROLE {login} REPLICATION")
    assert rights(server, FAIL, code) == []
    assert len(rights(server, Mark.PASS, code)) == 1


def test_row_security_hides_rows_until_the_remedy_has_run(source: Any) -> None:
    login = source.role()
    source.execute(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON t TO {login}",
    )
    server = source.connect(login)
    (finding,) = rights(server, FAIL, "PR0307")
    source.execute(*remedies([finding])[:1])
    assert rights(server, FAIL, "PR0307") == []
    assert server.value("SELECT count(*) FROM public.t") == 1


def test_large_object_that_the_login_may_not_read_is_told_where_they_are_copied(source: Any) -> None:
    owner, login = source.role("NOLOGIN"), source.role()
    source.execute("SELECT lo_from_bytea(4711, 'x')", f"ALTER LARGE OBJECT 4711 OWNER TO {owner}")
    server, copying = source.connect(login), replace(NEEDS, large_objects="copy")
    assert rights(server, FAIL, "PR0308") == []
    (finding,) = rights(server, FAIL, "PR0308", copying)
    assert finding.text == f"Can't read large objects of {owner}"
    with source.connect(login).session() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT lo_get(4711)")
    source.execute(*remedies([finding]))
    assert rights(server, FAIL, "PR0308", copying) == []
    assert server.value("SELECT lo_get(4711)") == b"x"
    source.execute("SELECT lo_unlink(4711)")


@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET])
def test_password_that_expires_soon_is_told_and_one_that_has_fails(target: Any, side: Side) -> None:
    login = target.role()
    server = target.connect(login, side=side)
    code = {Side.SOURCE: "PR0310", Side.TARGET: "PR0410"}[side]
    assert [f.code for f in preflight_login.login(server)] == []
    target.execute(f"ALTER ROLE {login} VALID UNTIL 'tomorrow'")
    (finding,) = of(preflight_login.login(server), code, WARN)
    assert f"Password of {login} expires in " in finding.text
    # Our session is open; the next one is refused.
    target.execute(f"ALTER ROLE {login} VALID UNTIL 'yesterday'")
    (finding,) = of(preflight_login.login(server), code, FAIL)
    with pytest.raises(Exception, match="password"):
        target.connect(login, side=side).identity()
    target.execute(*remedies([finding]))
    assert list(preflight_login.login(server)) == []
    assert target.connect(login, side=side).identity().user == login


def told(server: Server, mark: Mark, code: str) -> list[Finding]:
    return of(preflight_target.permissions(server, server.endpoint, NEEDS), code, mark)


@pytest.mark.parametrize("code", ["PR0401", "PR0402"])
def test_right_that_the_target_s_login_lacks_is_told_and_its_grant_mends_it(target: Any, code: str) -> None:
    server = target.connect(target.role(), side=Side.TARGET)
    (finding,) = told(server, FAIL, code)
    target.execute(*remedies([finding]))
    assert told(server, FAIL, code) == []


def test_schemas_and_roles_that_are_there_must_be_usable(source: Any, target: Any) -> None:
    owner, receiver = source.role("NOLOGIN"), target.role()
    source.execute("CREATE TABLE t (id int PRIMARY KEY)", f"ALTER TABLE t OWNER TO {owner}")
    # Since 16 it may have the rights of a role and yet not act as it.
    target.execute(f"CREATE ROLE {owner}", f"GRANT {owner} TO {receiver} WITH INHERIT TRUE, SET FALSE")
    needs = replace(NEEDS, roles=lambda _: [owner])
    there, here = source.connect(), target.connect(receiver, side=Side.TARGET)

    def found(code: str, mark: Mark) -> Sequence[Finding]:
        return of(preflight_target.reception(there, here, needs), code, mark)

    (closed,) = found("PR0406", FAIL)
    (strange,) = found("PR0408", WARN)
    assert owner in strange.text
    target.execute(f"CREATE TABLE arrived (id int); ALTER TABLE arrived OWNER TO {receiver}")
    with here.session() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(f"ALTER TABLE public.arrived OWNER TO {owner}".encode())
    target.execute(*remedies([closed, strange]))
    assert found("PR0406", FAIL) == []
    assert found("PR0408", WARN) == []
    target.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    here.execute(sql.SQL("ALTER TABLE public.arrived OWNER TO {}").format(sql.Identifier(owner)))


def test_role_that_cannot_be_made_is_told_with_the_statement_that_makes_it(source: Any, target: Any) -> None:
    owner, receiver = source.role("NOLOGIN"), target.role()
    needs = replace(NEEDS, roles=lambda _: [owner])
    there, here = source.connect(), target.connect(receiver, side=Side.TARGET)
    (finding,) = of(preflight_target.reception(there, here, needs), "PR0407", FAIL)
    target.execute(*remedies([finding]))
    assert of(preflight_target.reception(there, here, needs), "PR0407", FAIL) == []


def test_target_that_is_not_empty_tells_what_another_plan_brought_and_leaves_extensions_out(
    target: Any,
) -> None:
    server = target.connect(side=Side.TARGET)
    assert len(told(server, Mark.PASS, "PR0404")) == 1
    target.execute("CREATE VIEW seen AS SELECT 1 AS one", "CREATE TYPE mood AS ENUM ('ok')")
    (finding,) = told(server, WARN, "PR0404")
    assert "2 other objects: public.mood, public.seen" in finding.text
    target.execute("CREATE TABLE old (x int)", "CREATE TABLE mine (x serial)")
    (finding,) = told(server, FAIL, "PR0404")
    assert "2 tables: public.mine, public.old" in finding.text
    target.execute(
        "CREATE SCHEMA planrunner",
        "CREATE TABLE planrunner.unit (plan_id text, unit_id text)",
        "CREATE TABLE planrunner.effect (plan_id text)",
        "INSERT INTO planrunner.unit VALUES ('ffffffff', 'public.old')",
    )
    (finding,) = told(server, FAIL, "PR0404")
    assert "(an earlier run of plan ffffffff brought 1 of them" in finding.text
    stranger = target.connect(target.role(), side=Side.TARGET)
    (finding,) = told(stranger, FAIL, "PR0404")
    assert "earlier run" not in finding.text


def test_on_rds_the_remedy_is_an_aws_command(target: Any) -> None:
    server = target.connect(side=Side.TARGET, rds=RdsInstance(instance="orders-new", region="eu-west-1"))
    needs = replace(NEEDS, streams=500)
    remedy = str(of(preflight_capacity.target(server, needs), "PR0510", FAIL)[0].remedy)
    assert "aws rds modify-db-parameter-group --region eu-west-1 --db-parameter-group-name GROUP" in remedy
    assert (
        "ParameterName=max_logical_replication_workers,ParameterValue=500,ApplyMethod=pending-reboot"
        in remedy
    )
    assert "aws rds reboot-db-instance --region eu-west-1 --db-instance-identifier orders-new" in remedy
    small = of(preflight_settings.target(server, 50 << 30), "PR0524", WARN)[0]
    assert "ParameterName=max_wal_size,ParameterValue=4096,ApplyMethod=immediate" in str(small.remedy)
    assert "reboot" not in str(small.remedy)


class _Day(SystemClock):
    """A clock that has stopped on one day."""

    def __init__(self, year: int) -> None:
        self._year = year

    def now(self) -> datetime:
        return datetime(self._year, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize("side", [Side.SOURCE, Side.TARGET])
def test_target_out_of_support_is_a_warning_and_a_source_out_of_support_is_none(
    target: Any, side: Side
) -> None:
    server = target.connect(side=side)
    server.clock = _Day(2030)
    assert [f for f in preflight_versions.versions(server) if f.mark is not Mark.PASS] == []
    server.clock = _Day(2031)
    late = of(preflight_versions.versions(server), "PR0502", WARN)
    assert bool(late) is (side is Side.TARGET)


@pytest.fixture(scope="module", params=MAJORS[:2])
def old(request: pytest.FixtureRequest) -> Iterator[Any]:
    with PostgresServer(server_bin(request.param), settings={"wal_level": "logical"}, max_life=600) as server:
        yield server


def test_every_check_speaks_to_older_servers(
    place: Callable[..., Any], old: Any, make_run: Callable[..., Any]
) -> None:
    there = place(old)
    there.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    here = place(old)
    run = make_run(there.connect(), here.connect(side=Side.TARGET), snapshot={"large_objects": "copy"})
    found = Validate().findings(run)
    assert [f.text for f in found if "not all could be checked" in f.text] == []
    assert [f.text for f in found if f.mark is FAIL] == []
    if old.version[0] == MAJORS[0]:
        assert [f.mark for f in found if f.code == "PR0502"] == [WARN]
