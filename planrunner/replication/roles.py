"""The roles a database's owners and grants name: made on the target where they are missing, no passwords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

# Roles that own something of this database, are granted something in it, or belong to one that is.
# Objects of the bootstrap superuser (oid 10) are pinned: pg_shdepend does not list them.
_NAMED = """
WITH RECURSIVE named AS (
  SELECT refobjid AS oid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  UNION SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT LIKE 'pg\\_%%' AND n.nspname NOT IN ('information_schema', 'planrunner')
  UNION SELECT m.roleid FROM pg_auth_members m JOIN named ON m.member = named.oid)
SELECT r.rolname::text, r.rolcanlogin, r.rolcreatedb, r.rolcreaterole, r.rolinherit,
       (SELECT array_agg(g.rolname::text) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE m.member = r.oid AND g.rolname NOT LIKE 'pg\\_%%' AND g.rolname NOT LIKE 'rds%%')
FROM pg_roles r WHERE r.oid IN (SELECT oid FROM named) AND r.rolname NOT LIKE 'pg\\_%%'
  AND r.rolname NOT LIKE 'rds%%' ORDER BY r.rolname
"""


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role of the source: its harmless attributes and the roles it is a member of."""

    name: str
    login: bool
    createdb: bool
    createrole: bool
    inherit: bool
    member_of: tuple[str, ...]


def named(source: Server) -> tuple[Role, ...]:
    """The roles that the source's database names."""
    return tuple(
        Role(name=r[0], login=r[1], createdb=r[2], createrole=r[3], inherit=r[4], member_of=tuple(r[5] or ()))
        for r in source.rows(_NAMED)
    )


def missing(source: Server, target: Server) -> tuple[Role, ...]:
    """Those of them that the target lacks."""
    there = {row[0] for row in target.rows("SELECT rolname::text FROM pg_roles")}
    return tuple(role for role in named(source) if role.name not in there)


def unassumable(source: Server, target: Server) -> tuple[str, ...]:
    """Owning roles on the target that our login may not act as, by name; a superuser may act as all."""
    rows = target.rows(
        "SELECT rolname::text FROM pg_roles WHERE NOT pg_has_role(current_user, oid, 'USAGE')"
        " AND rolname = ANY (%s)",
        [[role.name for role in named(source)]],
    )
    owners = {str(r[0]) for r in source.rows(_OWNERS)}
    return tuple(str(row[0]) for row in rows if row[0] in owners)


_OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'planrunner')
UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace
WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'planrunner', 'public')
UNION SELECT pg_get_userbyid(proowner) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'planrunner')
"""


def without_public(source: Server, target: Server) -> tuple[str, ...]:
    """Owning roles that may not create in the target's schema public, so could not be given objects there."""
    rows = target.rows(
        "SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s) AND to_regnamespace('public') IS NOT NULL"
        " AND NOT has_schema_privilege(oid, 'public', 'CREATE')",
        [[str(row[0]) for row in source.rows(_OWNERS)]],
    )
    return tuple(str(row[0]) for row in rows)


def statements(roles: tuple[Role, ...], *, login: str, superuser: bool) -> tuple[sql.Composed, ...]:
    """What makes ``roles``; ``login`` joins each unless it is a superuser, to give objects to them."""
    made: list[sql.Composed] = []
    for role in roles:
        words = [
            sql.SQL("LOGIN" if role.login else "NOLOGIN"),
            sql.SQL("CREATEDB" if role.createdb else "NOCREATEDB"),
            sql.SQL("CREATEROLE" if role.createrole else "NOCREATEROLE"),
            sql.SQL("INHERIT" if role.inherit else "NOINHERIT"),
        ]
        name = sql.Identifier(role.name)
        options = sql.SQL(" ").join(words)
        made.append(sql.SQL("CREATE ROLE {} {}").format(name, options))
        if not superuser:
            made.append(sql.SQL("GRANT {} TO {}").format(name, sql.Identifier(login)))
    known = {role.name for role in roles}
    made += [
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role.name))
        for role in roles
        for group in role.member_of
        if group in known
    ]
    return tuple(made)


def create(workspace: Workspace, roles: tuple[Role, ...]) -> None:
    """Make ``roles`` on the target in one transaction; those that may log in are told: no password is set."""
    who = workspace.target.identity()
    with workspace.writing() as session:
        for statement in statements(roles, login=who.user, superuser=who.superuser):
            session.execute(statement)
    logins = [role.name for role in roles if role.login]
    if logins:
        workspace.tell(
            f"set passwords on the target for: {', '.join(logins)} (a source's passwords can't be read)",
            {"roles_without_password": logins},
        )
