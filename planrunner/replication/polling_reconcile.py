"""Makes a table of the target what one snapshot of the source shows: digests first, then only the rows that differ.

This is how rows that were deleted, or were given another key, are found: no row of the source tells of them. Nobody
but us writes to the target, so what was compared stays as it is until it is mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication import copy, differences, polling_changes, regions, repair
from planrunner.replication.checksum import where
from planrunner.replication.identities import table_name

if TYPE_CHECKING:
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.found import Outcome
    from planrunner.replication.lanes import Lane
    from planrunner.replication.regions import Survey
    from planrunner.replication.workspace import Workspace

# What differs after it was mended differs by more than its rows.
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Levelled:
    """A table that is equal now, of ``rows`` rows; so many of them were ``brought`` and ``removed``."""

    rows: int
    brought: int = 0
    removed: int = 0


def level(workspace: Workspace, lane: Lane, table: Table) -> Levelled:
    """Compare what the lane's transaction on the source sees with the target, and mend the target until it is that.

    StepFailed when it can't be made equal, QueryFailed when a side refuses; what was mended by then stays.
    """
    brought = removed = 0
    for _ in range(_ATTEMPTS):
        survey = regions.survey(lane, table)
        if not survey.different:
            return Levelled(rows=survey.source_rows, brought=brought, removed=removed)
        more, fewer = _mended(workspace, lane, table, survey)
        brought, removed = brought + more, removed + fewer
    raise StepFailed(
        f"{table.qualified}: the target's rows differ from the source's again as soon as they are made equal",
        remedy="Somebody else writes to the target's table, or a rule or trigger there changes what is written. End"
        " that, and run again.",
    )


def _mended(workspace: Workspace, lane: Lane, table: Table, survey: Survey) -> tuple[int, int]:
    outcome = differences.find(lane, table, within=survey.within)
    with workspace.writing() as writer:
        with polling_changes.quiet(writer, table):
            if outcome.total > len(outcome.found):
                figures = _replaced(lane, writer, table, survey.within)
            else:
                figures = _by_rows(writer, table, outcome)
        failpoint("polling.before_levelled")
    failpoint("polling.levelled")
    return figures


def _by_rows(writer: Session, table: Table, outcome: Outcome) -> tuple[int, int]:
    for statement in repair.replacing(table, outcome.found):
        writer.execute(statement)
    copies = [one.copies for one in outcome.found]
    if table.key:
        gone = sum(1 for one in outcome.found if one.source is None)
        return len(outcome.found) - gone, gone
    return sum(max(0, a - b) for a, b in copies), sum(max(0, b - a) for a, b in copies)


def _replaced(lane: Lane, writer: Session, table: Table, within: sql.Composed | None) -> tuple[int, int]:
    """Too much to be held row by row: everything of the parts that differ is written anew."""
    gone = writer.execute(emptying(table, within)).rowcount
    taking = sql.SQL("COPY {}{} FROM STDIN ({})").format(
        table_name(table), copy.column_list(table), copy.binary_or_text(table)
    )
    asked = polling_changes.sending(table, regions.passing(table, lane.source.side, within))
    with lane.ours.cursor() as source:
        with source.copy(asked) as read:
            taken = polling_changes.filled(writer, taking, lane.source.telling(read))
        if taken != source.rowcount:
            raise StepFailed(
                f"{table.qualified}: the source sent {source.rowcount} rows, the target took {taken}; nothing of it was"
                " kept"
            )
    return taken, max(0, gone - taken)


def emptying(table: Table, within: sql.Composed | None) -> sql.Composed:
    """What takes those rows away from the target."""
    return sql.SQL("DELETE FROM ONLY {}{}").format(table_name(table), where(within))
