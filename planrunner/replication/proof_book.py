"""What was proven equal, by bucket, and which rows changed since: in the ledger, and as one runner holds it.

A proof holds what the publisher's snapshot saw. A change of a transaction that it did not see is written down as a
key, up to a number of keys a table; beyond that, and where no key tells the row, the proof itself goes.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.replication import buckets
from planrunner.replication.buckets import Cut, KeyColumn, Point
from planrunner.replication.visible import Visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.pgoutput import Change, Values
    from planrunner.replication.workspace import Workspace

STEP = "proof"
CUTS = "proof cut"
MOST_KEYS = 5000
# What a change of the stream names its row by: the primary key, the chosen index; FULL brings every column.
_IDENTITIES = """
SELECT n.nspname::text, c.relname::text, (
  SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_index i
  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
  WHERE i.indrelid = c.oid AND i.indisvalid AND k.n <= i.indnkeyatts
    AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'd' THEN i.indisprimary AND i.indimmediate
                            WHEN 'f' THEN i.indisprimary ELSE false END)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'
"""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A bucket was equal on both sides: its ``rows``, carried on since, and what the publisher had ``seen``.

    ``at_once``: it was compared as a whole; else in parts, one after the other.
    """

    rows: int
    seen: Visible
    at_once: bool = True


@dataclass
class Book:
    """The cuts, proofs and touched keys of a plan's tables, and what of them is yet to be written to the ledger."""

    cuts: dict[str, Cut]
    proofs: dict[str, dict[int, Proof]]
    touched: dict[str, dict[Point, int]]
    changed: set[tuple[str, int]] = field(default_factory=set)
    keys_changed: set[str] = field(default_factory=set)

    def unproven(self, name: str) -> tuple[int, ...]:
        """The buckets of a table that are not proven."""
        proven = self.proofs.get(name, {})
        return tuple(n for n in range(1, self.cuts[name].count + 1) if n not in proven)

    def prove(self, name: str, number: int, proof: Proof) -> None:
        """Take a bucket as proven."""
        self.proofs.setdefault(name, {})[number] = proof
        self.changed.add((name, number))

    def settle(self, name: str, seen: Mapping[int, Visible]) -> None:
        """Forget the touched keys of buckets that were compared since: by number, with what was seen then."""
        cut, keys = self.cuts[name], self.touched.get(name, {})
        for key, xid in list(keys.items()):
            number = cut.bucket_of(dict(zip(cut.key, key, strict=True)))
            if number is not None and number in seen and seen[number].saw(xid):
                self.forget_keys(name, [key])

    def forget_keys(self, name: str, keys: Iterable[Point]) -> None:
        """Take single rows as proven."""
        for key in keys:
            self.touched[name].pop(key, None)
        self.keys_changed.add(name)

    def forget(self, name: str, xid: int, number: int | None = None) -> None:
        """Take back the proofs, of one bucket or of all, that did not see transaction ``xid``."""
        proven = self.proofs.get(name, {})
        for each in list(proven) if number is None else [number]:
            if each in proven and not proven[each].seen.saw(xid):
                del proven[each]
                self.changed.add((name, each))

    def note(self, change: Change, xid: int) -> None:
        """Mark what a change of the publisher's stream touches."""
        name = _qualified(change.relation.schema, change.relation.name)
        if not self.proofs.get(name):
            return
        cut = self.cuts[name]
        if change.kind == "TRUNCATE" or not cut.key:
            self.forget(name, xid)
            return
        for key, more in _touches(change, cut.key):
            if key is None:
                self.forget(name, xid)
            else:
                self._touch(name, key, more, xid)

    def _touch(self, name: str, key: Point, more: int, xid: int) -> None:
        cut, keys = self.cuts[name], self.touched.setdefault(name, {})
        number = cut.bucket_of(dict(zip(cut.key, key, strict=True)))
        if number is None:
            self.forget(name, xid)
            return
        proof = self.proofs[name].get(number)
        if proof is None or proof.seen.saw(xid):
            return
        if not proof.at_once or (key not in keys and len(keys) >= MOST_KEYS):
            self.forget(name, xid, number)
            return
        keys[key] = xid
        self.keys_changed.add(name)
        if more:
            self.prove(name, number, replace(proof, rows=proof.rows + more))

    def copy(self) -> Book:
        """A book of its own, for what is not to be kept."""
        return Book(
            cuts=self.cuts,
            proofs={name: dict(found) for name, found in self.proofs.items()},
            touched={name: dict(keys) for name, keys in self.touched.items()},
        )

    def write(self, session: Session, plan_id: str) -> None:
        """Bring the ledger up to this book, in the caller's transaction."""
        changed, keyed = sorted(self.changed), sorted(self.keys_changed)
        session.execute(
            "DELETE FROM planrunner.proof p USING unnest(%s::text[], %s::int[]) c(relation, bucket)"
            " WHERE p.plan_id = %s AND p.relation = c.relation AND p.bucket = c.bucket",
            [[name for name, _ in changed], [number for _, number in changed], plan_id],
        )
        kept = [(n, b, p) for n, b in changed if (p := self.proofs.get(n, {}).get(b)) is not None]
        session.execute(
            "INSERT INTO planrunner.proof (plan_id, relation, bucket, rows, seen, at_once)"
            " SELECT %s, * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::text[], %s::bool[])",
            [
                plan_id,
                [name for name, _, _ in kept],
                [bucket for _, bucket, _ in kept],
                [proof.rows for _, _, proof in kept],
                [str(proof.seen) for _, _, proof in kept],
                [proof.at_once for _, _, proof in kept],
            ],
        )
        session.execute(
            "DELETE FROM planrunner.touched WHERE plan_id = %s AND relation = ANY (%s)", [plan_id, keyed]
        )
        keys = [
            (name, json.dumps(key), xid) for name in keyed for key, xid in self.touched.get(name, {}).items()
        ]
        session.execute(
            "INSERT INTO planrunner.touched (plan_id, relation, key, xid)"
            " SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::bigint[])",
            [plan_id, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys]],
        )
        self.changed.clear()
        self.keys_changed.clear()


