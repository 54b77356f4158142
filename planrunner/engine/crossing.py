"""Rehearses a plan's cutover, leads writers back after it, or rehearses that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import opened
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import alone
from planrunner.engine.performing import Answers, Performer
from planrunner.errors import PlanrunnerError, UsageError
from planrunner.model import Approval
from planrunner.step import Crossing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.engine.setup import Setup
    from planrunner.model import Json, Plan, StepSpec
    from planrunner.step import Action, Run, Step


# In place of the digest of the step that was approved: it approves nothing any more.
USED = "used by a cutover that was rolled back"


def crossing_step(plan: Plan, find: Callable[[str], Step]) -> StepSpec:
    """The plan's last step that leads writers to the other side; UsageError when there is none."""
    for spec in reversed(plan.steps):
        if isinstance(find(spec.uses), Crossing):
            return spec
    raise UsageError(
        "no step of the plan leads writers to the other side", remedy="Add a step with uses: cutover_verify."
    )


def rehearse(setup: Setup) -> None:
    """Go through the cutover without its commit; every step's state stays as it is."""
    _do(setup, "rehearsal of the cutover", lambda step: step.rehearsal, _agreed)


def rehearse_rollback(setup: Setup) -> None:
    """Go through the rollback without its commit; every step's state stays as it is."""
    _do(setup, "rehearsal of the rollback", lambda step: step.rollback_rehearsal, _agreed)


def roll_back(setup: Setup, confirm: Callable[[tuple[Action, ...]], None], *, take_over: bool = False) -> int:
    """Lead writers back, and forget that the cutover was done and approved; the number of actions it took.

    ``confirm`` sees what is missing before anything is touched and raises to stop. The caller holds the lock of the
    state file. Done again after a kill, it goes on. ``take_over``: from whoever holds the target's lock.
    """
    return _do(setup, "rollback", lambda step: step.rollback, confirm, until_done=True, take_over=take_over)


def _agreed(_: tuple[Action, ...]) -> None:
    """A rehearsal changes nothing for good."""


def _do(
    setup: Setup,
    what: str,
    choose: Callable[[Crossing], Callable[[Run], Sequence[Action]]],
    confirm: Callable[[tuple[Action, ...]], None],
    *,
    until_done: bool = False,
    take_over: bool = False,
) -> int:
    spec = crossing_step(setup.plan, setup.find)
    step = setup.find(spec.uses)
    assert isinstance(step, Crossing)
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        context.world.on_silence(setup.warn)
        alone(context, setup.clock, take_over=take_over)
        run = context.run(spec, lambda message, fields: _tell(book, spec, message, fields))
        run = replace(run, shield=setup.interruption.shielded)
        performer = Performer(setup=setup, book=book, answers=Answers(yes=True))
        missing = performer.missing(choose(step), run)
        confirm(missing)
        setup.journal.write(EventKind.RUN_STARTED, f"{what} of plan {setup.plan.name} begins")
        try:
            if until_done:
                performer.perform_all(choose(step), run, approval=Approval.AUTO)
                _forget(book, spec)
            else:
                for action in missing:
                    performer.rehearse(action, run)
        except PlanrunnerError as error:
            setup.journal.write(EventKind.RUN_ENDED, error.message, fields={"exit_code": error.exit_code})
            raise
        setup.journal.write(EventKind.RUN_ENDED, f"{what} of plan {setup.plan.name} is through")
    return len(missing)


def _forget(book: Book, spec: StepSpec) -> None:
    # Whoever approved the first cutover has not approved a second one; that they did stays on record.
    without = book.state.without_step(spec.id)
    approvals = tuple(replace(a, digest=USED) if a.step == spec.id else a for a in without.approvals)
    book.save(steps=without.steps, approvals=approvals)


def _tell(book: Book, spec: StepSpec, message: str, fields: Mapping[str, Json]) -> None:
    book.journal.write(EventKind.NEWS, message, step=spec.id, fields=fields)
