"""Whether a saved state still belongs to the plan as it is written now."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.engine.edits import ABSENT, difference, plain
from planrunner.errors import DecisionNeeded, StateUnfit, UsageError
from planrunner.model import StepStatus
from planrunner.state.record import StepState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from planrunner.model import Json, Plan, StepSpec
    from planrunner.state.record import State

# A step that was passed over by its condition holds nobody up.
_SETTLED = frozenset({"done", "skipped"})


def fitted(state: State, plan: Plan, *, accept: Collection[str], rerun: Collection[str]) -> State:
    """The state with the operator's decisions applied, fit for ``plan``.

    ``accept`` keeps what was done of a step although it was edited since, ``rerun`` asks the step
    again from the start. Raises StateUnfit for a step that was edited after it began (names the
    fields), for another plan's state; DecisionNeeded for an action whose outcome nobody knows;
    UsageError for an unknown step. Nothing is saved.
    """
    if state.plan != plan.name:
        raise StateUnfit(
            f"the state belongs to plan {state.plan!r}, this is {plan.name!r}",
            remedy="Name this plan's own state file with --state, or give the plan its name back.",
        )
    _refuse_unknown({*accept, *rerun}, state, plan)
    for step_id in accept:
        state = _accepted(state, step_id, plan.step(step_id))
    for step_id in rerun:
        state = _forgotten(state, step_id, plan.step(step_id))
    for step_id, step in state.steps.items():
        _check_step(step_id, step, plan)
    return replace(state, plan_digest=plan.digest)


def parts_of(spec: StepSpec) -> Mapping[str, str]:
    """A digest of each field of a step, to tell later which one was edited."""
    fields = spec.fields() if spec.recorded is None else spec.recorded
    return {name: _digest(value) for name, value in fields.items()}


def values_of(spec: StepSpec) -> Mapping[str, Json]:
    """Each field of a step as it may be recorded: references to secrets, and no value that is sensitive."""
    fields = spec.fields() if spec.recorded is None else spec.recorded
    return {name: plain(value) for name, value in fields.items()}


def refuse_unready(plan: Plan, state: State, step_id: str) -> None:
    """UsageError when a step that ``step_id`` needs is not done: run alone it would build on nothing."""
    spec = plan.step(step_id)
    assert spec is not None
    missing = [i for i in _needs(plan, spec) if state.status(i).value not in _SETTLED]
    if missing:
        told = ", ".join(f"{i} ({state.status(i).value})" for i in missing)
        raise UsageError(
            f"step {step_id} needs steps that are not done: {told}",
            remedy=f"Run up to it: planrunner run {plan.path} --until {step_id}",
        )


def _needs(plan: Plan, spec: StepSpec) -> Collection[str]:
    """The ids that must be done before ``spec``, all of them: what it needs needs others in turn."""
    found: dict[str, None] = {}
    waiting = [*plan.needs(spec)]
    while waiting:
        step_id = waiting.pop()
        other = plan.step(step_id)
        if step_id not in found and other is not None:
            found[step_id] = None
            waiting += plan.needs(other)
    return [other.id for other in plan.steps if other.id in found]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _refuse_unknown(ids: Collection[str], state: State, plan: Plan) -> None:
    unknown = sorted(i for i in ids if plan.step(i) is None and i not in state.steps)
    if unknown:
        known = ", ".join(spec.id for spec in plan.steps)
        raise UsageError(f"the plan has no step {unknown[0]!r}", remedy=f"Its steps are: {known}.")


def _accepted(state: State, step_id: str, spec: StepSpec | None) -> State:
    step = state.steps.get(step_id)
    if spec is None or step is None:
        return state.without_step(step_id)
    performed = (*step.performed, step.intent) if step.intent else step.performed
    return state.with_step(
        step_id,
        replace(
            step,
            uses=spec.uses,
            digest=spec.digest,
            parts=parts_of(spec),
            values=values_of(spec),
            intent=None,
            performed=performed,
        ),
    )


def _forgotten(state: State, step_id: str, spec: StepSpec | None) -> State:
    if spec is None:
        return state.without_step(step_id)
    return state.with_step(step_id, StepState(uses=spec.uses))


def _check_step(step_id: str, step: StepState, plan: Plan) -> None:
    spec = plan.step(step_id)
    begun = step.touched or step.status is StepStatus.DONE
    if not begun:
        return
    if spec is None:
        raise StateUnfit(
            f"step {step_id} ({step.uses}) has begun and is no longer in the plan",
            remedy=f"Put it back, or let it be forgotten: planrunner run {plan.path} --accept {step_id}",
        )
    if step.digest != spec.digest:
        raise StateUnfit(
            f"step {step_id} was edited after it began: {_changed(step, spec)}",
            remedy=(
                f"Revert the edit; or keep what was done: planrunner run {plan.path} --accept {step_id};"
                f" or ask the step again: planrunner run {plan.path} --rerun {step_id}"
            ),
        )
    unknown = step.intent is not None and not spec.flow.repeats(step.intent)
    if unknown and step.status is not StepStatus.DONE:
        raise DecisionNeeded(
            f"step {step_id}: {step.intent} was begun when the run ended, and its outcome can't be observed",
            remedy=(
                f"Look whether it happened. If so: planrunner run {plan.path} --accept {step_id};"
                f" if not: planrunner run {plan.path} --rerun {step_id}"
            ),
        )


def _changed(step: StepState, spec: StepSpec) -> str:
    now, values = parts_of(spec), values_of(spec)
    names = sorted(n for n in {*now, *step.parts} if now.get(n) != step.parts.get(n))
    told = [
        line
        for name in names
        for line in difference(name, step.values.get(name, ABSENT), values.get(name, ABSENT))
    ]
    # A state of an older format has no values, and what is sensitive looks the same before and after.
    return "".join(f"\n  {line}" for line in told) if told else ", ".join(names) or "its definition"
