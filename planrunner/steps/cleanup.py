"""The step ``cleanup``: takes away what the plan's other steps left on the servers, as the verb does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Side
from planrunner.step import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.step import Run


class Cleanup:
    """The last step of a plan: slots, publications, subscriptions, ledger, whatever is still there of them."""

    uses: ClassVar[str] = "cleanup"

    def actions(self, run: Run) -> Sequence[Action]:
        """Every removal that is missing; afterwards, what is left and does harm, blocked."""
        if run.planned_before:
            return [_later()]
        return tuple(run.others.leftovers()) or [
            Action(
                name=f"left {number}",
                summary=f"remove {left.kind} {left.name}, which {left.harm}",
                where=left.side,
                statements=(left.statement,),
                blocked=f"It was not made by a step that could remove it. Execute on the {left.side.value}:"
                f" {left.statement}",
                perform=lambda _: None,
            )
            for number, left in enumerate(run.others.harmful(), 1)
        ]


def _later() -> Action:
    return Action(
        name="clean up",
        summary="remove what the steps before it left on the servers: slots, publications, subscriptions, ledger",
        where=Side.TARGET,
        statements=("what `planrunner cleanup` removes once they are done",),
        needs=("ownership of what the steps made",),
        destructive=True,
        decided_at_run_time=True,
        perform=lambda _: None,
    )
