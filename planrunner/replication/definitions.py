"""How things in both catalogues are defined, beyond their names: what ``fingerprint`` finds there is compared here.

Definitions are the server's own text under one search_path. Since PostgreSQL 16 views and the bodies of
functions are written with fewer qualifications; between an older source and such a target they are compared
without any.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.postgres.connection import Server
    from planrunner.replication.relations import Omitted

_FEWER_QUALIFICATIONS = 160000
_FUNCTION_BODIES = 140000
_QUALIFIER = re.compile(r'(?:"(?:[^"]|"")+"|\w+)\.')
# These are a part of something, so that nobody else tells when the target lacks one.
_PARTS = frozenset({"policy", "default", "rule", "comment", "inheritance"})
_OWNERS, _GRANTS = "owner", "grants"

# Of the thousands of comments on the server's own objects, whose OIDs are below 16384, none is looked up.
# One row each: kind, what it is, the table it belongs to, its definition.
_HEAD: LiteralString = """
WITH ours AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
              AND nspname NOT IN ('information_schema', 'planrunner')),
     ext AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
     rel AS (SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c
             JOIN ours n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
             AND c.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_class'::regclass)),
     fun AS (SELECT p.*, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name
             FROM pg_proc p JOIN ours n ON n.oid = p.pronamespace
             WHERE p.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_proc'::regclass)),
     typ AS (SELECT t.*, format('%I.%I', n.nspname, t.typname) AS name FROM pg_type t
             JOIN ours n ON n.oid = t.typnamespace
             WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c'
                    AND (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')
             AND t.oid NOT IN (SELECT objid FROM ext WHERE classid = 'pg_type'::regclass))
"""
_RELATIONS: LiteralString = """
SELECT 'index', format('%I.%I', rel.nspname, x.relname), rel.name,
       pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisclustered THEN ' clustered' ELSE '' END
FROM rel JOIN pg_index i ON i.indrelid = rel.oid JOIN pg_class x ON x.oid = i.indexrelid
UNION ALL
SELECT 'constraint', format('%I on %s', k.conname, coalesce(rel.name, typ.name)), coalesce(rel.name, ''),
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')
FROM pg_constraint k LEFT JOIN rel ON rel.oid = k.conrelid LEFT JOIN typ ON typ.oid = k.contypid
WHERE k.contype NOT IN ('n', 't') AND (rel.oid IS NOT NULL OR typ.oid IS NOT NULL)
UNION ALL
SELECT 'trigger', format('%I on %s', t.tgname, rel.name), rel.name,
       pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' (disabled)'
                                   WHEN 'A' THEN ' (always)' ELSE ' (replica)' END
FROM rel JOIN pg_trigger t ON t.tgrelid = rel.oid WHERE NOT t.tgisinternal AND NOT EXISTS (SELECT FROM pg_proc f
      WHERE f.oid = t.tgfoid AND f.pronamespace = to_regnamespace('planrunner'))
UNION ALL
SELECT 'default', format('%I of %s', a.attname, rel.name), rel.name, concat_ws(' ',
       CASE a.attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity by default' END,
       CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END, pg_get_expr(d.adbin, d.adrelid))
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE rel.relkind IN ('r', 'p', 'f', 'v') AND (d.oid IS NOT NULL OR a.attidentity <> '')
UNION ALL
SELECT 'collation', format('%I of %s', a.attname, rel.name), rel.name, format('%I.%I', m.nspname, l.collname)
FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_collation l ON l.oid = a.attcollation JOIN pg_namespace m ON m.oid = l.collnamespace
WHERE rel.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT 'view', rel.name, rel.name, pg_get_viewdef(rel.oid) FROM rel WHERE rel.relkind IN ('v', 'm')
UNION ALL
SELECT 'rule', format('%I on %s', r.rulename, rel.name), rel.name, pg_get_ruledef(r.oid) || ' ' || r.ev_enabled::text
FROM rel JOIN pg_rewrite r ON r.ev_class = rel.oid WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', format('%I on %s', o.polname, rel.name), rel.name, format('%s %s to %s using %s check %s', o.polcmd,
       o.polpermissive, ARRAY(SELECT CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END
                              FROM unnest(o.polroles) r ORDER BY 1),
       pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
FROM rel JOIN pg_policy o ON o.polrelid = rel.oid
UNION ALL
SELECT 'inheritance', format('%s from %s', rel.name, h.inhparent::regclass), rel.name,
       coalesce(pg_get_expr(rel.relpartbound, rel.oid), '')
FROM rel JOIN pg_inherits h ON h.inhrelid = rel.oid
UNION ALL
SELECT 'table', rel.name, rel.name, concat_ws(' ', rel.relpersistence,
       CASE WHEN rel.relrowsecurity THEN 'row security' END,
       CASE WHEN rel.relforcerowsecurity THEN 'forced' END, rel.reloptions::text,
       CASE rel.relkind WHEN 'p' THEN pg_get_partkeydef(rel.oid) END)
FROM rel WHERE rel.relkind <> 'S'
UNION ALL
SELECT 'sequence', rel.name, '', concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
       s.seqcache, CASE WHEN s.seqcycle THEN 'cycle' END)
FROM rel JOIN pg_sequence s ON s.seqrelid = rel.oid
"""
_OTHERS: LiteralString = """
UNION ALL
SELECT 'function', fun.name, '', concat_ws(' ', l.lanname, fun.prokind, fun.provolatile, fun.proparallel,
       CASE WHEN fun.proisstrict THEN 'strict' END, CASE WHEN fun.prosecdef THEN 'security definer' END,
       CASE WHEN fun.proleakproof THEN 'leakproof' END, fun.procost, fun.prorows, fun.proconfig::text,
       pg_get_function_arguments(fun.oid), pg_get_function_result(fun.oid), fun.probin, fun.prosrc)
FROM fun JOIN pg_language l ON l.oid = fun.prolang WHERE fun.prokind <> 'a'
UNION ALL
SELECT 'aggregate', fun.name, '', concat_ws(' ', g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggtranstype::regtype,
       g.agginitval)
FROM fun JOIN pg_aggregate g ON g.aggfnoid = fun.oid
UNION ALL
SELECT 'enum', typ.name, '', ARRAY(SELECT e.enumlabel::text FROM pg_enum e
       WHERE e.enumtypid = typ.oid ORDER BY e.enumsortorder)::text
FROM typ WHERE typ.typtype = 'e'
UNION ALL
SELECT 'domain', typ.name, '', concat_ws(' ', format_type(typ.typbasetype, typ.typtypmod),
       CASE WHEN typ.typnotnull THEN 'not null' END, typ.typdefault)
FROM typ WHERE typ.typtype = 'd'
UNION ALL
SELECT 'type', typ.name, '', ARRAY(SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod))
       FROM pg_attribute a
       WHERE a.attrelid = typ.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)::text
