"""The actions of cutover, rehearsal and rollback, and what they leave: what a step says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.model import Finding, Json, Side
from planrunner.postgres import catalog, needs, preflight_back
from planrunner.replication import (
    crossing,
    cutover,
    described,
    fence,
    gate,
    large_objects,
    proofs,
    return_streams,
    rollback,
    slots,
    subscriptions,
    verify,
)
from planrunner.replication.crossing import Position
from planrunner.replication.names import FENCE_TRIGGER
from planrunner.replication.throttle import Effort
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NO_NEEDS, Action, Run
from planrunner.switching import build
from planrunner.switching.hooks import Surroundings
from planrunner.units import human_bytes, seconds, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.switching.hooks import Switching


def terms(run: Run) -> cutover.Terms:
    """How the plan lets its crossings go."""
    return cutover.Terms(
        budget=seconds(run.option("write_pause_budget", "5s")),
        lock_timeout=seconds(run.option("lock_timeout", "200ms")),
        headroom=run.option("sequence_headroom", 100),
        gate=_gate_terms(run),
        reverse=run.option("reverse", False),  # noqa: FBT003  # the option's default
        large_objects=_large_object_terms(run),
        switch=_switching(run),
    )


def _switching(run: Run) -> Switching:
    """What the plan says about leading the traffic."""
    surroundings = Surroundings(
        source=run.source,
        target=run.target,
        fence_trigger=FENCE_TRIGGER,
        fence_function=workspace(run).names.fence_function,
        budget=seconds(run.option("write_pause_budget", "5s")),
        clock=run.clock,
        resolve=run.resolve,
        tell=run.tell,
    )
    return build.switching(run.option("switch", []), run.plan.path.parent, surroundings)


def _gate_terms(run: Run) -> gate.Terms:
    tolerated: Sequence[str] = run.option("tolerate", ())
    return gate.Terms(
        mode=verify.Mode(run.option("verify", "auto")),
        effort=effort(run),
        tolerated=frozenset(tolerated),
        proofs=proofs.Terms(
            owners=run.option_of("snapshot", "owners", "keep") == "keep",
            grants=run.option_of("snapshot", "grants", "keep") == "keep",
            headroom=run.option("sequence_headroom", 100),
            max_lag=size(run.option_of("sync", "max_lag", "16MB")),
        ),
    )


def effort(run: Run) -> Effort:
    """How much live verification may ask of the servers."""
    return Effort(jobs=run.option("verify_jobs", 2), max_load=run.option("max_load", None))


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


def _large_object_terms(run: Run) -> large_objects.Terms | None:
    if run.option_of("snapshot", "large_objects", "refuse") != "copy":
        return None
    return large_objects.Terms(
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
        sizes_only=run.option("verify", "auto") == "counts",
    )


def missing_cutover(run: Run, where: Position) -> Sequence[Action]:
    """What is missing until writers are on the target."""
    match where:
        case Position.SOURCE:
            again = [] if rollback.follows_again(workspace(run)) else [_follow_again(run)]
            return [*again, *_guard(run), _cut_over(run)]
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
    if not run.option("reverse", False) or (  # noqa: FBT003  # the option's default
        where is Position.TARGET and return_streams.following_back(space)
    ):
        return []
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
        perform=lambda run: cutover.begin_way_back(workspace(run)),
    )


def findings(run: Run) -> Sequence[Finding]:
    """The preflight of the traffic's switch and of the way back; nothing of what the plan does not want."""
    return (*_switching(run).findings(), *_way_back_findings(run))


def _way_back_findings(run: Run) -> Sequence[Finding]:
    space = workspace(run)
    if not run.option("reverse", False) or return_streams.back_exists(space):  # noqa: FBT003  # the option's default
        return ()
    return preflight_back.way_back(run.source, run.target, subscriptions.dial_parameters(run.target))


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
        *_switching(run).described(Side.TARGET),
        *described.using_tracker(space, side=described.SOURCE),
        *prepared,
        fence.BEGIN,
        *([fence.lock_statement(tables).as_string()] if tables else []),
        *described.closing(space.names, tables, message, there),
        *described.bringing_late(late),
        *(described.LARGE_OBJECTS if _large_object_terms(run) else ()),
        "-- the barrier is waited for, both sides are compared",
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
    return cutting_over(
        f"{len(tables)} tables{copied}", terms(run).budget, statements, reversible=reversible, late=bool(late)
    )


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
        destructive=True,
        perform=lambda run: cutover.cut_over(workspace(run), terms(run)),
    )


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
            *_switching(run).described(Side.TARGET),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo="planrunner rollback, where the plan has reverse: true",
        perform=lambda run: cutover.arrive(workspace(run), terms(run)),
    )


