"""Makes a lost state anew from what the target's ledger and the servers show; refuses to begin without it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import opened
from planrunner.engine.exclusive import alone
from planrunner.engine.fit import parts_of, values_of
from planrunner.errors import PlanrunnerError, StateUnfit, UsageError
from planrunner.model import StepStatus
from planrunner.replication.ledger import Ledger
from planrunner.state.record import MarkRecord, StepState
from planrunner.step import Crossing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.engine.context import Context
    from planrunner.engine.setup import Setup
    from planrunner.model import StepSpec
    from planrunner.state.record import State
    from planrunner.step import Run

_COPYING = "snapshot"
_LATER = "a later step is done, on the target's record"


@dataclass(frozen=True, kw_only=True)
class Found:
    """How far a step is by the servers, and how that is known.

    ``begun``: its kind has left something on the target's record. ``intent`` is an action that may have been done,
    which nothing shows.
    """

    spec: StepSpec
    status: StepStatus
    why: str
    begun: bool = False
    intent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A state that is made anew and not saved yet; ``base`` is the newest backup that could be read, or a fresh one."""

    base: State
    found: tuple[Found, ...]
    context: Context


def refuse_lost_state(setup: Setup, context: Context) -> None:
    """StateUnfit when there is no state, but the target knows a migration of this plan."""
    if setup.store.load() is not None:
        return
    ledger = Ledger(context.world.target, context.plan_id)
    units, effects = len(ledger.units()), len(ledger.all_effects())
    if not units and not effects:
        return
    raise StateUnfit(
        f"there is no state{_where(setup)}, but the target's ledger knows this migration ({context.plan_id}:"
        f" {units} copied units, {effects} other records)",
        remedy=f"Name the state with --state; or, if it is lost, make it anew: {setup.command('state rebuild')}",
    )


@contextmanager
def rebuilding(setup: Setup) -> Iterator[Rebuilt]:
    """Find how far every step is, under the plan's lock on the target; nothing is changed.

    UsageError when the state can be read, or the target knows nothing of this plan.
    """
    base = _base(setup)
    book = Book(base, store=setup.store, journal=setup.journal, clock=setup.clock)
    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        alone(context, setup.clock)
        with setup.interruption.interruptible():
            yield Rebuilt(base=base, found=tuple(_found(setup, context)), context=context)


def save(setup: Setup, rebuilt: Rebuilt, *, who: str) -> str | None:
    """Put what can't be read aside and save the state; where the former one lies now, None when there was none.

    Every step that is taken for done has a mark that says why.
    """
    now = setup.clock.now()
    marks = tuple(
        MarkRecord(step=f.spec.id, status=f.status.value, who=who, when=now, why=f"rebuilt: {f.why}")
        for f in rebuilt.found
        if f.status is StepStatus.DONE
    )
    steps = {f.spec.id: _step(rebuilt.base, f, setup) for f in rebuilt.found}
    former = setup.home.set_aside() if setup.home is not None else None
    state = replace(rebuilt.base, plan_digest=setup.plan.digest, steps=steps)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    book.state = replace(book.state, marks=(*book.state.marks, *marks))
    book.identify(rebuilt.context)
    for finding in rebuilt.found:
        book.decide(finding.spec, f"{finding.status.value} in the rebuilt state: {finding.why}", who)
    return former


def _base(setup: Setup) -> State:
    try:
        known = setup.store.load()
    except StateUnfit:
        known = None
    else:
        if known is not None:
            raise UsageError(
                f"the state{_where(setup)} can be read; there is nothing to make anew",
                remedy=f"Go on with: {setup.command('run')}",
            )
    kept = setup.home.history() if setup.home is not None else ()
    newest = next((state for state in kept if state.plan == setup.plan.name), None)
    return newest or fresh_state(setup.plan)


def _found(setup: Setup, context: Context) -> Iterator[Found]:
    ledger = Ledger(context.world.target, context.plan_id)
    if not ledger.units() and not ledger.all_effects():
        raise UsageError(
            f"the target's ledger knows nothing of this plan ({context.plan_id})",
            remedy=f"There is nothing to make the state from. Begin with: {setup.command('run')}",
        )
    runs = [context.run(spec, _unheard) for spec in setup.plan.steps]
    crossed = _crossed(setup, runs)
    if crossed is not None:
        for run in runs[:crossed]:
            yield Found(
                spec=run.spec, status=StepStatus.DONE, why="the cutover rests on it, and is committed"
            )
    asked = [replace(_asked(setup, run), begun=_left(ledger, run.spec)) for run in runs[crossed or 0 :]]
    last = max((n for n, f in enumerate(asked) if f.status is StepStatus.DONE and f.begun), default=-1)
    for number, finding in enumerate(asked):
        before = number < last and finding.status is not StepStatus.DONE
        yield replace(finding, status=StepStatus.DONE, why=_LATER, intent=None) if before else finding


def _crossed(setup: Setup, runs: Sequence[Run]) -> int | None:
    """The place of the last step that has led writers over."""
    places = []
    for place, run in enumerate(runs):
        step = setup.find(run.spec.uses)
        if isinstance(step, Crossing) and step.crossed(run):
            places.append(place)
    return max(places, default=None)


def _asked(setup: Setup, run: Run) -> Found:
    try:
        missing = tuple(setup.find(run.spec.uses).actions(run))
    except PlanrunnerError as error:
        return Found(spec=run.spec, status=StepStatus.PENDING, why=f"it can't be asked yet: {error.message}")
    if not missing:
        return Found(spec=run.spec, status=StepStatus.DONE, why="nothing of it is missing")
    intent = next((action.name for action in missing if not action.observable), None)
    unknown = "; whether it was done before, nothing shows" if intent else ""
    return Found(
        spec=run.spec, status=StepStatus.PENDING, why=f"missing: {missing[0].summary}{unknown}", intent=intent
    )


def _left(ledger: Ledger, spec: StepSpec) -> bool:
    """Whether the step's kind has left something on the target's record."""
    return bool(ledger.effects(spec.uses)) or (spec.uses == _COPYING and bool(ledger.units()))


def _step(base: State, found: Found, setup: Setup) -> StepState:
    spec, known = found.spec, base.steps.get(found.spec.id) or StepState(uses=found.spec.uses)
    done = found.status is StepStatus.DONE
    return replace(
        known,
        uses=spec.uses,
        status=found.status,
        digest=spec.digest,
        parts=parts_of(spec),
        values=values_of(spec),
        finished=(known.finished or setup.clock.now()) if done else None,
        error=None,
        touched=done or found.begun or found.intent is not None,
        intent=found.intent,
    )


def _where(setup: Setup) -> str:
    return f" at {setup.home.place}" if setup.home is not None else ""


def _unheard(_message: str, _fields: object) -> None:
    pass
