"""Takes away what the steps of a plan left on the servers, through the same journalled performing, and looks again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import opened
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import alone
from planrunner.engine.opening import FACT, SPEC, ingress_in, let_in, shut
from planrunner.engine.performing import Answers, Performer
from planrunner.errors import CloudError, Interrupted, PlanrunnerError, StateUnfit
from planrunner.failpoints import failpoint
from planrunner.model import Approval, Belongs, StepStatus
from planrunner.replication.ledger import Ledger
from planrunner.step import Cleaning, Crossing, Scanning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from planrunner.engine.context import Context
    from planrunner.engine.setup import Setup
    from planrunner.model import Json, Residue, StepSpec
    from planrunner.state.record import State
    from planrunner.step import Action

CLEANED = "cleaned"
# Among the state's facts while a cleanup is under way: the steps whose record it takes back at its end.
CLEANING = "cleaning"


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


def clean(
    setup: Setup, confirm: Callable[[tuple[Leftovers, ...]], None], *, take_over: bool = False
) -> Cleaned:
    """Remove the leftovers of all steps, the last step's first; tell what was removed and what is left.

    ``confirm`` sees all of them before the first is touched and raises to stop. The caller holds the
    lock of the state file. ``take_over``: from a run, rollback or cleanup that holds the target's lock.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    if FACT in state.facts:
        # A cleanup that was killed at its very end has shut itself out, and does not know it.
        with setup.interruption.listening():
            let_in(setup, book, None)
    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        context.world.on_silence(setup.warn)
        alone(context, setup.clock, take_over=take_over)
        rules = _rules(setup, book)
        found = (*_leftovers(setup, context), *([Leftovers(step=SPEC.id, actions=rules)] if rules else ()))
        if found:
            confirm(found)
        at_work = bool(found or _unfinished(book.state))
        if at_work:
            book.identify(context)
            setup.journal.write(EventKind.RUN_STARTED, f"cleanup of plan {setup.plan.name} begins")
            if not _may_be_crossed(setup, context):
                steps = [*_unfinished(book.state), *(one.step for one in found)]
                book.save(facts={**book.state.facts, CLEANING: [*dict.fromkeys(steps)]})
                failpoint("cleanup.begun")
            _remove(setup, book, context)
            _forget_steps(setup, book, found)
        if take_over:
            # Raising the epoch may have made a ledger anew, after the one that was overtaken had removed it.
            Ledger(context.world.target, context.plan_id).forget(CLEANED)
        # The way to the source is shut last, after the last look at it.
        left = (*_left(setup, context), *shut(setup, book, rules))
        if at_work:
            told: Mapping[str, Json] = {"result": CLEANED, "exit_code": 0, "plan_id": context.plan_id}
            setup.journal.write(
                EventKind.RUN_ENDED, f"cleanup of plan {setup.plan.name} is through", fields=told
            )
        return Cleaned(removed=found, left=left)


def refuse_half_cleaned(setup: Setup, state: State) -> None:
    """StateUnfit when a cleanup of this plan was broken off: part of what the steps made may be gone."""
    if _unfinished(state):
        raise StateUnfit(
            "a cleanup of this plan was broken off: part of what its steps made is gone from the servers",
            remedy=f"Finish it first: {setup.command('cleanup')}",
        )


def _unfinished(state: State) -> tuple[str, ...]:
    """The steps that a cleanup which is not through takes away."""
    steps = state.facts.get(CLEANING)
    return tuple(map(str, steps)) if isinstance(steps, list) else ()


def _remove(setup: Setup, book: Book, context: Context) -> None:
    tell = _teller(book)
    performer = Performer(setup=setup, book=book, answers=Answers(yes=True))
    for spec, step in _cleaning_steps(setup):
        run = context.run(spec, tell)
        performer.perform_all(step.leftovers, run, approval=Approval.AUTO)


def _may_be_crossed(setup: Setup, context: Context) -> bool:
    """Whether a cutover is committed, or can't be told not to be: then the migration is not to be made again."""
    for spec in setup.plan.steps:
        step = setup.find(spec.uses)
        try:
            if isinstance(step, Crossing) and step.crossed(context.run(spec, _unheard)):
                return True
        except Interrupted:
            raise
        except PlanrunnerError:
            return True
    return False


def _forget_steps(setup: Setup, book: Book, found: Iterable[Leftovers]) -> None:
    """What was taken away is not done any more, nor is what came after it: the next run begins there."""
    removed = {one.step: len(one.actions) for one in found}
    cleaned = _unfinished(book.state)
    places = [place for place, spec in enumerate(setup.plan.steps) if spec.id in cleaned]
    failpoint("cleanup.removed")
    for spec in setup.plan.steps[min(places) :] if places else ():
        step = book.step(spec)
        if step.touched or step.status is StepStatus.DONE:
            book.undo(spec, removed.get(spec.id, 0))
    book.save(facts={name: fact for name, fact in book.state.facts.items() if name != CLEANING})
    failpoint("cleanup.forgotten")


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
