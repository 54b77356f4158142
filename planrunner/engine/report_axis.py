"""An axis of time on which long waits take little room: a migration works for minutes and waits for days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from planrunner.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

WIDTH = 1_000.0
# A wait longer than this part of all the work is drawn as a break.
_LONG = 0.25
_BREAK = 40.0
_MOST_BREAKS = 12


@dataclass(frozen=True, kw_only=True)
class Break:
    """A stretch in which nothing happened, drawn shorter than it was."""

    x: float
    width: float
    told: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label below the axis: ``anchor`` is start, middle or end."""

    x: float
    label: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    began: datetime
    ended: datetime
    x: float
    width: float
    idle: bool


class Axis:
    """Maps times to 0 … 1,000; ``spans`` are the times in which something happened."""

    def __init__(self, spans: Sequence[tuple[datetime, datetime]]) -> None:
        self._stretches = _placed(_merged(spans))
        idle = (s for s in self._stretches if s.idle)
        self.breaks = tuple(
            Break(x=s.x, width=s.width, told=f"{_long(s.ended - s.began)} without work") for s in idle
        )

    def place(self, at: datetime) -> float:
        """Where that time lies; before the first span is 0."""
        for stretch in self._stretches:
            if at <= stretch.ended:
                part = (at - stretch.began) / ((stretch.ended - stretch.began) or timedelta(microseconds=1))
                return round(stretch.x + stretch.width * min(1.0, max(0.0, part)), 2)
        return WIDTH

    def ticks(self) -> tuple[Tick, ...]:
        """The first and the last time; the middle, too, where nothing is left out."""
        began, ended = self._stretches[0].began, self._stretches[-1].ended
        form = _form(began, ended)
        found = [Tick(x=0.0, label=form(began), anchor="start")]
        if len(self._stretches) == 1 and ended - began > timedelta(seconds=4):
            middle = began + (ended - began) / 2
            found.append(Tick(x=WIDTH / 2, label=form(middle), anchor="middle"))
        return (*found, Tick(x=WIDTH, label=f"{form(ended)} UTC", anchor="end"))


def _form(began: datetime, ended: datetime) -> Callable[[datetime], str]:
    """How times are written on an axis of that length."""
    if ended - began < timedelta(seconds=10):
        return lambda at: f"{at:%H:%M:%S}.{at.microsecond // 10_000:02d}"
    return lambda at: f"{at:%H:%M:%S}" if began.date() == ended.date() else f"{at:%m-%d %H:%M}"


def _merged(spans: Sequence[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """The times of work in order, those that a short wait parts joined."""
    ordered = sorted(spans)
    work = sum((end - begin for begin, end in ordered), timedelta())
    waits = sorted((b[0] - a[1] for a, b in pairwise(ordered)), reverse=True)
    # Many breaks would leave no room for the work.
    least = max(work * _LONG, timedelta(seconds=1), *waits[_MOST_BREAKS : _MOST_BREAKS + 1])
    joined = [ordered[0]]
    for began, ended in ordered[1:]:
        last = joined[-1]
        if began - last[1] > least:
            joined.append((began, ended))
        else:
            joined[-1] = (last[0], max(last[1], ended))
    return joined


def _placed(spans: Sequence[tuple[datetime, datetime]]) -> tuple[_Stretch, ...]:
    # Even a moment has some length, so that it has a place.
    lengths = [max(ended - began, timedelta(milliseconds=1)) for began, ended in spans]
    scale = (WIDTH - _BREAK * (len(spans) - 1)) / (sum(lengths, timedelta()) / timedelta(seconds=1))
    found: list[_Stretch] = []
    x = 0.0
    for (began, ended), length in zip(spans, lengths, strict=True):
        if found:
            found.append(_Stretch(began=found[-1].ended, ended=began, x=x, width=_BREAK, idle=True))
            x += _BREAK
        width = length.total_seconds() * scale
        found.append(_Stretch(began=began, ended=ended, x=x, width=width, idle=False))
        x += width
    return tuple(found)


def _long(wait: timedelta) -> str:
    seconds = wait.total_seconds()
    return f"{seconds / 86400:.1f} days" if seconds > 2 * 86400 else human_seconds(seconds)
