"""News of finished units: each of them once, and a journal that stays small however long the copy takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planrunner.clock import SystemClock
from planrunner.replication.bulletin import Bulletin
from planrunner.replication.ledger import Copied


class Hand(SystemClock):
    """A clock that is moved by hand."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at


def one() -> Copied:
    return Copied(generation=1, rows=1000, bytes=8 << 20, seconds=1.0)


def told_of(count: int, *, every: float) -> list[tuple[str, Any]]:
    """What is told of ``count`` units of which one is finished after each ``every`` seconds."""
    told: list[tuple[str, Any]] = []
    clock = Hand()
    bulletin = Bulletin(clock, lambda message, fields: told.append((message, fields)))
    for number in range(count):
        clock.at += every
        bulletin.copied({f"public.measurements_{number % 10}/{number}": one()})
    bulletin.end()
    return told


def test_the_first_units_are_told_one_by_one() -> None:
    told = told_of(400, every=0.001)
    assert len(told) == 400
    assert told[0] == (
        "copied public.measurements_0/0",
        {"units": ["public.measurements_0/0"], "rows": 1000, "bytes": 8 << 20},
    )


@pytest.mark.parametrize("hours", [0.1, 3, 72])
def test_a_hundred_thousand_units_are_each_told_once_in_a_small_journal(hours: float) -> None:
    count = 100_000
    told = told_of(count, every=hours * 3600 / count)
    units = [unit for _, fields in told for unit in fields["units"]]
    assert len(units) == len(set(units)) == count
    assert sum(fields["bytes"] for _, fields in told) == count * (8 << 20)
    # What a line of the journal has besides: the time, the step, the kind.
    assert sum(len(json.dumps(line)) + 150 for line in told) < 10_000_000


def test_what_waits_is_told_soon_and_at_the_end() -> None:
    told: list[tuple[str, Any]] = []
    clock = Hand()
    bulletin = Bulletin(clock, lambda message, fields: told.append((message, fields)))
    for number in range(500):
        bulletin.copied({f"public.t{number}": one()})
    bulletin.copied({"public.late": one()})
    bulletin.tend()
    assert len(told) == 500
    clock.at += 1
    bulletin.tend()
    assert told[-1][1]["units"] == ["public.late"]
    bulletin.copied({"public.last": one()})
    bulletin.end()
    bulletin.end()
    assert told[-1][1]["units"] == ["public.last"]
    assert len(told) == 502
