"""Preflight of the target's login: may it create what arrives, and subscribe; is there room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import catalog
from planrunner.postgres.preflight_section import TARGET, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Endpoint, Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Check, Needs, Section

# The roles whose members may subscribe before 16, beside superusers: those of the managed services.
_LOGIN = """
SELECT me.rolname::text, me.rolsuper, me.rolcreaterole, current_setting('server_version_num')::int,
       has_database_privilege(current_database(), 'CREATE'), current_database()::text,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'pg_create_subscription' AND pg_has_role(r.oid, 'USAGE')),
       EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE') AND r.rolname IN
               ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser'))
FROM pg_roles me WHERE me.rolname = current_user
"""
_SCHEMAS = """
SELECT DISTINCT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
"""
_ROLES = """
SELECT wanted.name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'USAGE'), false)
FROM unnest(%s::text[]) wanted(name) LEFT JOIN pg_roles r ON r.rolname = wanted.name ORDER BY 1
"""


def permissions(target: Server, source: Endpoint, needs: Needs) -> Iterator[Finding]:
    """What needs nothing of the source: creating in the database, subscribing, an empty database."""
    who = target.row(_LOGIN)
    assert who is not None
    name, database = sql.Identifier(who[0]).as_string(), sql.Identifier(who[5]).as_string()
    if who[4]:
        yield TARGET.passed(f"Can create schemas in database {database}")
    else:
        yield TARGET.failed(
            f"Lacks CREATE on database {database}",
            f"Run on the target as its owner: GRANT CREATE ON DATABASE {database} TO {name};",
        )
    yield _subscriptions(who, name, target.side.value, TARGET)
    if source.rds_iam:
        yield TARGET.failed(
            "A subscription can't log in with an IAM token: it lasts 15 minutes, and a subscription dials for as long"
            " as it lives",
            "Give connections.source.password a lasting password's reference: {secret: …} instead of rds_iam.",
        )
    elif not who[1] and (gap := _password_gap(source)):
        yield TARGET.failed(
            f"A subscription of {name}, which is no superuser, must use a password: {gap}",
            "Give connections.source.password a lasting password's reference.",
        )
    yield _emptiness(target, needs)


def may_subscribe(server: Server, section: Section | Check) -> Finding:
    """Whether our login may create subscriptions on either side."""
    who = server.row(_LOGIN)
    assert who is not None
    return _subscriptions(who, sql.Identifier(who[0]).as_string(), server.side.value, section)


def _subscriptions(who: Row, name: str, side: str, section: Section | Check) -> Finding:
    superuser, version = who[1], who[3]
    if superuser or (who[6] if version >= 160000 else who[7]):
        return section.passed("Can create subscriptions")
    if version >= 160000:
        return section.failed(
            f"Can't create subscriptions: {name} lacks pg_create_subscription",
            f"Run on the {side} as an administrator: GRANT pg_create_subscription TO {name};",
        )
    return section.failed(
        f"Can't create subscriptions: before PostgreSQL 16 only a superuser can, and {name} is none",
        f"Run on the {side} as a superuser: ALTER ROLE {name} SUPERUSER; (on RDS: GRANT rds_superuser TO"
        f" {name};), or choose a {side} of PostgreSQL 16 or later.",
    )


def _password_gap(source: Endpoint) -> str | None:
    return None if source.password is not None else "connections.source has none"


def _emptiness(target: Server, needs: Needs) -> Finding:
    names = [t.qualified for t in catalog.tables(target)]
    if not names:
        return TARGET.passed("Database is empty")
    ledger = target.value("SELECT to_regclass('planrunner.effect') IS NOT NULL")
    if ledger and target.value(
        "SELECT EXISTS (SELECT FROM planrunner.unit WHERE plan_id = %(plan)s)"
        " OR EXISTS (SELECT FROM planrunner.effect WHERE plan_id = %(plan)s)",
        {"plan": needs.plan_id},
    ):
        return TARGET.passed("Database holds what an earlier run of this plan brought")
    return TARGET.failed(
        f"Database is not empty: {counted(len(names), 'table')}: {some(names)}",
        "Drop them, or give connections.target.dsn an empty database: CREATE DATABASE name;",
    )


def reception(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """What depends on the source: its version, its schemas, its owners."""
    there, here = source.identity(), target.identity()
    if here.major < there.major:
        yield TARGET.warned(
            f"Target is PostgreSQL {here.major}, older than the source's {there.major}: its schema may not"
            " restore there",
            f"Choose a target of PostgreSQL {there.major} or later.",
        )
    else:
        yield TARGET.passed(
            f"Version {here.version_text} is not older than the source's {there.version_text}"
        )
    yield from _schemas(source, target, here.user)
    if needs.keep_owners and needs.roles is not None:
        yield from _owners(target, needs.roles(source), here.user)


def _schemas(source: Server, target: Server, login: str) -> Iterator[Finding]:
    used = [row[0] for row in source.rows(_SCHEMAS)]
    closed = target.rows(
        "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY (%s) AND NOT has_schema_privilege(oid, 'CREATE')",
        [used],
    )
    if closed:
        names = sql.SQL(", ").join([sql.Identifier(row[0]) for row in closed])
        grant = sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {};").format(names, sql.Identifier(login))
        yield TARGET.failed(
            f"Lacks CREATE on schema {some([row[0] for row in closed])}, where the source has objects",
            f"Run on the target as the schema's owner: {grant.as_string()}",
        )


def _owners(target: Server, wanted: Sequence[str], login: str) -> Iterator[Finding]:
    rows = target.rows(_ROLES, [list(wanted)])
    absent = [str(row[0]) for row in rows if not row[1]]
    strange = [str(row[0]) for row in rows if row[1] and not row[2]]
    may_create = target.value("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    other_way = "; or set owners: login and grants: skip in the snapshot step"
    if absent and may_create:
        yield TARGET.passed(f"Can create {counted(len(absent), 'missing role')}: {some(absent)}")
    elif absent:
        creating = " ".join(sql.SQL("CREATE ROLE {};").format(sql.Identifier(n)).as_string() for n in absent)
        yield TARGET.failed(
            f"Can't create {counted(len(absent), 'missing role')}: {some(absent)}",
            f"Run on the target as an administrator: {creating} (and grant them to the login){other_way}",
        )
    if strange:
        names = sql.SQL(", ").join([sql.Identifier(n) for n in strange])
        joining = sql.SQL("GRANT {} TO {};").format(names, sql.Identifier(login)).as_string()
        yield TARGET.warned(
            f"Login may not act as {some(strange)}; needed where they own something",
            f"Run on the target as an administrator: {joining}{other_way}",
        )
