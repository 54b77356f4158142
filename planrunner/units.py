"""Durations and sizes as plans write them: ``500ms``, ``5s``, ``2m``, ``1h``; ``64kB``, ``16MB``, ``10GB``."""

from __future__ import annotations

import re

_DURATION = re.compile(r"\A(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"\A(\d+(?:\.\d+)?)(B|kB|MB|GB|TB)\Z")
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}


def seconds(text: str) -> float:
    """A duration in seconds; ValueError when it is not one."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r}; write 500ms, 5s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def size(text: str) -> int:
    """A size in bytes; ValueError when it is not one."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"not a size: {text!r}; write 64kB, 16MB or 10GB")
    return int(float(match[1]) * _BYTES[match[2]])


def human_bytes(count: float) -> str:
    """A byte count for people: ``12 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