FROM typ WHERE typ.typtype = 'c'
UNION ALL
SELECT 'comment', concat_ws(' ', i.type, i.identity), '', d.description
FROM (SELECT * FROM pg_description WHERE objoid >= 16384 OR classoid = 'pg_namespace'::regclass) d
CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
WHERE (d.classoid, d.objoid) NOT IN (SELECT classid, objid FROM ext)
  AND (i.schema IN (SELECT quote_ident(nspname) FROM ours)
  OR d.classoid = 'pg_namespace'::regclass AND d.objoid IN (SELECT oid FROM ours)
  OR d.classoid IN ('pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_rewrite'::regclass)
     AND i.identity ~ ' on ' AND i.identity !~ ' on (pg_catalog|information_schema|planrunner)\\.')
UNION ALL
SELECT 'owner', format('relation %s', rel.name), rel.name, pg_get_userbyid(rel.relowner) FROM rel
UNION ALL
SELECT 'owner', format('function %s', fun.name), '', pg_get_userbyid(fun.proowner) FROM fun
UNION ALL
SELECT 'owner', format('type %s', typ.name), '', pg_get_userbyid(typ.typowner) FROM typ
UNION ALL
SELECT 'grants', a.name, a.belongs, ARRAY(SELECT concat_ws(' ', CASE x.grantee WHEN 0 THEN 'public'
         ELSE pg_get_userbyid(x.grantee)::text END, x.privilege_type, CASE WHEN x.is_grantable THEN 'grantable' END)
       FROM aclexplode(a.acl) x WHERE x.privilege_type <> 'MAINTAIN' ORDER BY 1)::text
