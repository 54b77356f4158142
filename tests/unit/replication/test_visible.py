"""What a snapshot saw, by the 32 bits of a transaction's number that streams tell."""

from __future__ import annotations

import pytest

from planrunner.replication.visible import NOTHING, Visible

EPOCH = 1 << 32


def test_a_snapshot_is_read_and_written_as_the_server_does() -> None:
    for text in ("100:100:", "100:110:100,105"):
        assert str(Visible.of(text)) == text


@pytest.mark.parametrize(("xid", "seen"), [(99, True), (100, False), (101, True), (105, False), (110, False)])
def test_what_ran_or_came_later_was_not_seen(xid: int, seen: bool) -> None:
    assert Visible.of("100:110:100,105").saw(xid) is seen


@pytest.mark.parametrize(
    ("xid", "seen"), [(EPOCH - 5, True), (EPOCH - 1, False), (3, True), (9, False), (12, False)]
)
def test_numbers_may_have_begun_anew_between(xid: int, seen: bool) -> None:
    around = Visible(xmin=3 * EPOCH - 1, xmax=3 * EPOCH + 9, running=frozenset({3 * EPOCH - 1}))
    assert around.saw(xid) is seen


def test_the_first_numbers_of_an_epoch_are_later_than_a_snapshot_at_the_end_of_the_last() -> None:
    assert not Visible(xmin=EPOCH - 2, xmax=EPOCH - 1, running=frozenset()).saw(7)


def test_nothing_saw_nothing() -> None:
    assert not NOTHING.saw(3)


def test_an_earlier_snapshot_sorts_first() -> None:
    first, second, third = Visible.of("5:9:5,6"), Visible.of("5:9:5"), Visible.of("9:12:")
    assert sorted([third, second, first], key=lambda seen: seen.age) == [first, second, third]
