"""Sequences at cutover: the target's continue beyond the source's, with headroom and never backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session

# Each relation in a query takes a lock and a level of the parser's stack.
_ASKED_AT_ONCE = 500
_LIST = """
SELECT n.nspname::text, c.relname::text, s.seqincrement, s.seqmin, s.seqmax FROM pg_sequence s
JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence and where it stands; ``called`` is is_called: the value was handed out."""

    schema: str
    name: str
    increment: int
    minimum: int
    maximum: int
    last: int
    called: bool

    def moved(self, headroom: int) -> tuple[int, bool]:
        """Where the target's must stand at least: ``headroom`` values on, clamped to its bounds."""
        if not self.called and headroom == 0:
            return self.last, False
        beyond = self.last + self.increment * headroom
        return max(self.minimum, min(self.maximum, beyond)), self.called


def read(server: Server) -> tuple[Sequence, ...]:
    """Every sequence, identity columns' too, in a query for 500."""
    listed = server.rows(_LIST)
    one = sql.SQL("SELECT {}::int, last_value, is_called FROM {}")
    looks = [one.format(sql.Literal(i), sql.Identifier(row[0], row[1])) for i, row in enumerate(listed)]
    stands: dict[int, tuple[int, bool]] = {}
    for place in range(0, len(looks), _ASKED_AT_ONCE):
        union = sql.SQL(" UNION ALL ").join(looks[place : place + _ASKED_AT_ONCE])
        stands |= {row[0]: (row[1], row[2]) for row in server.rows(union)}
    return tuple(
        Sequence(
            schema=r[0],
            name=r[1],
            increment=r[2],
            minimum=r[3],
            maximum=r[4],
            last=stands[i][0],
            called=stands[i][1],
        )
        for i, r in enumerate(listed)
    )


def carry(session: Session, source: tuple[Sequence, ...], target: tuple[Sequence, ...], headroom: int) -> int:
    """Set the target's sequences in the caller's transaction; returns how many were moved."""
    standing = {(s.schema, s.name): s for s in target}
    moved = 0
    for sequence in source:
        there = standing.get((sequence.schema, sequence.name))
        last, called = sequence.moved(headroom)
        if there is not None and not _ahead(there, last, called=called, rising=sequence.increment > 0):
            session.execute(
                "SELECT setval(format('%%I.%%I', %s::text, %s::text)::regclass, %s, %s)",
                [sequence.schema, sequence.name, last, called],
            )
            moved += 1
    return moved


def _ahead(there: Sequence, last: int, *, called: bool, rising: bool) -> bool:
    if there.last == last:
        return there.called or not called
    return there.called and (there.last > last if rising else there.last < last)
