"""Round after round: until the target has caught up, before a cutover, and a last one while writers stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import ServerError
from planrunner.replication import (
    drift,
    fingerprint,
    polling,
    polling_horizon,
    relations,
)
from planrunner.replication.courier import mendable
from planrunner.replication.polling import Figures, How
from planrunner.units import human_seconds
from planrunner.verification import TableVerdict, Verification

if TYPE_CHECKING:
    from planrunner.replication.inside import Inside
    from planrunner.replication.workspace import Workspace

HOW = "compared whole, and made equal to what a snapshot of the source showed"
STILL = "compared whole while writes stood still"
_MOST_FAILURES = 5
# A round that is hardly shorter than the one before: the source writes as fast as it is asked.
_SHORTER = 0.9


def follow(workspace: Workspace) -> Figures:
    """Go round until the target has caught up, and for as long as the plan's pace says after that.

    It has when a round asked for changed rows in less than an interval, or in hardly less time than the one before,
    and every table was compared whole since it was copied. ServerError after five rounds in a row that broke.
    """
    pace, clock = workspace.terms.pace, workspace.clock
    assert pace is not None
    caught_up: float | None = None
    last: Figures | None = None
    while True:
        begun = clock.monotonic()
        found = _attempt(workspace, How())
        tell(workspace, found, last)
        if caught_up is None and (
            found.asking <= pace.interval or (last is not None and found.asking >= last.asking * _SHORTER)
        ):
            caught_up = clock.monotonic()
        if caught_up is not None and clock.monotonic() - caught_up >= pace.keep:
            return found
        last = found
        clock.sleep(max(0.0, begun + pace.interval - clock.monotonic()))


def _attempt(workspace: Workspace, how: How) -> Figures:
    for number in range(1, _MOST_FAILURES + 1):
        try:
            drift.refuse(workspace)
            with drift.explaining(workspace):
                return polling.go_round(workspace, how)
        except ServerError as error:
            if number == _MOST_FAILURES or not mendable(error):
                raise
            workspace.tell(f"the round goes on after: {error.message}", {"attempt": number})
            workspace.clock.sleep(2.0**number)
    raise AssertionError("the last attempt returns or raises")


def tell(workspace: Workspace, found: Figures, last: Figures | None) -> None:
    """Tell what a round did, and who keeps the next one from doing less."""
    compared = f", {found.compared} tables compared whole" if found.compared else ""
    workspace.tell(
        f"round over {len(found.visits)} tables in {human_seconds(found.seconds)}: {found.brought} rows brought,"
        f" {found.removed} removed{compared}",
        {
            "tables": len(found.visits),
            "brought": found.brought,
            "removed": found.removed,
            "compared": found.compared,
            "seconds": round(found.seconds, 3),
        },
    )
    now, before = found.horizon, None if last is None else last.horizon
    if now is None or before is None or now.xmin > before.xmin or now.next == before.next:
        return
    who = polling_horizon.holder(workspace.source, now)
    if who is not None:
        workspace.tell(
            f"warning: an open transaction keeps the horizon where it was: {who}. Until it ends, every round reads again"
            " what has been written since it began",
            {"holder": who, "behind": now.next - now.xmin},
        )


def settle(workspace: Workspace) -> Figures:
    """Make the whole target what one snapshot of the source shows, so that rows of different tables fit together."""
    found = _attempt(workspace, How(compare=True, together=True))
    tell(workspace, found, None)
    return found


def prove(workspace: Workspace, *, jobs: int) -> Verification:
    """Compare every table whole before the cutover, and make it equal: what this can't make equal is a difference."""
    begun = workspace.clock.monotonic()
    found = _attempt(workspace, How(compare=True, jobs=jobs))
    tell(workspace, found, None)
    omitted = relations.omitted(workspace.source, workspace.selection)
    return Verification(
        tables=verdicts(found, HOW),
        other=fingerprint.differences(workspace.source, workspace.target, omitted),
        seconds=workspace.clock.monotonic() - begun,
    )


def shorten(workspace: Workspace, *, jobs: int) -> None:
    """Bring what was written meanwhile, so that the round inside the pause finds little."""
    tell(workspace, _attempt(workspace, How(jobs=jobs)), None)


def last(workspace: Workspace, fence: Inside, *, timeout: float, jobs: int) -> Verification:
    """The last round, while nobody writes to the source: what it has compared is proven equal."""
    begun = workspace.clock.monotonic()
    found = polling.go_round(workspace, How(compare=True, timeout=timeout, jobs=jobs, fence=fence))
    return Verification(tables=verdicts(found, STILL), seconds=workspace.clock.monotonic() - begun)


def verdicts(found: Figures, how: str) -> tuple[TableVerdict, ...]:
    """Every table that a round compared: it is equal, or the round would have failed."""
    return tuple(
        TableVerdict(table=v.table, source_rows=v.rows, target_rows=v.rows, equal=True, how=how)
        for v in found.visits
        if v.rows is not None
    )
