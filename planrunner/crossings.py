"""The actions of cutover, rehearsal and rollback, and what they leave: what a step says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from planrunner import polled, subscription_login
from planrunner.crossing_terms import STAYS_CLOSED, large_object_terms, switching, terms
from planrunner.model import Finding, Json, Mark, Side
from planrunner.postgres import catalog, needs, preflight_back
from planrunner.replication import (
    crossing,
    cutover,
    described,
    fence,
    gate,
    logins,
    return_streams,
    rollback,
    slots,
    verify,
)
from planrunner.replication.crossing import Position
from planrunner.returning import follow_again
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, TAKEN_BACK, Action, Run, blocked
from planrunner.switching import build
from planrunner.units import human_bytes
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Plan


def figures(run: Run) -> dict[str, Json]:
    """What crossings have recorded, as the report has it, and how the way back does now."""
    space = workspace(run)
    found: dict[str, Json] = dict(space.ledger.effects(crossing.STEP))
    for name, within, told in (
        (gate.PROOFS, "proofs", "proofs"),
        (gate.SEQUENCES, "sequences", "sequence_values"),
        (crossing.REHEARSALS, "runs", "rehearsals"),
    ):
        if name in found:
            found[told] = cast("dict[str, Json]", found.pop(name))[within]
    if crossing.RETURNED in found:
        found["rolled_back"] = found.pop(crossing.RETURNED)
    back = return_streams.back_figures(space)
    if back:
        found |= {"reverse": {"stream": space.names.back, **back}, "streams": {space.names.back: back}}
    return found


def missing_cutover(run: Run, where: Position) -> Sequence[Action]:
    """What is missing until writers are on the target."""
    match where:
        case Position.SOURCE:
            again = [] if rollback.follows_again(workspace(run)) else [follow_again(run)]
            streamed = workspace(run).streamed and "sync" not in run.planned_before
            able = () if not streamed else subscription_login.missing(run, Side.SOURCE)
            return [*able, *again, *_guard(run), _cut_over(run)]
        case Position.GOING:
            return [_arrive(run)]
        case Position.RETURNING:
            return [_unfinished_rollback()]
        case Position.TARGET:
            return []


def missing_rehearsal(run: Run) -> Sequence[Action]:
    """The rehearsal that this step of the plan is for, unless it was made."""
    space = workspace(run)
    if any(entry.get("asked_by") == run.spec.id for entry in cutover.rehearsals(space)):
        return []
    guards = _guard(run) if crossing.position(space) is Position.SOURCE else ()
    return [*guards, rehearsal(run, asked_by=run.spec.id)]


def missing_way_back(run: Run, where: Position) -> Sequence[Action]:
    """The subscription on the source that follows the target from the cutover on."""
    space = workspace(run)
    name = space.names.back
    if not run.option("reverse", False):  # noqa: FBT003  # the option's default
        return []
    if where is Position.TARGET and return_streams.following_back(space):
        return subscription_login.missing(run, Side.TARGET)
    return [leading_back(name, described.starting_back(space))]


def leading_back(name: str, statements: tuple[str, ...]) -> Action:
    """The action that lets the source follow the target."""
    return Action(
        name="way back",
        summary=f"let the source follow the target by subscription {name}, so that a rollback loses nothing",
        where=Side.SOURCE,
        statements=statements,
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.TARGET, needs.REPLICATION)),
        undo="planrunner cleanup drops it",
        lasting=TAKEN_BACK,
        perform=lambda run: cutover.begin_way_back(workspace(run)),
    )


def findings(run: Run) -> Sequence[Finding]:
    """The preflight of the traffic's switch and of the way back; nothing of what the plan does not want."""
    return (*switching(run).findings(), *_way_back_findings(run))


def _way_back_findings(run: Run) -> Sequence[Finding]:
    space = workspace(run)
    if not run.option("reverse", False) or return_streams.back_exists(space):  # noqa: FBT003  # the option's default
        return ()
    dial = logins.dial_parameters(space, run.target)
    return (
        *_mended(run.plan, preflight_back.way_back(run.source, run.target, dial)),
        *subscription_login.findings(run, Side.TARGET),
    )


def _mended(plan: Plan, found: Sequence[Finding]) -> Sequence[Finding]:
    """A project of SerenDB's whose id the plan names is told by enable_logical to decode its WAL."""
    if plan.target.seren is None or plan.target.seren.project is None:
        return found
    level = preflight_back.WAL_LEVEL.code
    return [
        replace(f, mended_by="enable_logical") if f.code == level and f.mark is Mark.FAIL else f
        for f in found
    ]


def _guard(run: Run) -> Sequence[Action]:
    space = workspace(run)
    there = fence.standing(run.target, space.names)
    tables = cutover.to_guard(space)
    bare = [t for t in tables if t.qualified not in there.whole]
    if there.closed and not bare:
        return []
    message = fence.not_yet(run.source, space.names.plan_id)
    return [guarding(str(len(tables)), described.closing(space.names, bare, message, there))]


def guarding(count: str, statements: tuple[str, ...]) -> Action:
    """The action that closes the target until the cutover opens it."""
    return Action(
        name="guard",
        summary=f"close {count} tables of the target to everyone but replication, until the cutover opens it",
        where=Side.TARGET,
        statements=statements,
        locks=("SHARE ROW EXCLUSIVE on some tables at a time, for an instant",),
        needs=(needs.ACTING_AS, needs.CREATE),
        undo="the cutover, or planrunner cleanup",
        lasting=TAKEN_BACK,
        perform=lambda run: cutover.guard(workspace(run)),
    )


