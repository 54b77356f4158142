"""The selection as the ledger holds it: fixed when the first run begins, the same ever after.

Windows of time are turned into instants once. What was copied under one selection can't be followed or
verified under another, so a plan whose filters were edited is refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from planrunner.errors import StepConflict, StepFailed

if TYPE_CHECKING:
    from planrunner.replication.ledger import Ledger
    from planrunner.replication.selection import Selection
    from planrunner.replication.workspace import Workspace

STEP = "filters"
_NAME = "selection"
_REMEDY = (
    "Put the filters back as they were; or, to begin anew with these, `planrunner cleanup` the plan, empty the"
    " target and run again."
)


def settled(ledger: Ledger, selection: Selection, now: datetime) -> Selection:
    """The selection with its instants: those on record, else those that a run beginning ``now`` would fix.

    StepConflict when rows were copied under other filters.
    """
    record = ledger.effects(STEP).get(_NAME)
    if record is None:
        if not selection.everything and (units := ledger.units()):
            raise StepConflict(
                f"the plan has filters now, and {len(units)} tables were copied without any", remedy=_REMEDY
            )
        return selection.beginning({w.tables.text: w.begins(now) for w in selection.since}, recorded=False)
    if record["wish"] != selection.wish:
        keys = sorted(
            key
            for key in record["wish"].keys() | selection.wish.keys()
            if record["wish"].get(key) != selection.wish.get(key)
        )
        raise StepConflict(
            f"filters.{', filters.'.join(keys)} of the plan differ from those this migration began with",
            remedy=_REMEDY,
        )
    instants = {text: datetime.fromisoformat(at) for text, at in record["instants"].items()}
    return selection.beginning(instants, recorded=True)


def record(workspace: Workspace) -> None:
    """Fix the selection as it is now."""
    selection = workspace.selection
    instants = {text: at.isoformat() for text, at in selection.instants.items()}
    workspace.done(STEP, _NAME, {"wish": selection.wish, "instants": instants})
    workspace.selection = selection.beginning(selection.instants, recorded=True)


def refuse_unrecorded(selection: Selection) -> None:
    """StepFailed when rows are to be compared by windows of which nobody knows where they begin."""
    if selection.since and not selection.recorded:
        names = ", ".join(window.tables.text for window in selection.since)
        raise StepFailed(
            f"nothing is on record of where the time windows begin ({names}): there is nothing to compare by",
            remedy="They are fixed when the snapshot step begins, and forgotten by cleanup: verify between the two.",
        )
