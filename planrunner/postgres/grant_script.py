"""The grants that a fresh login needs for a migration, and no more: a script for each side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres import needs
from planrunner.postgres.privileges import RDS_REPLICATION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from planrunner.postgres.connection import Server

ANYTHING = "…"
_LOGIN_16 = 160000
# The objects that the plan carries, who owns them, and what neither PUBLIC nor these owners may do.
_SOURCE = """
WITH mine AS (
  SELECT c.oid, c.relnamespace, c.relname, c.relowner, c.relkind, n.nspname FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.deptype = 'e')
    AND NOT EXISTS (SELECT FROM unnest(%(schemas)s::text[], %(names)s::text[]) gone(schema, name)
                    WHERE gone.schema = n.nspname AND gone.name = c.relname)),
owners AS (SELECT DISTINCT r.oid, r.rolname FROM mine JOIN pg_roles r ON r.oid = mine.relowner
           WHERE mine.relkind <> 'S')
SELECT 'role' AS kind, NULL::text AS schema, rolname::text AS name FROM owners WHERE rolname <> current_user
UNION ALL SELECT 'schema', NULL, n.nspname::text FROM pg_namespace n WHERE n.oid IN (SELECT relnamespace FROM mine)
  AND NOT EXISTS (SELECT FROM owners o WHERE has_schema_privilege(o.oid, n.oid, 'USAGE'))
UNION ALL SELECT 'sequence', m.nspname::text, m.relname::text FROM mine m WHERE m.relkind = 'S'
  AND NOT EXISTS (SELECT FROM owners o WHERE has_sequence_privilege(o.oid, m.oid, 'SELECT'))
UNION ALL SELECT lower(p.privilege), NULL, current_database()::text FROM unnest(ARRAY['CONNECT', 'CREATE']) p(privilege)
  WHERE NOT EXISTS (SELECT FROM owners o
                    WHERE has_database_privilege(o.oid, current_database(), p.privilege))
ORDER BY 1, 2 NULLS FIRST, 3
"""
# Everybody's right, which needs no grant; a database without an own list has the default's.
_PUBLIC_CONNECTS = """
SELECT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a
               WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT')
FROM pg_database WHERE datname = current_database()
"""
_CLOSED_SCHEMAS = """
SELECT n.nspname::text FROM pg_namespace n WHERE n.nspname = ANY (%s) AND NOT EXISTS (
  SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')
"""
_SCHEMAS = """
SELECT DISTINCT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
"""
_OWNERS_THERE = """
SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s) AND rolname <> current_user ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One statement of a script, and which need it meets."""

    statement: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a script is made from: the login, its database, and what is missing for it.

    ``owners`` are the roles whose rights it needs, ``schemas`` those it may not use (source) or create in (target).
    """

    login: str
    database: str
    version: int
    rds: bool
    owners: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    sequences: tuple[tuple[str, str], ...] = ()
    connects: bool = True
    creates: bool = False


UNKNOWN_VERSION = _LOGIN_16


def source_facts(source: Server, left_out: Collection[tuple[str, str]]) -> Facts:
    """What the source says; ``left_out`` are the tables and sequences that the plan does not touch."""
    schemas, names = [s for s, _ in left_out], [n for _, n in left_out]
    rows = source.rows(_SOURCE, {"schemas": schemas, "names": names})
    kinds = {str(row[0]) for row in rows}
    return _facts(
        source,
        owners=tuple(str(r[2]) for r in rows if r[0] == "role"),
        schemas=tuple(str(r[2]) for r in rows if r[0] == "schema"),
        sequences=tuple((str(r[1]), str(r[2])) for r in rows if r[0] == "sequence"),
        creates="create" not in kinds,
    )


def target_facts(source: Server, target: Server, owners: Sequence[str]) -> Facts:
    """What the target says of the source's schemas and owning roles: those that are there need a grant."""
    used = [str(row[0]) for row in source.rows(_SCHEMAS)]
    return _facts(
        target,
        owners=tuple(str(row[0]) for row in target.rows(_OWNERS_THERE, [list(owners)])),
        schemas=tuple(str(row[0]) for row in target.rows(_CLOSED_SCHEMAS, [used])),
    )


