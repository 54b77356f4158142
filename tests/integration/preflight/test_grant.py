"""The grant step on real servers: only what is missing, and all of it taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.errors import ConnectionFailed, StepBlocked
from planrunner.model import Mark, Side
from planrunner.postgres import privileges
from planrunner.steps import grant
from planrunner.steps.grant import GrantRights
from planrunner.steps.validate import Validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.step import Run

pytestmark = pytest.mark.server


@pytest.fixture
def owner(source: Any) -> str:
    """The role that owns the source's tables."""
    name = str(source.role("NOLOGIN"))
    source.execute(
        "CREATE SCHEMA sales",
        'CREATE TABLE sales."Order ""1""" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)',
        "CREATE SEQUENCE sales.numbers",
        f'ALTER TABLE sales."Order ""1""" OWNER TO {name}',
        f"ALTER SEQUENCE sales.numbers OWNER TO {name}",
        f"ALTER SCHEMA sales OWNER TO {name}",
    )
    return name


@pytest.fixture
def run_for(source: Any, target: Any, make_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(login: str, **options: Any) -> Run:
        return make_run(source.connect(login), target.connect(side=Side.TARGET), "grant", **options)

    return make


def _perform(run: Run) -> list[str]:
    actions = GrantRights().actions(run)
    for action in actions:
        assert action.blocked is None, action.blocked
        action.perform(run)
    return [action.name for action in actions]


def _rights(source: Any, login: str) -> list[Any]:
    """Every grant the login has, as the catalogue shows it."""
    return [
        source.value(
            "SELECT array_agg(g.rolname ORDER BY 1) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
            f" WHERE m.member = '{login}'::regrole AND m.grantor = '{login}'::regrole"
        ),
        source.value(
            "SELECT array_agg(relname ORDER BY 1) FROM pg_class, aclexplode(relacl) a"
            f" WHERE a.grantee = '{login}'::regrole"
        ),
    ]


def _master(source: Any, owner: str) -> str:
    """A login like RDS's master user: not a superuser, may give away what it does not have."""
    login = str(source.role())
    source.execute(
        f"GRANT rds_replication, {owner} TO {login} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
        f"GRANT CREATE ON DATABASE {source.database} TO {login}",
    )
    return login


def test_the_master_user_gets_replication_and_the_owners_rights_by_itself(
    source: Any, owner: str, run_for: Callable[..., Run]
) -> None:
    login = _master(source, owner)
    run = run_for(login)
    actions = GrantRights().actions(run)
    assert [a.statements for a in actions] == [
        (f'GRANT "rds_replication" TO "{login}" WITH INHERIT TRUE',),
        (f'GRANT "{owner}" TO "{login}" WITH INHERIT TRUE',),
    ]
    assert actions[1].undo == f'REVOKE "{owner}" FROM "{login}";'
    assert _perform(run) == ["replication", "memberships"]
    assert GrantRights().actions(run) == []
    run.source.open(read_only=False, replication="database").close()
    assert run.source.rows('SELECT * FROM sales."Order ""1"""') == []
    failed = {f.text for f in Validate().findings(run) if f.mark is Mark.FAIL}
    assert failed == set()


def test_leftovers_take_back_every_grant_and_nothing_else(
    source: Any, owner: str, run_for: Callable[..., Run]
) -> None:
    login = _master(source, owner)
    run = run_for(login)
    assert GrantRights().leftovers(run) == ()
    before = _rights(source, login)
    _perform(run)
    assert _rights(source, login) != before
    (removal,) = GrantRights().leftovers(run)
    assert set(removal.statements) == {
        f'REVOKE "rds_replication" FROM "{login}"',
        f'REVOKE "{owner}" FROM "{login}"',
        "DELETE FROM planrunner.effect WHERE plan_id = '0123abcd' AND step = 'grant'  -- on the target",
    }
    removal.perform(run)
    assert _rights(source, login) == before
    assert GrantRights().leftovers(run) == ()
    assert [a.name for a in GrantRights().actions(run)] == ["replication", "memberships"]


def test_a_crash_between_record_and_grant_asks_again_and_still_cleans_up(
    source: Any, owner: str, run_for: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = _master(source, owner)
    run = run_for(login)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(grant, "give", crash)
        with pytest.raises(KeyboardInterrupt):
            _perform(run)
    assert _perform(run) == ["replication", "memberships"]
    (removal,) = GrantRights().leftovers(run)
    removal.perform(run)
    assert _rights(source, login) == [None, None]


def test_a_plain_login_is_told_what_the_master_user_has_to_run(
    source: Any, owner: str, run_for: Callable[..., Run]
) -> None:
    login = source.role()
    run = run_for(login, memberships=False)
    (action,) = GrantRights().actions(run)
    assert action.blocked is not None
    assert f'GRANT "rds_replication" TO "{login}" WITH INHERIT TRUE;' in action.blocked
    assert f'GRANT USAGE ON SCHEMA "sales" TO "{login}";' in action.blocked
    assert f'GRANT SELECT ON TABLE "sales"."Order ""1""" TO "{login}";' in action.blocked
    assert f'"sales"."numbers" TO "{login}";' in action.blocked
    with pytest.raises(StepBlocked):
        action.perform(run)
    source.execute(*(f"{statement}" for statement in action.statements))
    assert GrantRights().actions(run) == []
    assert run.source.rows('SELECT * FROM sales."Order ""1"""') == []


def test_a_superuser_needs_nothing(
    source: Any, target: Any, owner: str, make_run: Callable[..., Run]
) -> None:
    run = make_run(source.connect(), target.connect(side=Side.TARGET), "grant")
    assert GrantRights().actions(run) == []


def test_an_owner_that_revoked_from_itself_is_granted_again(source: Any, run_for: Callable[..., Run]) -> None:
    login = source.role()
    source.execute(
        f"GRANT rds_replication TO {login}",
        f"GRANT CREATE ON DATABASE {source.database} TO {login}",
        f"CREATE TABLE mine (id int PRIMARY KEY); ALTER TABLE mine OWNER TO {login}",
        f"REVOKE SELECT ON mine FROM {login}",
    )
    run = run_for(login)
    assert [a.statements for a in GrantRights().actions(run)] == [
        (f'GRANT SELECT ON TABLE "public"."mine" TO "{login}"',)
    ]
    assert _perform(run) == ["access"]
    (removal,) = GrantRights().leftovers(run)
    removal.perform(run)
    with pytest.raises(Exception, match="permission denied"):
        run.source.rows("SELECT * FROM public.mine")


def test_without_rds_replication_the_attribute_takes_a_superuser(
    source: Any, target: Any, make_run: Callable[..., Run]
) -> None:
    login = target.role()
    target.execute(f"GRANT CREATE ON DATABASE {target.database} TO {login}")
    run = make_run(target.connect(login), source.connect(side=Side.TARGET), "grant")
    (action,) = GrantRights().actions(run)
    assert action.blocked is not None
    assert "Missing REPLICATION privilege" in action.blocked
    assert f'ALTER ROLE "{login}" REPLICATION;' in action.blocked
    target.execute(*action.statements)
    assert GrantRights().actions(run) == []


def test_before_16_createrole_may_join_and_a_noinherit_login_is_told_to_inherit(
    place: Callable[..., Any], debian_server: Any, target: Any, make_run: Callable[..., Run]
) -> None:
    old = place(debian_server)
    owner, login = old.role("NOLOGIN"), old.role("LOGIN REPLICATION CREATEROLE")
    old.execute(
        f"CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO {owner}",
        f"GRANT CREATE ON DATABASE {old.database} TO {login}",
    )
    tls = {"sslmode": "require"}

    def run() -> Run:
        return make_run(old.connect(login, parameters=tls), target.connect(side=Side.TARGET), "grant")

    old.execute(f"ALTER ROLE {login} NOINHERIT")
    blocked = [a for a in GrantRights().actions(run()) if a.blocked]
    assert f'ALTER ROLE "{login}" INHERIT; GRANT "{owner}" TO "{login}";' in str(blocked[0].blocked)
    old.execute(f"ALTER ROLE {login} INHERIT")
    assert _perform(run()) == ["memberships"]
    assert GrantRights().actions(run()) == []


def test_waiting_for_replication_ends_with_the_servers_reason(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = target.role()
    server = target.connect(login)
    monkeypatch.setattr(privileges, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(ConnectionFailed, match="Missing REPLICATION privilege"):
        privileges.await_replication(server, server.clock)
    with psycopg.connect(target.server.superuser_dsn, autocommit=True) as session:
        session.execute(f"ALTER ROLE {login} REPLICATION".encode())
    privileges.await_replication(server, server.clock)
