"""Sequences in a cutover, either way: the receiving side's go on beyond the sending side's, never backwards.

nextval() takes no lock that a fence could hold back: a session may call it between the moment the sending side is
read and the moment its application has switched, and bring the value along. ``headroom`` is how many such calls
are left room for; with CACHE each may take a whole cache, so it counts that many values. Of a sequence that nears
its end it takes at most half of what is left, and that is told.
A sequence that cycles has no end: it goes on around, and "ahead" means by less than half a cycle.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import DifferencesFound, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.catalog import qualified

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from planrunner.model import Json
    from planrunner.postgres.connection import Row, Server, Session

# Each relation in a query takes a lock and, in a UNION, a level of the parser's stack.
_AT_ONCE = 500
_SHOWN = 20
# An extension's own sequences come with it, and so do the rows they belong to.
_LIST = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle, s.seqcache,
       format_type(s.seqtypid, NULL),
       (SELECT format('%I.%I', tn.nspname, t.relname) FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid
        JOIN pg_namespace tn ON tn.oid = t.relnamespace WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') LIMIT 1),
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT'),
       has_sequence_privilege(c.oid, 'UPDATE')
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2, 3
"""
_SET = """
SELECT setval(v.sequence::oid::regclass, v.last, v.called)
FROM unnest(%s::bigint[], %s::bigint[], %s::bool[]) v(sequence, last, called)
"""


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence and where it stands; ``called`` is is_called: the value ``last`` was handed out.

    ``owner`` is the table (``schema.name``) that owns it, ``settable``: our login may move it.
    """

    schema: str
    name: str
    increment: int
    minimum: int
    maximum: int
    last: int
    called: bool
    cycle: bool = False
    cache: int = 1
    type: str = "bigint"
    owner: str | None = None
    oid: int = 0
    settable: bool = True

    @property
    def qualified(self) -> str:
        """``schema.name`` for people and comparisons; never for SQL."""
        return qualified(self.schema, self.name)

    @property
    def definition(self) -> str:
        """What both sides must agree on."""
        cycle = ", CYCLE" if self.cycle else ""
        return f"{self.type}, by {self.increment} from {self.minimum} to {self.maximum}, cache {self.cache}{cycle}"

    @property
    def next(self) -> int:
        """The value that comes next; beyond the bounds where there is none, or the cycle begins again."""
        return self.last + self.increment if self.called else self.last

    @property
    def left(self) -> int:
        """How many values it can still hand out; one that cycles: all of a cycle."""
        if self.cycle:
            return (self.maximum - self.minimum) // abs(self.increment) + 1
        return self._to_end + (0 if self.called else 1)

    @property
    def _to_end(self) -> int:
        return ((self.maximum if self.increment > 0 else self.minimum) - self.last) // self.increment

    def given(self, headroom: int) -> int:
        """The values that ``headroom`` calls may take, but at most half of those that are left."""
        return min(headroom * self.cache, self.left // 2)

    def moved(self, headroom: int) -> tuple[int, bool]:
        """Where the other side's must stand at least, last value and is_called; always within the bounds."""
        steps = self.given(headroom)
        beyond = steps - self._to_end - 1
        if beyond < 0:
            return self.last + self.increment * steps, self.called
        begin = self.minimum if self.increment > 0 else self.maximum
        return begin + self.increment * (beyond % self.left), self.called

    def reached_by(self, there: Sequence, headroom: int = 0) -> bool:
        """True when ``there`` stands where ``moved`` says or further, so that it must not be moved."""
        last, called = self.moved(headroom)
        if (there.last, there.called) == (last, called):
            return True
        wanted = last + self.increment if called else last
        if not self.cycle:
            return (there.next - wanted) * (1 if self.increment > 0 else -1) >= 0
        # Around a cycle everything is ahead and behind; one never called stands nowhere.
        around = self.maximum - self.minimum + 1
        sign = 1 if self.increment > 0 else -1
        distance, least = ((at - self.next) * sign % around for at in (there.next, wanted))
        return there.called and least <= distance < around / 2


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What became of one sequence: last values, and the headroom in values; not moved where it was ahead."""

    sequence: str
    source: int
    target_before: int
    target_after: int
    headroom: int

    @property
    def changed(self) -> bool:
        """True when the receiving side's sequence stands elsewhere now."""
        return self.target_before != self.target_after


def read(server: Server, left_out: Collection[str] = ()) -> tuple[Sequence, ...]:
    """Every sequence, identity columns' too, by name; 500 in a query. ``left_out``: ``schema.name`` to pass over.

    StepFailed names those that our login may not read.
    """
    listed = [row for row in server.rows(_LIST) if f"{row[1]}.{row[2]}" not in left_out]
    _refuse(server, [row for row in listed if not row[10]], "read", "SELECT")
    stands: dict[int, tuple[int, bool]] = {}
    one = sql.SQL("SELECT {}::bigint, last_value, is_called FROM {}")
    for part in _parts(listed):
        looks = [one.format(sql.Literal(row[0]), sql.Identifier(row[1], row[2])) for row in part]
        stands |= {row[0]: (row[1], row[2]) for row in server.rows(sql.SQL(" UNION ALL ").join(looks))}
    return tuple(_sequence(row, *stands[row[0]]) for row in listed)


def _parts(rows: list[Row]) -> Iterable[list[Row]]:
    return (rows[place : place + _AT_ONCE] for place in range(0, len(rows), _AT_ONCE))


