"""Asks the steps of a plan without changing anything: figures, drift, verification, checks."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from planrunner import registry
from planrunner.engine.book import fresh_state
from planrunner.engine.context import opened
from planrunner.engine.facts import known_skip
from planrunner.engine.others import PlanOthers
from planrunner.errors import PlanrunnerError, UsageError
from planrunner.model import StepStatus
from planrunner.step import Progressing, Verifying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.engine.context import Connect, Context, Tell
    from planrunner.model import Json, Plan, StepSpec
    from planrunner.ports import Clock
    from planrunner.state.record import State, StepState
    from planrunner.step import Action, Run, Step
    from planrunner.verification import Verification, VerifyTerms


@dataclass(frozen=True, kw_only=True)
class View:
    """An opened plan that is only looked at; ``state`` is a fresh one when it never ran."""

    plan: Plan
    state: State
    context: Context
    find: Callable[[str], Step]
    tell: Tell

    def run(self, spec: StepSpec) -> Run:
        """What that step sees: the steps before it that are not done yet count as planned."""
        run = self.context.run(spec, self.tell, frozenset(s.uses for s in self.pending_before(spec)))
        others = PlanOthers(plan=self.plan, own=spec.id, find=self.find, run=self.run)
        return replace(run, others=others, noted=self._noted)

    def _noted(self, step_id: str) -> Mapping[str, Json]:
        known = self.state.steps.get(step_id)
        return known.progress if known else {}

    def is_done(self, spec: StepSpec) -> bool:
        """True when the state says that the step is done."""
        return self.state.status(spec.id) is StepStatus.DONE

    def skip(self, spec: StepSpec) -> tuple[str | None, bool]:
        """Why a run would skip the step, as far as it is known, and whether only the run can decide."""
        world = self.context.world
        return known_skip(self.plan, spec, self.state, (world.source, world.target))

    def pending_before(self, spec: StepSpec) -> tuple[StepSpec, ...]:
        """The steps before ``spec`` that are not done, in order."""
        earlier = takewhile(lambda other: other.id != spec.id, self.plan.steps)
        return tuple(other for other in earlier if not self.is_done(other))

    def pending(self) -> tuple[StepSpec, ...]:
        """The steps that are not done, in order."""
        ended = (StepStatus.DONE, StepStatus.SKIPPED)
        return tuple(spec for spec in self.plan.steps if self.state.status(spec.id) not in ended)


@dataclass(frozen=True, kw_only=True)
class StepView:
    """How far one step is. ``status`` is a StepStatus value, or ``interrupted`` when its run is gone.

    ``figures`` are live where the servers told them, otherwise the recorded ones; ``drift`` is what a
    finished step would do again.
    """

    id: str
    uses: str
    status: str
    attempts: int
    seconds: float | None
    error: str | None
    figures: Mapping[str, Json] = field(default_factory=dict)
    live: bool = False
    drift: tuple[Action, ...] = ()


@contextmanager
def looking_at(
    plan: Plan,
    state: State | None,
    *,
    connect: Connect,
    clock: Clock,
    find: Callable[[str], Step] = registry.step,
    tell: Tell | None = None,
) -> Iterator[View]:
    """Open the servers of a plan for reading; ConnectionFailed and StateUnfit as ``context.opened``.

    ``tell`` hears what the steps have to say meanwhile.
    """
    known = state or fresh_state(plan)
    facts = {side: known.facts.get(side) for side in ("source", "target")}
    with opened(plan, connect, clock, {"plan_id": known.plan_id, **facts}) as context:
        yield View(plan=plan, state=known, context=context, find=find, tell=tell or _unheard)


def recorded(plan: Plan, state: State | None, *, running: bool) -> tuple[StepView, ...]:
    """How far each step is by the state alone; ``running`` tells whether a run holds the lock."""
    known = (state or fresh_state(plan)).steps
    return tuple(_recorded(spec, known.get(spec.id), running=running) for spec in plan.steps)


def live(view: View, steps: tuple[StepView, ...], *, drift: bool) -> tuple[StepView, ...]:
    """The same steps with what the servers say now: figures of begun ones, drift of finished ones."""
    return tuple(_live(view, step, drift=drift) for step in steps)


def verify(view: View, terms: VerifyTerms) -> tuple[StepSpec, Verification]:
    """Compare what ``terms`` name by the plan's last step that can; UsageError when there is none."""
    for spec in reversed(view.plan.steps):
        step = view.find(spec.uses)
        if isinstance(step, Verifying):
            return spec, step.verify(view.run(spec), terms)
    raise UsageError(
        "no step of the plan can verify", remedy="Add a step that compares both sides: uses: cutover_verify."
    )


def _recorded(spec: StepSpec, step: StepState | None, *, running: bool) -> StepView:
    if step is None:
        return StepView(
            id=spec.id, uses=spec.uses, status=StepStatus.PENDING.value, attempts=0, seconds=None, error=None
        )
    gone = step.status is StepStatus.RUNNING and not running
    return StepView(
        id=spec.id,
        uses=spec.uses,
        status="interrupted" if gone else step.status.value,
        attempts=step.attempts,
        seconds=step.seconds,
        error=step.error,
        figures=step.progress,
    )


def _live(view: View, shown: StepView, *, drift: bool) -> StepView:
    spec = view.plan.step(shown.id)
    if spec is None or shown.attempts == 0:
        return shown
    step = view.find(spec.uses)
    run = view.run(spec)
    figures, is_live = shown.figures, False
    # What a finished step began may go on, and go wrong, until the last step is done.
    with run.still():
        if isinstance(step, Progressing) and view.pending():
            figures, is_live = _figures(step, run, shown.figures)
        missing = tuple(step.actions(run)) if drift and view.is_done(spec) else ()
    return StepView(
        id=shown.id,
        uses=shown.uses,
        status=shown.status,
        attempts=shown.attempts,
        seconds=shown.seconds,
        error=shown.error,
        figures=figures,
        live=is_live,
        drift=missing,
    )


def _figures(step: Progressing, run: Run, recorded: Mapping[str, Json]) -> tuple[Mapping[str, Json], bool]:
    try:
        return step.progress(run), True
    except PlanrunnerError:
        # A half-done step may have nothing to count yet; the recorded figures stand.
        return recorded, False


def _unheard(_message: str, _fields: Mapping[str, Json]) -> None:
    pass
