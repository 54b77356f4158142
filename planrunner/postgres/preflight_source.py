"""Preflight of the source's login: may it read everything, own it, and replicate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import privileges
from planrunner.postgres.grants import Kind
from planrunner.postgres.preflight_section import SOURCE, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.grants import Grant
    from planrunner.postgres.preflight_section import Needs
    from planrunner.postgres.privileges import Access, Login, Rights

_GRANT = "grant"
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
    """The replication right, reading, ownership, CREATE, row-level security."""
    held = privileges.rights(source, memberships=needs.memberships, left_out=needs.left_out(source))
    yield _replication(source, held)
    yield _access(held, Kind.SCHEMA, "USAGE on {} {}")
    yield _access(held, Kind.TABLE, "SELECT on {} {}")
    yield _access(held, Kind.SEQUENCE, "SELECT on {} {}")
    yield _ownership(held, needs)
    yield _create(held)
    yield _row_security(source, held, needs)


def _replication(source: Server, held: Rights) -> Finding:
    who = held.login
    if who.superuser:
        return SOURCE.passed("Is superuser, may replicate")
    if who.rds_member:
        return SOURCE.passed("Has rds_replication role (AWS RDS)")
    if who.replication:
        return SOURCE.passed("Has REPLICATION attribute")
    grant = privileges.replication_gap(who)
    if grant is not None:
        return SOURCE.failed(
            f'Missing REPLICATION privilege: role "{who.name}" lacks rds_replication',
            f"Run on the source as the master user: {privileges.by_hand(who, [grant])}",
            mended_by=_GRANT if grant.possible else None,
        )
    missing_rds = " and the source has no role rds_replication" if source.endpoint.rds else ""
    return SOURCE.failed(
        f'Missing REPLICATION privilege: role "{who.name}" lacks the REPLICATION attribute{missing_rds}',
        f"Run on the source as a superuser: {privileges.attribute_statement(who)}",
    )


def _access(held: Rights, kind: Kind, wording: str) -> Finding:
    objects = held.of(kind)
    lacking = [o for o in objects if not o.held]
    noun = kind.value
    if not lacking:
        return SOURCE.passed("Has " + wording.format("all", counted(len(objects), noun)))
    of_all = f"{len(lacking)} of {counted(len(objects), noun)}: {some([o.qualified for o in lacking])}"
    gaps, grants = _mending(held, kind, lacking)
    return SOURCE.failed(
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
        return SOURCE.passed(f"Has the owner's rights on all {counted(len(objects), 'table')}")
    owners = sorted({o.owner for o in strange})
    gaps = privileges.membership_gaps(held)
    return SOURCE.failed(
        f"Lacks the owner's rights on {counted(len(strange), 'table')} of {some(owners)}; publications and"
        " the cutover's fence need them",
        f"Run on the source as the master user: {privileges.by_hand(held.login, gaps)}",
        mended_by=_GRANT if needs.memberships and all(grant.possible for grant in gaps) else None,
    )


def _create(held: Rights) -> Finding:
    database = held.of(Kind.DATABASE)[0]
    if database.held:
        return SOURCE.passed(f'Can create publications and schema planrunner in "{database.name}"')
    gaps, grants = _mending(held, Kind.DATABASE, [database])
    return SOURCE.failed(
        f'Lacks CREATE on database "{database.name}", which publications and schema planrunner need',
        f"Run on the source as its owner ({database.owner}) or the master user:"
        f" {privileges.by_hand(held.login, grants)}",
        mended_by=_GRANT if all(grant.possible for grant in gaps) else None,
    )


def _row_security(source: Server, held: Rights, needs: Needs) -> Finding:
    left_out = needs.left_out(source)
    rows = [row for row in source.rows(_ROW_SECURITY) if (row[2], row[3]) not in left_out]
    if not rows:
        return SOURCE.passed("No row-level security hides rows from the login")
    # As a member of the owning role it is exempt, unless the table forces its policies on owners.
    owners_are_exempt = all(row[1] for row in rows)
    joining = needs.memberships and all(o.joinable or o.owned for o in held.of(Kind.TABLE))
    names = [str(row[0]) for row in rows]
    return SOURCE.failed(
        f"Row-level security would hide rows of {counted(len(names), 'table')}: {some(names)}",
        f"Run on the source as a superuser: {_bypass(held.login)}"
        + (" Or make the login a member of the roles that own the tables." if owners_are_exempt else ""),
        mended_by=_GRANT if owners_are_exempt and joining else None,
    )


def _bypass(who: Login) -> str:
    return sql.SQL("ALTER ROLE {} BYPASSRLS;").format(sql.Identifier(who.name)).as_string()
