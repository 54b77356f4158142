"""Maintenance windows as RDS writes them (``sun:03:00-sun:04:00``, UTC): whether one is open, and when it opens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(
    r"\A(mon|tue|wed|thu|fri|sat|sun):([01]\d|2[0-3]):([0-5]\d)"
    r"-(mon|tue|wed|thu|fri|sat|sun):([01]\d|2[0-3]):([0-5]\d)\Z",
    re.IGNORECASE,
)
WEEK = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Window:
    """A weekly window; ``begin`` and ``length`` count from Monday 00:00 UTC, and it may reach into the next week."""

    text: str
    begin: timedelta
    length: timedelta

    def opens(self, now: datetime) -> datetime:
        """When it opens next; an instant in the past, the begin of the open window, while it is open."""
        now = now.astimezone(UTC)
        monday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=now.weekday())
        # The one that began last week may still be open.
        openings = (monday + self.begin + week * WEEK for week in (-1, 0, 1))
        return next(opening for opening in openings if now < opening + self.length)

    def closes(self, now: datetime) -> datetime:
        """When that one ends."""
        return self.opens(now) + self.length

    def holds(self, now: datetime) -> bool:
        """True while it is open: its begin belongs to it, its end does not."""
        return self.opens(now) <= now


def window(text: str) -> Window:
    """Read ``ddd:hh:mm-ddd:hh:mm``; ValueError when it is not one."""
    found = _WINDOW.match(text.strip())
    if found is None:
        raise ValueError(f"not a maintenance window: {text!r}; RDS writes sun:03:00-sun:04:00")
    begin, end = _instant(*found.groups()[:3]), _instant(*found.groups()[3:])
    return Window(text=found[0].lower(), begin=begin, length=(end - begin) % WEEK or WEEK)


def _instant(day: str, hour: str, minute: str) -> timedelta:
    return timedelta(days=_DAYS.index(day.lower()), hours=int(hour), minutes=int(minute))
