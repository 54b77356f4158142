"""What a run would do, as a frozen value: every step's missing actions and the checks' findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.preflight import Checked, checked
from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.masking import without_hushed
from planrunner.model import Approval, Estimate
from planrunner.step import Checking, Estimating

if TYPE_CHECKING:
    from datetime import datetime

    from planrunner.engine.looking import View
    from planrunner.model import StepSpec
    from planrunner.step import Action, Run, Step


@dataclass(frozen=True, kw_only=True)
class PreviewStep:
    """One step: done already, or what it misses. ``problem`` says why it can't be planned at all."""

    spec: StepSpec
    done: bool
    waits_for_approval: bool = False
    actions: tuple[Action, ...] = ()
    checked: Checked | None = None
    estimates: tuple[Estimate, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The whole plan at one moment; ``source`` and ``target`` are places without credentials."""

    plan: str
    path: str
    plan_id: str
    at: datetime
    source: str
    target: str
    steps: tuple[PreviewStep, ...]

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


def preview(view: View) -> Preview:
    """Ask every step that is not done; changes nothing. ConnectionFailed when a server is away."""
    found = Preview(
        plan=view.plan.name,
        path=str(view.plan.path),
        plan_id=view.context.plan_id,
        at=view.context.clock.now(),
        source=_place(view.context.identities.source),
        target=_place(view.context.identities.target),
        steps=tuple(_previewed(view, spec) for spec in view.plan.steps),
    )
    # Here, and not once it is text: there a value may be broken over lines or escaped.
    return without_hushed(found)


def _previewed(view: View, spec: StepSpec) -> PreviewStep:
    if view.is_done(spec):
        return PreviewStep(spec=spec, done=True)
    step, run = view.find(spec.uses), view.run(spec)
    earlier = [s for s in view.pending() if view.plan.steps.index(s) < view.plan.steps.index(spec)]
    approved = spec.approval is Approval.AUTO or view.state.approves(spec.id, spec.digest)
    try:
        findings = checked(step, run, earlier) if isinstance(step, Checking) else None
        actions = tuple(step.actions(run))
        estimates = _estimated(step, run)
    except StepFailed as error:
        return PreviewStep(spec=spec, done=False, waits_for_approval=not approved, problem=str(error))
    return PreviewStep(
        spec=spec,
        done=False,
        waits_for_approval=not approved,
        actions=actions,
        checked=findings,
        estimates=estimates,
    )


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
