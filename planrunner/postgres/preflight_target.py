"""Preflight of the target's login: may it create what arrives, and subscribe; is there room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import catalog
from planrunner.postgres.preflight_section import TARGET, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Endpoint, Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs, Section

CREATE = Check(
    code="PR0401",
    section=TARGET,
    title="The login may create in the target's database",
    why="Schemas, tables and schema planrunner with the ledger are made there.",
)
SUBSCRIBE = Check(
    code="PR0402",
    section=TARGET,
    title="The login may create subscriptions",
    why="Changes arrive through a subscription; before PostgreSQL 16 only superusers may make one.",
)
LASTING = Check(
    code="PR0403",
    section=TARGET,
    title="The subscription has a password that lasts",
    why="A subscription dials the source for as long as it lives, and one of a role that is no superuser must use a"
    " password.",
)
EMPTY = Check(
    code="PR0404",
    section=TARGET,
    title="The target's database is empty",
    why="What is there already would collide with what arrives, or be taken for it.",
)
NOT_OLDER = Check(
    code="PR0405",
    section=TARGET,
    title="The target is not older than the source",
    why="An older server lacks syntax and types that the source's schema may use.",
)
SCHEMA_RIGHTS = Check(
    code="PR0406",
    section=TARGET,
    title="The login may create in the schemas that are there already",
    why="A schema that exists on the target is not made anew; since PostgreSQL 15 only the database's owner may create"
    " in public.",
)
ROLES = Check(
    code="PR0407",
    section=TARGET,
    title="The roles that the schema names can be made",
    why="Owners and grants are kept: each role they name must exist on the target before the schema does.",
)
ACTING = Check(
    code="PR0408",
    section=TARGET,
    title="The login may act as the owners",
    why="An object is given to another owner only by who may act as that owner.",
)

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
# Who may use a role's rights may not always act as it: since 16 a membership says so by itself.
_ROLES = """
SELECT wanted.name, r.oid IS NOT NULL, coalesce(pg_has_role(r.oid, 'USAGE') AND pg_has_role(r.oid,
       CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END), false)
FROM unnest(%s::text[]) wanted(name) LEFT JOIN pg_roles r ON r.rolname = wanted.name ORDER BY 1
"""


# Of a name in a schema that our login may not use, to_regclass raises an error.
_LEDGER_READABLE = """
SELECT count(*) = 2 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'planrunner' AND c.relname IN ('unit', 'effect') AND c.relkind = 'r'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
"""
_BROUGHT = """
SELECT plan_id::text, array_agg(unit_id::text) FILTER (WHERE unit_id IS NOT NULL) FROM (
  SELECT plan_id, to_jsonb(u) ->> 'unit_id' AS unit_id FROM planrunner.unit u
  UNION ALL SELECT plan_id, NULL FROM planrunner.effect) held GROUP BY 1
"""
# Views, sequences, functions and types that belong to no table, no extension and no other object of these.
_OTHER_OBJECTS = """
WITH mine AS (SELECT oid, nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
              AND nspname NOT IN ('information_schema', 'planrunner')),
