"""What is compared inside the pause, by what the plan says and the live scan took."""

from __future__ import annotations

from typing import Any, cast

import pytest

from planrunner.replication.proof_book import Book
from planrunner.replication.verify import Mode, Proven, chosen
from planrunner.verification import Verification


def proven(scan: float) -> Proven:
    return Proven(
        found=Verification(tables=()),
        book=Book(cuts={}, proofs={}, touched={}),
        ends=cast("Any", None),
        pending=0,
        scan_seconds=scan,
    )


@pytest.mark.parametrize(
    ("mode", "scan", "whole"),
    [
        (Mode.AUTO, 1.25, True),
        (Mode.AUTO, 1.26, False),
        (Mode.DIGESTS, 100.0, True),
        (Mode.COUNTS, 100.0, True),
        (Mode.CHANGED, 0.1, False),
    ],
)
def test_whole_digests_are_taken_where_they_fit_in_a_quarter_of_the_pause(
    mode: Mode, scan: float, whole: bool
) -> None:
    assert (chosen(mode, proven(scan), budget=5.0) is None) is whole


def test_without_a_live_proof_everything_is_compared_whole() -> None:
    assert chosen(Mode.CHANGED, None, budget=5.0) is None