def _refuse(server: Server, rows: list[Row], verb: str, right: str) -> None:
    if not rows:
        return
    names = [sql.Identifier(row[1], row[2]).as_string() for row in rows]
    user = sql.Identifier(server.identity().user).as_string()
    schemas = ", ".join(sorted({sql.Identifier(row[1]).as_string() for row in rows}))
    raise StepFailed(
        f"{server.side.value}: our login may not {verb} {len(names)} sequences: {_listed(names)}",
        remedy=f"Run on the {server.side.value} as their owner: GRANT USAGE ON SCHEMA {schemas} TO {user};"
        f" GRANT {right} ON SEQUENCE {', '.join(names)} TO {user};",
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sequence(row: Row, last: int, called: bool) -> Sequence:  # noqa: FBT001  # a row's columns in order
    return Sequence(
        oid=row[0],
        schema=row[1],
        name=row[2],
        increment=row[3],
        minimum=row[4],
        maximum=row[5],
        cycle=row[6],
        cache=row[7],
        type=row[8],
        owner=row[9],
        settable=row[11],
        last=last,
        called=called,
    )


def both_sides(
    source: Server, target: Server, left_out: Collection[str] = ()
) -> tuple[tuple[Sequence, ...], tuple[Sequence, ...]]:
    """The sequences of both sides, read at the same time."""
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(lambda server: read(server, left_out), (source, target))
    return ours, theirs


def carry(
    session: Session, from_: tuple[Sequence, ...], to: tuple[Sequence, ...], headroom: int
) -> tuple[Moved, ...]:
    """Set the receiving side's sequences on ``session``; returns every one, those that were ahead too.

    Nothing is set, and DifferencesFound or StepFailed raised, when one is missing there, is of another
    definition or may not be set. A rollback doesn't take setval back; to do it again is harmless. Each sequence
    stays locked to the transaction's end: with many thousands give a session that commits by itself.
    """
    differing = unequal(from_, to)
    if differing:
        raise DifferencesFound(
            "sequences differ, none was set:\n  " + "\n  ".join(differing[:_SHOWN]),
            remedy="Make the receiving side's like the other's, or leave their tables out by the plan's filters.",
        )
    there = {s.qualified: s for s in to}
    refused = [s.qualified for s in from_ if not there[s.qualified].settable]
    if refused:
        raise StepFailed(
            f"our login may not set {len(refused)} sequences of the receiving side: {_listed(refused)}",
            remedy="Run there as their owner: GRANT UPDATE ON SEQUENCE … TO our login.",
        )
    todo = [(there[s.qualified].oid, *s.moved(headroom)) for s in from_ if _lags(s, there, headroom)]
    failpoint("sequences.before_setval")
    for place in range(0, len(todo), _AT_ONCE):
        part = todo[place : place + _AT_ONCE]
        session.execute(_SET, [[t[0] for t in part], [t[1] for t in part], [t[2] for t in part]])
    failpoint("sequences.after_setval")
    return tuple(_moved(s, there[s.qualified], headroom) for s in from_)


def _lags(sequence: Sequence, there: dict[str, Sequence], headroom: int) -> bool:
    return not sequence.reached_by(there[sequence.qualified], headroom)


def _moved(sequence: Sequence, there: Sequence, headroom: int) -> Moved:
    ahead = sequence.reached_by(there, headroom)
    return Moved(
        sequence=sequence.qualified,
        source=sequence.last,
        target_before=there.last,
        target_after=there.last if ahead else sequence.moved(headroom)[0],
        headroom=sequence.given(headroom),
    )


def values(moved: Iterable[Moved]) -> list[dict[str, Json]]:
    """The report's ``sequence_values``: every sequence with both sides' last value."""
    return [
        {"sequence": m.sequence, "source": m.source, "target": m.target_after, "headroom": m.headroom}
        for m in moved
    ]


def unequal(from_: tuple[Sequence, ...], to: tuple[Sequence, ...]) -> tuple[str, ...]:
    """Sequences that the receiving side lacks or has otherwise, or has beyond the other's on the same table."""
    ours, there = {s.qualified: s for s in from_}, {s.qualified: s for s in to}
    owners = {s.owner for s in from_ if s.owner}
    found = [f"sequence {name}: missing on the receiving side" for name in ours.keys() - there.keys()]
    found += [
        f"sequence {name}: {s.definition} on the sending side, {there[name].definition} on the receiving one"
        for name, s in ours.items()
        if name in there and there[name].definition != s.definition
    ]
    found += [
        f"sequence {s.qualified}: only on the receiving side, of table {s.owner}"
        for s in to
        if s.qualified not in ours and s.owner in owners
    ]
    return tuple(sorted(found))


def strangers(from_: tuple[Sequence, ...], to: tuple[Sequence, ...]) -> tuple[str, ...]:
    """The receiving side's own sequences, which nothing of the sending side needs; they are left alone."""
    ours, owners = {s.qualified for s in from_}, {s.owner for s in from_ if s.owner}
    return tuple(s.qualified for s in to if s.qualified not in ours and s.owner not in owners)


def behind(ours: tuple[Sequence, ...], theirs: tuple[Sequence, ...]) -> tuple[str, ...]:
    """Which sequences of the receiving side (``theirs``) would hand out values that ``ours`` may have."""
    there = {s.qualified: s for s in theirs}
    return tuple(
        f"sequence {s.qualified}: stands at {_stand(there[s.qualified])}, the sending side's at {_stand(s)}"
        for s in ours
        if s.qualified in there and not s.reached_by(there[s.qualified])
    )


def _stand(sequence: Sequence) -> str:
    return str(sequence.last) if sequence.called else f"{sequence.last}, never called"


def short(sequences: Iterable[Sequence], headroom: int) -> tuple[str, ...]:
    """Which sequences are too near their end to be given the whole headroom."""
    return tuple(
        f"sequence {s.qualified}: {f'{s.left} values left' if s.left else 'at its end, no value left'},"
        f" headroom {s.given(headroom)} instead of {headroom * s.cache}"
        for s in sequences
        if s.given(headroom) < headroom * s.cache
    )