def _unfinished_rollback() -> Action:
    return Action(
        name="cutover",
        summary="cut over",
        where=Side.SOURCE,
        statements=("-- none before the rollback is finished",),
        locks=NO_LOCKS,
        needs=NO_NEEDS,
        undo="nothing is done",
        perform=lambda _: None,
        blocked="a rollback was broken off; finish it with `planrunner rollback PLAN`, then run again",
    )


def _follow_again(run: Run) -> Action:
    space = workspace(run)
    generation = rollback.next_generation(space)
    return Action(
        name="follow again",
        summary="drop the stream that led back, and let the target follow the source again",
        where=Side.TARGET,
        statements=(
            *described.dropping_back(space.names),
            *described.subscribing(space, generation, ()),
            described.told(
                subscriptions.beginning(space.names.stream(generation), "…"), "where the login may"
            ),
        ),
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.SOURCE, needs.REPLICATION)),
        undo="planrunner cleanup drops it",
        perform=lambda run: rollback.follow_again(workspace(run)),
    )


def missing_rollback(run: Run) -> Sequence[Action]:
    """What is missing until writers are back on the source and the target follows it."""
    space = workspace(run)
    where = crossing.position(space)
    if where is Position.RETURNING:
        return [_return(run), _follow_again(run)]
    if where is Position.SOURCE and rollback.returned(space):
        return [] if rollback.follows_again(space) else [_follow_again(run)]
    return [_roll_back(run, rollback.impossible(space, where)), _follow_again(run)]


def _rollback_statements(run: Run) -> tuple[str, ...]:
    space = workspace(run)
    tables = cutover.guarded_tables(space)
    message = fence.moved_to(run.source, space.names.plan_id)
    there = fence.standing(run.target, space.names)
    generation = rollback.next_generation(space)
    return (
        *_switching(run).described(Side.SOURCE),
        *described.using_tracker(space, side=described.TARGET),
        *described.following_again(space, verify.followed_tables(space), generation),
        fence.BEGIN,
        *([fence.lock_statement(tables).as_string()] if tables else []),
        *described.closing(space.names, tables, message, there),
        "-- the barrier is waited for, both sides are compared",
        f"{described.SEQUENCES}; {described.SOURCE}",
        *described.all_told(slots.advancing(space.names.stream(generation)), described.SOURCE),
    )


def _roll_back(run: Run, impossible: str | None) -> Action:
    space = workspace(run)
    opening = described.told(fence.opening(space.names), described.SOURCE)
    return Action(
        name="rollback",
        summary=f"stop writes to {len(cutover.guarded_tables(space))} tables of the target, prove both sides equal,"
        f" carry sequences, open the source; at most {terms(run).budget:g} s, else everything stays as it is",
        where=Side.TARGET,
        statements=(*_rollback_statements(run), "COMMIT", opening),
        locks=("SHARE ROW EXCLUSIVE on every table of the target, for the length of the pause",),
        needs=_returning_needs(),
        undo="planrunner run cuts over again",
        destructive=True,
        blocked=impossible,
        perform=lambda run: rollback.roll_back(workspace(run), terms(run)),
    )


def _returning_needs() -> tuple[str, ...]:
    there = (needs.OWNERSHIP, needs.CREATE, needs.REPLICATION)
    return (needs.ACTING_AS, needs.CREATE, needs.REPLICATION, *needs.on(Side.SOURCE, *there))


def rollback_rehearsal(run: Run) -> Action:
    """Everything of the rollback but its commit."""
    space = workspace(run)
    return Action(
        name="rollback rehearsal",
        summary="go through the rollback and leave everything as it is: measures the write pause",
        where=Side.TARGET,
        statements=(
            *_rollback_statements(run),
            "ROLLBACK",
            *described.clearing(space.names, rollback.next_generation(space)),
        ),
        locks=("SHARE ROW EXCLUSIVE on every table of the target, for the length of the pause",),
        needs=_returning_needs(),
        undo="it undoes itself",
        blocked=rollback.impossible(space, crossing.position(space)),
        perform=lambda run: rollback.rehearse(workspace(run), terms(run)),
    )


def _return(run: Run) -> Action:
    return Action(
        name="open again",
        summary="open the source to writers: the target is closed, the rollback was broken off after its commit",
        where=Side.SOURCE,
        statements=(
            fence.opening(workspace(run).names).as_string(),
            *_switching(run).described(Side.SOURCE),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo="planrunner run cuts over again",
        perform=lambda run: rollback.arrive(workspace(run), terms(run)),
    )
