"""The actions that take away what a copy left: generations, split tables' publications, the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.replication import (
    decisions,
    described,
    drift,
    frozen,
    generations,
    large_objects,
    ledger,
    origins,
    publications,
    ranges,
    restore,
    selection_record,
)
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, Action, Run
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from planrunner.replication.names import Names

_GONE = f"{IRREVERSIBLE}: a copy begins anew without it"
# What the snapshot step keeps in the ledger under names of its own.
RECORDS = (
    restore.STEP,
    ranges.STEP,
    f"{ranges.STEP} made",
    selection_record.STEP,
    drift.STEP,
    decisions.STEP,
    large_objects.STEP,
    frozen.STEP,
    origins.STEP,
)


def split_tables(names: Names) -> Action:
    """Drop the publications of ranges and the triggers that tell of a TRUNCATE."""
    return Action(
        name="clear ranges",
        summary="drop the publications and truncate triggers of split tables",
        where=Side.SOURCE,
        statements=described.all_told(described.unsplitting(names), "where it is there"),
        locks=("ACCESS EXCLUSIVE on each split table, for an instant",),
        needs=(needs.OWNERSHIP, needs.CREATE),
        undo=_GONE,
        lasting=NOTHING_STAYS,
        destructive=True,
        perform=lambda run: ranges.drop(workspace(run)),
    )


def generation(names: Names, number: int) -> Action:
    """Remove a generation from both servers."""
    stream = names.stream(number)
    return Action(
        name=f"clear {stream}",
        summary=f"drop slot, publication and barrier table {stream}",
        where=Side.SOURCE,
        statements=described.clearing(names, number),
        locks=("SHARE UPDATE EXCLUSIVE on each published table, for an instant",),
        needs=(needs.OWNERSHIP, needs.CREATE, needs.REPLICATION, *needs.on(Side.TARGET, needs.SUBSCRIBING)),
        undo=_GONE,
        lasting=NOTHING_STAYS,
        destructive=True,
        perform=lambda run: generations.clear(workspace(run), number),
    )


def forget(plan_id: str) -> Action:
    """Remove the plan's ledger, and the schema where nothing else is in it."""
    return Action(
        name="forget",
        summary="remove this plan's ledger from the target, and schema planrunner where it is empty then",
        where=Side.TARGET,
        statements=(
            *(ledger.forgetting(plan_id, step).as_string() for step in (*RECORDS, "snapshot")),
            *described.all_told(ledger.forgetting_all(plan_id)[:-3], "where the ledger is still there"),
            *described.all_told(ledger.DROP, "where nothing of another plan is in it"),
            described.told(publications.DROP_SCHEMA, described.SOURCE, "where nothing is in it"),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo=f"{IRREVERSIBLE}: a run begins anew without it",
        lasting=NOTHING_STAYS,
        destructive=True,
        perform=_perform_forget,
    )


def _perform_forget(run: Run) -> None:
    space = workspace(run)
    for step in (*RECORDS, "snapshot"):
        space.ledger.forget(step)
    publications.drop_empty_schema(run.source)


def forget_step(plan_id: str, *steps: str, what: str) -> Action:
    """Remove what the ledger says of a step."""
    return Action(
        name="forget",
        summary=f"remove what the ledger says of {what}",
        where=Side.TARGET,
        statements=(
            *(ledger.forgetting(plan_id, step).as_string() for step in steps),
            *described.all_told(ledger.DROP, "where nothing else is in it"),
        ),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo=f"{IRREVERSIBLE}: nothing of the user's is gone",
        lasting=NOTHING_STAYS,
        perform=lambda run: _forget_steps(run, steps),
    )


def _forget_steps(run: Run, steps: tuple[str, ...]) -> None:
    for step in steps:
        workspace(run).ledger.forget(step)
