"""Logical replication of a target at SerenDB, which its project's settings turn on: the way back needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import cloud_requests
from planrunner.enabling.actions import timeout
from planrunner.errors import ServerError, StepFailed
from planrunner.model import Side
from planrunner.step import IRREVERSIBLE, Action
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Seren
    from planrunner.step import Draft, Run

_LOGICAL = "logical"
_POLL_SECONDS = 1.0


def missing(run: Run) -> Sequence[Action]:
    """The setting, where the plan's way back needs it and the target does not have it; nothing without a project."""
    if not _wanted(run) or run.target.value("SHOW wal_level") == _LOGICAL:
        return ()
    seren = cloud_requests.seren_of(run.plan)
    project = cloud_requests.console(run).project(_id(seren))
    return [_enabling(seren, done=project.logical)]


def outline(draft: Draft) -> Sequence[Action]:
    """The same from the plan alone."""
    return [_enabling(cloud_requests.seren_of(draft.plan), done=False)] if _wanted(draft) else ()


def _wanted(seen: Run | Draft) -> bool:
    seren = seen.plan.target.seren
    back = seen.option_of("cutover_verify", "reverse", False)  # noqa: FBT003  # the option's default
    return seren is not None and seren.project is not None and back


def _id(seren: Seren) -> str:
    assert seren.project is not None
    return seren.project


def _enabling(seren: Seren, *, done: bool) -> Action:
    call = f"PATCH {seren.console}/api/projects/{seren.project}"
    patch = f'{call} {{"enable_logical_replication": true}}  -- Authorization: Bearer from {seren.api_key}'
    return Action(
        name="project",
        summary=f"wait until the target has wal_level = {_LOGICAL}, as its project's settings say"
        if done
        else f"turn on logical replication in project {seren.project} of SerenDB: the way back needs it",
        where=Side.SEREN,
        statements=("SHOW wal_level  -- on the target; until it says logical",) if done else (patch,),
        locks=("the project's endpoints are suspended for a moment, and every session there ends",),
        needs=("the right to change the project's settings",),
        undo=f"{IRREVERSIBLE}: SerenDB does not turn it off again",
        lasting=f"logical replication in project {seren.project}, for good",
        asks=None if done else f"Turn it on for good in project {seren.project}, and cut off its sessions?",
        restarts=not done,
        perform=_perform,
    )


def _perform(run: Run) -> None:
    seren = cloud_requests.seren_of(run.plan)
    console = cloud_requests.console(run)
    if not console.project(_id(seren)).logical:
        console.enable_logical(_id(seren))
    patience = timeout(run)
    until = run.clock.monotonic() + patience
    while not _logical(run):
        if run.clock.monotonic() > until:
            raise StepFailed(
                f"target: wal_level is not {_LOGICAL} yet, {human_seconds(patience)} after its project was told so",
                remedy="Restart the project's endpoint in SerenDB's console, then run again.",
            )
        run.clock.sleep(_POLL_SECONDS)


def _logical(run: Run) -> bool:
    try:
        return bool(run.target.value("SHOW wal_level") == _LOGICAL)
    except ServerError:
        # It restarts.
        return False