FROM (SELECT format('relation %s', rel.name) AS name, rel.name AS belongs, coalesce(rel.relacl,
        acldefault(CASE rel.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", rel.relowner)) AS acl FROM rel
      UNION ALL SELECT format('column %I of %s', a.attname, rel.name), rel.name, a.attacl
        FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
      UNION ALL SELECT format('function %s', fun.name), '', coalesce(fun.proacl, acldefault('f', fun.proowner)) FROM fun
      UNION ALL SELECT format('type %s', typ.name), '', coalesce(typ.typacl, acldefault('T', typ.typowner)) FROM typ
      UNION ALL SELECT format('schema %I', nspname), '', coalesce(nspacl, acldefault('n', nspowner)) FROM ours) a
"""
# SQL-standard bodies are kept as trees, not as source text.
_BODIES: LiteralString = """
UNION ALL
SELECT 'body', fun.name, '', pg_get_function_sqlbody(fun.oid) FROM fun WHERE pg_get_function_sqlbody(fun.oid) IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class Defined:
    """One thing's definition, and the table it belongs to, if any."""

    kind: str
    name: str
    table: str
    text: str


def read(server: Server) -> Mapping[tuple[str, str], Defined]:
    """Every definition of the user's, by kind and name."""
    bodies = _BODIES if server.version() >= _FUNCTION_BODIES else ""
    rows = server.rows(_HEAD + _RELATIONS + _OTHERS + bodies)
    return {(r[0], r[1]): Defined(kind=r[0], name=r[1], table=r[2], text=r[3]) for r in rows}


def differences(
    source: Server,
    target: Server,
    omitted: Omitted | None = None,
    *,
    owners: bool = True,
    grants: bool = True,
) -> tuple[str, ...]:
    """What is defined otherwise on the target, one line each with both definitions.

    What the plan leaves out (``omitted``) is no difference, nor ``owners`` and ``grants`` that it does not
    carry. What is wholly missing is for ``fingerprint`` to tell, but for parts that it does not know.
    """
    ours, theirs = read(source), read(target)
    gone = omitted.quoted if omitted is not None else frozenset[str]()
    ours = {key: one for key, one in ours.items() if one.table not in gone and one.name not in gone}
    left = {kind for kind, kept in ((_OWNERS, owners), (_GRANTS, grants)) if not kept}
    bare = (source.version() < _FEWER_QUALIFICATIONS) != (target.version() < _FEWER_QUALIFICATIONS)
    return tuple(sorted(_lines(_without(ours, left), _without(theirs, left), bare=bare)))


def _without(found: Mapping[tuple[str, str], Defined], kinds: set[str]) -> dict[tuple[str, str], Defined]:
    return {key: one for key, one in found.items() if one.kind not in kinds}


def _lines(
    ours: Mapping[tuple[str, str], Defined], theirs: Mapping[tuple[str, str], Defined], *, bare: bool
) -> Iterator[str]:
    # What belongs to a table that one side lacks goes without saying.
    tables = {one.table for one in ours.values()} & {one.table for one in theirs.values()}
    for key in ours.keys() | theirs.keys():
        mine, other = ours.get(key), theirs.get(key)
        known = mine or other
        assert known is not None
        if mine is not None and other is not None:
            if _same_form(mine, bare=bare) != _same_form(other, bare=bare):
                yield f"{known.kind} {known.name}: {mine.text} on the source, {other.text} on the target"
        elif known.table in tables and _is_part(known) and (mine is not None or known.table):
            side = "source" if mine is not None else "target"
            yield f"{known.kind} {known.name}: only on the {side}: {known.text}"


def _is_part(one: Defined) -> bool:
    return one.kind in _PARTS or (one.kind == _GRANTS and one.name.startswith("column "))


def _same_form(one: Defined, *, bare: bool) -> str:
    text = " ".join(one.text.split())
    return _QUALIFIER.sub("", text) if bare and one.kind in {"view", "rule", "body", "policy"} else text
