"""Windows and hours of the day over a week of figures, gaps included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.aws.hourly import Hourly, by_hour_of_day, quietest, totals

MONDAY = datetime(2026, 3, 2, 0, 0, tzinfo=UTC)
RATES = st.floats(0, 1e9)


def hours(values: dict[int, float]) -> Hourly:
    return Hourly(points=tuple((MONDAY + timedelta(hours=h), v) for h, v in sorted(values.items())))


WEEK = st.dictionaries(st.integers(0, 167), RATES, min_size=1)


def test_a_window_shorter_than_an_hour_takes_the_quietest_and_the_busiest_one() -> None:
    assert totals(hours({0: 1.0, 1: 5.0, 2: 3.0}), 600) == (600, 3000)


def test_a_window_of_hours_is_slid_over_what_is_known() -> None:
    assert totals(hours({0: 1.0, 1: 2.0, 2: 6.0}), 7200) == (3 * 3600, 8 * 3600)


def test_no_window_reaches_over_a_gap() -> None:
    # Hours 2 and 3 are missing: 1 and 4 are no neighbours.
    assert totals(hours({0: 1.0, 1: 1.0, 4: 9.0, 5: 1.0}), 7200) == (2 * 3600, 10 * 3600)


def test_where_no_window_is_whole_the_mean_stands_for_both() -> None:
    assert totals(hours({0: 1.0, 2: 3.0}), 7200) == (14400, 14400)


@given(WEEK, st.floats(1, 14 * 86400))
def test_a_total_lies_between_the_least_and_the_most_rate(values: dict[int, float], seconds: float) -> None:
    rate = hours(values)
    low, high = totals(rate, seconds)
    slack = 1e-6 * max(1.0, high)
    assert min(rate.values) * seconds - slack <= low <= high <= max(rate.values) * seconds + slack


@given(RATES, st.sets(st.integers(0, 167), min_size=1), st.floats(1, 14 * 86400))
def test_a_steady_rate_is_the_same_in_every_window(rate: float, known: set[int], seconds: float) -> None:
    low, high = totals(hours(dict.fromkeys(known, rate)), seconds)
    assert low == pytest.approx(rate * seconds)
    assert high == pytest.approx(rate * seconds)


@given(st.lists(RATES, min_size=168, max_size=168), st.integers(1, 23))
def test_longer_windows_never_hold_less(values: list[float], length: int) -> None:
    rate = hours(dict(enumerate(values)))
    shorter, longer = totals(rate, length * 3600), totals(rate, (length + 1) * 3600)
    assert longer[1] >= shorter[1] - 1e-6 * max(1.0, shorter[1])


def test_the_quietest_hours_may_reach_over_midnight() -> None:
    week = hours({h: 1.0 if h % 24 in {23, 0} else 10.0 for h in range(168)})
    found = quietest(week, 2)
    assert found is not None
    assert found[0] == (23, 1.0)
    assert found[1][1] == 10.0


def test_nothing_is_told_of_a_day_of_which_an_hour_is_unknown() -> None:
    assert quietest(hours({h: 1.0 for h in range(168) if h % 24 != 5})) is None


@given(WEEK)
def test_hours_of_the_day_are_means_of_what_is_known(values: dict[int, float]) -> None:
    day = by_hour_of_day(hours(values))
    assert day.keys() == {hour % 24 for hour in values}
    for hour, mean in day.items():
        own = [value for h, value in values.items() if h % 24 == hour]
        assert min(own) - 1e-3 <= mean <= max(own) + 1e-3


def test_an_old_figure_is_not_the_present() -> None:
    found = hours({0: 1.0, 1: 2.0})
    assert found.newest(MONDAY + timedelta(hours=3)) == 2.0
    assert found.newest(MONDAY + timedelta(hours=5)) is None
    assert Hourly().newest(MONDAY) is None
