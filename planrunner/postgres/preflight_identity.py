"""Preflight of replica identities: by what a row is found again when it is updated or deleted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, assert_never

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres.preflight_remedy import columns, run_on
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs

_WHY = (
    "An update or delete is sent as the old row's identity. Once such a table is published, the server refuses the"
    " application's own updates and deletes of it."
)
NO_IDENTITY = Check(code="PR0602", section=SCHEMA, title="tables without replica identity", why=_WHY)
NOTHING = Check(code="PR0603", section=SCHEMA, title="replica identity is NOTHING", why=_WHY)
INDEX_GONE = Check(
    code="PR0604", section=SCHEMA, title="the index of the replica identity is gone or invalid", why=_WHY
)
DEFERRABLE = Check(code="PR0605", section=SCHEMA, title="the primary key is deferrable", why=_WHY)
UNSEARCHABLE = Check(
    code="PR0606",
    section=SCHEMA,
    title="rows that the target can't find by FULL",
    why="With FULL and no primary key the target compares whole rows; of a type without equality (json, xml, point)"
    " it can't compare values, and the apply worker stops at the first update or delete.",
    never_ignored="the apply worker would stop",
)
GENERATED = Check(
    code="PR0607",
    section=SCHEMA,
    title="generated columns in the replica identity",
    why="Generated columns are not sent. Up to PostgreSQL 17 the apply worker then stops at the first change; since"
    " 18 the source refuses the application's own updates and deletes once the table is published.",
)
# What could identify rows, by the table's oid: see what the server takes for USING INDEX.
_REPLACEMENTS = """
SELECT i.indrelid::bigint,
       min(c.relname::text) FILTER (WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
         AND i.indexprs IS NULL AND NOT EXISTS (
           SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k(attnum)
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
           WHERE NOT a.attnotnull OR a.attgenerated <> '')),
       bool_or(i.indisprimary AND i.indimmediate AND i.indisvalid),
       min(k.conname::text)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype = 'p'
WHERE i.indrelid = ANY (%s::bigint[]) GROUP BY 1
"""
# Types whose values can't be compared: base types without a default operator class of btree or hash, and whatever
# is made of them. Of the user's columns only, so that the walk is as short as there are types in use.
_UNSEARCHABLE = """
WITH RECURSIVE uses(root, typid) AS (
  SELECT DISTINCT a.atttypid, a.atttypid FROM pg_attribute a
  WHERE a.attrelid = ANY (%s::bigint[]) AND a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT u.root, p.typid FROM uses u JOIN pg_type t ON t.oid = u.typid
  CROSS JOIN LATERAL (SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
    UNION ALL SELECT a.atttypid FROM pg_attribute a
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) p(typid)),
incomparable AS (
  SELECT DISTINCT u.root FROM uses u JOIN pg_type t ON t.oid = u.typid
  WHERE t.typtype = 'b' AND t.typcategory <> 'A' AND NOT EXISTS (
    SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname IN ('btree', 'hash')
    WHERE o.opcdefault AND (o.opcintype = t.oid OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = t.oid
      AND k.casttarget = o.opcintype AND k.castmethod = 'b' AND k.castcontext = 'i'))))
SELECT a.attrelid::bigint,
       array_agg(format('%%s %%s', a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum),
       array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.atttypid = 'json'::regtype)