@cache
def _qualified(schema: str, name: str) -> str:
    # Asked for every change of a stream.
    return catalog.qualified(schema, name)


def _touches(change: Change, key: Sequence[str]) -> list[tuple[Point | None, int]]:
    """The keys of the rows that a change touches, and how many rows more or fewer each then is."""
    old = _key(change.old, {}, key) if change.old else None
    new = _key(change.new, change.old, key) if change.new else None
    if change.kind == "INSERT":
        return [(new, 1)]
    if change.kind == "DELETE":
        return [(old, -1)]
    if old is None or old == new:
        return [(new, 0)]
    return [(old, -1), (new, 1)]


def _key(values: Values, before: Values, key: Sequence[str]) -> Point | None:
    # A value out of line that the update left alone is not sent with the new row.
    found = [values.get(name, before.get(name)) for name in key]
    return tuple(v for v in found if v is not None) if None not in found else None


def identities(publisher: Server) -> dict[str, tuple[str, ...]]:
    """The columns by which the publisher's changes name their rows, by table; empty where there are none."""
    return {catalog.qualified(row[0], row[1]): tuple(row[2] or ()) for row in publisher.rows(_IDENTITIES)}


def opened(
    workspace: Workspace, publisher: Server, tables: Sequence[Table], *, bucket_bytes: int, keep: bool
) -> Book:
    """The book of ``tables`` as the ledger has it; tables that are new or of another shape are cut anew.

    With ``keep`` new cuts are recorded and proofs that they outdate are forgotten.
    """
    keys = identities(publisher)
    known = workspace.ledger.effects(CUTS) if keep else {}
    cuts: dict[str, Cut] = {}
    fresh: dict[str, dict[str, Json]] = {}
    for table in tables:
        name = table.qualified
        key = keys.get(name, ())
        detail, shape = known.get(name), _shape(table, key)
        if detail is not None and detail["shape"] == shape:
            cuts[name] = _recorded(table, key, detail)
        else:
            cuts[name] = buckets.cut(publisher, table, key, bucket_bytes=bucket_bytes)
            fresh[name] = _detail(cuts[name], shape)
    if not keep:
        return Book(cuts=cuts, proofs={}, touched={})
    if fresh:
        _record(workspace, fresh)
    return _loaded(workspace, cuts)


def _shape(table: Table, key: Sequence[str]) -> str:
    columns = [(c.name, c.type) for c in table.columns]
    return hashlib.sha256(repr((table.oid, list(key), columns, table.where)).encode()).hexdigest()[:16]


def _detail(cut: Cut, shape: str) -> dict[str, Json]:
    return {
        "shape": shape,
        "ordered": cut.ordered,
        "columns": [[c.name, c.type] for c in cut.columns],
        "bounds": [list(bound) for bound in cut.bounds],
    }


def _recorded(table: Table, key: tuple[str, ...], detail: Mapping[str, Any]) -> Cut:
    return Cut(
        table=table,
        key=key,
        columns=tuple(KeyColumn(name=name, type=kind) for name, kind in detail["columns"]),
        bounds=tuple(tuple(bound) for bound in detail["bounds"]),
        ordered=detail["ordered"],
    )


def _record(workspace: Workspace, fresh: Mapping[str, Mapping[str, Json]]) -> None:
    names = list(fresh)
    with workspace.writing() as session:
        for table in ("proof", "touched"):
            forget_in(session, table, workspace.names.plan_id, names)
        for name, detail in fresh.items():
            workspace.ledger.record_effect(session, CUTS, name, detail)
        failpoint("verify.before_cuts")
    failpoint("verify.cut")


def forget_in(session: Session, table: str, plan_id: str, names: Sequence[str] | None = None) -> None:
    """Remove what ``proof`` or ``touched`` has of a plan, or of some of its tables, in the caller's transaction."""
    query = (
        "DELETE FROM planrunner.proof WHERE plan_id = %s AND (%s::text[] IS NULL OR relation = ANY (%s))"
        if table == "proof"
        else "DELETE FROM planrunner.touched WHERE plan_id = %s AND (%s::text[] IS NULL OR relation = ANY (%s))"
    )
    given = None if names is None else list(names)
    session.execute(query, [plan_id, given, given])


def _loaded(workspace: Workspace, cuts: dict[str, Cut]) -> Book:
    proofs: dict[str, dict[int, Proof]] = defaultdict(dict)
    touched: dict[str, dict[Point, int]] = defaultdict(dict)
    plan_id = workspace.names.plan_id
    for name, number, rows, seen, at_once in workspace.target.rows(
        "SELECT relation, bucket, rows, seen, at_once FROM planrunner.proof WHERE plan_id = %s", [plan_id]
    ):
        if name in cuts:
            proofs[name][number] = Proof(rows=rows, seen=Visible.of(seen), at_once=at_once)
    for name, key, xid in workspace.target.rows(
        "SELECT relation, key, xid FROM planrunner.touched WHERE plan_id = %s", [plan_id]
    ):
        if name in cuts:
            touched[name][tuple(json.loads(key))] = xid
    return Book(cuts=cuts, proofs=dict(proofs), touched=dict(touched))