def _statements(run: Run, *, rehearse: bool) -> tuple[str, ...]:
    space = workspace(run)
    known = catalog.tables(run.source)
    tables, late = space.selection.carried(known), verify.divided(space, known)[1]
    message = fence.moved_to(run.target, space.names.plan_id)
    there = fence.standing(run.source, space.names)
    back = run.option("reverse", False)  # noqa: FBT003  # the option's default
    prepared = described.preparing_back(space, verify.followed_tables(space)) if back else ()
    return (
        *switching(run).described(Side.TARGET),
        *(described.using_tracker(space, side=described.SOURCE) if space.streamed else ()),
        *prepared,
        fence.BEGIN,
        *([fence.lock_statement(tables).as_string()] if tables else []),
        *(() if space.streamed else (cutover.OWN_SCHEMA.as_string(),)),
        *described.closing(space.names, tables, message, there),
        *described.bringing_late(late),
        *(described.LARGE_OBJECTS if large_object_terms(run) else ()),
        *(
            ("-- the barrier is waited for, both sides are compared",)
            if space.streamed
            else polled.last_round()
        ),
        *(() if rehearse else (f"{described.SEQUENCES}; {described.TARGET}",)),
        *(described.all_told(slots.advancing(space.names.back), described.TARGET) if back else ()),
    )


def _cut_over(run: Run) -> Action:
    space = workspace(run)
    known = catalog.tables(run.source)
    tables, late = space.selection.carried(known), verify.divided(space, known)[1]
    copied = f", copy {len(late)} tables whole ({human_bytes(sum(t.bytes for t in late))})" if late else ""
    opening = described.told(fence.opening(space.names), described.TARGET)
    statements = (*_statements(run, rehearse=False), "COMMIT", opening)
    reversible = run.option("reverse", False)  # noqa: FBT003  # the option's default
    made = cutting_over(
        f"{len(tables)} tables{copied}", terms(run).budget, statements, reversible=reversible, late=bool(late)
    )
    if not space.streamed:
        made = replace(made, needs=_polled_needs())
    calls = build.iam_needs(run.option("switch", []), run.plan.path.parent)
    led = "; and what leads the traffic leads to the target" if run.option("switch", []) else ""
    return replace(made, needs=(*made.needs, *needs.on(Side.AWS, *calls)), lasting=f"{STAYS_CLOSED}{led}")


def cutting_over(
    what: str, budget: float, statements: tuple[str, ...], *, reversible: bool, late: bool = False
) -> Action:
    """The action that leads writers to the target."""
    after = "planrunner rollback" if reversible else f"{IRREVERSIBLE} without reverse: true"
    return Action(
        name="cutover",
        summary=f"stop writes to {what}, prove both sides equal, carry sequences, open the target;"
        f" at most {budget:g} s, else everything is rolled back",
        where=Side.SOURCE,
        statements=statements,
        locks=("SHARE ROW EXCLUSIVE on every table of the source, for the length of the pause",),
        needs=_crossing_needs(late=late, reversible=reversible),
        undo=f"until the COMMIT: ROLLBACK. After it: {after}",
        lasting=STAYS_CLOSED,
        destructive=True,
        perform=lambda run: cutover.cut_over(workspace(run), terms(run)),
    )


def _polled_needs() -> tuple[str, ...]:
    there = (needs.ACTING_AS, needs.SILENCING, needs.CREATE)
    return (needs.OWNERSHIP, needs.CREATE, needs.READING, *needs.on(Side.TARGET, *there))


def _crossing_needs(*, late: bool, reversible: bool) -> tuple[str, ...]:
    there = (needs.ACTING_AS, *([needs.SILENCING] if late and not reversible else []))
    back = (needs.REPLICATION,) if reversible else ()
    own = (needs.SUBSCRIBING,) if reversible else ()
    return (needs.OWNERSHIP, needs.CREATE, needs.REPLICATION, *own, *needs.on(Side.TARGET, *there, *back))


def rehearsal(run: Run, *, asked_by: str) -> Action:
    """Everything of the cutover but its commit."""
    blocked = cutover.impossible(crossing.position(workspace(run)))
    back = run.option("reverse", False)  # noqa: FBT003  # the option's default
    forgotten = described.dropping_back(workspace(run).names) if back else ()
    return rehearsing((*_statements(run, rehearse=True), "ROLLBACK", *forgotten), asked_by, blocked=blocked)


def rehearsing(statements: tuple[str, ...], asked_by: str, *, blocked: str | None = None) -> Action:
    """The action that measures the pause."""
    return Action(
        name="rehearsal",
        summary="go through the cutover and roll it back: measures the write pause",
        where=Side.SOURCE,
        statements=statements,
        locks=("SHARE ROW EXCLUSIVE on every table of the source, for the length of the pause",),
        needs=_crossing_needs(late=False, reversible=False),
        undo="it undoes itself",
        lasting=NOTHING_STAYS,
        blocked=blocked,
        perform=lambda run: cutover.rehearse(workspace(run), terms(run), asked_by=asked_by),
    )


def _arrive(run: Run) -> Action:
    space = workspace(run)
    return Action(
        name="open",
        summary="open the target to writers: the source is closed, the cutover was broken off after its commit",
        where=Side.TARGET,
        statements=(
            fence.opening(space.names).as_string(),
            *switching(run).described(Side.TARGET),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo="planrunner rollback, where the plan has reverse: true",
        lasting=STAYS_CLOSED,
        perform=lambda run: cutover.arrive(workspace(run), terms(run)),
    )


def _unfinished_rollback() -> Action:
    return blocked(
        name="cutover",
        summary="cut over",
        where=Side.SOURCE,
        none=" before the rollback is finished",
        why="a rollback was broken off; finish it with `planrunner rollback PLAN`, then run again",
    )
