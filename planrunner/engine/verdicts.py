"""The verdict of a preview on a step and on each of its actions: one word a reviewer can look for."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planrunner.engine.preview import PreviewStep
    from planrunner.step import Action


class Verdict(Enum):
    """What a run would do."""

    SKIPPED = "skipped"
    BLOCKED = "blocked"
    DESTRUCTIVE = "destructive"
    DECIDED = "decided at run time"
    ADJUST = "adjust"
    DO = "do"
    THERE = "already there"


# A step is as grave as the gravest of its actions.
_GRAVEST_FIRST = tuple(Verdict)


def of_action(action: Action) -> Verdict:
    """Blocked before destructive before what only the run decides; ``adjust`` changes what is there."""
    if action.blocked is not None:
        return Verdict.BLOCKED
    if action.destructive:
        return Verdict.DESTRUCTIVE
    if action.decided_at_run_time:
        return Verdict.DECIDED
    return Verdict.ADJUST if action.adjusts else Verdict.DO


def of_step(step: PreviewStep) -> Verdict:
    """The gravest of its actions'; blocked where it can't be planned or a check fails that no step mends."""
    if step.done:
        return Verdict.THERE
    if step.skipped is not None:
        return Verdict.SKIPPED
    if step.problem is not None or (step.checked is not None and step.checked.open):
        return Verdict.BLOCKED
    found = {of_action(action) for action in step.actions}
    nothing = Verdict.THERE if step.asked else Verdict.DECIDED
    return next((verdict for verdict in _GRAVEST_FIRST if verdict in found), nothing)
