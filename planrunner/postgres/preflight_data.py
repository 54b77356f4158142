"""Preflight of the data itself: keys and sequences near their end, statistics, the age of rows, huge values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Fix, Side
from planrunner.postgres.catalog import qualified
from planrunner.postgres.preflight_remedy import run_on, texts
from planrunner.postgres.preflight_section import DATA, Check, counted, some
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_section import Needs

SEQUENCES = Check(
    code="PR0701",
    section=DATA,
    title="sequences near their end",
    why="The cutover moves each sequence on by some room for late callers, and what is left may be used up soon"
    " after. Then every insert fails.",
)
KEYS = Check(
    code="PR0702",
    section=DATA,
    title="smallint and integer keys near overflow",
    why="At 32,767 or 2,147,483,647 every insert fails. A wider key is made most easily before the copy; afterwards it"
    " means rewriting the table on the target.",
)
STATISTICS = Check(
    code="PR0703",
    section=DATA,
    title="tables without statistics",
    why="Estimates, progress and the order of the copy rest on the planner's figures; for these tables there are none.",
)
AGE = Check(
    code="PR0704",
    section=DATA,
    title="rows near wraparound",
    why="A vacuum against wraparound would begin in the middle of the copy, which holds the oldest snapshot back and"
    " so keeps it from succeeding; at 2 billion the source refuses writes.",
)
HUGE_VALUES = Check(
    code="PR0705",
    section=DATA,
    title="huge values",
    why="A value travels as text of at most 1 GB, and bytea takes two characters a byte: one of 512 MB can be copied"
    " but not followed, and stops the stream for good.",
)

NEAR_PERCENT = 80
_OLD_XIDS = 1_500_000_000
_BLIND_BYTES = 1 << 20
_HUGE_BYTES = 64 << 20
# Whoever reads a sequence keeps a lock on it to the end of the query: of the lock table no more than half is taken.
# The narrow ones come first, of those the ones with the most rows: what is left then is nowhere near its end.
_SEQUENCES = """
WITH mine AS (
  SELECT s.*, n.nspname, c.relname,
         has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT') AS readable
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid
                    AND e.deptype = 'e')),
feeding AS (
  SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS attnum FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    AND d.deptype IN ('a', 'i') AND d.objid IN (SELECT seqrelid FROM mine)
  UNION SELECT d.refobjid, f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
  WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid IN (SELECT seqrelid FROM mine)),
fed AS (
  SELECT DISTINCT ON (f.sequence) f.sequence, n.nspname AS table_schema, c.relname AS table_name, a.attname, c.reltuples,
         CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 END::bigint AS top
  FROM feeding f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.attnum ORDER BY f.sequence, top NULLS LAST),
chosen AS (
  SELECT * FROM mine LEFT JOIN fed ON fed.sequence = mine.seqrelid WHERE readable
  ORDER BY least(seqmax, top)::numeric - seqmin, reltuples DESC NULLS LAST
  LIMIT (SELECT current_setting('max_locks_per_transaction')::bigint
         * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint) / 2)),
stands AS (SELECT *, pg_sequence_last_value(seqrelid)::numeric AS last FROM chosen),
filled AS (
  SELECT *, CASE WHEN seqincrement > 0 THEN last - seqmin ELSE seqmax - last END * 100
            / nullif(seqmax::numeric - seqmin, 0) AS used,
         seqincrement > 0 AND top <= seqmax AS by_type, CASE WHEN seqincrement > 0 THEN last * 100 / top END AS type_used
  FROM stands)
SELECT f.nspname::text, f.relname::text, f.table_schema::text, f.table_name::text, f.attname::text,
       floor(CASE WHEN f.by_type THEN f.type_used ELSE f.used END)::int, coalesce(f.by_type, false), f.seqincrement,
       (SELECT count(*) FROM mine WHERE NOT readable),
       (SELECT count(*) FROM mine WHERE readable) - (SELECT count(*) FROM chosen), (SELECT count(*) FROM mine)
FROM (SELECT) one LEFT JOIN filled f
  ON CASE WHEN f.by_type THEN f.type_used >= %(near)s ELSE NOT f.seqcycle AND f.used >= %(near)s END
ORDER BY 1, 2
"""
# Unique columns that no sequence feeds are judged by the statistics' highest value.
_HIGHEST = """
SELECT s.schemaname::text, s.tablename::text, s.attname::text, t.top, v.highest
FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename AND c.relkind = 'r'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
CROSS JOIN LATERAL (
  SELECT CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647 END::bigint) t(top)
CROSS JOIN LATERAL (SELECT max(x) FROM unnest(CASE WHEN t.top IS NOT NULL
  THEN coalesce(s.histogram_bounds::text::bigint[], '{}')
       || coalesce(s.most_common_vals::text::bigint[], '{}') END) x) v(highest)
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
  AND v.highest * 100 >= t.top * %(near)s
  AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1
              AND i.indkey[0] = a.attnum)
ORDER BY 1, 2, 3
"""
# Before 14 a table that was never analysed has no pages to the planner.
_TABLES = """
SELECT n.nspname::text, c.relname::text,
       c.reltuples < 0 OR c.relpages = 0,
       CASE WHEN c.reltuples < 0 OR c.relpages = 0 THEN pg_relation_size(c.oid) ELSE 0 END,
       greatest(age(c.relfrozenxid), mxid_age(c.relminmxid), age(t.relfrozenxid), mxid_age(t.relminmxid)),
       CASE WHEN c.reltuples > 0 AND t.oid IS NOT NULL THEN pg_relation_size(t.oid) / c.reltuples ELSE 0 END::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""


