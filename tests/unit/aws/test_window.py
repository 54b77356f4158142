"""Maintenance windows: open or not, when next, over the week's end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.aws.window import WEEK, window

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
INSTANTS = st.integers(min_value=0, max_value=7 * 24 * 60 - 1)
MOMENTS = st.integers(min_value=1_577_836_800, max_value=2_208_988_800).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)


def written(minute: int) -> str:
    day, rest = divmod(minute, 24 * 60)
    return f"{DAYS[day]}:{rest // 60:02}:{rest % 60:02}"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "opens", "holds"),
    [
        ("sun:03:00-sun:04:00", "2026-11-28 12:00", "2026-11-29 03:00", False),
        ("sun:03:00-sun:04:00", "2026-11-29 02:59", "2026-11-29 03:00", False),
        ("sun:03:00-sun:04:00", "2026-11-29 03:00", "2026-11-29 03:00", True),
        ("sun:03:00-sun:04:00", "2026-11-29 03:59", "2026-11-29 03:00", True),
        ("sun:03:00-sun:04:00", "2026-11-29 04:00", "2026-12-06 03:00", False),
        ("sun:23:30-mon:00:30", "2026-11-30 00:15", "2026-11-29 23:30", True),
        ("sun:23:30-mon:00:30", "2026-11-30 00:30", "2026-12-06 23:30", False),
        ("Sun:23:30-Mon:00:30", "2026-11-29 23:45", "2026-11-29 23:30", True),
        ("mon:00:00-mon:00:30", "2026-11-29 23:59", "2026-11-30 00:00", False),
    ],
)
def test_a_window_opens_and_holds(text: str, now: str, opens: str, holds: bool) -> None:
    found = window(text)
    assert (found.opens(at(now)), found.holds(at(now))) == (at(opens), holds)


def test_another_time_zone_is_the_same_moment() -> None:
    tokyo = datetime(2026, 11, 29, 12, 30, tzinfo=timezone(timedelta(hours=9)))
    assert window("sun:03:00-sun:04:00").holds(tokyo)


@pytest.mark.parametrize(
    "text", ["", "sun:3:00-sun:04:00", "sun:24:00-mon:01:00", "so:03:00-so:04:00", "03:00-04:00"]
)
def test_what_is_no_window_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not a maintenance window"):
        window(text)


@given(begin=INSTANTS, length=st.integers(min_value=30, max_value=24 * 60), now=MOMENTS)
def test_any_window_is_ahead_by_a_week_at_most_or_open(begin: int, length: int, now: datetime) -> None:
    found = window(f"{written(begin)}-{written((begin + length) % (7 * 24 * 60))}")
    opens, closes = found.opens(now), found.closes(now)
    assert closes - opens == timedelta(minutes=length)
    assert now < closes
    assert opens - now < WEEK
    assert found.holds(now) == (opens <= now < closes)
    assert found.holds(opens)
    assert not found.holds(closes)
    monday = opens - timedelta(days=opens.weekday(), hours=opens.hour, minutes=opens.minute)
    assert opens - monday == timedelta(minutes=begin)
