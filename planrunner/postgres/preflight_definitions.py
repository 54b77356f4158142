"""Preflight of how the source's tables are defined: what would not arrive as it is, or act twice on the target."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres.catalog import qualified
from planrunner.postgres.preflight_remedy import run_on
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs

INVALID_INDEXES = Check(
    code="PR0616",
    section=SCHEMA,
    title="invalid indexes",
    why="pg_dump leaves them out: the target would lack the index, and the uniqueness it was meant to bring.",
)
NOT_VALID = Check(
    code="PR0617",
    section=SCHEMA,
    title="constraints that were never validated",
    why="They stay NOT VALID on the target, and rows that break them come along; writing such a row again (a repair,"
    " the way back) fails.",
)
FIRING = Check(
    code="PR0618",
    section=SCHEMA,
    title="triggers that fire for replicated rows",
    why="ENABLE ALWAYS and ENABLE REPLICA triggers also fire when the target applies a change. What they write comes"
    " from the source as well: twice, or as a conflict that stops apply.",
)
SEARCH_PATH = Check(
    code="PR0619",
    section=SCHEMA,
    title="functions that rely on search_path",
    why="A schema is restored with an empty search_path. A function that an index, constraint or generated column calls"
    " then does not find what it names without a schema, and the index or the rows fail.",
)
CATALOGUE_NUMBERS = Check(
    code="PR0620",
    section=SCHEMA,
    title="columns that hold names or numbers of the source's catalogue",
    why="An oid or xid means another thing, or nothing, on the target. A regclass and its like travel as names, and"
    " fail where the target lacks the object of that name.",
)

# A partitioned index is invalid while a partition lacks its own: that is told by the parent's name alone.
_INVALID_INDEXES = """
SELECT n.nspname::text, t.relname::text, c.relname::text, i.indisready, i.indisunique, c.relkind = 'I'
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready) AND t.relpersistence <> 't' AND t.relkind <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2, 3
"""
# to_jsonb: NOT ENFORCED came with 18.
_NOT_VALID = """
SELECT n.nspname::text, coalesce(c.relname, t.typname)::text, k.conname::text, k.contypid <> 0
FROM pg_constraint k LEFT JOIN pg_class c ON c.oid = k.conrelid LEFT JOIN pg_type t ON t.oid = k.contypid
JOIN pg_namespace n ON n.oid = coalesce(c.relnamespace, t.typnamespace)
WHERE NOT k.convalidated AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true' AND k.conparentid = 0
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2, 3
"""
_FIRING = """
SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND t.tgparentid = 0 AND NOT starts_with(t.tgname, 'planrunner')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2, 3
"""
_REFERENCES = """
SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, NULL),
       a.atttypid = ANY (ARRAY['oid', 'xid', 'cid', 'tid', 'xid8']::regtype[])
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relpersistence <> 't' AND a.attgenerated = ''
  AND a.atttypid = ANY (ARRAY['oid', 'xid', 'cid', 'tid', 'xid8', 'regclass', 'regproc', 'regprocedure', 'regoper',
    'regoperator', 'regtype', 'regrole', 'regnamespace', 'regconfig', 'regdictionary', 'regcollation']::regtype[])
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY 1, 2, a.attnum
"""
# Functions of the user's that an index, a constraint, a default or a generated column calls.
_CALLED = """
SELECT DISTINCT p.oid::bigint, n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid), p.prosrc::text
FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('sql', 'plpgsql')
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
LEFT JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
WHERE d.refclassid = 'pg_proc'::regclass
  AND (d.classid IN ('pg_class'::regclass, 'pg_constraint'::regclass) OR a.attgenerated <> '')
  AND to_jsonb(p) ->> 'prosqlbody' IS NULL
  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) setting WHERE starts_with(setting, 'search_path='))
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
ORDER BY 2, 3
"""
# Of all words in their bodies: those that name something outside pg_catalog and nothing inside it.
_NAMES = """
WITH words AS (SELECT unnest(%s::text[]) AS word),
found AS (
  SELECT proname AS name, pronamespace AS namespace FROM pg_proc WHERE proname IN (SELECT word::name FROM words)
  UNION ALL SELECT relname, relnamespace FROM pg_class WHERE relname IN (SELECT word::name FROM words)
    AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT typname, typnamespace FROM pg_type WHERE typname IN (SELECT word::name FROM words)
    AND typtype IN ('d', 'e', 'b'))
