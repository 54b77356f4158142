"""Where a sequence goes at the cutover: on, never back, never out of its bounds."""

from __future__ import annotations

import pytest

from planrunner.replication.sequences import Sequence


def sequence(
    *, last: int, called: bool = True, increment: int = 1, bounds: tuple[int, int] = (1, 1000)
) -> Sequence:
    return Sequence(
        schema="public",
        name="s",
        increment=increment,
        minimum=bounds[0],
        maximum=bounds[1],
        last=last,
        called=called,
    )


@pytest.mark.parametrize(
    ("standing", "headroom", "expected"),
    [
        (sequence(last=10), 0, (10, True)),
        (sequence(last=10), 100, (110, True)),
        (sequence(last=1, called=False), 0, (1, False)),
        (sequence(last=1, called=False), 100, (101, False)),
        (sequence(last=990), 100, (1000, True)),
        (sequence(last=-10, increment=-5, bounds=(-1000, 0)), 100, (-510, True)),
        (sequence(last=-990, increment=-5, bounds=(-1000, 0)), 100, (-1000, True)),
    ],
)
def test_a_sequence_moves_by_its_headroom_inside_its_bounds(
    standing: Sequence, headroom: int, expected: tuple[int, bool]
) -> None:
    assert standing.moved(headroom) == expected
