"""The kinds of objects that carry a hostile name, each with the test's own query of how they are defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.faults.hostile_world import Place

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``query`` gives the key's parts (``parts`` of them) and then the definition; ``of`` the key of a place."""

    query: str
    of: Callable[[Place], Key]
    parts: int = 2
    carried: bool = True


def _relation(further: int) -> Callable[[Place], Key]:
    return lambda place: (place.schema, place.name(further))


def _own(place: Place) -> Key:
    return (place.schema,)


def _on_main(further: int) -> Callable[[Place], Key]:
    return lambda place: (*place.main, place.name(further))


_IN = " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
_RELATION = (
    "SELECT n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text, obj_description(c.oid, 'pg_class'),"
    " c.relkind::text, "
)
_CONSTRAINT = (
    "SELECT n.nspname::text, c.relname::text, k.conname::text, pg_get_constraintdef(k.oid), k.convalidated,"
    " obj_description(k.oid, 'pg_constraint') FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.contype = "
)
_INDEX = (
    "SELECT n.nspname::text, c.relname::text, pg_get_indexdef(c.oid), i.indisvalid"
    + _IN
    + "JOIN pg_index i ON i.indexrelid = c.oid"
)
_TYPE = "SELECT n.nspname::text, t.typname::text, pg_get_userbyid(t.typowner)::text, obj_description(t.oid, 'pg_type'), "
_OF_TYPE = " FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = "
_ACL = (
    "ARRAY(SELECT concat_ws(' ', a.grantee::regrole, a.grantor::regrole, a.privilege_type, a.is_grantable)"
    " FROM aclexplode({}) a ORDER BY 1)"
)

