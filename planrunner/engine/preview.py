"""What a run would do, as a frozen value: every step's missing actions and the checks' findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planrunner.engine.hooks import hook_actions
from planrunner.engine.opening import SPEC, ingress_in
from planrunner.engine.preflight import Checked, checked, judged_together
from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.masking import without_hushed
from planrunner.model import Approval, Estimate, Side
from planrunner.step import Acquainted, Checking, Estimating, Upkeeping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from planrunner.engine.looking import View
    from planrunner.model import Plan, StepSpec, Upkeep
    from planrunner.state.record import State
    from planrunner.step import Action, Run, Step


@dataclass(frozen=True, kw_only=True)
class PreviewStep:
    """One step: done already, or what it misses. ``problem`` says why it can't be planned at all.

    ``skipped`` says why a run would skip it, ``condition`` what a run will decide that by.
    ``satisfied`` is what it found as it should be, ``upkeep`` what its work keeps beside its actions.
    ``begun``: a run has begun it, and may have performed some of its actions. ``asked`` is False where nobody
    was asked what is there.
    """

    spec: StepSpec
    done: bool
    waits_for_approval: bool = False
    actions: tuple[Action, ...] = ()
    checked: Checked | None = None
    estimates: tuple[Estimate, ...] = ()
    satisfied: tuple[str, ...] = ()
    upkeep: tuple[Upkeep, ...] = ()
    begun: bool = False
    asked: bool = True
    problem: str | None = None
    skipped: str | None = None
    condition: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The whole plan at one moment; ``source`` and ``target`` are places without credentials.

    ``offline``: nothing was asked, everything is from the plan alone.
    """

    plan: str
    path: str
    plan_id: str
    at: datetime
    source: str
    target: str
    steps: tuple[PreviewStep, ...]
    offline: bool = False

    @property
    def actions(self) -> tuple[Action, ...]:
        """All missing actions in the order in which a run performs them."""
        return tuple(action for step in self.steps for action in step.actions)

    @property
    def changes(self) -> bool:
        """True when a run would do something."""
        return bool(self.actions)

    @property
    def failures(self) -> int:
        """How many checks fail and are mended by no step, and how many steps can't be planned."""
        open_checks = sum(len(step.checked.open) for step in self.steps if step.checked)
        return open_checks + sum(step.problem is not None for step in self.steps)


def preview(view: View, *, estimating: bool = True) -> Preview:
    """Ask every step that is not done; changes nothing. ConnectionFailed when a server is away.

    Without ``estimating`` nothing is measured, which takes some seconds.
    """
    found = Preview(
        plan=view.plan.name,
        path=str(view.plan.path),
        plan_id=view.context.plan_id,
        at=view.context.clock.now(),
        source=_place(view.context.identities.source),
        target=_place(view.context.identities.target),
        steps=_judged(
            [
                *_opening(view),
                *(_previewed(view, spec, estimating=estimating) for spec in view.plan.steps),
            ],
            view.plan,
        ),
    )
    # Here, and not once it is text: there a value may be broken over lines or escaped.
    return without_hushed(found)


def _opening(view: View) -> tuple[PreviewStep, ...]:
    """What a run does before it dials the source: nothing, unless the plan lets it make rules."""
    ingress = ingress_in(view.plan, view.state)
    if ingress is None or not ingress.wanted or not view.pending():
        return ()
    try:
        missing = ingress.missing()
    except PlanrunnerError as error:
        return (PreviewStep(spec=SPEC, done=False, problem=str(error)),)
    return (PreviewStep(spec=SPEC, done=False, actions=missing),) if missing else ()


def _judged(steps: Sequence[PreviewStep], plan: Plan) -> tuple[PreviewStep, ...]:
    """The steps, with what their checks tell only together."""
    results = [step.checked for step in steps if step.checked is not None]
    told = {result.spec.id: result for result in judged_together(results, plan)}
    return tuple(replace(step, checked=told.get(step.spec.id, step.checked)) for step in steps)


def _previewed(view: View, spec: StepSpec, *, estimating: bool) -> PreviewStep:
    if view.is_done(spec):
        return PreviewStep(spec=spec, done=True)
    try:
        skipped, undecided = view.skip(spec)
    except StepFailed as error:
        return PreviewStep(spec=spec, done=False, problem=str(error))
    if skipped is not None:
        return PreviewStep(spec=spec, done=False, skipped=skipped)
    step, run = view.find(spec.uses), view.run(spec)
    earlier = view.pending_before(spec)
    begun = spec.id in view.state.steps and view.state.steps[spec.id].touched
    approved = spec.approval is Approval.AUTO or view.state.approves(spec.id, spec.digest)
    try:
        with run.still():
            findings = checked(step, run, earlier) if isinstance(step, Checking) else None
            actions = with_hooks(view.state, spec, step.actions(run))
            estimates = _estimated(step, run) if estimating else ()
            satisfied = _satisfied(step, run)
    except StepFailed as error:
        return PreviewStep(
            spec=spec, done=False, waits_for_approval=not approved, begun=begun, problem=str(error)
        )
    return PreviewStep(
        spec=spec,
        done=False,
        waits_for_approval=not approved,
        actions=actions,
        checked=findings,
        estimates=estimates,
        satisfied=satisfied,
        upkeep=_upkeep(step, actions) if actions or findings else (),
        begun=begun,
        condition=spec.flow.when.text if undecided and spec.flow.when else None,
    )


def with_hooks(state: State, spec: StepSpec, actions: Sequence[Action]) -> tuple[Action, ...]:
    """The step's actions with the commands around them, without those that ran and leave no trace."""
    before, after = hook_actions(spec.flow.before), hook_actions(spec.flow.after)
    known = state.steps.get(spec.id)
    performed = known.performed if known else ()
    return tuple(a for a in (*before, *actions, *after) if a.observable or a.name not in performed)


def _upkeep(step: Step, actions: Sequence[Action]) -> tuple[Upkeep, ...]:
    # A job elsewhere keeps no record of ours on the servers.
    elsewhere = bool(actions) and all(action.where is Side.SEREN for action in actions)
    return tuple(step.upkeep) if isinstance(step, Upkeeping) and not elsewhere else ()


def _satisfied(step: Step, run: Run) -> tuple[str, ...]:
    if not isinstance(step, Acquainted):
        return ()
    try:
        return tuple(step.satisfied(run))
    except PlanrunnerError as error:
        return (f"what is there could not be told: {error.message}",)


def _estimated(step: Step, run: Run) -> tuple[Estimate, ...]:
    if not isinstance(step, Estimating):
        return ()
    try:
        return tuple(step.estimates(run))
    except PlanrunnerError as error:
        # What can't be estimated is no reason to lose the preview.
        return (Estimate(name="estimates", unit="", reason=error.message),)


def _place(identity: str | None) -> str:
    if identity is None:
        return "not reachable"
    system, database = identity.split("/", 1)
    return f"database {database} (system {system})"
