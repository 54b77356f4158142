"""Preflight of the source's login: may it read everything, own it, and replicate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import privileges
from planrunner.postgres.grants import Kind
from planrunner.postgres.preflight_section import SOURCE, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.grants import Grant
    from planrunner.postgres.preflight_section import Needs
    from planrunner.postgres.privileges import Access, Login, Rights

REPLICATION = Check(
    code="PR0301",
    section=SOURCE,
    title="The login may replicate",
    why="Slots are made, and a subscription is served, only for a login with the REPLICATION attribute; on RDS"
    " membership in rds_replication stands for it.",
    never_ignored="no slot could be made, and nothing followed",
)
SCHEMAS = Check(
    code="PR0302",
    section=SOURCE,
    title="The login may use every schema",
    why="Without USAGE on its schema no table in it can be read.",
)
TABLES = Check(
    code="PR0303",
    section=SOURCE,
    title="The login may read every table",
    why="The copy reads whole rows: SELECT on some columns is not enough, and pg_dump locks every table it describes.",
)
SEQUENCES = Check(
    code="PR0304",
    section=SOURCE,
    title="The login may read every sequence",
    why="Sequences are not replicated: their values are read at the cutover, or the first insert there collides.",
)
OWNERSHIP = Check(
    code="PR0305",
    section=SOURCE,
    title="The login has the owner's rights on every table",
    why="Only owners may put a table into a publication, change its replica identity, and set the fence of the cutover.",
)
CREATE = Check(
    code="PR0306",
    section=SOURCE,
    title="The login may create in the source's database",
    why="Publications, and schema planrunner with the markers of the stream, are made there.",
)
ROW_SECURITY = Check(
    code="PR0307",
    section=SOURCE,
    title="No row-level security hides rows from the login",
    why="A policy would make the copy leave rows out without a word; our sessions raise an error instead.",
    never_ignored="the copy stops at such a table",
)
LARGE_OBJECTS = Check(
    code="PR0308",
    section=SOURCE,
    title="The login may read every large object",
    why="With large_objects: copy each one is read, and one that can't be stops the copy.",
    never_ignored="the copy stops at such an object",
)
# What a grant mends: everything but row-level security and large objects.
GRANTABLE = frozenset(check.code for check in (REPLICATION, SCHEMAS, TABLES, SEQUENCES, OWNERSHIP, CREATE))

_GRANT = "grant"
# The right to read one lies with its owner, who may have granted it.
_UNREADABLE = """
SELECT DISTINCT pg_get_userbyid(lomowner)::text FROM pg_largeobject_metadata m
WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT pg_has_role(lomowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                  AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))) ORDER BY 1
"""
# Policies that would apply to our login: not to superusers, BYPASSRLS, nor owners unless forced.
_ROW_SECURITY = """
SELECT format('%I.%I', n.nspname, c.relname), NOT c.relforcerowsecurity, n.nspname::text, c.relname::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles me
WHERE me.rolname = current_user AND c.relkind IN ('r', 'p') AND c.relrowsecurity
  AND NOT me.rolsuper AND NOT me.rolbypassrls
  AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE'))
