"""The actions that take away what a cutover left: fences that stop nobody any more, the way back, a tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.postgres import catalog, needs
from planrunner.replication import crossing, cutover, described, fence, return_streams, tracker
from planrunner.replication.crossing import Position
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, Action, Run, blocked
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.names import Names
    from planrunner.replication.workspace import Workspace

# The effect that says that open triggers were left to cleanup.
LEFT_OPEN = "left open"


def leftovers(run: Run) -> Sequence[Action]:
    """The way back, and fences that stop nobody or the target; a closed source stays closed."""
    space = workspace(run)
    where = crossing.position(space)
    if where in {Position.GOING, Position.RETURNING}:
        verb = "run" if where is Position.GOING else "rollback"
        return [
            blocked(
                name="clear fences",
                summary="remove the fences",
                where=Side.SOURCE,
                none=" before the crossing is finished",
                why=f"a crossing was broken off after its commit: finish it with `planrunner {verb} PLAN` first",
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
        statements=described.dropping_tracker(space.names),
        locks=NO_LOCKS,
        needs=(needs.REPLICATION,),
        undo=f"{IRREVERSIBLE}: the next verification makes another",
        lasting=NOTHING_STAYS,
        perform=lambda run: tracker.drop(workspace(run)),
    )


def _clear_back(space: Workspace) -> Action:
    return Action(
        name="clear way back",
        summary=f"drop the way back: subscription {space.names.back} on the source, slot and publication on the target",
        where=Side.TARGET,
        statements=described.dropping_back(space.names),
        locks=NO_LOCKS,
        needs=(needs.ACTING_AS, needs.REPLICATION, *needs.on(Side.SOURCE, needs.SUBSCRIBING, needs.CREATE)),
        undo=f"{IRREVERSIBLE}: from then on there is no rollback",
        lasting=NOTHING_STAYS,
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
    held = fence.standing(server, space.names).tables
    tables = [t for t in catalog.tables(server) if t.qualified in held]
    if not tables and side is Side.TARGET:
        # Before the cutover: those that will carry the triggers by then.
        tables = list(cutover.to_guard(space))
    return lifting(space.names, tables, side)


def lifting(names: Names, tables: Sequence[Table], side: Side) -> Action:
    """The action that takes a side's open fence away."""
    return Action(
        name=f"lift the {side.value}'s guard",
        summary=f"remove the {side.value}'s fence triggers, which stop nobody any more",
        where=side,
        statements=described.lowering(names, tables),
        locks=("ACCESS EXCLUSIVE on one table at a time, waited for 30 ms at a time",),
        needs=(needs.ACTING_AS if side is Side.TARGET else needs.OWNERSHIP, needs.CREATE),
        undo=f"{IRREVERSIBLE}: the triggers stop nobody any more",
        lasting=NOTHING_STAYS,
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
