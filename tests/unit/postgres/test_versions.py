"""Which versions are served and supported, and which minors are known to be bad."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from planrunner.model import Side
from planrunner.postgres.preflight_versions import END_OF_LIFE, KNOWN, NEWEST, OLDEST


def _harms(major: int, minor: int, side: Side) -> list[str]:
    version = major * 10000 + minor
    return [one.harm for one in KNOWN if one.holds(version, side)]


@pytest.mark.parametrize(
    ("major", "minor", "side", "words"),
    [
        (14, 0, Side.SOURCE, "CREATE INDEX CONCURRENTLY"),
        (14, 3, Side.SOURCE, "CREATE INDEX CONCURRENTLY"),
        (15, 12, Side.SOURCE, "stale catalogue"),
        (15, 13, Side.SOURCE, "cache invalidations"),
        (16, 8, Side.SOURCE, "stale catalogue"),
        (16, 4, Side.SOURCE, "memory"),
        (16, 4, Side.TARGET, "lose it for good"),
        (16, 8, Side.TARGET, "a second time"),
        (17, 0, Side.SOURCE, "memory"),
        (17, 4, Side.SOURCE, "stale catalogue"),
        (17, 5, Side.SOURCE, "cache invalidations"),
        (17, 4, Side.TARGET, "a second time"),
    ],
)
def test_minor_release_with_a_known_defect_is_told(major: int, minor: int, side: Side, words: str) -> None:
    assert [harm for harm in _harms(major, minor, side) if words in harm]


@pytest.mark.parametrize(
    ("major", "minor", "side"),
    [
        (14, 4, Side.SOURCE),
        (14, 3, Side.TARGET),
        (15, 14, Side.SOURCE),
        (15, 20, Side.SOURCE),
        (16, 9, Side.TARGET),
        (16, 10, Side.SOURCE),
        (17, 6, Side.SOURCE),
        (17, 5, Side.TARGET),
        (18, 0, Side.SOURCE),
        (18, 0, Side.TARGET),
    ],
)
def test_mended_minor_release_is_no_warning(major: int, minor: int, side: Side) -> None:
    assert _harms(major, minor, side) == []


def test_every_served_major_has_an_end_of_life_in_november_five_years_after_it_came() -> None:
    assert sorted(END_OF_LIFE) == list(range(OLDEST, NEWEST + 1))
    for major, day in END_OF_LIFE.items():
        assert (day.year, day.month) == (2012 + major, 11)
        # The releases of November come on its second Thursday, in one year of these a week later.
        assert day.weekday() == 3
        assert day >= date(day.year, 11, 8)
        assert day - timedelta(days=14) <= date(day.year, 11, 8)


def test_every_harm_reads_on_after_the_version_and_names_no_release() -> None:
    for one in KNOWN:
        assert one.since < one.mended
        assert one.harm[0].islower()
        assert not re.search(r"\d+\.\d+", one.harm)