ORDER BY 1
"""


def permissions(source: Server, needs: Needs) -> Iterator[Finding]:
    """The replication right, reading, ownership, CREATE, row-level security, large objects."""
    held = privileges.rights(source, memberships=needs.memberships, left_out=needs.left_out(source))
    if not needs.polled:
        yield _replication(source, held)
    yield _access(SCHEMAS, held, Kind.SCHEMA, "USAGE on {} {}")
    yield _access(TABLES, held, Kind.TABLE, "SELECT on {} {}")
    yield _access(SEQUENCES, held, Kind.SEQUENCE, "SELECT on {} {}")
    yield _ownership(held, needs)
    yield _create(held)
    yield _row_security(source, held, needs)
    if needs.large_objects == "copy":
        yield _large_objects(source, held, needs)


def _replication(source: Server, held: Rights) -> Finding:
    who = held.login
    if who.superuser:
        return REPLICATION.passed("Is superuser, may replicate")
    if who.rds_member:
        return REPLICATION.passed("Has rds_replication role (AWS RDS)")
    if who.replication:
        return REPLICATION.passed("Has REPLICATION attribute")
    grant = privileges.replication_gap(who)
    if grant is not None:
        return REPLICATION.failed(
            f'Missing REPLICATION privilege: role "{who.name}" lacks rds_replication',
            f"Run on the source as the master user: {privileges.by_hand(who, [grant])}",
            mended_by=_GRANT if grant.possible else None,
        )
    missing_rds = " and the source has no role rds_replication" if source.endpoint.rds else ""
    return REPLICATION.failed(
        f'Missing REPLICATION privilege: role "{who.name}" lacks the REPLICATION attribute{missing_rds}',
        f"Run on the source as a superuser: {privileges.attribute_statement(who)}",
    )


def _access(check: Check, held: Rights, kind: Kind, wording: str) -> Finding:
    objects = held.of(kind)
    lacking = [o for o in objects if not o.held]
    noun = kind.value
    if not lacking:
        return check.passed("Has " + wording.format("all", counted(len(objects), noun)))
    of_all = f"{len(lacking)} of {counted(len(objects), noun)}: {some([o.qualified for o in lacking])}"
    gaps, grants = _mending(held, kind, lacking)
    return check.failed(
        "Lacks " + wording.format("", of_all).replace("  ", " "),
        f"Run on the source as the owner or master user: {privileges.by_hand(held.login, grants)}",
        mended_by=_GRANT if all(grant.possible for grant in gaps) else None,
    )


def _mending(
    held: Rights, kind: Kind, lacking: Sequence[Access]
) -> tuple[tuple[Grant, ...], tuple[Grant, ...]]:
    """What memberships alone do not bring, and all grants that close the gap."""
    gaps = privileges.access_gaps(held, [kind])
    joined = privileges.membership_gaps(held) if any(o.inherited for o in lacking) else ()
    return gaps, (*joined, *gaps)


def _ownership(held: Rights, needs: Needs) -> Finding:
    objects = held.of(Kind.TABLE)
    strange = [o for o in objects if not o.owned]
    if not strange:
        return OWNERSHIP.passed(f"Has the owner's rights on all {counted(len(objects), 'table')}")
    owners = sorted({o.owner for o in strange})
    gaps = privileges.membership_gaps(held)
    return OWNERSHIP.failed(
        f"Lacks the owner's rights on {counted(len(strange), 'table')} of {some(owners)}; publications and"
        " the cutover's fence need them",
        f"Run on the source as the master user: {privileges.by_hand(held.login, gaps)}",
        mended_by=_GRANT if needs.memberships and all(grant.possible for grant in gaps) else None,
    )


def _create(held: Rights) -> Finding:
    database = held.of(Kind.DATABASE)[0]
    if database.held:
        return CREATE.passed(f'Can create publications and schema planrunner in "{database.name}"')
    gaps, grants = _mending(held, Kind.DATABASE, [database])
    return CREATE.failed(
        f'Lacks CREATE on database "{database.name}", which publications and schema planrunner need',
        f"Run on the source as its owner ({database.owner}) or the master user:"
        f" {privileges.by_hand(held.login, grants)}",
        mended_by=_GRANT if all(grant.possible for grant in gaps) else None,
    )


def _row_security(source: Server, held: Rights, needs: Needs) -> Finding:
    left_out = needs.left_out(source)
    rows = [row for row in source.rows(_ROW_SECURITY) if (row[2], row[3]) not in left_out]
    if not rows:
        return ROW_SECURITY.passed("No row-level security hides rows from the login")
    # As a member of the owning role it is exempt, unless the table forces its policies on owners.
    owners_are_exempt = all(row[1] for row in rows)
    joining = needs.memberships and all(o.joinable or o.owned for o in held.of(Kind.TABLE))
    names = [str(row[0]) for row in rows]
    return ROW_SECURITY.failed(
        f"Row-level security would hide rows of {counted(len(names), 'table')}: {some(names)}",
        f"Run on the source as a superuser: {_bypass(held.login)}"
        + (" Or make the login a member of the roles that own the tables." if owners_are_exempt else ""),
        mended_by=_GRANT if owners_are_exempt and joining else None,
    )


def _bypass(who: Login) -> str:
    return sql.SQL("ALTER ROLE {} BYPASSRLS;").format(sql.Identifier(who.name)).as_string()


def _large_objects(source: Server, held: Rights, needs: Needs) -> Finding:
    owners = [str(row[0]) for row in source.rows(_UNREADABLE)]
    if not owners:
        return LARGE_OBJECTS.passed("Can read every large object")
    roles = sql.SQL(", ").join([sql.Identifier(owner) for owner in owners])
    statement = sql.SQL("GRANT {} TO {};").format(roles, sql.Identifier(held.login.name)).as_string()
    joining = {role for gap in privileges.membership_gaps(held) if gap.possible for role in gap.names}
    return LARGE_OBJECTS.failed(
        f"Can't read large objects of {some(owners)}",
        f"Run on the source as the master user or a superuser: {statement}",
        mended_by=_GRANT if needs.memberships and joining >= set(owners) else None,
    )
