"""A census of one database's catalogue, by one query: everything of the user's, with what two servers can compare.

Each thing has a definition whose words are the catalogue's own values, the same in every major version, and where
there is one a text as the server deparses it, which majors write differently.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Server

# Partitions' copies of constraints and triggers are numbered and named otherwise from major to major, their
# originals not. Not-null constraints have rows since 18, and partitions share their parent's identity since 17.
# to_jsonb: a column that an older server lacks is NULL.
_OURS = """
WITH ours AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
              AND nspname NOT IN ('information_schema', 'planrunner')),
ext AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
rel AS (SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS label FROM ours n
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relpersistence <> 't'
        WHERE c.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)),
fun AS (SELECT p.*, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS label
        FROM ours n JOIN pg_proc p ON p.pronamespace = n.oid
        WHERE p.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_proc'::regclass)),
typ AS (SELECT t.*, format('%I.%I', n.nspname, t.typname) AS label FROM ours n JOIN pg_type t ON t.typnamespace = n.oid
        LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
          AND t.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_type'::regclass)),
owned AS (
  SELECT format('%s %s', CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                WHEN 'f' THEN 'foreign table' ELSE 'table' END, label) AS label, label AS of,
         relowner AS owner, relacl AS acl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char" AS letter
  FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL SELECT format('function %s', label), '', proowner, proacl, 'f' FROM fun
  UNION ALL SELECT format('type %s', label), '', typowner, typacl, 'T' FROM typ
  UNION ALL SELECT format('schema %s', nspname), '', nspowner, nspacl, 'n' FROM ours),
"""
_KINDS = """
granted AS (
  SELECT label, of, owner, coalesce(acl, acldefault(letter, owner)) AS acl FROM owned
  UNION ALL SELECT format('column %s.%I', r.label, a.attname), r.label, r.relowner, a.attacl
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
  UNION ALL SELECT format('default privileges of %s%s for %s', pg_get_userbyid(d.defaclrole),
      coalesce((SELECT ' in schema ' || n.nspname FROM ours n WHERE n.oid = d.defaclnamespace), ''),
      CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions'
        WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE 'large objects' END), '', d.defaclrole, d.defaclacl
    FROM pg_default_acl d WHERE pg_get_userbyid(d.defaclrole) NOT LIKE 'rds%')
SELECT 'index' AS kind, format('%I.%I', n.nspname, c.relname), r.label,
       format('%s%s%s%s columns %s include %s', CASE WHEN i.indisprimary THEN 'primary ' END, CASE WHEN i.indisunique THEN
         'unique ' END, m.amname, CASE WHEN i.indpred IS NULL THEN '' ELSE ' partial' END, (SELECT string_agg(
         coalesce(a.attname::text, '(expression)'), ',' ORDER BY k.n)
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
         LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum), i.indnatts - i.indnkeyatts),
       pg_get_indexdef(i.indexrelid), i.indisvalid AND i.indisready AND i.indislive
FROM rel r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam
UNION ALL
SELECT 'constraint', format('%s.%I', r.label, k.conname), r.label, format('%s%s%s', k.contype,
         CASE WHEN k.condeferrable THEN ' deferrable' END, CASE WHEN k.condeferred THEN ' deferred' END),
       pg_get_constraintdef(k.oid), k.convalidated
FROM rel r JOIN pg_constraint k ON k.conrelid = r.oid WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND k.conparentid = 0
UNION ALL
SELECT 'constraint', format('%s.%I', t.label, k.conname), '', k.contype::text, pg_get_constraintdef(k.oid), k.convalidated
FROM typ t JOIN pg_constraint k ON k.contypid = t.oid WHERE k.contype = 'c'
UNION ALL
SELECT 'trigger', format('%s.%I', r.label, t.tgname), r.label, format('%s enabled %s calls %I.%I', t.tgtype, t.tgenabled,
         n.nspname, p.proname), pg_get_triggerdef(t.oid), true
FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND coalesce(to_jsonb(t) ->> 'tgparentid', '0') = '0'
  AND n.nspname <> 'planrunner'
UNION ALL
SELECT 'default', format('%s.%I', r.label, a.attname), r.label, format('%s%s', CASE WHEN r.relispartition THEN NULL
         WHEN a.attidentity = 'a' THEN 'identity always' WHEN a.attidentity = 'd' THEN 'identity by default' END,
         to_jsonb(a) ->> 'attgenerated'),
       coalesce(pg_get_expr(d.adbin, d.adrelid), ''), true
FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'p', 'f', 'v') AND (d.oid IS NOT NULL OR a.attidentity <> '' AND NOT r.relispartition)
UNION ALL
SELECT 'rule', format('%s.%I', r.label, u.rulename), r.label, format('%s %s enabled %s', u.ev_type, u.is_instead,
         u.ev_enabled), pg_get_ruledef(u.oid), true
FROM rel r JOIN pg_rewrite u ON u.ev_class = r.oid WHERE u.rulename <> '_RETURN'
UNION ALL
SELECT 'view', r.label, r.label, format('%s %s', r.relkind, (SELECT string_agg(format('%s %s', a.attname,
         format_type(a.atttypid, a.atttypmod)), ',' ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped)), pg_get_viewdef(r.oid), r.relispopulated
FROM rel r WHERE r.relkind IN ('v', 'm')
UNION ALL
SELECT 'function', p.label, '', md5(format('%s %s %s %s %s %s %s %s', p.prosrc, l.lanname, p.prokind, p.provolatile,
         p.prosecdef, p.proisstrict, pg_get_function_result(p.oid), p.proconfig)), '', true
FROM fun p JOIN pg_language l ON l.oid = p.prolang
UNION ALL
SELECT 'type', t.label, '', CASE t.typtype
         WHEN 'e' THEN (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
                   FROM pg_enum e WHERE e.enumtypid = t.oid)
         WHEN 'd' THEN format('%s%s', format_type(t.typbasetype, t.typtypmod),
                         CASE WHEN t.typnotnull THEN ' not null' END)
         WHEN 'r' THEN (SELECT format_type(g.rngsubtype, NULL) FROM pg_range g WHERE g.rngtypid = t.oid)
         ELSE (SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ',' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END, '', true
FROM typ t
UNION ALL
SELECT 'row security', r.label, r.label, format('%s %s', r.relrowsecurity, r.relforcerowsecurity), '', true
FROM rel r WHERE r.relrowsecurity
UNION ALL
SELECT 'row security', format('%s.%I', r.label, o.polname), r.label, format('%s %s', o.polcmd, o.polpermissive),
       format('%s %s', pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid)), true
FROM rel r JOIN pg_policy o ON o.polrelid = r.oid
UNION ALL
SELECT 'inheritance', format('%s from %s', r.label, m.label), r.label, pg_get_expr(r.relpartbound, r.oid), '', true
FROM pg_inherits h JOIN rel r ON r.oid = h.inhrelid JOIN rel m ON m.oid = h.inhparent WHERE r.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'owner', label, of, pg_get_userbyid(owner), '', true FROM owned
UNION ALL
SELECT 'grant', g.label, g.of, coalesce((SELECT jsonb_object_agg(x.who, x.what) FROM (
         SELECT CASE WHEN a.grantee = g.owner THEN '' WHEN a.grantee = 0 THEN 'PUBLIC'
                  ELSE pg_get_userbyid(a.grantee) END AS who,
           jsonb_agg(DISTINCT a.privilege_type || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS what
         FROM aclexplode(g.acl) a WHERE a.privilege_type <> 'MAINTAIN' GROUP BY 1) x), '{}')::text,
       pg_get_userbyid(g.owner), true
FROM granted g
UNION ALL
SELECT 'extension', extname, '', '', extversion, true FROM pg_extension
UNION ALL
SELECT 'provider', rolname, '', '', '', true FROM pg_roles WHERE rolname ~ '^rds'
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing: the table it belongs to (empty without one), what must be the same, what majors write differently.

    ``whole``: an index that is valid and ready, a constraint that is validated, a view that is filled.
    """

    table: str
    definition: str
    text: str
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Census:
    """Everything of the user's in one database, by kind and name; ``major`` is the server's version."""

    major: int
    kinds: Mapping[str, Mapping[str, Entry]]

    def of(self, kind: str) -> Mapping[str, Entry]:
        """The things of one kind."""
        return self.kinds.get(kind, {})


def read(server: Server) -> Census:
    """Take the census, by one query however many tables there are."""
    kinds: dict[str, dict[str, Entry]] = defaultdict(dict)
    for row in server.rows(_OURS.rstrip() + _KINDS):
        kinds[row[0]][row[1]] = Entry(table=row[2], definition=row[3] or "", text=row[4] or "", whole=row[5])
    return Census(major=server.version() // 10000, kinds=kinds)
