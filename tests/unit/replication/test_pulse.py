"""Samples of a copy: honest sums, and few of them however long it takes."""

from __future__ import annotations

from typing import Any

from planrunner.clock import SystemClock
from planrunner.replication.health import Health
from planrunner.replication.pulse import Pulse

HEALTH = Health(at=0, slots={}, subscriptions={})


class Hand(SystemClock):
    """A clock that is moved by hand."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at


def beats(clock: Hand, pulse: Pulse, *, every: float, seconds: float, size: int) -> None:
    until = clock.at + seconds
    while clock.at < until:
        clock.at += every
        pulse.add(size)
        pulse.beat(HEALTH)


def test_samples_add_up_to_what_was_moved() -> None:
    told: list[Any] = []
    clock = Hand()
    pulse = Pulse(clock, lambda message, fields: told.append((message, fields)))
    pulse.begin()
    beats(clock, pulse, every=2, seconds=61, size=1 << 20)
    pulse.end()
    assert sum(fields["moved_bytes"] for _, fields in told) == 31 << 20
    assert sum(fields["seconds"] for _, fields in told) == 62
    assert [fields["seconds"] for _, fields in told] == [10, 10, 10, 10, 10, 10, 2]
    assert told[0][0] == "copying 512 kB/s; 0 B of WAL kept"
    assert told[0][1]["lag_bytes"] == 0


def test_a_short_copy_tells_no_sample() -> None:
    told: list[Any] = []
    clock = Hand()
    pulse = Pulse(clock, lambda _, fields: told.append(fields))
    pulse.begin()
    beats(clock, pulse, every=2, seconds=8, size=1)
    pulse.end()
    assert told == []


def test_a_copy_of_a_week_stays_small_in_the_journal() -> None:
    told: list[Any] = []
    clock = Hand()
    pulse = Pulse(clock, lambda _, fields: told.append(fields))
    pulse.begin()
    beats(clock, pulse, every=5, seconds=7 * 86400, size=1)
    assert 500 < len(told) < 4000


def test_a_break_is_no_part_of_the_pace() -> None:
    told: list[Any] = []
    clock = Hand()
    pulse = Pulse(clock, lambda _, fields: told.append(fields))
    pulse.begin()
    beats(clock, pulse, every=2, seconds=10, size=100)
    clock.at += 500
    pulse.begin()
    beats(clock, pulse, every=2, seconds=10, size=100)
    assert [(fields["moved_bytes"], fields["seconds"]) for fields in told] == [(500, 10), (500, 10)]
