"""Opens the way to the source before anybody dials it, where the plan asks for that, and shuts it at the end.

The plan id is not known yet at that moment, so these actions belong to no step; each is journalled like a step's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.engine.events import EventKind
from planrunner.errors import CloudError, PreviewStale, StepFailed
from planrunner.failpoints import failpoint
from planrunner.ingress import ingress_of
from planrunner.model import StepSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.engine.book import Book
    from planrunner.engine.saved_preview import Saved
    from planrunner.engine.setup import Setup
    from planrunner.ingress import Ingress
    from planrunner.model import Json, Plan, Residue
    from planrunner.state.record import State
    from planrunner.step import Action, Run

# How a preview and a cleanup name it; no step of a plan can be called so.
SPEC = StepSpec(id="(opening)", uses="authorize_ingress")
FACT = "ingress"


def ingress_in(plan: Plan, state: State | None) -> Ingress | None:
    """The plan's rules; None where neither the plan asks for any nor a run is on record as having made some."""
    known = state.facts.get(FACT) if state else None
    mark = cast("Mapping[str, Json]", known).get("mark") if isinstance(known, dict) else None
    if not plan.source.authorize_ingress and mark is None:
        return None
    return ingress_of(plan, None if mark is None else str(mark))


def let_in(setup: Setup, book: Book, expected: Saved | None) -> None:
    """Make the rules that are missing, on record before and after; PreviewStale where nobody saw them coming."""
    ingress = ingress_in(setup.plan, book.state)
    if ingress is None or not ingress.wanted:
        return
    try:
        with setup.interruption.interruptible():
            missing, unknown = ingress.missing(), ingress.unknown()
        for sentence in unknown:
            setup.journal.write(EventKind.WARNING, sentence)
        _refuse_unseen(missing, expected)
        if missing:
            told = [action.summary for action in missing]
            book.save(facts={**book.state.facts, FACT: {"mark": ingress.mark, "made": told}})
        for action in missing:
            perform(setup, action)
    except (CloudError, StepFailed) as error:
        # Whether it is needed shows when the source is dialled, a moment from now.
        remedy = f" {error.remedy}" if error.remedy else ""
        setup.journal.write(EventKind.WARNING, f"nobody was let in at the source: {error.message}.{remedy}")


def perform(setup: Setup, action: Action) -> None:
    """Perform one action that belongs to no step: intent, failpoint, act, failpoint, outcome."""
    fields: Mapping[str, Json] = {"action": action.name, "where": action.where.value}
    setup.interruption.check()
    setup.journal.write(EventKind.INTENT, action.summary, fields=fields)
    failpoint("opening.before")
    with setup.interruption.interruptible():
        # Its work is AWS's alone: there is no run yet that it could look at.
        action.perform(cast("Run", None))
    failpoint("opening.after")
    setup.journal.write(EventKind.OUTCOME, f"done: {action.summary}", fields=fields)


def rules_made(state: State | None) -> Iterator[str]:
    """The rules that a run has made, or was about to make, and that no cleanup removed; by the state alone."""
    known = state.facts.get(FACT) if state else None
    made = cast("Mapping[str, Json]", known).get("made") if isinstance(known, dict) else None
    if isinstance(made, list):
        yield from (f"aws: a run was to {line}; cleanup removes it" for line in cast("list[str]", made))


def shut(setup: Setup, book: Book, removals: Sequence[Action]) -> tuple[Residue, ...]:
    """Perform those removals of rules, the last thing of a cleanup, and tell what AWS shows afterwards."""
    ingress = ingress_in(setup.plan, book.state)
    if ingress is None:
        return ()
    try:
        for action in removals:
            perform(setup, action)
        left = ingress.residue()
    except CloudError as error:
        return (ingress.untold(error, made=FACT in book.state.facts),)
    if not any(residue.harmful for residue in left):
        forget(book)
    return left


def forget(book: Book) -> None:
    """None of the plan's rules is there any more."""
    if FACT in book.state.facts:
        book.save(facts={name: fact for name, fact in book.state.facts.items() if name != FACT})


def _refuse_unseen(missing: Sequence[Action], expected: Saved | None) -> None:
    if expected is None:
        return
    seen = {
        statement
        for step in expected.steps
        if step["id"] == SPEC.id
        for action in step["actions"]
        for statement in action["statements"]
    }
    unseen = [action for action in missing if not seen.issuperset(action.statements)]
    if unseen:
        raise PreviewStale(
            "the world has changed since the preview was saved; nothing was done:\n  "
            + "\n  ".join(f"an action more: {action.summary}" for action in unseen),
            remedy="Look at a new preview, and have it approved: planrunner preview PLAN --out FILE.",
        )
