"""Gives the steps of one run the data plane they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.workspace import Workspace

if TYPE_CHECKING:
    from planrunner.step import Run


def workspace(run: Run) -> Workspace:
    """The run's workspace, made at the first call and kept until the process ends."""
    found = run.held.get("workspace", Workspace)
    if found is None:
        found = Workspace(
            source=run.source, target=run.target, plan_id=run.plan_id, clock=run.clock, tell=run.tell
        )
        run.held.put("workspace", found)
    return found
