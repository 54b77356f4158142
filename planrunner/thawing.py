"""The actions that a frozen standby asks for beside the copy: what freezes it, and what lets it go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from planrunner.aws import clones, restores
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.replication import barrier, described, freezing, frozen, standby
from planrunner.replication.workspace import Way
from planrunner.shapes import ANYTHING
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, Action
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.replication.names import Names
    from planrunner.replication.units import Unit
    from planrunner.step import Draft, Run

_ON_REPLICA = "on the replica"


def way(draft: Draft) -> Way | None:
    """How the plan wants the standby to be frozen, None where it reads on the source."""
    if draft.option("from", "primary") == "primary":
        return None
    if draft.option("from", "primary") == "restore":
        return Way.RESTORE
    return Way(draft.option("freeze", Way.PAUSE.value))


def known(run: Run) -> Way | None:
    """How the server is frozen for this run, None where it reads on the source; AWS is asked which copy it makes."""
    space = workspace(run)
    if space.freezing is None:
        return None
    begun = freezing.begun(space)
    if begun is None and space.freezing.restorer is not None:
        return space.freezing.restorer.way()
    return begun or space.freezing.way


def capturing(names: Names, how: Way, slots: Sequence[str]) -> tuple[str, ...]:
    """What is executed once the publications are there: the slots, then what freezes the standby."""
    freezes: tuple[str, ...]
    match how:
        case Way.PAUSE:
            freezes = (
                f"{standby.PAUSE}  -- {_ON_REPLICA}, once it has replayed past the slot",
                f"{standby.RESUME}  -- {_ON_REPLICA}, where a table is locked at that point; then it is paused again",
            )
        case Way.PROMOTE:
            freezes = (f"{standby.PROMOTE}  -- {_ON_REPLICA}, once it has replayed past the slot",)
        case Way.RESTORE:
            freezes = (
                "-- aws rds create-db-snapshot --db-snapshot-identifier planrunner-… --db-instance-identifier …",
                "-- aws rds restore-db-instance-from-db-snapshot --db-instance-identifier planrunner-…, like the source's"
                " in class, subnets, security groups and parameter group",
            )
        case Way.CLONE:
            freezes = (
                "-- aws rds restore-db-cluster-to-point-in-time --restore-type copy-on-write --use-latest-restorable-time"
                " --source-db-cluster-identifier … --db-cluster-identifier planrunner-…, like the source's in subnets,"
                " security groups and parameter group, once what is committed now can be restored",
                "-- aws rds create-db-instance --db-cluster-identifier planrunner-… --db-instance-identifier"
                " planrunner-…, of the source's class and parameter group",
            )
        case _:
            assert_never(how)
    marks = barrier.marking(names.barrier(1), ANYTHING)
    told = described.all_told(marks, "a marker, to see what the replica shows")
    return (*slots, *told, *freezes, *told)


def anyhow(stream: str) -> str:
    """What makes a slot, on a server of which nothing is known."""
    return f"SELECT pg_create_logical_replication_slot('{stream}', 'pgoutput'…"


def missing(run: Run, todo: Sequence[Unit]) -> Sequence[Action]:
    """Letting the standby go on, once the rows are there."""
    space = workspace(run)
    if space.freezing is None or not (todo or freezing.begun(space)):
        return ()
    if space.freezing.way in (Way.RESTORE, Way.CLONE):
        return ()  # cleanup removes it
    return [thawing(space.freezing.way)]


def leftovers(run: Run) -> Sequence[Action]:
    """The same for a copy that did not come to its end."""
    space = workspace(run)
    how = freezing.begun(space)
    return () if how is None or space.freezing is None else [thawing(how)]


def thawing(how: Way) -> Action:
    """The action that lets the standby go on."""
    match how:
        case Way.PAUSE:
            summary, statements = "let the standby replay again", (standby.RESUME,)
        case Way.PROMOTE:
            summary, statements = (
                "leave the promoted standby to its owner: a server of its own, which follows nothing any more",
                (f"-- none {_ON_REPLICA}",),
            )
        case Way.RESTORE:
            return _removing(
                "delete the instances that were restored for the copy, and their snapshots",
                "aws rds delete-db-snapshot --db-snapshot-identifier planrunner-…",
                (*restores.LOOKING, *restores.REMOVING),
            )
        case Way.CLONE:
            return _removing(
                "delete the clones of the source's cluster that were made for the copy",
                "aws rds delete-db-cluster --db-cluster-identifier planrunner-… --skip-final-snapshot",
                (*clones.LOOKING, *clones.REMOVING),
            )
        case _:
            assert_never(how)
    return Action(
        name="thaw",
        summary=summary,
        where=Side.REPLICA,
        statements=statements,
        locks=NO_LOCKS,
        needs=(needs.FREEZING,),
        undo="nothing to undo",
        lasting=NOTHING_STAYS,
        perform=lambda run: frozen.let_go(workspace(run)),
    )


def _removing(summary: str, last: str, rights: tuple[str, ...]) -> Action:
    return Action(
        name="thaw",
        summary=summary,
        where=Side.AWS,
        statements=(
            "aws rds delete-db-instance --db-instance-identifier planrunner-… --skip-final-snapshot",
            last,
        ),
        locks=NO_LOCKS,
        needs=(*rights, *needs.on(Side.TARGET, needs.CREATE)),
        undo=f"{IRREVERSIBLE}: it was a copy",
        lasting=NOTHING_STAYS,
        destructive=True,
        perform=lambda run: frozen.let_go(workspace(run)),
    )


def needed(how: Way) -> tuple[str, ...]:
    """What freezing needs beside the rights on the source."""
    if how is Way.RESTORE:
        return needs.on(Side.AWS, *restores.LOOKING, *restores.MAKING)
    if how is Way.CLONE:
        return needs.on(Side.AWS, *clones.LOOKING, *clones.MAKING)
    return needs.on(Side.REPLICA, needs.FREEZING)


def unseen(capture: Action, how: Way | None) -> Action:
    """The same where nobody has asked AWS yet which copy it makes: what either needs."""
    if how is not Way.RESTORE:
        return capture
    return replace(
        capture,
        summary=f"{capture.summary}; or clone its cluster, where that is Aurora's",
        needs=tuple(dict.fromkeys((*capture.needs, *needed(Way.CLONE)))),
    )