KINDS: Mapping[str, Kind] = {
    "schema": Kind(
        query="SELECT nspname::text, pg_get_userbyid(nspowner)::text, obj_description(oid, 'pg_namespace'), "
        + _ACL.format("nspacl")
        + " FROM pg_namespace",
        of=_own,
        parts=1,
    ),
    "table": Kind(
        query=_RELATION
        + "ARRAY(SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,"
        " a.attgenerated, pg_get_expr(d.adbin, d.adrelid)) FROM pg_attribute a LEFT JOIN pg_attrdef d"
        " ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = c.oid AND a.attnum > 0"
        " ORDER BY a.attnum)" + _IN + "WHERE c.relkind = 'r'",
        of=_relation(0),
    ),
    "column": Kind(
        query="SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),"
        " col_description(c.oid, a.attnum), "
        + _ACL.format("a.attacl")
        + _IN
        + "JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attnum > 0",
        of=_on_main(1),
        parts=3,
    ),
    "sequence": Kind(
        query=_RELATION + "s.seqstart" + _IN + "JOIN pg_sequence s ON s.seqrelid = c.oid", of=_relation(5)
    ),
    "identity sequence": Kind(
        query=_RELATION + "s.seqstart" + _IN + "JOIN pg_sequence s ON s.seqrelid = c.oid", of=_relation(1)
    ),
    "index": Kind(query=_INDEX, of=_relation(4)),
    "unique index": Kind(query=_INDEX, of=_relation(12)),
    "primary key": Kind(query=_CONSTRAINT + "'p'", of=_on_main(2), parts=3),
    "unique constraint": Kind(query=_CONSTRAINT + "'u'", of=_on_main(3), parts=3),
    "check": Kind(query=_CONSTRAINT + "'c'", of=_on_main(0), parts=3),
    "foreign key": Kind(query=_CONSTRAINT + "'f'", of=lambda place: (*place.bare, place.name(1)), parts=3),
    "enum": Kind(
        query=_TYPE
        + "ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)"
        + _OF_TYPE
        + "'e'",
        of=_relation(16),
    ),
    "domain": Kind(
        query=_TYPE
        + "t.typdefault, (SELECT string_agg(conname || pg_get_constraintdef(oid), ',' ORDER BY conname)"
        " FROM pg_constraint WHERE contypid = t.oid)" + _OF_TYPE + "'d'",
        of=_relation(17),
    ),
    "composite type": Kind(
        query=_TYPE + "ARRAY(SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = t.typrelid ORDER BY attnum)" + _OF_TYPE + "'c'",
        of=_relation(15),
    ),
    "collation": Kind(
        query="SELECT n.nspname::text, l.collname::text, l.collcollate FROM pg_collation l"
        " JOIN pg_namespace n ON n.oid = l.collnamespace",
        of=_relation(0),
    ),
    "function": Kind(
        query="SELECT n.nspname::text, p.proname::text, pg_get_functiondef(p.oid) FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind = 'f' AND p.oid >= 16384",
        of=_relation(0),
    ),
    "trigger": Kind(
        query="SELECT n.nspname::text, c.relname::text, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled::text,"
        " obj_description(t.oid, 'pg_trigger')" + _IN + "JOIN pg_trigger t ON t.tgrelid = c.oid"
        " WHERE NOT t.tgisinternal",
        of=lambda place: (*place.main, place.trigger),
        parts=3,
    ),
    "policy": Kind(
        query="SELECT n.nspname::text, c.relname::text, o.polname::text, pg_get_expr(o.polqual, o.polrelid),"
        " o.polroles::regrole[]::text, obj_description(o.oid, 'pg_policy')"
        + _IN
        + "JOIN pg_policy o ON o.polrelid = c.oid",
        of=_on_main(0),
        parts=3,
    ),
    "view": Kind(query=_RELATION + "pg_get_viewdef(c.oid)" + _IN + "WHERE c.relkind = 'v'", of=_relation(6)),
    "materialized view": Kind(
        query=_RELATION + "pg_get_viewdef(c.oid), c.relispopulated" + _IN + "WHERE c.relkind = 'm'",
        of=_relation(14),
    ),
    "partitioned table": Kind(
        query=_RELATION + "pg_get_partkeydef(c.oid)" + _IN + "WHERE c.relkind = 'p'", of=_relation(7)
    ),
    "partition": Kind(
        query=_RELATION
        + "pg_get_expr(c.relpartbound, c.oid)"
        + _IN
        + "WHERE c.relispartition AND c.relkind = 'r'",
        of=_relation(9),
    ),
    "statistics": Kind(
        query="SELECT n.nspname::text, s.stxname::text, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s"
        " JOIN pg_namespace n ON n.oid = s.stxnamespace",
        of=_relation(0),
    ),
    "role": Kind(
        query="SELECT r.rolname::text, r.rolcanlogin, shobj_description(r.oid, 'pg_authid'),"
        " ARRAY(SELECT m.roleid::regrole::text FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1)"
        " FROM pg_roles r",
        of=_own,
        parts=1,
    ),
    "grantee": Kind(
        query="SELECT n.nspname::text, c.relname::text, pg_get_userbyid(a.grantee)::text, array_agg(concat_ws(' ',"
        " a.grantor::regrole, a.privilege_type, a.is_grantable) ORDER BY a.privilege_type)"
        + _IN
        + "CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE a.grantee <> 0 AND a.privilege_type <> 'MAINTAIN'"
        " GROUP BY 1, 2, 3",
        of=lambda place: (*place.main, place.name(1)),
        parts=3,
    ),
    "default privileges": Kind(
        query="SELECT n.nspname::text, pg_get_userbyid(d.defaclrole)::text, "
        + _ACL.format("d.defaclacl")
        + " FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace",
        of=lambda place: (place.schema, place.schema),
    ),
    "large object's owner": Kind(
        query="SELECT pg_get_userbyid(lomowner)::text, oid::bigint, obj_description(oid, 'pg_largeobject'),"
        " md5(lo_get(oid)) FROM pg_largeobject_metadata",
        of=_own,
        parts=1,
    ),
    "publication": Kind(
        query="SELECT pubname::text, puballtables FROM pg_publication", of=_own, parts=1, carried=False
    ),
}


def found(dsn: str) -> dict[str, dict[Key, Any]]:
    """Every object of every kind, by its key, with its definition."""
    with psycopg.connect(dsn) as session:
        session.execute("SET search_path = pg_catalog")
        return {
            name: {row[: kind.parts]: row[kind.parts :] for row in session.execute(kind.query).fetchall()}  # type: ignore[call-overload]
            for name, kind in KINDS.items()
        }
