"""Sequences of the target that would hand out values which the source has handed out already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planrunner.replication.sequences import Sequence


def behind(source: Iterable[Sequence], target: Iterable[Sequence]) -> tuple[str, ...]:
    """One line for each; a sequence that the target lacks is for the catalogue's comparison to tell."""
    there = {(s.schema, s.name): s for s in target}
    found: list[str] = []
    for ours in source:
        theirs = there.get((ours.schema, ours.name))
        if theirs is None:
            continue
        lag = (_next(ours) - _next(theirs)) * (1 if ours.increment > 0 else -1)
        if lag > 0:
            found.append(
                f"sequence {ours.schema}.{ours.name}: the next value is {_next(ours)} on the source,"
                f" {_next(theirs)} on the target"
            )
    return tuple(found)


def _next(sequence: Sequence) -> int:
    """What it hands out next; a cycle begins anew at its end."""
    if not sequence.called:
        return sequence.last
    return max(sequence.minimum, min(sequence.maximum, sequence.last + sequence.increment))
