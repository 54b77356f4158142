"""Where a sequence goes at the cutover: on, never back, never out of its bounds, never to a value handed out."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planrunner.replication.sequences import Moved, Sequence, behind, short, strangers, unequal, values

if TYPE_CHECKING:
    from collections.abc import Iterator

NEXTVALS = 1000


def sequence(
    *,
    last: int,
    called: bool = True,
    increment: int = 1,
    bounds: tuple[int, int] = (1, 1000),
    cycle: bool = False,
    owner: str | None = None,
    name: str = "s",
) -> Sequence:
    return Sequence(
        schema="public",
        name=name,
        increment=increment,
        minimum=bounds[0],
        maximum=bounds[1],
        last=last,
        called=called,
        cycle=cycle,
        owner=owner,
    )


def nextvals(standing: Sequence) -> Iterator[int]:
    """What nextval() gives, as PostgreSQL's documentation of CREATE SEQUENCE tells it."""
    value = standing.last
    if not standing.called:
        yield value
    while True:
        value += standing.increment
        if not standing.minimum <= value <= standing.maximum:
            if not standing.cycle:
                return
            value = standing.minimum if standing.increment > 0 else standing.maximum
        yield value


def at(standing: Sequence, headroom: int) -> Sequence:
    last, called = standing.moved(headroom)
    return replace(standing, last=last, called=called)


@st.composite
def sequences(draw: st.DrawFn, *, cycle: bool = False) -> Sequence:
    low = draw(st.integers(-(2**63), 2**63 - 2))
    width = draw(st.one_of(st.integers(1, 5000), st.integers(1, 2**63)))
    high = min(low + width, 2**63 - 1)
    step = draw(st.integers(1, max(1, min(high - low, 10**6))))
    return sequence(
        last=draw(st.integers(low, high)),
        called=draw(st.booleans()),
        increment=step * draw(st.sampled_from([1, -1])),
        bounds=(low, high),
        cycle=cycle,
    )


HEADROOM = st.integers(0, 2000)
# A busy machine takes its time; that is no failure.
unhurried = settings(deadline=None)


@unhurried
@given(sequences(), HEADROOM)
def test_it_stays_within_its_bounds_and_never_goes_back(standing: Sequence, headroom: int) -> None:
    moved = at(standing, headroom)
    assert standing.minimum <= moved.last <= standing.maximum
    assert (moved.next - standing.next) * standing.increment >= 0
    assert standing.reached_by(moved, headroom)


@unhurried
@given(sequences(), HEADROOM)
def test_what_comes_next_was_handed_out_neither_before_nor_in_the_headroom(
    standing: Sequence, headroom: int
) -> None:
    """The sending side goes on handing out as many values as there is headroom."""
    taken = set(islice(nextvals(standing), standing.given(headroom)))
    taken |= {standing.last} if standing.called else set()
    assert taken.isdisjoint(islice(nextvals(at(standing, headroom)), NEXTVALS))


@unhurried
@given(sequences(), HEADROOM)
def test_at_least_half_of_what_was_left_can_still_be_handed_out(standing: Sequence, headroom: int) -> None:
    moved = at(standing, headroom)
    assert moved.left == standing.left - standing.given(headroom)
    assert 2 * moved.left >= standing.left


@unhurried
@given(sequences(cycle=True), HEADROOM)
def test_one_that_cycles_goes_around_exactly_as_nextval_does(standing: Sequence, headroom: int) -> None:
    steps = standing.given(headroom)
    if standing.called:
        expected = next(islice(nextvals(standing), steps - 1, None)) if steps else standing.last
    else:
        expected = next(islice(nextvals(standing), steps, None))
    assert standing.moved(headroom) == (expected, standing.called)


@unhurried
@given(sequences(), sequences(), HEADROOM)
def test_who_is_ahead_is_left_alone_and_who_is_behind_is_not(
    ours: Sequence, other: Sequence, headroom: int
) -> None:
    low, high = ours.minimum, ours.maximum
    there = replace(ours, last=low + (other.last - low) % (high - low + 1), called=other.called)
    moved = at(ours, headroom)
    further = (there.next - moved.next) * ours.increment >= 0
    assert ours.reached_by(there, headroom) == further or (there.last, there.called) == ours.moved(headroom)


