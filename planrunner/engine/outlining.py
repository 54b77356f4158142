"""A preview from the plan alone: no connection, no command, no secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import registry
from planrunner.engine.book import fresh_state
from planrunner.engine.facts import known_skip
from planrunner.engine.opening import SPEC, ingress_in
from planrunner.engine.preview import Preview, PreviewStep, with_hooks
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
    known = state or fresh_state(plan)
    plan_id = known.plan_id or UNKNOWN_ID
    return Preview(
        plan=plan.name,
        path=str(plan.path),
        plan_id=plan_id,
        at=clock.now(),
        source=_NOT_ASKED,
        target=_NOT_ASKED,
        steps=(*_opening(plan, known), *(_outlined(plan, spec, known, plan_id, find) for spec in plan.steps)),
        offline=True,
    )


def _opening(plan: Plan, state: State) -> tuple[PreviewStep, ...]:
    ingress = ingress_in(plan, state)
    actions = ingress.drafted() if ingress else ()
    return (PreviewStep(spec=SPEC, done=False, actions=outlined(actions), asked=False),) if actions else ()


def _outlined(
    plan: Plan, spec: StepSpec, state: State, plan_id: str, find: Callable[[str], Step]
) -> PreviewStep:
    if state.status(spec.id) is StepStatus.DONE:
        return PreviewStep(spec=spec, done=True)
    reason, undecided = known_skip(plan, spec, state, (None, None))
    if reason is not None:
        return PreviewStep(spec=spec, done=False, skipped=reason)
    approved = state.approves(spec.id, spec.digest)
    actions = _actions(find(spec.uses), Draft(plan=plan, spec=spec, plan_id=plan_id))
    return PreviewStep(
        spec=spec,
        done=False,
        waits_for_approval=spec.approval is not Approval.AUTO and not approved,
        actions=outlined(with_hooks(state, spec, actions)),
        asked=False,
        begun=spec.id in state.steps and state.steps[spec.id].touched,
        condition=spec.flow.when.text if undecided and spec.flow.when else None,
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