found AS (
  SELECT 'pg_class'::regclass AS class, c.oid, format('%I.%I', m.nspname, c.relname) AS name
    FROM pg_class c JOIN mine m ON m.oid = c.relnamespace WHERE c.relkind IN ('v', 'm', 'S', 'f')
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, format('%I.%I()', m.nspname, p.proname)
    FROM pg_proc p JOIN mine m ON m.oid = p.pronamespace
  UNION ALL SELECT 'pg_type'::regclass, t.oid, format('%I.%I', m.nspname, t.typname)
    FROM pg_type t JOIN mine m ON m.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r'))
SELECT name FROM found f WHERE NOT EXISTS (
  SELECT FROM pg_depend d WHERE d.classid = f.class AND d.objid = f.oid AND d.deptype IN ('e', 'a', 'i')) ORDER BY 1
"""


def permissions(target: Server, source: Endpoint, needs: Needs) -> Iterator[Finding]:
    """What needs nothing of the source: creating in the database, subscribing, an empty database."""
    who = target.row(_LOGIN)
    assert who is not None
    name, database = sql.Identifier(who[0]).as_string(), sql.Identifier(who[5]).as_string()
    if who[4]:
        yield CREATE.passed(f"Can create schemas in database {database}")
    else:
        yield CREATE.failed(
            f"Lacks CREATE on database {database}",
            f"Run on the target as its owner: GRANT CREATE ON DATABASE {database} TO {name};",
        )
    if not needs.polled:
        yield from _following(who, name, target, source, needs)
    yield from _emptiness(target, needs)


def _following(who: Row, name: str, target: Server, source: Endpoint, needs: Needs) -> Iterator[Finding]:
    yield _subscriptions(who, name, target.side.value, SUBSCRIBE)
    # That a login by IAM tokens leaves the subscription without one is told by the step that subscribes.
    if not source.rds_iam and not who[1] and (gap := _password_gap(source)) and needs.borrowed():
        yield LASTING.failed(
            f"A subscription of {name}, which is no superuser, must use a password: {gap}",
            "Give connections.source.password a lasting password's reference.",
        )


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


def _emptiness(target: Server, needs: Needs) -> Iterator[Finding]:
    names = [t.qualified for t in catalog.tables(target)]
    units = _brought(target)
    if names and needs.plan_id in units:
        yield EMPTY.passed("Database holds what an earlier run of this plan brought")
        return
    if names:
        yield EMPTY.failed(
            f"Database is not empty: {counted(len(names), 'table')}: {some(names)}{_origin(names, units)}",
            "Drop them, or give connections.target.dsn an empty database: CREATE DATABASE name;",
        )
        return
    others = [str(row[0]) for row in target.rows(_OTHER_OBJECTS)]
    if others and needs.plan_id not in units:
        yield EMPTY.warned(
            f"Database holds no table, but {counted(len(others), 'other object')}: {some(others)}; one that the source"
            " has too stops the schema from being made",
            "Drop them, or give connections.target.dsn an empty database: CREATE DATABASE name;",
        )
    else:
        yield EMPTY.passed("Database is empty")


def _brought(target: Server) -> dict[str, frozenset[str]]:
    """The tables that runs of any plan brought here, by plan id; none where our login may not read the ledger."""
    if not target.value(_LEDGER_READABLE):
        return {}
    return {row[0]: frozenset(row[1] or ()) for row in target.rows(_BROUGHT)}


def _origin(names: Sequence[str], units: dict[str, frozenset[str]]) -> str:
    told = []
    for plan, brought in sorted(units.items()):
        own = [name for name in names if name in brought]
        if own:
            told.append(
                f"an earlier run of plan {plan} brought {len(own)} of them, and its cleanup drops none"
            )
    return f" ({'; '.join(told)})" if told else ""


def reception(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """What depends on the source: its version, its schemas, its owners."""
    there, here = source.identity(), target.identity()
    if here.major < there.major:
        yield NOT_OLDER.warned(
            f"Target is PostgreSQL {here.major}, older than the source's {there.major}: its schema may not"
            " restore there",
            f"Choose a target of PostgreSQL {there.major} or later.",
        )
    else:
        yield NOT_OLDER.passed(
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
        yield SCHEMA_RIGHTS.failed(
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
        yield ROLES.passed(f"Can create {counted(len(absent), 'missing role')}: {some(absent)}")
    elif absent:
        creating = " ".join(sql.SQL("CREATE ROLE {};").format(sql.Identifier(n)).as_string() for n in absent)
        yield ROLES.failed(
            f"Can't create {counted(len(absent), 'missing role')}: {some(absent)}",
            f"Run on the target as an administrator: {creating} (and grant them to the login){other_way}",
        )
    if strange:
        names = sql.SQL(", ").join([sql.Identifier(n) for n in strange])
        # Since 16 a membership that is there already may lack what it takes to act as its role.
        options = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if target.version() >= 160000 else "")
        joining = sql.SQL("GRANT {} TO {}{};").format(names, sql.Identifier(login), options).as_string()
        yield ACTING.warned(
            f"Login may not act as {some(strange)}; needed where they own something",
            f"Run on the target as an administrator: {joining}{other_way}",
        )
