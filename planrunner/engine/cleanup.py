"""Takes away what the steps of a plan left on the servers, through the same journalled performing, and looks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import opened
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import TargetLock
from planrunner.engine.opening import SPEC, ingress_in, shut
from planrunner.engine.performing import Answers, Performer
from planrunner.errors import CloudError, PlanrunnerError
from planrunner.model import Approval, Belongs
from planrunner.step import Cleaning, Crossing, Scanning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.engine.context import Context
    from planrunner.engine.setup import Setup
    from planrunner.model import Json, Residue, StepSpec
    from planrunner.step import Action

CLEANED = "cleaned"


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What one step would take away."""

    step: str
    actions: tuple[Action, ...]


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What a cleanup removed, and what the servers show after it: of this plan, of others, of nobody known."""

    removed: tuple[Leftovers, ...]
    left: tuple[Residue, ...]

    @property
    def harmful(self) -> tuple[Residue, ...]:
        """What is left of this plan and should not be."""
        return tuple(r for r in self.left if r.harmful and r.ours is Belongs.THIS_PLAN)


def clean(setup: Setup, confirm: Callable[[tuple[Leftovers, ...]], None]) -> Cleaned:
    """Remove the leftovers of all steps, the last step's first; tell what was removed and what is left.

    ``confirm`` sees all of them before the first is touched and raises to stop. The caller holds the
    lock of the state file.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        lock = TargetLock(context.world.target, context.plan_id, setup.clock)
        context.held.put("target lock", lock)
        lock.hold()
        rules = _rules(setup, book)
        found = (*_leftovers(setup, context), *([Leftovers(step=SPEC.id, actions=rules)] if rules else ()))
        if found:
            confirm(found)
            book.identify(context)
            setup.journal.write(EventKind.RUN_STARTED, f"cleanup of plan {setup.plan.name} begins")
            _remove(setup, book, context, anew=_before_cutover(setup, context))
        # The way to the source is shut last, after the last look at it.
        left = (*_left(setup, context), *shut(setup, book, rules))
        if found:
            told: Mapping[str, Json] = {"result": CLEANED, "exit_code": 0, "plan_id": context.plan_id}
            setup.journal.write(
                EventKind.RUN_ENDED, f"cleanup of plan {setup.plan.name} is through", fields=told
            )
        return Cleaned(removed=found, left=left)


def _before_cutover(setup: Setup, context: Context) -> bool:
    """True while writers are on the source for certain: what is taken away has to be done again."""
    try:
        return not any(
            step.crossed(context.run(spec, _unheard))
            for spec in setup.plan.steps
            if isinstance(step := setup.find(spec.uses), Crossing)
        )
    except PlanrunnerError:
        return False


def _remove(setup: Setup, book: Book, context: Context, *, anew: bool) -> None:
    """``anew``: a step whose work is taken away is not done any more, so that the next run begins with it."""
    tell = _teller(book)
    performer = Performer(setup=setup, book=book, answers=Answers(yes=True))
    for spec, step in _cleaning_steps(setup):
        run = context.run(spec, tell)
        removals = len(step.leftovers(run))
        performer.perform_all(step.leftovers, run, approval=Approval.AUTO)
        if removals and anew:
            book.undo(spec, removals)


def _leftovers(setup: Setup, context: Context) -> Iterator[Leftovers]:
    for spec, step in _cleaning_steps(setup):
        actions = tuple(step.leftovers(context.run(spec, _unheard)))
        if actions:
            yield Leftovers(step=spec.id, actions=actions)


def _rules(setup: Setup, book: Book) -> tuple[Action, ...]:
    """The removals of the rules that let us in at the source; none where AWS can't be asked, which ``shut`` tells."""
    ingress = ingress_in(setup.plan, book.state)
    try:
        return ingress.removals() if ingress else ()
    except CloudError:
        return ()


def _left(setup: Setup, context: Context) -> tuple[Residue, ...]:
    """What the plan's steps see on the servers; two that see the same tell it once."""
    found: dict[Residue, None] = {}
    for spec in setup.plan.steps:
        step = setup.find(spec.uses)
        if isinstance(step, Scanning):
            found |= dict.fromkeys(step.residue(context.run(spec, _unheard)))
    return tuple(found)


def _cleaning_steps(setup: Setup) -> Iterator[tuple[StepSpec, Cleaning]]:
    for spec in reversed(setup.plan.steps):
        step = setup.find(spec.uses)
        if isinstance(step, Cleaning):
            yield spec, step


def _teller(book: Book) -> Callable[[str, Mapping[str, Json]], None]:
    # Steps are asked more than once, and say the same thing each time.
    told = set[str]()

    def tell(message: str, fields: Mapping[str, Json]) -> None:
        if message not in told:
            told.add(message)
            book.journal.write(EventKind.NEWS, message, fields=fields)

    return tell


def _unheard(_message: str, _fields: Mapping[str, Json]) -> None:
    pass
