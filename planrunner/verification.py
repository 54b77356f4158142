"""The frozen values of a comparison of both sides: what was found of tables and rows, and what is to be compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.model import Json


@dataclass(frozen=True, kw_only=True)
class TableVerdict:
    """What verification found for one table; ``detail`` says how the sides differ, ``how`` how they were compared.

    ``buckets`` is how many parts the table has, ``again`` how many of them, and ``rows_again`` how many single
    rows, were compared inside the pause because they had changed since, or were not proven before; both are
    None where the table was compared whole.
    """

    table: str
    source_rows: int
    target_rows: int
    equal: bool
    detail: str | None = None
    how: str | None = None
    buckets: int | None = None
    again: int | None = None
    rows_again: int | None = None


class RowFault(Enum):
    """How a row differs."""

    MISSING = "missing on the target"
    EXTRA = "extra on the target"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class RowDifference:
    """One row that differs: its key as text by column, and the columns that differ as (source, target).

    Of a table without a key the columns are the whole row, and ``copies`` tells how many each side holds.
    """

    kind: RowFault
    key: Mapping[str, str | None]
    columns: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    copies: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class RowDifferences:
    """The rows of one table that differ: all counted, the first shown, with the statements that mend those."""

    table: str
    total: int
    shown: tuple[RowDifference, ...]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The outcome of comparing both sides; ``other`` names differences that are not rows.

    ``rows`` are the rows that differ, where they were looked for. ``undecided`` names the tables of which some
    rows changed at every look: nothing is proven of those. ``sample`` is the share of the rows that was
    compared, None for all of them.
    """

    tables: tuple[TableVerdict, ...]
    other: tuple[str, ...] = ()
    seconds: float = 0.0
    rows: tuple[RowDifferences, ...] = ()
    undecided: tuple[str, ...] = ()
    sample: float | None = None

    @property
    def equal(self) -> bool:
        """True when every table and everything else agreed; an empty comparison is not proof."""
        return not self.differences

    @property
    def differences(self) -> tuple[str, ...]:
        """Each difference as one line."""
        rows = tuple(f"{v.table}: {v.detail}" for v in self.tables if not v.equal)
        return rows + self.other


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One line of what is proven before a cutover: ``equal`` when it holds, ``detail`` names what does not."""

    name: str
    equal: bool
    text: str
    detail: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The line for ledger and report."""
        return {"name": self.name, "equal": self.equal, "text": self.text, "detail": list(self.detail)}


@dataclass(frozen=True, kw_only=True)
class VerifyTerms:
    """What to compare and how much to show.

    ``tables`` are patterns, none for all of them; ``sample`` a share between 0 and 1. ``rows`` is how many
    differing rows of a table are shown, ``values`` whether with their values. ``mend`` is asked with what was
    found; when it agrees, the target's rows are repaired and compared once more.
    """

    tables: tuple[str, ...] = ()
    sample: float | None = None
    rows: int = 100
    values: bool = True
    mend: Callable[[Verification], bool] | None = None
