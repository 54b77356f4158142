"""Durations and sizes as plans write them: ``500ms``, ``5s``, ``2m``, ``1h``; ``64kB``, ``16MB``, ``10GB``.

Time windows of rows are longer: ``12h``, ``90d``, ``8w``.
"""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"\A(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h)\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"\A(\d{1,4})(m|h|d|w)\Z", re.ASCII)
_SPANS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_SIZE = re.compile(r"\A(\d{1,15}(?:\.\d{1,9})?)(B|kB|MB|GB|TB)\Z", re.ASCII)
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}


def seconds(text: str) -> float:
    """A duration in seconds; ValueError when it is not one."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r}; write 500ms, 5s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def span(text: str) -> timedelta:
    """The length of a time window, its days of 24 hours; ValueError when it is not one."""
    match = _SPAN.match(text)
    if match is None:
        raise ValueError(f"not a time window: {text!r}; write 30m, 12h, 90d or 8w")
    return int(match[1]) * _SPANS[match[2]]


def size(text: str) -> int:
    """A size in bytes; ValueError when it is not one."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"not a size: {text!r}; write 64kB, 16MB or 10GB")
    return int(float(match[1]) * _BYTES[match[2]])


def human_seconds(count: float) -> str:
    """A time for people: ``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if count < 60:
        return f"{count:.1f} s" if count < 10 else f"{count:.0f} s"
    return f"{count / 60:.0f} min" if count < 5400 else f"{count / 3600:.1f} h"


def human_bytes(count: float) -> str:
    """A byte count for people: ``12 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
