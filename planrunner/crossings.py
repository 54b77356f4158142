"""The actions of cutover, rehearsal and rollback, and what they leave: what a step says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.model import Finding, Json, Side
from planrunner.postgres import catalog, preflight_back
from planrunner.replication import (
    crossing,
    cutover,
    fence,
    gate,
    large_objects,
    proofs,
    return_streams,
    rollback,
    subscriptions,
    tracker,
    verify,
)
from planrunner.replication.crossing import Position
from planrunner.replication.names import FENCE_TRIGGER
from planrunner.replication.throttle import Effort
from planrunner.step import Action, Run
from planrunner.switching import build
from planrunner.switching.hooks import Surroundings
from planrunner.units import human_bytes, seconds, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.replication.workspace import Workspace
    from planrunner.switching.hooks import Switching


# The effect that says that open triggers were left to cleanup.
LEFT_OPEN = "left open"


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
            again = [] if rollback.follows_again(workspace(run)) else [_follow_again()]
            return [*again, *_guard(run), _cut_over(run)]
        case Position.GOING:
            return [_arrive()]
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
    return [
        Action(
            name="way back",
            summary=f"let the source follow the target by subscription {name}, so that a rollback loses nothing",
            where=Side.SOURCE,
            statements=(
                f"{return_streams.subscription_statement(space, {}).as_string()}  -- and the target's password",
                f"ALTER SUBSCRIPTION {name} ENABLE",
            ),
            needs=("pg_create_subscription and CREATE on the database, or superuser before PostgreSQL 16",),
            undo="planrunner cleanup drops it",
            perform=lambda run: cutover.begin_way_back(workspace(run)),
        )
    ]


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
    tables = cutover.guarded_tables(space)
    bare = [t for t in tables if t.qualified not in there.whole]
    if there.closed and not bare:
        return []
    message = fence.not_yet(run.source, space.names.plan_id)
    return [
        Action(
            name="guard",
            summary=f"close {len(tables)} tables of the target to everyone but replication, until the cutover opens it",
            where=Side.TARGET,
            statements=tuple(s.as_string() for s in fence.statements(space.names, bare, message, there)),
            locks=("SHARE ROW EXCLUSIVE on some tables at a time, for an instant",),
            needs=("ownership of the tables",),
            undo="the cutover, or planrunner cleanup",
            perform=lambda run: cutover.guard(workspace(run)),
        )
    ]


def _statements(run: Run) -> tuple[str, ...]:
    space = workspace(run)
    tables = space.selection.carried(catalog.tables(run.source))
    message = fence.moved_to(run.target, space.names.plan_id)
    lock = (fence.lock_statement(tables).as_string(),) if tables else ()
    there = fence.standing(run.source, space.names)
    made = tuple(s.as_string() for s in fence.statements(space.names, tables, message, there))
    return (
        *_switching(run).described(Side.TARGET),
        *("BEGIN", *lock, *made, "-- barrier, comparison, setval on the target"),
        *_way_back_statements(run),
    )


def _way_back_statements(run: Run) -> tuple[str, ...]:
    space = workspace(run)
    if not run.option("reverse", False):  # noqa: FBT003  # the option's default
        return ()
    followed = verify.followed_tables(space)
    return (
        *(s.as_string() for s in return_streams.back_publication(space, followed)),
        f"SELECT pg_create_logical_replication_slot('{space.names.back}', 'pgoutput')  -- on the target, beforehand",
        f"SELECT pg_replication_slot_advance('{space.names.back}', …)  -- on the target",
    )


def _cut_over(run: Run) -> Action:
    space = workspace(run)
    known = catalog.tables(run.source)
    tables, late = space.selection.carried(known), verify.divided(space, known)[1]
    copied = f", copy {len(late)} tables whole ({human_bytes(sum(t.bytes for t in late))})" if late else ""
    budget = terms(run).budget
    return Action(
        name="cutover",
        summary=f"stop writes to {len(tables)} tables{copied}, prove both sides equal, carry sequences, open the"
        f" target; at most {budget:g} s, else everything is rolled back",
        where=Side.SOURCE,
        statements=(
            *_statements(run),
            "COMMIT",
            fence.opening(space.names).as_string() + "  -- on the target",
        ),
        locks=("SHARE ROW EXCLUSIVE on every table of the source, for the length of the pause",),
        needs=("ownership of the tables",),
        undo="until the COMMIT: ROLLBACK. After it: planrunner rollback, where the plan has reverse: true",
        destructive=True,
        perform=lambda run: cutover.cut_over(workspace(run), terms(run)),
    )


def rehearsal(run: Run, *, asked_by: str) -> Action:
    """Everything of the cutover but its commit."""
    return Action(
        name="rehearsal",
        summary="go through the cutover and roll it back: measures the write pause",
        where=Side.SOURCE,
        statements=(*_statements(run), "ROLLBACK"),
        locks=("SHARE ROW EXCLUSIVE on every table of the source, for the length of the pause",),
        needs=("ownership of the tables",),
        undo="it undoes itself",
        blocked=cutover.impossible(crossing.position(workspace(run))),
        perform=lambda run: cutover.rehearse(workspace(run), terms(run), asked_by=asked_by),
    )


def _arrive() -> Action:
    return Action(
        name="open",
        summary="open the target to writers: the source is closed, the cutover was broken off after its commit",
        where=Side.TARGET,
        perform=lambda run: cutover.arrive(workspace(run), terms(run)),
    )


def _unfinished_rollback() -> Action:
    return Action(
        name="cutover",
        summary="cut over",
        where=Side.SOURCE,
        perform=lambda _: None,
        blocked="a rollback was broken off; finish it with `planrunner rollback PLAN`, then run again",
    )


def _follow_again() -> Action:
    return Action(
        name="follow again",
        summary="drop the stream that led back, and let the target follow the source again",
        where=Side.TARGET,
        perform=lambda run: rollback.follow_again(workspace(run)),
    )


def missing_rollback(run: Run) -> Sequence[Action]:
    """What is missing until writers are back on the source and the target follows it."""
    space = workspace(run)
    where = crossing.position(space)
    if where is Position.RETURNING:
        return [_return(), _follow_again()]
    if where is Position.SOURCE and rollback.returned(space):
        return [] if rollback.follows_again(space) else [_follow_again()]
    return [_roll_back(run, rollback.impossible(space, where)), _follow_again()]


def _roll_back(run: Run, impossible: str | None) -> Action:
    space = workspace(run)
    tables = cutover.guarded_tables(space)
    message = fence.moved_to(run.source, space.names.plan_id)
    lock = (fence.lock_statement(tables).as_string(),) if tables else ()
    there = fence.standing(run.target, space.names)
    made = tuple(s.as_string() for s in fence.statements(space.names, tables, message, there))
    return Action(
        name="rollback",
        summary=f"stop writes to {len(tables)} tables of the target, prove both sides equal, carry sequences, open the"
        f" source; at most {terms(run).budget:g} s, else everything stays as it is",
        where=Side.TARGET,
        statements=(
            *_switching(run).described(Side.SOURCE),
            "BEGIN",
            *lock,
            *made,
            "-- barrier, comparison, setval on the source; a slot there, so that the target can follow again",
            "COMMIT",
            fence.opening(space.names).as_string() + "  -- on the source",
        ),
        locks=("SHARE ROW EXCLUSIVE on every table of the target, for the length of the pause",),
        undo="planrunner run cuts over again",
        destructive=True,
        blocked=impossible,
        perform=lambda run: rollback.roll_back(workspace(run), terms(run)),
    )


def rollback_rehearsal(run: Run) -> Action:
    """Everything of the rollback but its commit."""
    return Action(
        name="rollback rehearsal",
        summary="go through the rollback and leave everything as it is: measures the write pause",
        where=Side.TARGET,
        blocked=rollback.impossible(workspace(run), crossing.position(workspace(run))),
        perform=lambda run: rollback.rehearse(workspace(run), terms(run)),
    )


def _return() -> Action:
    return Action(
        name="open again",
        summary="open the source to writers: the target is closed, the rollback was broken off after its commit",
        where=Side.SOURCE,
        perform=lambda run: rollback.arrive(workspace(run), terms(run)),
    )


def leftovers(run: Run) -> Sequence[Action]:
    """The way back, and fences that stop nobody or the target; a closed source stays closed."""
    space = workspace(run)
    where = crossing.position(space)
    if where in {Position.GOING, Position.RETURNING}:
        verb = "run" if where is Position.GOING else "rollback"
        return [
            Action(
                name="clear fences",
                summary="remove the fences",
                where=Side.SOURCE,
                perform=lambda _: None,
                blocked=f"a crossing was broken off after its commit: finish it with `planrunner {verb} PLAN` first",
            )
        ]
    found = [_clear_tracker(space)] if tracker.exists(space) else []
    found += [_clear_back(space)] if return_streams.back_exists(space) else []
    found += [_lift(space, Side.TARGET)] if fence.there_is(run.target, space.names) else []
    stands_open = where is Position.SOURCE and fence.there_is(run.source, space.names)
    return [*found, *([_lift(space, Side.SOURCE)] if stands_open else [])]


def _clear_tracker(space: Workspace) -> Action:
    return Action(
        name="clear tracker",
        summary=f"drop slot {space.names.tracker}, by which a verification saw what changed",
        where=Side.SOURCE,
        statements=(f"SELECT pg_drop_replication_slot('{space.names.tracker}')",),
        perform=lambda run: tracker.drop(workspace(run)),
    )


def _clear_back(space: Workspace) -> Action:
    name = space.names.back
    return Action(
        name="clear way back",
        summary=f"drop the way back: subscription {name} on the source, slot and publication on the target",
        where=Side.TARGET,
        statements=(
            f"DROP SUBSCRIPTION {name}  -- on the source",
            f"SELECT pg_drop_replication_slot('{name}')",
            f"DROP PUBLICATION {name}",
            f"DROP TABLE planrunner.{space.names.back_barrier}  -- on both sides",
        ),
        destructive=True,
        perform=lambda run: return_streams.drop_back(workspace(run)),
    )


def lift_guard(run: Run, where: Position) -> Sequence[Action]:
    """Taking the target's triggers away once it is open and nobody will lead back from it."""
    space = workspace(run)
    if run.option("reverse", False) or LEFT_OPEN in space.ledger.effects(crossing.STEP):  # noqa: FBT003  # the option's default
        return []
    return (
        [_lift(space, Side.TARGET)]
        if fence.there_is(run.target, space.names) or where is not Position.TARGET
        else []
    )


def _lift(space: Workspace, side: Side) -> Action:
    server = space.target if side is Side.TARGET else space.source
    return Action(
        name=f"lift the {side.value}'s guard",
        summary=f"remove the {side.value}'s fence triggers, which stop nobody any more",
        where=side,
        statements=tuple(s.as_string() for s in fence.lower_statements(server, space.names)),
        locks=("ACCESS EXCLUSIVE on one table at a time, waited for 30 ms at a time",),
        perform=lambda run: _perform_lift(run, side),
    )


def _perform_lift(run: Run, side: Side) -> None:
    space = workspace(run)
    left = fence.lower(space, run.target if side is Side.TARGET else run.source)
    if not left:
        return
    space.done(crossing.STEP, LEFT_OPEN, {"tables": list(left)})
    run.tell(
        f"warning: {len(left)} tables of the {side.value} are in use without a break and keep triggers of ours, which let"
        " everything pass: `planrunner cleanup` takes them away",
        {"tables": list(left)},
    )