SELECT f.name::text, min(n.nspname)::text FROM found f JOIN pg_namespace n ON n.oid = f.namespace
GROUP BY 1 HAVING bool_and(n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema')
"""
# A comment or a quoted text names nothing; a word behind a dot has its schema, one before a dot is a schema.
_NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_WORD = re.compile(r"(?<![\w.$])[a-z_]\w*(?!\s*\.)(?!\w)", re.IGNORECASE)


def definitions(source: Server, needs: Needs) -> Iterator[Finding]:
    """Indexes, constraints, triggers, functions and column types that behave otherwise on the target."""
    gone = needs.left_out(source)
    yield from _invalid_indexes(_kept(source.rows(_INVALID_INDEXES), gone))
    yield from _not_valid(_kept(source.rows(_NOT_VALID), gone))
    yield from _firing(_kept(source.rows(_FIRING), gone))
    yield from _references(_kept(source.rows(_REFERENCES), gone))
    yield from _search_path(source)


def _kept(rows: Sequence[Row], gone: Collection[tuple[str, str]]) -> list[Row]:
    return [row for row in rows if (row[0], row[1]) not in gone]


def _invalid_indexes(rows: Sequence[Row]) -> Iterator[Finding]:
    if not rows:
        yield INVALID_INDEXES.passed("Every index is valid")
        return
    names = [f"{qualified(row[0], row[2])}{' (unique)' if row[4] else ''}" for row in rows]
    rebuilt = [row for row in rows if not row[5]]
    statements = [
        sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier(row[0], row[2])) for row in rebuilt
    ]
    dropped = "DROP INDEX CONCURRENTLY instead where nobody needs it."
    whole = (
        "Create the index on the partitions that lack it, and attach it: ALTER INDEX … ATTACH PARTITION …."
    )
    yield INVALID_INDEXES.warned(
        f"{counted(len(rows), 'index') if len(rows) == 1 else f'{len(rows)} indexes'} invalid or never finished,"
        f" which the target would lack: {some(names)}",
        run_on(Side.SOURCE, statements, otherwise=dropped) if statements else whole,
    )


def _not_valid(rows: Sequence[Row]) -> Iterator[Finding]:
    if not rows:
        return
    names = [f"{qualified(row[0], row[1])}: {row[2]}" for row in rows]
    statements = [_validating(row) for row in rows]
    yield NOT_VALID.warned(
        f"{counted(len(rows), 'constraint')} NOT VALID, which may not hold for every row: {some(names)}",
        run_on(
            Side.SOURCE,
            statements,
            otherwise="It reads the whole table, lets writers in, and names the first row that breaks the constraint.",
        ),
    )


def _validating(row: Row) -> sql.Composed:
    kind = sql.SQL("DOMAIN" if row[3] else "TABLE")
    return sql.SQL("ALTER {} {} VALIDATE CONSTRAINT {}").format(
        kind, sql.Identifier(row[0], row[1]), sql.Identifier(row[2])
    )


def _firing(rows: Sequence[Row]) -> Iterator[Finding]:
    if not rows:
        return
    words = {"A": "ALWAYS", "R": "REPLICA"}
    names = [f"{row[2]} on {qualified(row[0], row[1])} ({words[row[3]]})" for row in rows]
    statements = [
        sql.SQL("ALTER TABLE {} ENABLE TRIGGER {}").format(
            sql.Identifier(row[0], row[1]), sql.Identifier(row[2])
        )
        for row in rows
    ]
    yield FIRING.warned(
        f"{counted(len(rows), 'trigger')} that would fire on the target for every row that is applied: {some(names)}",
        run_on(
            Side.SOURCE,
            statements,
            otherwise="A REPLICA trigger then fires for the application's own writes instead: DISABLE it where that is"
            " wrong.",
        ),
    )


def _references(rows: Sequence[Row]) -> Iterator[Finding]:
    numbers = [f"{qualified(row[0], row[1])}.{row[2]} ({row[3]})" for row in rows if row[4]]
    names = [f"{qualified(row[0], row[1])}.{row[2]} ({row[3]})" for row in rows if not row[4]]
    if numbers:
        yield CATALOGUE_NUMBERS.warned(
            f"{counted(len(numbers), 'column')} of numbers that mean something on the source alone: {some(numbers)}",
            "Nothing is to be done where they name large objects, which keep their numbers (large_objects: copy), or"
            " are plain numbers; else store names, or fill them anew after the cutover.",
        )
    if names:
        yield CATALOGUE_NUMBERS.warned(
            f"{counted(len(names), 'column')} of names that must be known on the target: {some(names)}",
            "Carry what they name (filters), or make them text on the source.",
        )


def _search_path(source: Server) -> Iterator[Finding]:
    called = source.rows(_CALLED)
    bodies = {row[0]: _words(row[4]) for row in called}
    every = sorted({word for words in bodies.values() for word in words})
    known = {row[0]: row[1] for row in source.rows(_NAMES, [every])}
    relying = [(row, sorted(bodies[row[0]] & known.keys())) for row in called]
    relying = [(row, names) for row, names in relying if names]
    if not relying:
        return
    statements = [_pinning(row, [known[name] for name in names]) for row, names in relying]
    shown = [f"{qualified(row[1], row[2])} ({', '.join(names)})" for row, names in relying]
    yield SEARCH_PATH.warned(
        f"{counted(len(relying), 'function')} of indexes, constraints or generated columns with names that have no"
        f" schema: {some(shown)}",
        run_on(Side.SOURCE, statements, otherwise="Or write the names with their schemas."),
    )


def _words(body: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(_NOISE.sub(" ", body)))


def _pinning(row: Row, schemas: Sequence[str]) -> sql.Composed:
    path = dict.fromkeys([*schemas, "pg_temp"])
    arguments = sql.SQL(row[3])  # pyright: ignore[reportArgumentType]
    return sql.SQL("ALTER FUNCTION {}({}) SET search_path = {}").format(
        sql.Identifier(row[1], row[2]), arguments, sql.SQL(", ").join(map(sql.Identifier, path))
    )
