"""Records that a person approves a step, or one action of it, as it stands in the plan now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.errors import UsageError
from planrunner.model import Approval, StepStatus
from planrunner.state.record import WHOLE_STEP, ApprovalRecord

if TYPE_CHECKING:
    from planrunner.engine.setup import Setup
    from planrunner.model import StepSpec
    from planrunner.state.record import State


def approve(setup: Setup, step_id: str | None, *, who: str, why: str, action: str | None = None) -> StepSpec:
    """Approve that step, or the one that waits when ``step_id`` is None, and return it.

    An edit of the step afterwards makes the approval void. UsageError when there is no such step, or
    none that waits. The caller holds the lock of the state file.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    spec = _chosen(setup, state, step_id)
    if state.status(spec.id) is StepStatus.DONE:
        raise UsageError(f"step {spec.id} is done; there is nothing to approve")
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    record = ApprovalRecord(
        step=spec.id,
        action=action or WHOLE_STEP,
        digest=spec.digest,
        who=who,
        when=setup.clock.now(),
        why=why,
    )
    book.approve(spec, record)
    return spec


def _chosen(setup: Setup, state: State, step_id: str | None) -> StepSpec:
    steps = setup.plan.steps
    known = f"Its steps are: {', '.join(spec.id for spec in steps)}."
    if step_id is not None:
        spec = setup.plan.step(step_id)
        if spec is None:
            raise UsageError(f"the plan has no step {step_id!r}", remedy=known)
        return spec
    waiting = [s for s in steps if state.status(s.id) is StepStatus.WAITING]
    ended = (StepStatus.DONE, StepStatus.SKIPPED)
    manual = [s for s in steps if s.approval is Approval.MANUAL and state.status(s.id) not in ended]
    if not (waiting or manual):
        raise UsageError("no step of the plan waits for approval", remedy=f"Name one. {known}")
    return (waiting or manual)[0]
