"""Everything that a plan's checks find, at any time and whatever its steps are; and the safe fixes of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planrunner import ignoring, registry
from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import Context, Identities, opened
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import alone
from planrunner.engine.looking import View, looking_at
from planrunner.engine.preflight import Checked, checked, judged_together
from planrunner.errors import (
    AuthorityUnavailable,
    Interrupted,
    PlanrunnerError,
    SecretUnavailable,
    ServerError,
)
from planrunner.model import Mark, Side, StepSpec
from planrunner.postgres import fixing
from planrunner.postgres.preflight import UNCHECKED
from planrunner.step import Checking, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.engine.context import Connect, World
    from planrunner.engine.setup import Setup
    from planrunner.model import Finding, Fix, Json, Plan
    from planrunner.ports import Clock
    from planrunner.state.record import State
    from planrunner.step import Step

_USES = "validate"
_ALONE = StepSpec(id=_USES, uses=_USES)


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What became of one fix; ``failure`` is what the server or the program said against it."""

    finding: Finding
    failure: str | None = None


def everything(
    plan: Plan,
    state: State | None,
    *,
    connect: Connect,
    clock: Clock,
    find: Callable[[str], Step] = registry.step,
) -> tuple[Checked, ...]:
    """The preflight, whether the plan has a step for it or not, and what its pending steps check; reads only.

    A server that does not answer is a finding among the others; then only the preflight is made. StateUnfit when
    the servers are not those that the state knows.
    """
    with ExitStack() as stack:
        try:
            view = stack.enter_context(looking_at(plan, state, connect=connect, clock=clock, find=find))
        except (ServerError, SecretUnavailable, AuthorityUnavailable):
            return _half(plan, state or fresh_state(plan), connect, clock, find)
        return _whole(view)


def fixable(results: Sequence[Checked]) -> tuple[Finding, ...]:
    """The findings that ``--fix`` may mend: with a fix, not ignored, not mended by a step of the plan."""
    pairs = [pair for result in results for pair in zip(result.findings, result.mended, strict=True)]
    return tuple(
        finding
        for finding, mender in pairs
        if finding.mark is not Mark.PASS
        and finding.fix is not None
        and finding.fix.where is not Side.AWS
        and finding.ignored is None
        and mender is None
    )


def mend(setup: Setup, agreed: Sequence[Finding]) -> tuple[Mended, ...]:
    """Perform the fixes that somebody agreed to, one after the other, each statement on record before and after.

    The caller holds the lock of the state file. LockedByAnother when a run works on the target; a fix that is
    refused leaves the others to be done.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        alone(context, setup.clock)
        return tuple(_mended(setup, context.world, finding) for finding in agreed)


def _mended(setup: Setup, world: World, finding: Finding) -> Mended:
    assert finding.fix is not None
    for statement in finding.fix.statements:
        fields: Mapping[str, Json] = {
            "code": finding.code,
            "where": finding.fix.where.value,
            "statement": statement,
        }
        setup.journal.write(EventKind.INTENT, f"fix of {finding.code}: {statement}", fields=fields)
        try:
            with setup.interruption.interruptible():
                _perform(finding.fix, statement, world)
        except Interrupted:
            raise
        except PlanrunnerError as error:
            setup.journal.write(
                EventKind.WARNING, f"fix of {finding.code} failed: {error.message}", fields=fields
            )
            return Mended(finding=finding, failure=str(error))
        setup.journal.write(EventKind.OUTCOME, f"done: fix of {finding.code}: {statement}", fields=fields)
    return Mended(finding=finding)


def _perform(fix: Fix, statement: str, world: World) -> None:
    if fix.where is Side.LOCAL:
        fixing.run(statement)
    else:
        fixing.execute(world.source if fix.where is Side.SOURCE else world.target, statement)


def _whole(view: View) -> tuple[Checked, ...]:
    return judged_together(list(_found(view)), view.plan)


def _found(view: View) -> Iterator[Checked]:
    pending = view.pending()
    own = next((spec for spec in view.plan.steps if spec.uses == _USES), _ALONE)
    # Without a step of its own it comes first, and whatever is still to be done may mend what it finds.
    earlier = pending if own is _ALONE else view.pending_before(own)
    yield _checked(view, own, earlier)
    for position, spec in enumerate(pending):
        step = view.find(spec.uses)
        if spec.uses != _USES and isinstance(step, Checking):
            yield _checked(view, spec, pending[:position])


def _checked(view: View, spec: StepSpec, earlier: Sequence[StepSpec]) -> Checked:
    step = view.find(spec.uses)
    assert isinstance(step, Checking)
    try:
        if spec.uses != _USES and view.skip(spec)[0] is not None:
            return Checked(spec=spec, findings=(), mended=())
        return checked(step, view.run(spec), earlier)
    except Interrupted:
        raise
    except PlanrunnerError as error:
        text = f"the checks of step {spec.id} ({spec.uses}) could not be made: {error.message}"
        return Checked(spec=spec, findings=(UNCHECKED.failed(text, error.remedy),), mended=(None,))


def _half(
    plan: Plan, state: State, connect: Connect, clock: Clock, find: Callable[[str], Step]
) -> tuple[Checked, ...]:
    """The preflight alone, where not both servers answer: it tells which, and checks what it can."""
    spec = next((spec for spec in plan.steps if spec.uses == _USES), _ALONE)
    step = find(_USES)
    assert isinstance(step, Checking)
    held = Held()
    world = connect(plan, f"planrunner/{state.plan_id or plan.name}")
    try:
        context = Context(
            plan=plan,
            plan_id=state.plan_id or "unknown",
            identities=Identities(source=None, target=""),
            world=world,
            clock=clock,
            held=held,
        )
        return (checked(step, context.run(spec, lambda *_: None), ()),)
    finally:
        held.close()
        world.close()


def narrowed(results: Sequence[Checked], wanted: Callable[[Finding], bool]) -> tuple[Checked, ...]:
    """The results without the findings that are not ``wanted``; what could not be checked stays."""
    return tuple(_narrowed(result, wanted) for result in results)


def _narrowed(result: Checked, wanted: Callable[[Finding], bool]) -> Checked:
    pairs = [
        (finding, mender)
        for finding, mender in zip(result.findings, result.mended, strict=True)
        if wanted(finding) or ignoring.leaves_out(finding)
    ]
    return replace(result, findings=tuple(f for f, _ in pairs), mended=tuple(mender for _, mender in pairs))