FROM pg_attribute a JOIN incomparable i ON i.root = a.atttypid
WHERE a.attrelid = ANY (%s::bigint[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' GROUP BY 1
"""
_GENERATED = """
SELECT a.attrelid::bigint, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attrelid = ANY (%s::bigint[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
  AND CASE WHEN c.relreplident = 'f' OR c.oid = ANY (%s::bigint[]) THEN %s ELSE EXISTS (
    SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
    AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary AND c.relreplident = 'd' END) END
GROUP BY 1
"""


class _Cause(Enum):
    NONE = "none"
    NOTHING = "nothing"
    INDEX_GONE = "index_gone"
    DEFERRABLE = "deferrable"


_CHECKS = {
    _Cause.NONE: (NO_IDENTITY, "without replica identity"),
    _Cause.NOTHING: (NOTHING, "without replica identity: NOTHING was chosen for them"),
    _Cause.INDEX_GONE: (INDEX_GONE, "without replica identity: the index it was is gone or invalid"),
    _Cause.DEFERRABLE: (DEFERRABLE, "without replica identity: a deferrable primary key is none"),
}


@dataclass(frozen=True, kw_only=True)
class _Replacement:
    """What a table has that could be its identity: a unique index, a primary key, that one's constraint."""

    index: str | None = None
    primary: bool = False
    constraint: str | None = None


def identities(source: Server, stored: Sequence[Table], needs: Needs) -> Iterator[Finding]:
    """Tables whose updates and deletes can't be followed, ``stored`` being those that hold rows of their own."""
    bare = [t for t in stored if not t.identifiable and not t.unlogged]
    able = _replacements(source, bare)
    for cause in _Cause:
        yield from _bare(cause, [t for t in bare if _cause(t) is cause], able, needs)
    if not bare:
        yield NO_IDENTITY.passed("Every table has a replica identity")
    yield from _unsearchable(source, [t for t in stored if _whole_row(t, able, needs)])
    # Those that the plan chooses FULL for are not FULL yet.
    coming = [t for t in bare if needs.identity(t) == "full"]
    yield from _generated(
        source, [*(t for t in stored if t.identifiable and not t.unlogged), *coming], coming
    )


def _cause(table: Table) -> _Cause:
    if table.replica_identity == "n":
        return _Cause.NOTHING
    if table.replica_identity == "i":
        return _Cause.INDEX_GONE
    return _Cause.DEFERRABLE if table.key else _Cause.NONE


def _replacements(source: Server, bare: Sequence[Table]) -> Mapping[int, _Replacement]:
    rows = source.rows(_REPLACEMENTS, [[t.oid for t in bare]])
    return {r[0]: _Replacement(index=r[1], primary=r[2], constraint=r[3]) for r in rows}


def _bare(
    cause: _Cause, bare: Sequence[Table], able: Mapping[int, _Replacement], needs: Needs
) -> Iterator[Finding]:
    check, words = _CHECKS[cause]
    refused = [t for t in bare if needs.identity(t) == "refuse"]
    chosen = [f"{t.qualified} ({needs.identity(t)})" for t in bare if needs.identity(t) != "refuse"]
    if chosen:
        yield check.warned(
            f"{counted(len(chosen), 'table')} without replica identity, as the plan chooses: {some(chosen)}",
            "With full, updates and deletes are slow to apply; a primary key is better.",
        )
    if refused:
        statements = [_mending(cause, t, able.get(t.oid, _Replacement())) for t in refused]
        yield check.failed(
            f"{counted(len(refused), 'table')} {words}: {some([t.qualified for t in refused])}; updates and deletes"
            " can't be followed",
            run_on(Side.SOURCE, statements, otherwise=_OTHER_WAYS),
        )


_OTHER_WAYS = (
    "Or add a primary key, or choose for them under without_replica_identity in the snapshot step: full, index"
    " (a unique index of NOT NULL columns), insert_only or copy_at_cutover."
)


def _mending(cause: _Cause, table: Table, found: _Replacement) -> sql.Composed:
    """The lightest statement that gives the table an identity."""
    name = sql.Identifier(table.schema, table.name)
    if found.primary and cause is not _Cause.NONE:
        return sql.SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(name)
    if found.index is not None:
        return sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}").format(
            name, sql.Identifier(found.index)
        )
    match cause:
        case _Cause.DEFERRABLE:
            constraint = sql.Identifier(found.constraint or "")
            return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}, ADD CONSTRAINT {} PRIMARY KEY ({})").format(
                name, constraint, constraint, columns(table.key)
            )
        case _Cause.NONE | _Cause.NOTHING | _Cause.INDEX_GONE:
            return sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(name)
        case _:
            assert_never(cause)


def _whole_row(table: Table, able: Mapping[int, _Replacement], needs: Needs) -> bool:
    """True when the target has to find rows by all their columns."""
    if table.unlogged or able.get(table.oid, _Replacement()).primary:
        return False
    if table.identifiable:
        return table.replica_identity == "f" and not table.key
    return needs.identity(table) == "full"


def _unsearchable(source: Server, whole: Sequence[Table]) -> Iterator[Finding]:
    oids = [t.oid for t in whole]
    found = {row[0]: row for row in source.rows(_UNSEARCHABLE, [oids, oids])}
    affected = [t for t in whole if t.oid in found]
    if not affected:
        return
    named = [f"{t.qualified} ({', '.join(found[t.oid][1])})" for t in affected]
    statements = [_comparable(t, found[t.oid][2]) for t in affected if found[t.oid][2]]
    other = (
        "Give them a primary key or a unique index of NOT NULL columns as identity, or choose insert_only or"
        " copy_at_cutover for them."
    )
    yield UNSEARCHABLE.failed(
        f"{counted(len(affected), 'table')} with replica identity FULL and columns that can't be compared:"
        f" {some(named)}",
        run_on(Side.SOURCE, statements, otherwise=f"Or: {other[0].lower()}{other[1:]}")
        if statements
        else other,
    )


def _comparable(table: Table, names: Sequence[str]) -> sql.Composed:
    """Makes its json columns jsonb, which can be compared."""
    parts = [
        sql.SQL("ALTER COLUMN {} TYPE jsonb USING {}::jsonb").format(sql.Identifier(n), sql.Identifier(n))
        for n in names
    ]
    name = sql.Identifier(table.schema, table.name)
    return sql.SQL("ALTER TABLE {} {}").format(name, sql.SQL(", ").join(parts))


def _generated(source: Server, tables: Sequence[Table], coming: Sequence[Table]) -> Iterator[Finding]:
    oids = [t.oid for t in tables if len(t.stored) < len(t.columns)]
    whole = [t.oid for t in coming]
    found = {row[0]: row[1] for row in source.rows(_GENERATED, [oids, whole, source.version() >= 180000])}
    affected = [t for t in tables if t.oid in found]
    if not affected:
        return
    able = _replacements(source, affected)
    statements = [_without_generated(t, able.get(t.oid, _Replacement())) for t in affected]
    known = [statement for statement in statements if statement is not None]
    other = (
        "Give them a primary key, or a unique index, of NOT NULL columns that are not generated, or leave them out"
        " (filters.exclude)."
    )
    named = [f"{t.qualified} ({', '.join(found[t.oid])})" for t in affected]
    yield GENERATED.failed(
        f"{counted(len(affected), 'table')} with generated columns in the replica identity: {some(named)}",
        run_on(Side.SOURCE, known, otherwise=f"Or: {other[0].lower()}{other[1:]}") if known else other,
    )


def _without_generated(table: Table, found: _Replacement) -> sql.Composed | None:
    name = sql.Identifier(table.schema, table.name)
    if table.replica_identity == "f" and found.primary:
        return sql.SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(name)
    if found.index is None:
        return None
    return sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}").format(name, sql.Identifier(found.index))