@pytest.mark.parametrize(
    ("standing", "headroom", "expected"),
    [
        (sequence(last=10), 0, (10, True)),
        (sequence(last=10), 100, (110, True)),
        (sequence(last=1, called=False), 0, (1, False)),
        (sequence(last=1, called=False), 100, (101, False)),
        (sequence(last=990), 100, (995, True)),
        (sequence(last=1000), 100, (1000, True)),
        (sequence(last=1, called=False, bounds=(1, 1)), 100, (1, False)),
        (sequence(last=-10, increment=-5, bounds=(-1000, 0)), 100, (-505, True)),
        (sequence(last=-990, increment=-5, bounds=(-1000, 0)), 100, (-995, True)),
        (sequence(last=990, cycle=True), 100, (90, True)),
        (sequence(last=10, cycle=True), 100, (110, True)),
        (sequence(last=1000, cycle=True), 1, (1, True)),
        (sequence(last=-990, increment=-5, bounds=(-1000, -1), cycle=True), 4, (-6, True)),
    ],
)
def test_a_sequence_moves_by_its_headroom(
    standing: Sequence, headroom: int, expected: tuple[int, bool]
) -> None:
    assert standing.moved(headroom) == expected


def test_with_a_cache_each_call_may_take_a_whole_one() -> None:
    assert replace(sequence(last=10), cache=4).moved(100) == (410, True)
    assert replace(sequence(last=10), cache=50).moved(100) == (505, True)


def test_around_a_cycle_ahead_means_by_less_than_half_of_it() -> None:
    ours = sequence(last=900, cycle=True)
    assert ours.reached_by(sequence(last=50, cycle=True), 100)
    assert not ours.reached_by(sequence(last=950, cycle=True), 100)
    assert not ours.reached_by(sequence(last=800, cycle=True), 100)
    assert not ours.reached_by(sequence(last=1, called=False, cycle=True), 100), (
        "never called: stands nowhere"
    )


def test_who_stands_behind_is_told_by_name() -> None:
    ours = (sequence(last=10), sequence(last=10, name="even"), sequence(last=10, name="ahead"))
    theirs = (sequence(last=9), sequence(last=10, name="even"), sequence(last=11, name="ahead"))
    assert behind(ours, theirs) == ("sequence public.s: stands at 9, the sending side's at 10",)
    never = sequence(last=10, called=False)
    assert behind((sequence(last=10),), (never,)) != ()
    assert behind((never,), (never,)) == ()


def test_one_that_only_one_side_has_or_has_otherwise_is_told_by_name() -> None:
    ours = sequence(last=1, name="a"), sequence(last=1, name="b", owner="public.t")
    theirs = (
        sequence(last=1, name="b", owner="public.t", bounds=(1, 99)),
        sequence(last=1, name="c", owner="public.t"),
        sequence(last=1, name="helper"),
    )
    assert unequal(ours, theirs) == (
        "sequence public.a: missing on the receiving side",
        "sequence public.b: bigint, by 1 from 1 to 1000, cache 1 on the sending side,"
        " bigint, by 1 from 1 to 99, cache 1 on the receiving one",
        "sequence public.c: only on the receiving side, of table public.t",
    )
    assert strangers(ours, theirs) == ("public.helper",)


def test_too_little_room_for_the_headroom_is_told() -> None:
    found = short([sequence(last=10), sequence(last=990, name="near"), sequence(last=1000, name="end")], 100)
    assert found == (
        "sequence public.near: 10 values left, headroom 5 instead of 100",
        "sequence public.end: at its end, no value left, headroom 0 instead of 100",
    )


def test_the_report_lists_every_sequence_with_both_values() -> None:
    moved = Moved(sequence="public.s", source=10, target_before=1, target_after=110, headroom=100)
    assert moved.changed
    assert values([moved]) == [{"sequence": "public.s", "source": 10, "target": 110, "headroom": 100}]
