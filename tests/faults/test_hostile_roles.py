"""Roles with hostile names as logins and owners: what they are granted is exactly what is taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests.faults import scene
from tests.faults.hostile_canary import sung
from tests.faults.hostile_names import CANARY, NAMES, SINGER
from tests.faults.hostile_world import canary, patiently
from tests.rights import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.timeout(1800)

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: granted}}
connections:
  source:
    dsn: postgresql://{login}@127.0.0.1:{source}/granted?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{target}/granted?sslmode=disable
    password: {{secret: {{env: TARGET_PASSWORD}}}}
steps:
  - id: give
    uses: grant
    with:
      default_privileges: true
      administrator: {{login: postgres, password: {{secret: {{env: SOURCE_PASSWORD}}}}}}
"""
LOGINS = (f'"; SELECT {SINGER}(); -- login', "a@b:1/c \u202e", "it's %s\n")
# Of each owner's own: the login may act as it, or read its table at least.
MAY = (
    "SELECT o.rolname::text FROM pg_roles o WHERE o.rolname = ANY (%s)"
    " AND NOT pg_has_role(%s::name, o.oid, 'USAGE')"
)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with scene.servers() as both:
        for hostile in NAMES:
            with psycopg.connect(both[0].superuser_dsn, autocommit=True) as session:
                session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(hostile.name)))
        yield both


def script() -> str:
    # A login may not become a member of a superuser, so the canary is no superuser's.
    made: list[sql.Composable] = [
        sql.SQL(canary()),  # type: ignore[arg-type]  # the test's own
        sql.SQL("ALTER TABLE {} OWNER TO {}").format(
            sql.Identifier("public", CANARY), sql.Identifier(NAMES[0].name)
        ),
    ]
    for hostile in NAMES:
        owner = sql.Identifier(hostile.name)
        made += [
            sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(owner, owner),
            sql.SQL("CREATE TABLE {}.{} ({} int PRIMARY KEY)").format(owner, owner, owner),
            sql.SQL("CREATE SEQUENCE {}.{}").format(owner, sql.Identifier("+")),
            sql.SQL("ALTER TABLE {}.{} OWNER TO {}").format(owner, owner, owner),
        ]
    return ";\n".join(statement.as_string() for statement in made)


def rights(dsn: str) -> Any:
    with psycopg.connect(dsn) as session:
        row = session.execute(EVERYTHING).fetchone()  # type: ignore[call-overload]
        assert row is not None
        return row[0]


@pytest.mark.parametrize("login", [LOGINS[0], *(pytest.param(x, marks=pytest.mark.soak) for x in LOGINS[1:])])
@pytest.mark.parametrize("memberships", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_what_a_login_is_granted_of_hostile_owners_is_taken_back(
    memberships: bool,
    login: str,
    pair: tuple[PostgresServer, PostgresServer],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with scene.migration(pair, tmp_path, "granted", script()) as one:
        named = sql.Identifier(login)
        with psycopg.connect(one.ours, autocommit=True) as session:
            password = sql.Literal(one.source.password)
            session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(named, password))
        try:
            plan = PLAN.format(login=quote(login, safe=""), source=one.source.port, target=one.target.port)
            mode = f"default_privileges: true\n      memberships: {str(memberships).lower()}"
            one.plan.write_text(plan.replace("default_privileges: true", mode))
            before = rights(one.ours)
            _succeeds(one, "preview", "--format", "markdown")
            _succeeds(one, "run", "--no-input")
            assert rights(one.ours) != before
            if memberships:
                with psycopg.connect(one.ours) as session:
                    assert session.execute(MAY, [[h.name for h in NAMES], login]).fetchall() == []
            _may_read(one, login)
            _succeeds(one, "cleanup", "--yes", "--no-input")
            assert rights(one.ours) == before
            assert sung(one.ours) == ["silence"]
        finally:
            with psycopg.connect(one.ours, autocommit=True) as session:
                session.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(named, named))
    record_property("cases", len(NAMES))


def _succeeds(one: scene.Migration, verb: str, *options: str) -> None:
    code, said = patiently(one, verb, *options)
    assert code == 0, said[-3000:]


def _may_read(one: scene.Migration, login: str) -> None:
    dsn = one.source.dsn(login, one.name, password=one.source.password)
    with psycopg.connect(dsn) as session:
        for hostile in NAMES:
            table = sql.Identifier(hostile.name, hostile.name)
            assert session.execute(sql.SQL("SELECT * FROM {}").format(table)).fetchall() == []
