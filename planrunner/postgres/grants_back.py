"""Takes grants back: exactly what was made, nothing that somebody else gave or made more of meanwhile.

A grant of somebody else's is another entry in PostgreSQL's lists and stays; one of the same grantor's that has become
more than ours, by WITH GRANT OPTION or ADMIN OPTION, is not ours any more and stays too.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, LiteralString

from psycopg import errors, sql

from planrunner.postgres.grants import TO_COME, Grant, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

    from planrunner.postgres.connection import Server, Session
    from planrunner.postgres.grants import Membership

# to_jsonb: a membership has these options since 16.
_MEMBERSHIPS = """
SELECT pg_get_userbyid(m.grantor)::text, m.admin_option, (to_jsonb(m) ->> 'inherit_option')::bool,
       (to_jsonb(m) ->> 'set_option')::bool
FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
WHERE g.rolname = %s AND r.rolname = %s ORDER BY 1
"""
_RELATIONS = """
SELECT c.oid::bigint, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles o ON o.oid = c.relowner
WHERE n.nspname = %s AND o.rolname = ANY (%s) AND c.relkind::text = ANY (%s) ORDER BY 1
"""
# The entries of a login in an object's list: whether any may be passed on.
_ENTRIES: dict[Kind, LiteralString] = {
    Kind.TABLE: """
SELECT c.relname::text, bool_or(a.is_grantable) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
  aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname = %(schema)s AND c.relname = ANY (%(names)s) AND r.rolname = %(login)s AND a.privilege_type = 'SELECT'
GROUP BY 1""",
    Kind.SCHEMA: """
SELECT n.nspname::text, bool_or(a.is_grantable) FROM pg_namespace n,
  aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname = ANY (%(names)s) AND r.rolname = %(login)s AND a.privilege_type = 'USAGE' GROUP BY 1""",
    Kind.DATABASE: """
SELECT d.datname::text, bool_or(a.is_grantable) FROM pg_database d,
  aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE d.datname = ANY (%(names)s) AND r.rolname = %(login)s AND a.privilege_type = 'CREATE' GROUP BY 1""",
}
_ENTRIES[Kind.SEQUENCE] = _ENTRIES[Kind.TABLE]


_GONE = (errors.UndefinedTable, errors.UndefinedObject, errors.InvalidSchemaName)


def remembered(server: Server, grant: Grant) -> Grant:
    """The grant, with what is there before it is made."""
    if grant.kind is Kind.ROLE:
        return replace(
            grant, before=tuple(row for name in grant.names for row in _memberships(server, grant, name))
        )
    if grant.kind in TO_COME:
        rows = server.rows(_RELATIONS, [grant.schema, list(grant.names), list(TO_COME[grant.kind])])
        return replace(grant, known=tuple(int(row[0]) for row in rows))
    return grant


def _memberships(server: Server, grant: Grant, group: str) -> list[Membership]:
    return [(r[0], r[1], r[2], r[3]) for r in server.rows(_MEMBERSHIPS, [group, grant.login])]


def take_back(server: Server, grants: Iterable[Grant], *, where_we_may: bool = False) -> tuple[str, ...]:
    """Take the grants back in one transaction, memberships last; returns what stays, and why.

    Objects and roles that are gone need no revoke. ``where_we_may``: what our login may not revoke stays, too.
    """
    passed = (*_GONE, *([errors.InsufficientPrivilege] if where_we_may else []))
    kinds = list(Kind)
    kept: list[str] = []
    with server.transaction() as session:
        for grant in sorted(grants, key=lambda g: kinds.index(g.kind)):
            for one in _taken(session, grant, kept):
                _attempt(session, one, passed)
    return tuple(kept)


def _attempt(session: Session, statement: sql.Composed, passed: tuple[type[psycopg.Error], ...]) -> None:
    with suppress(*passed), session.transaction():
        session.execute(statement)


def _taken(session: Session, grant: Grant, kept: list[str]) -> Iterator[sql.Composed]:
    if grant.kind is Kind.ROLE:
        yield from _left(session, grant, kept)
        return
    if grant.kind is Kind.ATTRIBUTE:
        yield grant.take_back()
        return
    if grant.kind in TO_COME:
        yield grant.take_back()
        grant = _made_since(session, grant)
    given = {"schema": grant.schema, "names": list(grant.names), "login": grant.login}
    entries: dict[str, bool] = dict(session.execute(_ENTRIES[grant.kind], given).fetchall())
    kept += [
        f"{grant.kind.value} {name}: {grant.login} was given the right to pass it on"
        for name in grant.names
        if entries.get(name)
    ]
    # An object that is gone would take the whole statement with it.
    ours = [name for name in grant.names if entries.get(name) is False]
    if ours:
        yield grant.of(*ours).take_back()


def _made_since(session: Session, grant: Grant) -> Grant:
    """The same on the objects that came by their grant when they were created."""
    kind = Kind.TABLE if grant.kind is Kind.DEFAULT_TABLE else Kind.SEQUENCE
    rows = session.execute(_RELATIONS, [grant.schema, list(grant.names), list(TO_COME[grant.kind])])
    names = [row[1] for row in rows if row[0] not in grant.known]
    return replace(grant, kind=kind, names=tuple(names))


def _left(session: Session, grant: Grant, kept: list[str]) -> Iterator[sql.Composed]:
    """What puts a login's membership back as it was."""
    was = {row[0]: row for row in grant.before}
    for group in grant.names:
        rows = session.execute(_MEMBERSHIPS, [group, grant.login]).fetchall()
        ours = [row for row in rows if was.get(row[0]) != row]
        if any(row[1] and not (row[0] in was and was[row[0]][1]) for row in ours):
            kept.append(f"role {group}: {grant.login} was given its ADMIN OPTION")
        elif any(row[0] in was for row in ours):
            # Our GRANT changed an entry that its grantor had made before.
            yield _as_it_was(grant, group, next(was[row[0]] for row in ours if row[0] in was))
        elif ours:
            yield grant.of(group).take_back()


def _as_it_was(grant: Grant, group: str, was: Membership) -> sql.Composed:
    words = [sql.SQL("TRUE" if option else "FALSE") for option in was[2:]]
    return sql.SQL("GRANT {} TO {} WITH INHERIT {}, SET {}").format(
        sql.Identifier(group), sql.Identifier(grant.login), *words
    )
