"""Records that a person vouches for how far a step is, against what the runner found, and refuses nonsense."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.fit import parts_of, values_of
from planrunner.errors import UsageError
from planrunner.model import StepStatus
from planrunner.state.record import MarkRecord
from planrunner.step import Crossing

if TYPE_CHECKING:
    from planrunner.engine.setup import Setup
    from planrunner.model import StepSpec
    from planrunner.state.record import State, StepState


def refuse_nonsense(setup: Setup, step_id: str, status: StepStatus, why: str) -> None:
    """UsageError when the step can't be marked so: unknown, so already, a cutover, or one that a cutover rests on."""
    _checked(setup, setup.store.load() or fresh_state(setup.plan), step_id, status, why)


def mark(setup: Setup, step_id: str, status: StepStatus, *, who: str, why: str) -> StepSpec:
    """Mark that step done or pending; UsageError as ``refuse_nonsense``. The caller holds the lock of the state.

    Pending: the next run asks the step again what is missing. Done: it is not asked any more.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    spec = _checked(setup, state, step_id, status, why)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    record = MarkRecord(step=spec.id, status=status.value, who=who, when=setup.clock.now(), why=why)
    book.mark(spec, record, _marked(setup, spec, book.step(spec), status))
    return spec


def _checked(setup: Setup, state: State, step_id: str, status: StepStatus, why: str) -> StepSpec:
    spec = setup.plan.step(step_id)
    if spec is None:
        known = ", ".join(s.id for s in setup.plan.steps)
        raise UsageError(f"the plan has no step {step_id!r}", remedy=f"Its steps are: {known}.")
    if not why.strip():
        raise UsageError(
            "a mark needs a reason", remedy="Say why, for whoever reads the report: --because REASON."
        )
    now = state.status(spec.id)
    if now is status:
        raise UsageError(f"step {spec.id} is {status.value} already")
    _refuse_crossing(setup, state, spec, status)
    return spec


def _refuse_crossing(setup: Setup, state: State, spec: StepSpec, status: StepStatus) -> None:
    """What a cutover did is a fact on the servers; no word of anybody's changes it."""
    if isinstance(setup.find(spec.uses), Crossing):
        if status is StepStatus.DONE:
            raise UsageError(
                f"step {spec.id} can't be marked done: whether it happened is a fact on the source, not a line here",
                remedy=f"Bring it about, or finish it: {setup.command('run')}",
            )
        if state.status(spec.id) is StepStatus.DONE:
            raise UsageError(
                f"step {spec.id} can't be marked pending: it has led the writers over, and they are there",
                remedy=f"To lead them back, where the plan has a way back: {setup.command('rollback')}",
            )
        return
    done = next(
        (
            s.id
            for s in setup.plan.steps
            if isinstance(setup.find(s.uses), Crossing) and state.status(s.id) is StepStatus.DONE
        ),
        None,
    )
    places = [s.id for s in setup.plan.steps]
    if status is StepStatus.PENDING and done is not None and places.index(spec.id) < places.index(done):
        raise UsageError(
            f"step {spec.id} can't be marked pending: step {done} has led the writers over since, and would be overrun",
            remedy=f"To lead them back, where the plan has a way back: {setup.command('rollback')}",
        )


def _marked(setup: Setup, spec: StepSpec, step: StepState, status: StepStatus) -> StepState:
    if status is StepStatus.PENDING:
        # It keeps what it was: whether it had begun decides if an edit of it has to be explained.
        return replace(step, status=status, finished=None, error=None, intent=None, performed=())
    return replace(
        step,
        uses=spec.uses,
        status=status,
        digest=spec.digest,
        parts=parts_of(spec),
        values=values_of(spec),
        finished=setup.clock.now(),
        error=None,
        intent=None,
    )
