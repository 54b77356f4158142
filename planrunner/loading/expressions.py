"""Regular expressions that a plan brings along: matched in bounded time, whatever they are."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planrunner.model import Json

LONGEST = 1_000
# An honest pattern is decided within a thousandth of a second; a plan may hold many that are not.
_SECONDS = 0.2
_SECONDS_OF_A_PLAN = 0.6


class TooSlow(Exception):
    """The expression could not be decided in the time it is given."""


class Patience:
    """How long the expressions of one plan may take together."""

    def __init__(self) -> None:
        self._left = _SECONDS_OF_A_PLAN

    def share(self) -> float:
        """The seconds that the next match may take; TooSlow when they are used up."""
        if self._left <= 0:
            raise TooSlow
        return min(_SECONDS, self._left)

    def used(self, seconds: float) -> None:
        """What a match took that came to nothing."""
        self._left -= seconds


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A pattern; ``fault`` is what is wrong with it and what to do, and then it matches everything."""

    text: str
    patience: Patience
    compiled: Any = None
    fault: tuple[str, str | None] | None = None

    @classmethod
    def of(cls, text: Json, patience: Patience) -> Expression | None:
        """Read a pattern; None for what is no text, which is the schema's to tell."""
        if not isinstance(text, str):
            return None
        if len(text) > LONGEST:
            return cls(
                text=text, patience=patience, fault=(f"longer than {LONGEST:,} characters", "Shorten it.")
            )
        # Imported late: most plans have no pattern.
        import regex  # noqa: PLC0415

        try:
            # What both can read; re is what people know, and regex can be told to give up.
            re.compile(text)
            return cls(text=text, patience=patience, compiled=regex.compile(text))
        except (re.error, regex.error, RecursionError, OverflowError, MemoryError, ValueError) as error:
            told = f"It can't be read: {str(error)[:200] or type(error).__name__}."
            return cls(text=text, patience=patience, fault=("this is not a regular expression", told))

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches; TooSlow when that takes too long to find out."""
        if self.compiled is None:
            return True
        seconds = self.patience.share()
        begun = time.monotonic()
        try:
            return bool(self.compiled.fullmatch(value, timeout=seconds))
        except TimeoutError:
            self.patience.used(time.monotonic() - begun)
            raise TooSlow from None
