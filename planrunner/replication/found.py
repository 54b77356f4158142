"""What was found to differ between the rows of both sides, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = "tuple[str | None, ...]"
Texts: TypeAlias = "tuple[str | None, ...]"

# So many suspects of a table are held at a time; one that is wrong throughout is mended in rounds.
HELD_AT_MOST = 10_000
# How often rows that move are looked at before they are called undecided.
LOOKS = 6


class Cut(str):
    """What stands for a value that is too long to be held: its beginning, its length and its digest."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row that differs: its texts by column on either side, None where it is not there.

    A value is a ``Cut`` where only the beginnings were asked for.
    ``key`` is empty for a table without one; then ``copies`` tells how many of this row each side holds, and
    ``hash`` is that of the row.
    """

    key: Key
    source: Texts | None
    target: Texts | None
    copies: tuple[int, int] = (1, 1)
    hash: int = 0

    @property
    def whole(self) -> bool:
        """True where every value is held as it is."""
        return not any(isinstance(text, Cut) for text in (*(self.source or ()), *(self.target or ())))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is known of a table's rows: ``found`` is sure, ``undecided`` changed at every look.

    ``total`` counts all; those beyond ``HELD_AT_MOST`` were seen once and are not among ``found``.
    """

    total: int
    found: tuple[Found, ...] = ()
    undecided: int = 0
