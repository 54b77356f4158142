"""The relations of the source under a selection: what is left out, what needs it, which foreign keys dangle.

Tables are not all that patterns rule: views, materialized views and foreign tables of a schema that is left
out stay behind with it. A sequence goes with the table that owns it; a free one stays unless it is excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planrunner.postgres import catalog
from planrunner.replication.selection import Fate, ForeignKeys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from planrunner.postgres.connection import Server
    from planrunner.replication.selection import Selection

SEQUENCE = "S"
_TABLES = frozenset("rp")
_RELATIONS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind::text,
       CASE WHEN c.relispartition THEN (SELECT h.inhparent::bigint FROM pg_inherits h WHERE h.inhrelid = c.oid) END,
       (SELECT d.refobjid::bigint FROM pg_depend d WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass
          AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
          AND d.refobjsubid > 0 LIMIT 1),
       CASE WHEN %s AND c.relkind IN ('r', 'm') THEN pg_total_relation_size(c.oid) ELSE 0 END::bigint,
       format('%%I.%%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY 2, 3
"""
# Whatever hangs on a relation that is left out, or on its row type, its keys, its indexes, and is carried
# itself; told as the thing it belongs to: a rule as its view, a default as its table.
_DEPENDANTS = """
WITH gone AS (SELECT unnest(%s::oid[]) AS oid),
parts AS (
  SELECT 'pg_class'::regclass::oid AS classid, oid AS objid, oid AS relation FROM gone
  UNION SELECT 'pg_type'::regclass, t.oid, g.oid FROM pg_type t JOIN gone g ON t.typrelid = g.oid
  UNION SELECT 'pg_type'::regclass, t.typarray, g.oid FROM pg_type t JOIN gone g ON t.typrelid = g.oid
  UNION SELECT 'pg_class'::regclass, i.indexrelid, g.oid FROM pg_index i JOIN gone g ON i.indrelid = g.oid
  UNION SELECT 'pg_constraint'::regclass, k.oid, g.oid FROM pg_constraint k JOIN gone g ON k.conrelid = g.oid),
hanging AS (
  SELECT DISTINCT p.relation, d.classid, d.objid,
    coalesce(r.ev_class, k.conrelid, t.tgrelid, a.adrelid, o.polrelid, i.indrelid, s.stxrelid) AS owner
  FROM pg_depend d JOIN parts p ON p.classid = d.refclassid AND p.objid = d.refobjid
  LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.conrelid <> 0
  LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
  LEFT JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
  LEFT JOIN pg_policy o ON d.classid = 'pg_policy'::regclass AND o.oid = d.objid
  LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
  LEFT JOIN pg_statistic_ext s ON d.classid = 'pg_statistic_ext'::regclass AND s.oid = d.objid
  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
  WHERE (d.classid, d.objid) NOT IN (SELECT classid, objid FROM parts)
    AND d.classid NOT IN (SELECT to_regclass(name) FROM unnest(ARRAY['pg_publication_rel',
                          'pg_publication_namespace', 'pg_subscription_rel']) AS name WHERE to_regclass(name) IS NOT NULL)
    AND k.contype IS DISTINCT FROM 'f' AND t.tgisinternal IS NOT TRUE AND c.relkind IS DISTINCT FROM 't')
SELECT DISTINCT CASE WHEN h.owner IS NULL THEN pg_describe_object(h.classid, h.objid, 0)
                     ELSE pg_describe_object('pg_class'::regclass, h.owner, 0) END,
       format('%%I.%%I', n.nspname, c.relname)
FROM hanging h JOIN pg_class c ON c.oid = h.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.owner IS NULL OR h.owner NOT IN (SELECT oid FROM gone)
ORDER BY 2, 1
"""
# Of a partitioned table each partition has a constraint of its own, made by the one above it.
_FOREIGN_KEYS = """
WITH RECURSIVE tops AS (
  SELECT k.oid, k.oid AS top FROM pg_constraint k
  WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = ANY (%s::oid[])
  UNION ALL SELECT k.oid, t.top FROM pg_constraint k JOIN tops t ON k.conparentid = t.oid)
SELECT k.oid::bigint, (k.oid = t.top), k.conrelid::bigint, k.confrelid::bigint, format('%%I', k.conname),
       format('%%I.%%I', n.nspname, c.relname), format('%%I.%%I', fn.nspname, f.relname),
       format('CONSTRAINT %%I ON %%I', k.conname, c.relname), t.top::bigint
FROM tops t JOIN pg_constraint k ON k.oid = t.oid JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class f ON f.oid = k.confrelid
JOIN pg_namespace fn ON fn.oid = f.relnamespace ORDER BY 6, 5
"""
_STATISTICS = "SELECT oid::bigint FROM pg_statistic_ext WHERE stxrelid = ANY (%s::oid[])"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table, view, materialized view, foreign table or sequence; ``owner`` is a sequence's table.

    ``quoted`` is the server's own ``schema.name``, as it stands in what catalogues are compared by.
    """

    oid: int
    schema: str
    name: str
    kind: str
    parent: int | None
    owner: int | None
    bytes: int
    quoted: str

    @property
    def qualified(self) -> str:
        """``schema.name`` for people and comparisons, as ``Table.qualified``."""
        return catalog.qualified(self.schema, self.name)

    @property
    def table(self) -> bool:
        """True for a table or a partitioned one."""
        return self.kind in _TABLES


@dataclass(frozen=True, kw_only=True)
class ForeignKey:
    """A foreign key to a table whose rows don't all come; ``top`` unless a partition's copy of one.

    Names are quoted as the server does. ``possible``: the table it points to is made on the target, so the
    constraint could be.
    """

    oid: int
    top: bool
    name: str
    table: str
    points_to: str
    possible: bool
    comment_tag: str


@dataclass(frozen=True, kw_only=True)
class Omitted:
    """What the schema's dump leaves out: relations by name, entries by oid or as comments on such.

    ``foreign_keys`` are those that are left out of tables that are carried.
    """

    relations: tuple[Relation, ...] = ()
    entries: frozenset[int] = frozenset()
    foreign_keys: tuple[ForeignKey, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The relations as ``Table.qualified``."""
        return frozenset(r.qualified for r in self.relations)

    @cached_property
    def quoted(self) -> frozenset[str]:
        """The relations as the servers quote them."""
        return frozenset(r.quoted for r in self.relations)


