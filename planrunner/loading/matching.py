"""Patterns that a plan brings along, matched in bounded time: a plan may come from anybody."""

from __future__ import annotations

import math
import re
import time
from functools import lru_cache
from typing import Any

_LONGEST = 500
_MOST_REPEATS = 10_000
_SECONDS = 0.2
_COUNTS = re.compile(r"\{(\d{0,9})(?:,(\d{0,9}))?\}")


class BadPattern(ValueError):
    """A text that is no usable regular expression; the message says why."""


class TooSlow(BadPattern):
    """A pattern that backtracks too long."""


class Patience:
    """How long all patterns of one plan may be tried together."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._left = seconds

    def matches(self, pattern: str, text: str) -> bool:
        """Whether the whole text matches; BadPattern for what is no pattern or takes too long."""
        compiled = _compiled(pattern)
        began = time.monotonic()
        try:
            return compiled.fullmatch(text, timeout=max(0.001, min(_SECONDS, self._left))) is not None
        except TimeoutError as error:
            raise TooSlow("it takes too long; look for a repeat inside a repeat, such as (a+)+") from error
        finally:
            self._left -= time.monotonic() - began


def check(pattern: str) -> None:
    """BadPattern where a text is no usable regular expression."""
    _compiled(pattern)


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    if len(pattern) > _LONGEST:
        raise BadPattern(f"it is longer than {_LONGEST} characters")
    counts = [max(int(low or 1), int(high or 1)) for low, high in _COUNTS.findall(pattern)]
    if math.prod(max(count, 1) for count in counts) > _MOST_REPEATS:
        # The compiler writes counted repeats out.
        raise BadPattern(f"its repeats multiply to more than {_MOST_REPEATS:,}")
    # The standard library's can't be stopped once it backtracks. Late: few plans have patterns.
    import regex  # noqa: PLC0415

    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise BadPattern(str(error)) from error
