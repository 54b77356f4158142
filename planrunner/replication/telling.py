"""How a comparison's outcome is told: verdicts, the first rows that differ, and what repairs them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from planrunner.on_demand import on_demand
from planrunner.verification import RowDifference, RowDifferences, RowFault, TableVerdict, VerifyTerms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication import repair
    from planrunner.replication.found import Found, Outcome
    from planrunner.replication.regions import Survey
else:
    repair = on_demand("planrunner.replication.repair")


def verdict(table: Table, survey: Survey, outcome: Outcome, *, looked: bool) -> TableVerdict:
    """``looked``: the rows themselves were looked for, so that digests alone decide nothing any more."""
    wrong = outcome.total > 0 if looked else survey.different
    return TableVerdict(
        table=table.qualified,
        source_rows=survey.source_rows,
        target_rows=survey.target_rows,
        equal=not wrong,
        detail=_detail(survey, outcome, looked=looked) if wrong else None,
    )


def _detail(survey: Survey, outcome: Outcome, *, looked: bool) -> str:
    if not looked:
        return f"{survey.source_rows} rows on the source, {survey.target_rows} on the target"
    kinds = [kind(one) for one in outcome.found]
    words = [f"{kinds.count(fault)} {fault.value}" for fault in RowFault if fault in kinds]
    more = outcome.total - len(outcome.found)
    words += [f"{more} more that were not opened"] if more else []
    return f"{outcome.total} row{'s differ' if outcome.total > 1 else ' differs'}: {', '.join(words)}"


def kind(one: Found) -> RowFault:
    """How a row differs."""
    if not one.key:
        return RowFault.MISSING if one.copies[0] > one.copies[1] else RowFault.EXTRA
    if one.source is None:
        return RowFault.EXTRA
    return RowFault.MISSING if one.target is None else RowFault.CHANGED


def rows(table: Table, outcome: Outcome, terms: VerifyTerms) -> RowDifferences:
    """The first rows of a table that differ, their values covered when the terms say so."""
    first = list(islice(sorted(outcome.found, key=_order), terms.rows))
    if not terms.values:
        first = [repair.masked(table, one) for one in first]
    return RowDifferences(
        table=table.qualified,
        total=outcome.total,
        shown=tuple(_row(table, one) for one in first),
        repairs=tuple(_repairs(table, first)),
    )


def _repairs(table: Table, found: Sequence[Found]) -> Iterator[str]:
    whole = [one for one in found if one.whole]
    yield from (statement.as_string() for statement in repair.statements(table, whole))
    if len(whole) < len(found):
        yield f"-- {len(found) - len(whole)} rows hold values that are too long to be shown; verify --repair mends them"


def _order(one: Found) -> tuple[tuple[int, str], ...]:
    # Numbers in their order: shorter ones come first.
    return tuple((len(text or ""), text or "") for text in one.key or one.source or one.target or ())


def _row(table: Table, one: Found) -> RowDifference:
    names = [column.name for column in table.columns]
    absent = (None,) * len(names)
    pairs = dict(zip(names, zip(one.source or absent, one.target or absent, strict=True), strict=True))
    if one.key:
        shown = {
            name: pair for name, pair in pairs.items() if kind(one) is RowFault.CHANGED and pair[0] != pair[1]
        }
        return RowDifference(kind=kind(one), key=dict(zip(table.key, one.key, strict=True)), columns=shown)
    return RowDifference(kind=kind(one), key={}, columns=pairs, copies=one.copies)
