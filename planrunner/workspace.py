"""Gives the steps of one run the data plane they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from planrunner.replication.selection import Selection
from planrunner.replication.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json, Plan
    from planrunner.step import Run

T = TypeVar("T")


def workspace(run: Run) -> Workspace:
    """The run's workspace, made at the first call and kept until the process ends."""
    found = run.held.get("workspace", Workspace)
    if found is None:
        found = Workspace(
            source=run.source,
            target=run.target,
            plan_id=run.plan_id,
            clock=run.clock,
            tell=run.tell,
            selection=selected(run.plan),
        )
        run.held.put("workspace", found)
    return found


def snapshot_option(run: Run, name: str, default: T) -> T:
    """An option of the plan's snapshot step, for the steps that go on from what it made."""
    spec = next((s for s in run.plan.steps if s.uses == "snapshot"), None)
    return cast("T", spec.options.get(name, default)) if spec is not None else default


def selected(plan: Plan) -> Selection:
    """What the plan's snapshot step selects; every step goes by it. StepFailed when a filter is malformed."""
    options = next((spec.options for spec in plan.steps if spec.uses == "snapshot"), {})
    return Selection.of(cast("Mapping[str, Json]", options.get("filters", {})))
