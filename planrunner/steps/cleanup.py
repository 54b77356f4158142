"""The step ``cleanup``: takes away what the plan's other steps left on the servers, as the verb does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.step import IRREVERSIBLE, NO_LOCKS, Action, outlined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Plan
    from planrunner.step import Draft, Run


class Cleanup:
    """The last step of a plan: slots, publications, subscriptions, ledger, whatever is still there of them."""

    uses: ClassVar[str] = "cleanup"

    def actions(self, run: Run) -> Sequence[Action]:
        """Every removal that is missing; afterwards, what is left and does harm, blocked."""
        if run.planned_before:
            return [_later(), *_rules_later(run.plan)]
        return tuple(run.others.leftovers()) or [
            Action(
                name=f"left {number}",
                summary=f"remove {left.kind} {left.name}, which {left.harm}",
                where=left.side,
                statements=(left.statement,),
                locks=("those of the statement",),
                needs=(needs.BY_OTHERS,),
                undo=IRREVERSIBLE,
                blocked=f"It was not made by a step that could remove it. Execute on the {left.side.value}:"
                f" {left.statement}",
                perform=lambda _: None,
            )
            for number, left in enumerate(run.others.harmful(), 1)
        ]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The removals, which nobody knows before the steps were there."""
        return outlined([_later(), *_rules_later(draft.plan)])


def _later() -> Action:
    return Action(
        name="clean up",
        summary="remove what the steps before it left on the servers: slots, publications, subscriptions, ledger",
        where=Side.TARGET,
        statements=("DROP …  -- what `planrunner cleanup` removes once they are done, on both sides",),
        locks=("ACCESS EXCLUSIVE on each for the moment of its removal",),
        needs=(needs.OWNERSHIP, *needs.on(Side.SOURCE, needs.OWNERSHIP)),
        undo=IRREVERSIBLE,
        destructive=True,
        decided_at_run_time=True,
        perform=lambda _: None,
    )


def _rules_later(plan: Plan) -> list[Action]:
    """The removal of the rules by which a run was let in at the source's security group."""
    if plan.source.authorize_ingress is False:
        return []
    return [
        Action(
            name="revoke ingress",
            summary="remove the rules of the source's security group that a run of this plan has made",
            where=Side.AWS,
            statements=(
                "aws ec2 revoke-security-group-ingress --group-id … --security-group-rule-ids …"
                "  -- if a run made one; each",
            ),
            locks=NO_LOCKS,
            needs=("ec2:DescribeSecurityGroupRules", "ec2:RevokeSecurityGroupIngress"),
            undo="a further run makes them again",
            destructive=True,
            decided_at_run_time=True,
            perform=lambda _: None,
        )
    ]
