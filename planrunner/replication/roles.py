"""The roles a database's owners and grants name: made on the target where they are missing, no passwords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.replication import decisions
from planrunner.replication.attempts import attempted
from planrunner.replication.decisions import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

# Roles that own something of this database or of it, are granted something in it, or have settings in it;
# then the groups they belong to, and those who belong to them: a right is often used through a group.
# Objects of the bootstrap superuser (oid 10) are pinned: pg_shdepend does not list them. A plan's own login stays.
_NAMED = """
WITH RECURSIVE here AS (SELECT oid, datdba FROM pg_database WHERE datname = current_database()),
others AS (SELECT oid FROM pg_roles WHERE rolname LIKE 'pg\\_%' OR rolname LIKE 'rds%' OR rolname = current_user
           OR oid = 10),
named AS (
  SELECT refobjid AS oid FROM pg_shdepend, here WHERE refclassid = 'pg_authid'::regclass
    AND (dbid = here.oid OR classid = 'pg_database'::regclass AND objid = here.oid)
  UNION SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'planrunner')
  UNION SELECT setrole FROM pg_db_role_setting, here WHERE setdatabase = here.oid AND setrole <> 0
  UNION SELECT datdba FROM here),
groups AS (SELECT oid FROM named
  UNION SELECT m.roleid FROM pg_auth_members m JOIN groups g ON g.oid = m.member),
members AS (SELECT oid FROM named WHERE oid NOT IN (SELECT oid FROM others)
  UNION SELECT m.member FROM pg_auth_members m JOIN members g ON g.oid = m.roleid
    WHERE m.member NOT IN (SELECT oid FROM others))
SELECT r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolreplication,
       r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil::text, shobj_description(r.oid, 'pg_authid')
FROM pg_roles r WHERE (r.oid IN (SELECT oid FROM groups) OR r.oid IN (SELECT oid FROM members))
  AND r.rolname NOT LIKE 'pg\\_%' AND r.rolname NOT LIKE 'rds%'
  AND r.rolname !~ '^pr_[0-9a-f]{8}_login(_back)?$' ORDER BY r.oid
"""
# to_jsonb: a grant says since 16 whether it is inherited and lets one act as the group.
_MEMBERSHIPS = """
SELECT g.rolname::text, r.rolname::text, bool_or(m.admin_option), bool_or((to_jsonb(m) ->> 'inherit_option')::bool),
       bool_or((to_jsonb(m) ->> 'set_option')::bool)
FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
WHERE r.rolname = ANY (%s) AND g.rolname !~ '^pr_[0-9a-f]{8}_login(_back)?$' GROUP BY 1, 2 ORDER BY 1, 2
"""
_ATTRIBUTES: dict[str, LiteralString] = {
    "superuser": "SUPERUSER",
    "createdb": "CREATEDB",
    "createrole": "CREATEROLE",
    "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
}


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role of a server. ``attributes`` holds the words of ``_ATTRIBUTES`` that it has."""

    name: str
    login: bool
    inherit: bool
    attributes: frozenset[str]
    connections: int
    valid_until: str | None
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Who belongs to which group; ``inherit`` and ``act`` are None before PostgreSQL 16."""

    group: str
    member: str
    admin: bool
    inherit: bool | None
    act: bool | None


def named(source: Server) -> tuple[Role, ...]:
    """The roles that the source's database names, in the order they were made."""
    return tuple(
        Role(
            name=r[0],
            login=r[1],
            inherit=r[5],
            attributes=frozenset(
                word for word, has in zip(_ATTRIBUTES, (r[2], r[3], r[4], r[6], r[7]), strict=True) if has
            ),
            connections=r[8],
            valid_until=r[9],
            comment=r[10],
        )
        for r in source.rows(_NAMED)
    )


def memberships(server: Server, members: Sequence[Role]) -> tuple[Membership, ...]:
    """The groups that ``members`` belong to."""
    rows = server.rows(_MEMBERSHIPS, [[role.name for role in members]])
    return tuple(Membership(group=r[0], member=r[1], admin=r[2], inherit=r[3], act=r[4]) for r in rows)


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


def granted_public(source: Server) -> frozenset[str]:
    """The roles to which the source itself grants CREATE on its schema public, each by name."""
    rows = source.rows(
        "SELECT r.rolname::text FROM pg_namespace n, aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee"
        " WHERE n.nspname = 'public' AND a.privilege_type = 'CREATE'"
    )
    return frozenset(str(row[0]) for row in rows)


