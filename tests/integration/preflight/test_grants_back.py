"""Grants by an administrator, on what is to come, and taken back so that everybody has what they had before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.model import Secret, Side
from planrunner.steps.grant import GrantRights
from tests.rights import EVERYTHING

from .conftest import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.model import SecretRef
    from planrunner.step import Run

pytestmark = pytest.mark.server


@pytest.fixture
def owners(source: Any) -> list[str]:
    """Two roles that own a table each, in a schema each."""
    names = [str(source.role("NOLOGIN")) for _ in range(2)]
    for name in names:
        source.execute(
            f"CREATE SCHEMA of_{name} AUTHORIZATION {name}",
            f"SET ROLE {name}; CREATE TABLE of_{name}.goods (id serial PRIMARY KEY); RESET ROLE",
        )
    return names


@pytest.fixture
def administered(source: Any, target: Any, make_run: Callable[..., Run]) -> Callable[..., Run]:
    """A run of the grant step whose grants ``administrator`` makes."""

    def make(login: str, administrator: str | None = None, **options: Any) -> Run:
        passwords = {"admin": PASSWORD if administrator else source.server.password}
        given = {"login": administrator or "postgres", "password": {"secret": {"env": "admin"}}}
        run = make_run(
            source.connect(login), target.connect(side=Side.TARGET), "grant", administrator=given, **options
        )

        def resolve(ref: SecretRef) -> Secret:
            return Secret(passwords[ref.locator])

        return replace(run, resolve=resolve)

    return make


def _perform(run: Run) -> list[str]:
    actions = GrantRights().actions(run)
    for action in actions:
        assert action.blocked is None, action.blocked
        action.perform(run)
    return [action.name for action in actions]


def _clean(run: Run) -> None:
    for removal in GrantRights().leftovers(run):
        removal.perform(run)


def test_an_administrator_gives_a_login_without_rights_all_it_needs_and_takes_it_back(
    source: Any, owners: list[str], administered: Callable[..., Run]
) -> None:
    login, master = source.role(), source.role("LOGIN")
    source.execute(
        f"GRANT rds_replication, {', '.join(owners)} TO {master} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
        f"GRANT CREATE ON DATABASE {source.database} TO {master} WITH GRANT OPTION",
    )
    before = source.value(EVERYTHING)
    run = administered(login, master)

    assert _perform(run) == ["replication", "memberships", "access"]
    assert GrantRights().actions(run) == []
    assert run.source.rows(f"SELECT * FROM of_{owners[0]}.goods".encode()) == []  # type: ignore[arg-type]
    run.source.open(read_only=False, replication="database").close()

    _clean(run)
    assert source.value(EVERYTHING) == before


def test_what_owners_create_in_mid_run_is_readable_until_cleanup(
    source: Any, owners: list[str], administered: Callable[..., Run]
) -> None:
    login = source.role()
    before = source.value(EVERYTHING)
    run = administered(login, memberships=False)

    assert "access to come" in _perform(run)
    source.execute(
        f"SET ROLE {owners[1]}; CREATE TABLE of_{owners[1]}.late (id serial PRIMARY KEY); RESET ROLE"
    )
    late = f"SELECT count(*) FROM of_{owners[1]}.late".encode()
    assert run.source.rows(late) == [(0,)]  # type: ignore[arg-type]
    assert GrantRights().actions(run) == []

    _clean(run)
    assert source.value(EVERYTHING) == before
    assert source.value(f"SELECT has_table_privilege('{login}', 'of_{owners[1]}.late', 'SELECT')") is False


def test_tables_that_the_plan_leaves_out_are_granted_to_nobody(
    source: Any, owners: list[str], target: Any, administered: Callable[..., Run]
) -> None:
    login = source.role()
    filters = {"filters": {"exclude": [f"of_{owners[1]}.*"]}}
    run = administered(login, memberships=False, snapshot=filters)

    _perform(run)

    may = "SELECT has_table_privilege('{}', 'of_{}.goods', 'SELECT')"
    assert [source.value(may.format(login, owner)) for owner in owners] == [True, False]
    assert source.value(f"SELECT has_schema_privilege('{login}', 'of_{owners[1]}', 'USAGE')") is False
    _clean(run)


def test_a_membership_that_was_there_gets_its_former_options_back(
    source: Any, owners: list[str], administered: Callable[..., Run]
) -> None:
    login = source.role()
    source.execute(f"GRANT {owners[0]} TO {login} WITH INHERIT FALSE, SET FALSE")
    before = source.value(EVERYTHING)
    run = administered(login)

    assert "memberships" in _perform(run)
    assert source.value(f"SELECT pg_has_role('{login}', '{owners[0]}', 'USAGE')") is True
    _clean(run)

    assert source.value(EVERYTHING) == before


def test_what_others_gave_meanwhile_stays_and_what_they_made_of_ours_is_told(
    source: Any, owners: list[str], administered: Callable[..., Run]
) -> None:
    login, other = source.role(), source.role()
    told: list[str] = []
    run = replace(administered(login, memberships=False), tell=lambda text, _: told.append(text))
    first, second = (f"of_{owner}.goods" for owner in owners)
    source.execute(f"GRANT SELECT ON {second} TO {other} WITH GRANT OPTION")
    source.execute(f"GRANT USAGE ON SCHEMA of_{owners[1]} TO {other}")
    _perform(run)

    source.execute(
        f"GRANT SELECT ON {first} TO {login} WITH GRANT OPTION",
        f"SET ROLE {other}; GRANT SELECT ON {second} TO {login}; RESET ROLE",
    )
    _clean(run)

    grantors = (
        "SELECT array_agg(a.grantor::regrole::text) FROM pg_class c, aclexplode(relacl) a"
        f" WHERE c.oid = '{{}}'::regclass AND a.grantee = '{login}'::regrole"
    )
    assert source.value(grantors.format(first)) == [owners[0]]
    assert source.value(grantors.format(second)) == [other]
    assert f"left as somebody else made it: table goods: {login} was given the right to pass it on" in told


def test_tables_of_a_superuser_are_told_and_its_role_is_never_joined(
    source: Any, administered: Callable[..., Run]
) -> None:
    source.execute("CREATE TABLE of_postgres (id int PRIMARY KEY)")
    run = administered(source.role())

    blocked = [action for action in GrantRights().actions(run) if action.blocked]

    assert [action.name for action in blocked] == ["tables of superusers"]
    assert "public.of_postgres: give them another owner" in str(blocked[0].blocked)


def test_a_superuser_gives_the_attribute_where_there_is_no_rds_replication(
    source: Any, target: Any, make_run: Callable[..., Run]
) -> None:
    login = target.role()
    given = {"login": "postgres", "password": {"secret": {"env": "admin"}}}
    made = make_run(target.connect(login), source.connect(side=Side.TARGET), "grant", administrator=given)
    run = replace(made, resolve=lambda _: Secret(target.server.password))
    before = target.value(EVERYTHING)

    assert _perform(run) == ["replication", "access"]
    run.source.open(read_only=False, replication="database").close()
    _clean(run)

    assert target.value(EVERYTHING) == before


def test_before_16_every_owner_is_joined_and_left_again(
    place: Callable[..., Any], debian_server: Any, target: Any, make_run: Callable[..., Run]
) -> None:
    old = place(debian_server)
    owners = [old.role("NOLOGIN") for _ in range(2)]
    for owner in owners:
        old.execute(
            f"CREATE TABLE goods_{owner} (id int PRIMARY KEY); ALTER TABLE goods_{owner} OWNER TO {owner}"
        )
    login = old.role("LOGIN REPLICATION CREATEROLE")
    old.execute(f"GRANT CREATE ON DATABASE {old.database} TO {login}")
    before = old.value(EVERYTHING)
    source = old.connect(login, parameters={"host": "127.0.0.1", "sslmode": "require"})
    run = make_run(source, target.connect(side=Side.TARGET), "grant")

    assert _perform(run) == ["memberships"]
    assert old.value(EVERYTHING) != before
    _clean(run)

    assert old.value(EVERYTHING) == before