def read(source: Server, *, sized: bool = True) -> tuple[Relation, ...]:
    """Every relation of the user's, in name order; ``bytes`` is 0 unless ``sized``, which looks at every file."""
    return tuple(
        Relation(
            oid=r[0], schema=r[1], name=r[2], kind=r[3], parent=r[4], owner=r[5], bytes=r[6], quoted=r[7]
        )
        for r in source.rows(_RELATIONS, [sized])
    )


def fates(selection: Selection, relations: Sequence[Relation]) -> dict[int, Fate]:
    """What becomes of each relation: sequences as their tables do, free ones come unless excluded."""
    found = selection.fates(relations)
    for sequence in (r for r in relations if r.kind == SEQUENCE):
        if sequence.owner is not None:
            gone = found.get(sequence.owner) is Fate.LEFT_OUT
        else:
            gone = any(p.matches(sequence.schema, sequence.name) for p in selection.exclude)
        found[sequence.oid] = Fate.LEFT_OUT if gone else Fate.FOLLOWED
    return found


def omitted(source: Server, selection: Selection) -> Omitted:
    """What is not made on the target; nothing, and no query, when the plan selects everything."""
    if selection.everything:
        return Omitted()
    relations = read(source, sized=False)
    found = fates(selection, relations)
    gone = tuple(r for r in relations if found[r.oid] is Fate.LEFT_OUT)
    keys = foreign_keys(source, selection, relations, found)
    dropped = keys if selection.foreign_keys is ForeignKeys.LEAVE_OUT else ()
    statistics = source.rows(_STATISTICS, [[r.oid for r in gone]])
    return Omitted(
        relations=gone,
        entries=frozenset([key.oid for key in dropped] + [row[0] for row in statistics]),
        foreign_keys=dropped,
    )


def left_out(source: Server, selection: Selection) -> frozenset[tuple[str, str]]:
    """The relations that the plan does not touch, as (schema, name)."""
    return frozenset((r.schema, r.name) for r in omitted(source, selection).relations)


def dependants(source: Server, gone: Sequence[Relation]) -> tuple[tuple[str, str], ...]:
    """What can't be made without the relations that are left out: (thing, relation it needs)."""
    if not gone:
        return ()
    return tuple((row[0], row[1]) for row in source.rows(_DEPENDANTS, [[r.oid for r in gone]]))


def foreign_keys(
    source: Server, selection: Selection, relations: Sequence[Relation], found: Mapping[int, Fate]
) -> tuple[ForeignKey, ...]:
    """The foreign keys of carried tables whose rows may miss the row they point to."""
    partial = _incomplete(selection, relations, found)
    with_rows = _holding_rows(relations, found)
    keys: list[ForeignKey] = []
    judged: dict[int, bool] = {}
    for row in sorted(source.rows(_FOREIGN_KEYS, [sorted(partial)]), key=lambda row: not row[1]):
        gone = found.get(row[3]) is Fate.LEFT_OUT
        dangling = found.get(row[2]) is not Fate.LEFT_OUT and (gone or row[2] in with_rows)
        # The copies that partitions have go with the one they were made by.
        judged.setdefault(row[8], dangling)
        if judged[row[8]]:
            keys.append(
                ForeignKey(
                    oid=row[0],
                    top=row[1],
                    name=row[4],
                    table=row[5],
                    points_to=row[6],
                    possible=not gone,
                    comment_tag=row[7],
                )
            )
    return tuple(keys)


def _incomplete(
    selection: Selection, relations: Sequence[Relation], found: Mapping[int, Fate]
) -> frozenset[int]:
    """Tables of which not every row comes, and the partitioned ones above them."""
    filtered = selection.filtered([r for r in relations if r.table])
    partial = filtered | {r.oid for r in relations if r.table and found[r.oid] is not Fate.FOLLOWED}
    return _with_parents(partial, relations)


def _holding_rows(relations: Sequence[Relation], found: Mapping[int, Fate]) -> frozenset[int]:
    return _with_parents({r.oid for r in relations if r.table and found[r.oid] is Fate.FOLLOWED}, relations)


def _with_parents(oids: AbstractSet[int], relations: Sequence[Relation]) -> frozenset[int]:
    parents = {r.oid: r.parent for r in relations}
    whole = set(oids)
    for oid in oids:
        above = parents.get(oid)
        while above is not None:
            whole.add(above)
            above = parents.get(above)
    return frozenset(whole)
