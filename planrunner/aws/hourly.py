"""One figure of a server hour by hour, and the arithmetic on it: windows, hours of the day; gaps stay gaps."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

HOUR_SECONDS = 3600
_HOUR = timedelta(hours=1)
_HOURS_OF_DAY = 24


@dataclass(frozen=True, kw_only=True)
class Hourly:
    """A figure by the beginning of each hour, in order; hours of which nothing is known are missing."""

    points: tuple[tuple[datetime, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The figures alone."""
        return tuple(value for _, value in self.points)

    @property
    def mean(self) -> float:
        """Over the hours that are known."""
        return math.fsum(self.values) / len(self.points)

    def since(self, moment: datetime) -> Hourly:
        """What begins at ``moment`` or later."""
        return Hourly(points=tuple(point for point in self.points if point[0] >= moment))

    def newest(self, moment: datetime, *, hours: int = 3) -> float | None:
        """The last figure, None where it is older than that."""
        if not self.points or self.points[-1][0] < moment - hours * _HOUR:
            return None
        return self.points[-1][1]


def totals(rate: Hourly, seconds: float) -> tuple[float, float]:
    """The least and the most that a rate per second came to in any window of that length.

    Windows begin with an hour and cover known hours only; where no window is known whole, the mean stands for both.
    """
    hours = max(1, math.ceil(seconds / HOUR_SECONDS))
    sums = [
        math.fsum(value for _, value in window) / hours * seconds for window in _windows(rate.points, hours)
    ]
    if not sums:
        return rate.mean * seconds, rate.mean * seconds
    return min(sums), max(sums)


def _windows(
    points: tuple[tuple[datetime, float], ...], hours: int
) -> list[tuple[tuple[datetime, float], ...]]:
    spans = (points[first : first + hours] for first in range(len(points) - hours + 1))
    return [span for span in spans if span[-1][0] - span[0][0] == (hours - 1) * _HOUR]


def by_hour_of_day(figure: Hourly) -> Mapping[int, float]:
    """The mean of each hour of the day, UTC; hours of which nothing is known are missing."""
    found: dict[int, list[float]] = defaultdict(list)
    for at, value in figure.points:
        found[at.hour].append(value)
    return {hour: math.fsum(values) / len(values) for hour, values in sorted(found.items())}


def quietest(figure: Hourly, hours: int = 1) -> tuple[tuple[int, float], tuple[int, float]] | None:
    """The hours of the day at which a window of ``hours`` (at most 24) is least and most, each with its mean.

    None where an hour of the day is unknown.
    """
    day = by_hour_of_day(figure)
    if len(day) < _HOURS_OF_DAY:
        return None
    means = {
        first: math.fsum(day[(first + n) % _HOURS_OF_DAY] for n in range(hours)) / hours for first in day
    }
    least, most = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return (least, means[least]), (most, means[most])
