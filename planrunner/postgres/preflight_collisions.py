"""Preflight of objects on the target that bear the name of one that the copy will make there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres.preflight_remedy import run_on
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs

COLLISIONS = Check(
    code="PR0650",
    section=SCHEMA,
    title="names that are taken on the target",
    why="The schema is restored in one transaction: it fails as a whole where something of that name is there already.",
)

# Everything beside tables that a schema dump creates, as (kind, schema, name, what to put behind the name).
_OBJECTS = """
WITH objects(kind, namespace, name, arguments, classid, oid) AS (
  SELECT 'SCHEMA', 0::oid, nspname, '', 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname <> 'public'
  UNION ALL SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
      WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TYPE' END, relnamespace, relname, '',
    CASE relkind WHEN 'c' THEN 'pg_type' ELSE 'pg_class' END::regclass, CASE relkind WHEN 'c' THEN reltype ELSE oid END
  FROM pg_class c WHERE relkind IN ('v', 'm', 'S', 'f', 'c') AND relpersistence <> 't'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
  UNION ALL SELECT CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, typnamespace, typname, '',
    'pg_type'::regclass, oid FROM pg_type WHERE typtype IN ('d', 'e', 'r')
  UNION ALL SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
    pronamespace, proname, format('(%%s)', pg_get_function_identity_arguments(oid)),
    'pg_proc'::regclass, oid FROM pg_proc p
  WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
  UNION ALL SELECT 'COLLATION', collnamespace, collname, '', 'pg_collation'::regclass, oid
  FROM pg_collation
  UNION ALL SELECT 'SERVER', 0, srvname, '', 'pg_foreign_server'::regclass, oid FROM pg_foreign_server)
SELECT o.kind, n.nspname::text, o.name::text, o.arguments
FROM objects o LEFT JOIN pg_namespace n ON n.oid = o.namespace
WHERE coalesce(n.nspname, o.name) NOT IN ('pg_catalog', 'information_schema', 'planrunner')
  AND coalesce(n.nspname, o.name) NOT LIKE 'pg\\_%%' AND coalesce(n.nspname, o.name) NOT LIKE 'rds%%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
  AND (%(names)s::text[] IS NULL OR o.name = ANY (%(names)s))
"""
_WORDS = {
    "SCHEMA": sql.SQL("SCHEMA"),
    "VIEW": sql.SQL("VIEW"),
    "MATERIALIZED VIEW": sql.SQL("MATERIALIZED VIEW"),
    "SEQUENCE": sql.SQL("SEQUENCE"),
    "FOREIGN TABLE": sql.SQL("FOREIGN TABLE"),
    "TYPE": sql.SQL("TYPE"),
    "DOMAIN": sql.SQL("DOMAIN"),
    "FUNCTION": sql.SQL("FUNCTION"),
    "PROCEDURE": sql.SQL("PROCEDURE"),
    "AGGREGATE": sql.SQL("AGGREGATE"),
    "COLLATION": sql.SQL("COLLATION"),
    "SERVER": sql.SQL("SERVER"),
}


def collisions(source: Server, target: Server, needs: Needs) -> Iterator[Finding]:
    """What is in the way on the target; nothing where an earlier run of this plan has brought it."""
    here = target.rows(_OBJECTS, {"names": None})
    gone = needs.left_out(source)
    there = {_known(r) for r in source.rows(_OBJECTS, {"names": [r[2] for r in here]})}
    taken = sorted({_known(r) for r in here if _known(r) in there and (r[1], r[2]) not in gone})
    if not taken:
        yield COLLISIONS.passed("No name is taken on the target")
        return
    if _begun(target, needs):
        return
    statements = [_dropping(*one) for one in taken]
    names = [f"{kind.lower()} {f'{schema}.' if schema else ''}{name}" for kind, schema, name, _ in taken]
    yield COLLISIONS.failed(
        f"{counted(len(taken), 'name')} of the source's objects taken on the target: {some(names)}",
        run_on(Side.TARGET, statements, otherwise="Or give connections.target.dsn an empty database."),
    )


def _known(row: Row) -> tuple[str, str, str, str]:
    return row[0], row[1] or "", row[2], row[3]


def _begun(target: Server, needs: Needs) -> bool:
    if not target.value("SELECT to_regclass('planrunner.effect') IS NOT NULL"):
        return False
    return bool(
        target.value("SELECT EXISTS (SELECT FROM planrunner.effect WHERE plan_id = %s)", [needs.plan_id])
    )


def _dropping(kind: str, schema: str, name: str, arguments: str) -> sql.Composed:
    named = sql.Identifier(schema, name) if schema else sql.Identifier(name)
    # As the server writes them, its types quoted where they need it.
    types = sql.SQL(arguments)  # pyright: ignore[reportArgumentType]
    return sql.SQL("DROP {} {}{}").format(_WORDS[kind], named, types)
