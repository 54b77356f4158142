"""The arithmetic of estimates: ranges, what is missing is said, nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from planrunner.replication.estimate import Rates, Sizes, copy_time, told, wal
from planrunner.replication.probe import Measured
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from planrunner.model import Estimate

MB = 1 << 20
SIZES = Sizes(
    tables=2,
    units=3,
    jobs=4,
    rows=1000,
    unknown=0,
    heap=80 * MB,
    toast=20 * MB,
    indexes=50 * MB,
    largest_indexes=40 * MB,
    filtered=False,
)
AWAY = Measured(reason="no rights")


def rates(reading: float = 10 * MB, sending: float = 100 * MB, writing: float = 3 * MB) -> Rates:
    return Rates(
        reading=Measured(rate=reading), sending=Measured(rate=sending), writing=Measured(rate=writing)
    )


def by_name(estimates: tuple[Estimate, ...]) -> dict[str, Estimate]:
    return {e.name: e for e in estimates}


def test_the_copy_takes_as_long_as_the_slower_of_loading_and_the_line() -> None:
    loading = copy_time(SIZES, rates(), streams=4)
    assert (loading.low, loading.high) == (20, 90)
    line = copy_time(SIZES, rates(sending=MB / 10), streams=4)
    assert (line.low, line.high) == (250, 1000)


def test_twice_the_data_takes_twice_the_time_and_holds_twice_the_wal() -> None:
    double = replace(SIZES, heap=160 * MB, toast=40 * MB, indexes=100 * MB)
    for before, after in (
        (copy_time(SIZES, rates(), streams=4), copy_time(double, rates(), streams=4)),
        (
            wal(copy_time(SIZES, rates(), streams=4), rates().writing),
            wal(copy_time(double, rates(), streams=4), rates().writing),
        ),
    ):
        assert before.low
        assert before.high
        assert (after.low, after.high) == (2 * before.low, 2 * before.high)


def test_no_writes_hold_back_no_wal() -> None:
    found = wal(copy_time(SIZES, rates(), streams=4), Measured(rate=0.0))
    assert (found.low, found.high) == (0, 0)


@pytest.mark.parametrize("missing", ["reading", "sending"])
def test_what_was_not_measured_is_said_with_the_reason(missing: str) -> None:
    found = by_name(told(SIZES, replace(rates(), **{missing: AWAY}), streams=4, most_wal=MB))
    for name in ("copy_time", "wal_retained"):
        assert (found[name].low, found[name].high) == (None, None)
        assert found[name].reason
    assert found["copy_time"].reason == "no rights"
    assert found["target_disk"].low == 150 * MB


def test_the_disk_needed_has_room_for_sorting_and_wal() -> None:
    found = by_name(told(SIZES, rates(), streams=4, most_wal=10 * MB))
    assert (found["target_disk"].low, found["target_disk"].high) == (150 * MB, 200 * MB)
    assert found["target_free"].reason


def test_every_figure_has_a_text_or_a_reason_and_every_range_a_formula() -> None:
    for estimate in told(replace(SIZES, unknown=1), rates(), streams=4, most_wal=MB):
        assert bool(estimate.text) != bool(estimate.reason)
        assert estimate.low == estimate.high or estimate.formula
    assert (
        "never analysed"
        in by_name(told(replace(SIZES, unknown=1), rates(), streams=4, most_wal=MB))["rows"].text
    )


def test_times_are_told_for_people() -> None:
    assert [human_seconds(n) for n in (0.44, 12, 180, 9000)] == ["0.4 s", "12 s", "3 min", "2.5 h"]
