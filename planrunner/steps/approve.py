"""The step ``approve``: goes on once a person has agreed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Side
from planrunner.step import NO_LOCKS, NO_NEEDS, NOTHING_STAYS, Action, Seen, outlined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.step import Draft, Run


class Approve:
    """A place in the plan where the run stops until somebody says yes."""

    uses: ClassVar[str] = "approve"

    def actions(self, run: Run) -> Sequence[Action]:
        """The question; its answer is on record with the approvals."""
        if run.held.get(_agreed(run), Seen) is not None:
            return ()
        return [_question(run)]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The question."""
        return outlined([_question(draft)])


def _question(run: Run | Draft) -> Action:
    message = run.option("message", "Go on with the steps that follow?")
    return Action(
        name="approve",
        summary=f"wait until somebody approves: {message}",
        where=Side.LOCAL,
        statements=(f"planrunner approve {run.plan.path.name} {run.spec.id} --because=REASON",),
        locks=NO_LOCKS,
        needs=NO_NEEDS,
        undo="nothing is changed",
        lasting=NOTHING_STAYS,
        asks=message,
        perform=lambda run: run.held.put(_agreed(run), Seen()),
    )


def _agreed(run: Run) -> str:
    return f"agreed to {run.spec.id}"