def _facts(
    server: Server,
    *,
    owners: tuple[str, ...],
    schemas: tuple[str, ...],
    sequences: tuple[tuple[str, str], ...] = (),
    creates: bool = False,
) -> Facts:
    who = server.identity()
    return Facts(
        login=who.user,
        database=who.database,
        version=who.version,
        rds=bool(server.value("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", [RDS_REPLICATION])),
        owners=owners,
        schemas=schemas,
        sequences=sequences,
        connects=bool(server.value(_PUBLIC_CONNECTS)),
        creates=creates,
    )


def source_script(facts: Facts, wanted: Collection[str]) -> tuple[Line, ...]:
    """What an administrator runs on the source; ``wanted`` are words of ``needs``."""
    return tuple(_source_lines(facts, wanted))


def target_script(facts: Facts, wanted: Collection[str]) -> tuple[Line, ...]:
    """What an administrator runs on the target."""
    return tuple(_target_lines(facts, wanted))


def _source_lines(facts: Facts, wanted: Collection[str]) -> Iterator[Line]:
    yield from _connecting(facts)
    if needs.REPLICATION in wanted:
        yield _replicating(facts)
    if needs.OWNERSHIP in wanted:
        yield from (_joining(facts, owner, needs.OWNERSHIP) for owner in facts.owners)
    if needs.CREATE in wanted and not (facts.creates and needs.OWNERSHIP in wanted):
        yield _creating(facts)
    if needs.READING in wanted:
        for schema in facts.schemas:
            yield _line("GRANT USAGE ON SCHEMA {} TO {}", needs.READING, [schema], [facts.login])
        for sequence in facts.sequences:
            yield _line("GRANT SELECT ON SEQUENCE {} TO {}", needs.READING, sequence, [facts.login])
    if needs.SUBSCRIBING in wanted:
        yield _subscribing(facts)


def _target_lines(facts: Facts, wanted: Collection[str]) -> Iterator[Line]:
    yield from _connecting(facts)
    owning = needs.DATABASE in wanted
    if owning:
        yield _line("ALTER DATABASE {} OWNER TO {}", needs.DATABASE, [facts.database], [facts.login])
    if needs.CREATE in wanted and not owning:
        yield _creating(facts)
    # Since PostgreSQL 15 schema public is the database owner's.
    for schema in facts.schemas if needs.CREATE in wanted else ():
        if not (owning and schema == "public"):
            yield _line("GRANT USAGE, CREATE ON SCHEMA {} TO {}", needs.CREATE, [schema], [facts.login])
    if needs.ROLES in wanted:
        yield _line("ALTER ROLE {} CREATEROLE", needs.ROLES, [facts.login])
    if needs.ACTING_AS in wanted:
        yield from (_joining(facts, owner, needs.ACTING_AS) for owner in facts.owners)
    if needs.SUBSCRIBING in wanted:
        yield _subscribing(facts)
    if needs.REPLICATION in wanted:
        yield _replicating(facts)


def _connecting(facts: Facts) -> Iterator[Line]:
    if not facts.connects:
        why = "CONNECT, which PUBLIC lacks here"
        yield _line("GRANT CONNECT ON DATABASE {} TO {}", why, [facts.database], [facts.login])


def _creating(facts: Facts) -> Line:
    return _line("GRANT CREATE ON DATABASE {} TO {}", needs.CREATE, [facts.database], [facts.login])


def _replicating(facts: Facts) -> Line:
    if facts.rds:
        return _joining(facts, RDS_REPLICATION, needs.REPLICATION)
    return _line("ALTER ROLE {} REPLICATION", needs.REPLICATION, [facts.login])


def _subscribing(facts: Facts) -> Line:
    if facts.version >= _LOGIN_16:
        return _joining(facts, "pg_create_subscription", needs.SUBSCRIBING)
    if facts.rds:
        return _joining(facts, "rds_superuser", needs.SUBSCRIBING)
    return _line("ALTER ROLE {} SUPERUSER", needs.SUBSCRIBING, [facts.login])


def _joining(facts: Facts, role: str, why: str) -> Line:
    inherit = " WITH INHERIT TRUE" if facts.version >= _LOGIN_16 else ""
    made = _line("GRANT {} TO {}", why, [role], [facts.login])
    return Line(statement=f"{made.statement.removesuffix(';')}{inherit};", why=why)


def _line(text: str, why: str, *names: Sequence[str]) -> Line:
    parts = text.split("{}")
    shown = [sql.Identifier(*name).as_string() for name in names]
    statement = "".join(part + name for part, name in zip(parts, [*shown, ""], strict=True))
    return Line(statement=f"{statement};", why=why)
