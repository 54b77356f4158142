"""The actions of a rollback: writers back to the source, and the target following it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.crossing_terms import STAYS_CLOSED, switching, terms
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.replication import (
    crossing,
    cutover,
    described,
    fence,
    origins,
    rollback,
    slots,
    verify,
)
from planrunner.replication.crossing import Position
from planrunner.step import NO_LOCKS, NOTHING_STAYS, TAKEN_BACK, Action, Run
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence


def follow_again(run: Run) -> Action:
    """Drop the way back, and let the target follow the source again."""
    space = workspace(run)
    generation = rollback.next_generation(space)
    return Action(
        name="follow again",
        summary="drop the stream that led back, and let the target follow the source again",
        where=Side.TARGET,
        statements=(
            *described.dropping_back(space.names),
            *described.subscribing(space, generation, ()),
            described.told(origins.moving(space.names.stream(generation), "…"), "where the login may"),
        ),
        locks=NO_LOCKS,
        needs=(needs.SUBSCRIBING, needs.CREATE, *needs.on(Side.SOURCE, needs.REPLICATION)),
        undo="planrunner cleanup drops it",
        lasting=TAKEN_BACK,
        perform=lambda run: rollback.follow_again(workspace(run)),
    )


def missing_rollback(run: Run) -> Sequence[Action]:
    """What is missing until writers are back on the source and the target follows it."""
    space = workspace(run)
    where = crossing.position(space)
    if where is Position.RETURNING:
        return [_return(run), follow_again(run)]
    if where is Position.SOURCE and rollback.returned(space):
        return [] if rollback.follows_again(space) else [follow_again(run)]
    return [_roll_back(run, rollback.impossible(space, where)), follow_again(run)]


def _rollback_statements(run: Run) -> tuple[str, ...]:
    space = workspace(run)
    tables = cutover.guarded_tables(space)
    message = fence.moved_to(run.source, space.names.plan_id)
    there = fence.standing(run.target, space.names)
    generation = rollback.next_generation(space)
    return (
        *switching(run).described(Side.SOURCE),
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
        lasting=STAYS_CLOSED,
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
        lasting=NOTHING_STAYS,
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
            *switching(run).described(Side.SOURCE),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo="planrunner run cuts over again",
        lasting=STAYS_CLOSED,
        perform=lambda run: rollback.arrive(workspace(run), terms(run)),
    )