def givable(target: Server) -> frozenset[str]:
    """The attributes that the target's login may give to a role: all, or since 16 those it has itself."""
    row = target.row(
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,"
        " current_setting('server_version_num')::int FROM pg_roles WHERE rolname = current_user"
    )
    assert row is not None
    if row[0]:
        return frozenset(_ATTRIBUTES)
    if row[5] < 160000:
        return frozenset({"createdb", "createrole"} if row[2] else ())
    return frozenset(word for word, has in zip(_ATTRIBUTES, row[:5], strict=True) if has)


def statements(
    roles: tuple[Role, ...], *, login: str, superuser: bool, may_give: frozenset[str]
) -> tuple[sql.Composed, ...]:
    """What makes ``roles``; ``login`` joins each unless it is a superuser, to give objects to them."""
    made: list[sql.Composed] = []
    for role in roles:
        name = sql.Identifier(role.name)
        made.append(sql.SQL("CREATE ROLE {} {}").format(name, _options(role, may_give)))
        if not superuser:
            made.append(sql.SQL("GRANT {} TO {}").format(name, sql.Identifier(login)))
        if role.comment is not None:
            made.append(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(role.comment)))
    return tuple(made)


def _options(role: Role, may_give: frozenset[str]) -> sql.Composed:
    words: list[sql.SQL | sql.Composed] = [
        sql.SQL("LOGIN" if role.login else "NOLOGIN"),
        sql.SQL("INHERIT" if role.inherit else "NOINHERIT"),
        *(sql.SQL(_ATTRIBUTES[word]) for word in _ATTRIBUTES if word in role.attributes & may_give),
    ]
    if role.connections >= 0:
        words.append(sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(role.connections)))
    if role.valid_until is not None:
        words.append(sql.SQL("VALID UNTIL {}").format(sql.Literal(role.valid_until)))
    return sql.SQL(" ").join(words)


def joining(membership: Membership, *, options: bool) -> sql.Composed:
    """The GRANT of a membership, ``options`` as PostgreSQL 16 and later write them."""
    words: list[sql.SQL] = []
    if membership.admin:
        words.append(sql.SQL("ADMIN OPTION"))
    if options and membership.inherit is not None:
        words = [
            sql.SQL("ADMIN TRUE" if membership.admin else "ADMIN FALSE"),
            sql.SQL("INHERIT TRUE" if membership.inherit else "INHERIT FALSE"),
            sql.SQL("SET TRUE" if membership.act else "SET FALSE"),
        ]
    given = sql.SQL(" WITH ") + sql.SQL(", ").join(words) if words else sql.SQL("")
    return sql.SQL("GRANT {} TO {}{}").format(
        sql.Identifier(membership.group), sql.Identifier(membership.member), given
    )


def joinings(workspace: Workspace, absent: tuple[Role, ...]) -> tuple[Membership, ...]:
    """The memberships in which a role of ``absent`` takes part; two roles that are there are left alone."""
    new = {role.name for role in absent}
    ours = memberships(workspace.source, named(workspace.source))
    login = workspace.target.identity().user
    return tuple(
        m
        for m in ours
        if (m.member in new or m.group in new) and not m.group.startswith("rds") and m.member != login
    )


def create(workspace: Workspace, roles: tuple[Role, ...]) -> None:
    """Make ``roles`` on the target in one transaction, with their memberships; what can't be given is told."""
    target = workspace.target
    who = target.identity()
    may_give = givable(target)
    found = _decisions(roles, may_give)
    with workspace.writing() as session:
        for statement in statements(roles, login=who.user, superuser=who.superuser, may_give=may_give):
            session.execute(statement)
        for membership in joinings(workspace, roles):
            refusal = attempted(session, joining(membership, options=who.major >= 16))
            if refusal is not None:
                found.append(
                    Decision(
                        key=f"membership {membership.group} {membership.member}",
                        text=f'role "{membership.member}" belongs to "{membership.group}" on the source, not on the'
                        f" target: {refusal}",
                    )
                )
        failpoint("roles.before_commit")
    failpoint("roles.made")
    decisions.tell(workspace, found)


def _decisions(roles: tuple[Role, ...], may_give: frozenset[str]) -> list[Decision]:
    logins = [role.name for role in roles if role.login]
    found = [
        Decision(
            key=f"attributes {role.name}",
            text=f'role "{role.name}" is made without {", ".join(_ATTRIBUTES[word] for word in kept)}: the target\'s'
            " login may not give that",
        )
        for role in roles
        if (kept := [word for word in _ATTRIBUTES if word in role.attributes - may_give])
    ]
    if logins:
        found.append(
            Decision(
                key="passwords",
                text=f"roles without password: {', '.join(logins)} (a source's passwords can't be read);"
                " set them on the target: \\password, or ALTER ROLE … PASSWORD",
            )
        )
    return found