def contents(source: Server, needs: Needs) -> Iterator[Finding]:
    """Sequences, keys, statistics, ages and sizes of what is carried."""
    gone = needs.left_out(source)
    rows = source.rows(_SEQUENCES, {"near": NEAR_PERCENT})
    near = [r for r in rows if r[0] is not None and (r[0], r[1]) not in gone]
    yield from _sequences([r for r in near if not r[6]], rows[0])
    highest = source.rows(_HIGHEST, {"near": NEAR_PERCENT})
    yield from _keys([r for r in near if r[6]], [r for r in highest if (r[0], r[1]) not in gone])
    tables = [r for r in source.rows(_TABLES) if (r[0], r[1]) not in gone]
    yield from _statistics([r for r in tables if r[2] and r[3] >= _BLIND_BYTES])
    yield from _ages([r for r in tables if r[4] is not None and r[4] >= _OLD_XIDS])
    yield from _huge([r for r in tables if r[5] >= _HUGE_BYTES])


def _sequences(near: Sequence[Row], counts: Row) -> Iterator[Finding]:
    unreadable, unread, total = counts[8:]
    if near:
        names = [f"{qualified(r[0], r[1])} ({r[5]} %)" for r in near]
        statements = [
            sql.SQL("ALTER SEQUENCE {} AS bigint {}").format(
                sql.Identifier(r[0], r[1]), sql.SQL("NO MAXVALUE" if r[7] > 0 else "NO MINVALUE")
            )
            for r in near
        ]
        yield SEQUENCES.warned(
            f"{counted(len(near), 'sequence')} near the end: {some(names)}", run_on(Side.SOURCE, statements)
        )
    if unreadable or unread:
        yield SEQUENCES.warned(
            f"{unreadable + unread} of {counted(total, 'sequence')} not looked at: {unreadable} that the login may not"
            f" read, {unread} for which the source's lock table has no room",
            "Let the grant step give SELECT on them, or raise max_locks_per_transaction on the source.",
        )
    elif not near:
        yield SEQUENCES.passed(f"None of {counted(total, 'sequence')} is near its end")


def _keys(fed: Sequence[Row], highest: Sequence[Row]) -> Iterator[Finding]:
    filled: dict[tuple[str, str, str], tuple[int, tuple[str, str] | None]]
    filled = {(r[2], r[3], r[4]): (r[5], (r[0], r[1])) for r in fed}
    for row in highest:
        filled.setdefault((row[0], row[1], row[2]), (row[4] * 100 // row[3], None))
    if not filled:
        yield KEYS.passed("No smallint or integer key is near its end")
        return
    names = [f"{qualified(s, t)}.{c} ({used} %)" for (s, t, c), (used, _) in filled.items()]
    statements: list[sql.Composed] = []
    for (schema, table, column), (_, sequence) in filled.items():
        statements.append(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE bigint").format(
                sql.Identifier(schema, table), sql.Identifier(column)
            )
        )
        if sequence is not None:
            statements.append(sql.SQL("ALTER SEQUENCE {} AS bigint").format(sql.Identifier(*sequence)))
    yield KEYS.warned(
        f"{counted(len(filled), 'key')} near the end of its type: {some(names)}",
        run_on(
            Side.SOURCE,
            statements,
            otherwise="It rewrites the table under a lock, and columns that refer to the key need the wider type, too.",
        ),
    )


def _statistics(rows: Sequence[Row]) -> Iterator[Finding]:
    if not rows:
        yield STATISTICS.passed("Every table of some size has statistics")
        return
    statements = [sql.SQL("ANALYZE {}").format(sql.Identifier(r[0], r[1])) for r in rows]
    yield STATISTICS.warned(
        f"{counted(len(rows), 'table')} never analysed: {some([qualified(r[0], r[1]) for r in rows])}",
        run_on(Side.SOURCE, statements),
        fix=Fix(where=Side.SOURCE, statements=texts(statements)),
    )


def _ages(rows: Sequence[Row]) -> Iterator[Finding]:
    if rows:
        names = [f"{qualified(r[0], r[1])} ({r[4]:,} transactions)" for r in rows]
        statements = [sql.SQL("VACUUM (FREEZE) {}").format(sql.Identifier(r[0], r[1])) for r in rows]
        yield AGE.warned(
            f"{counted(len(rows), 'table')} with rows near wraparound: {some(names)}",
            run_on(Side.SOURCE, statements, otherwise="Do it before the copy begins."),
        )


def _huge(rows: Sequence[Row]) -> Iterator[Finding]:
    if rows:
        names = [f"{qualified(r[0], r[1])} ({human_bytes(r[5])} a row)" for r in rows]
        yield HUGE_VALUES.warned(
            f"{counted(len(rows), 'table')} of huge values, on average: {some(names)}",
            "See that none comes near 512 MB (bytea) or 1 GB (text): SELECT max(octet_length(column)) FROM table; cut"
            " longer ones into several rows, or copy the table at the cutover.",
        )
