"""Durations and sizes as plans write them."""

from __future__ import annotations

import pytest

from planrunner.units import human_bytes, seconds, size, span


@pytest.mark.parametrize(("text", "expected"), [("500ms", 0.5), ("5s", 5), ("1.5m", 90), ("2h", 7200)])
def test_durations_are_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("1B", 1), ("64kB", 65536), ("16MB", 16 << 20), ("1.5GB", 3 << 29)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5S", "5s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


@pytest.mark.parametrize(("text", "hours"), [("30m", 0.5), ("12h", 12), ("90d", 2160), ("8w", 1344)])
def test_time_windows_are_read(text: str, hours: float) -> None:
    assert span(text).total_seconds() == hours * 3600


@pytest.mark.parametrize("text", ["", "90", "90 d", "-1d", "1.5d", "5s", "99999d", "1d\n"])
def test_what_is_no_time_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a time window"):
        span(text)


def test_bytes_are_told_for_people() -> None:
    assert [human_bytes(n) for n in (512, 2048, 5 << 20, 3 << 40)] == ["512 B", "2 kB", "5 MB", "3.0 TB"]
