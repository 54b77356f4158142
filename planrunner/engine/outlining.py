"""A preview from the plan alone: no connection, no command, no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import registry
from planrunner.engine.preview import Preview, PreviewStep
from planrunner.model import Approval, Side, StepStatus
from planrunner.step import Action, Draft, Outlining, outlined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.model import Plan, StepSpec
    from planrunner.ports import Clock
    from planrunner.state.record import State
    from planrunner.step import Step

UNKNOWN_ID = "…"
_NOT_ASKED = "not asked"


def outline(
    plan: Plan, state: State | None, clock: Clock, find: Callable[[str], Step] = registry.step
) -> Preview:
    """What each step may do as far as the plan tells; a state file beside the plan says which steps are done."""
    plan_id = state.plan_id if state is not None and state.plan_id else UNKNOWN_ID
    return Preview(
        plan=plan.name,
        path=str(plan.path),
        plan_id=plan_id,
        at=clock.now(),
        source=_NOT_ASKED,
        target=_NOT_ASKED,
        steps=tuple(_outlined(plan, spec, state, plan_id, find) for spec in plan.steps),
        offline=True,
    )


def _outlined(
    plan: Plan, spec: StepSpec, state: State | None, plan_id: str, find: Callable[[str], Step]
) -> PreviewStep:
    if state is not None and state.status(spec.id) is StepStatus.DONE:
        return PreviewStep(spec=spec, done=True)
    step = find(spec.uses)
    approved = state is not None and state.approves(spec.id, spec.digest)
    return PreviewStep(
        spec=spec,
        done=False,
        waits_for_approval=spec.approval is not Approval.AUTO and not approved,
        actions=tuple(_actions(step, Draft(plan=plan, spec=spec, plan_id=plan_id))),
        asked=False,
        begun=state is not None and spec.id in state.steps and state.steps[spec.id].touched,
    )


def _actions(step: Step, draft: Draft) -> Sequence[Action]:
    if isinstance(step, Outlining):
        return step.outline(draft)
    unknown = Action(
        name=draft.spec.uses,
        summary=f"whatever {draft.spec.uses} finds missing",
        where=Side.LOCAL,
        perform=lambda _: None,
    )
    return outlined([unknown])
