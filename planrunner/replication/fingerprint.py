"""What both catalogues must agree on: columns, indexes, constraints, triggers, views, functions, sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Server
    from planrunner.replication.relations import Omitted

# Not-null constraints have rows of their own since PostgreSQL 18; the column line tells them already.
_CATALOGUE = """
WITH ours AS (SELECT oid, nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
              AND nspname NOT IN ('information_schema', 'planrunner')),
     ext AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
SELECT format('%I.%I', n.nspname, c.relname),
       format('column %I.%I.%I %s%s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
              CASE WHEN a.attnotnull THEN ' not null' ELSE '' END)
FROM ours n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)
UNION ALL
SELECT (SELECT format('%I.%I', m.nspname, t.relname) FROM pg_class t
        JOIN pg_namespace m ON m.oid = t.relnamespace WHERE t.oid = i.indrelid),
       format('index %I.%I%s%s', n.nspname, c.relname, CASE WHEN i.indisunique THEN ' unique' ELSE '' END,
              CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END)
FROM ours n JOIN pg_class c ON c.relnamespace = n.oid JOIN pg_index i ON i.indexrelid = c.oid
WHERE i.indrelid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)
UNION ALL
SELECT format('%I.%I', n.nspname, coalesce(c.relname, '')),
       format('constraint %I.%I %I%s', n.nspname, coalesce(c.relname, ''), k.conname,
              CASE WHEN k.convalidated THEN '' ELSE ' not valid' END)
FROM ours n JOIN pg_constraint k ON k.connamespace = n.oid LEFT JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype NOT IN ('n', 't') AND k.conrelid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)
UNION ALL
SELECT format('%I.%I', n.nspname, c.relname), format('trigger %I.%I %I', n.nspname, c.relname, t.tgname)
FROM ours n JOIN pg_class c ON c.relnamespace = n.oid JOIN pg_trigger t ON t.tgrelid = c.oid
WHERE NOT t.tgisinternal AND NOT EXISTS (SELECT FROM pg_proc f
      WHERE f.oid = t.tgfoid AND f.pronamespace = to_regnamespace('planrunner'))
UNION ALL
SELECT '', format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END, n.nspname, c.relname)
FROM ours n JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
WHERE c.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)
UNION ALL
SELECT '', format('function %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
FROM ours n JOIN pg_proc p ON p.pronamespace = n.oid
WHERE p.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_proc'::regclass)
"""

# Which rows of the catalogue define what belongs to a table, not what they say: cheap enough for the pause.
_VERSIONS = """
WITH ours AS (
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm') AND c.relpersistence = 'p' AND n.nspname NOT LIKE 'pg\\_%'
    AND n.nspname NOT IN ('information_schema', 'planrunner'))
SELECT format('%s %s', count(*), sum(hashtextextended(line, 0)::numeric)) FROM (
  SELECT 'k' || k.oid || ' ' || k.xmin FROM pg_constraint k JOIN ours ON ours.oid = k.conrelid
  UNION ALL
  SELECT 'i' || i.indexrelid || ' ' || i.xmin FROM pg_index i JOIN ours ON ours.oid = i.indrelid
  UNION ALL
  SELECT 'd' || d.oid || ' ' || d.xmin FROM pg_attrdef d JOIN ours ON ours.oid = d.adrelid
  UNION ALL
  SELECT 'o' || o.oid || ' ' || o.xmin FROM pg_policy o JOIN ours ON ours.oid = o.polrelid
  UNION ALL
  SELECT 'r' || r.oid || ' ' || r.xmin FROM pg_rewrite r JOIN ours ON ours.oid = r.ev_class
  UNION ALL
  SELECT 't' || t.oid || ' ' || t.xmin FROM pg_trigger t JOIN ours ON ours.oid = t.tgrelid
  WHERE NOT t.tgisinternal AND NOT EXISTS (SELECT FROM pg_proc f
    WHERE f.oid = t.tgfoid AND f.pronamespace = to_regnamespace('planrunner'))) all_of_it(line)
"""


def versions(server: Server) -> str:
    """One number that changes with any constraint, index, default, policy, rule, view or trigger of the user's."""
    return str(server.value(_VERSIONS))


def catalogue(server: Server) -> Mapping[str, str]:
    """One line for each thing of the user's in the catalogue, with the table it belongs to, if any."""
    return {str(row[1]): str(row[0]) for row in server.rows(_CATALOGUE)}


def differences(source: Server, target: Server, omitted: Omitted | None = None) -> tuple[str, ...]:
    """What the target lacks of the source's catalogue, and what it has more on the source's own tables.

    What the plan leaves out (``omitted``) is no difference.

    Other things that only the target has (a provider's helpers, an unrelated schema) are no difference.
    """
    ours, theirs = catalogue(source), catalogue(target)
    if omitted is not None:
        ours = {line: table for line, table in ours.items() if not _left_out(line, table, omitted)}
    tables = set(ours.values()) - {""}
    return tuple(
        [f"{line}: only on the source" for line in sorted(ours.keys() - theirs.keys())]
        + [
            f"{line}: only on the target"
            for line in sorted(theirs.keys() - ours.keys())
            if theirs[line] in tables
        ]
    )


def _left_out(line: str, table: str, omitted: Omitted) -> bool:
    gone = omitted.quoted
    if table in gone or line.removeprefix("relation ").removeprefix("sequence ") in gone:
        return True
    # A foreign key that is not validated on the source has a word more.
    plain = line.removesuffix(" not valid")
    return any(plain == f"constraint {key.table} {key.name}" for key in omitted.foreign_keys)
