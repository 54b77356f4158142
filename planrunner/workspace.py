"""Gives the steps of one run the data plane they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.replication import choices
from planrunner.replication.selection import Selection
from planrunner.replication.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json, Plan
    from planrunner.replication.choices import Choices
    from planrunner.step import Run


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
        found.choices = chosen(run.plan)
        run.held.put("workspace", found)
    return found


def selected(plan: Plan) -> Selection:
    """What the plan's snapshot step selects; every step goes by it. StepFailed when a filter is malformed."""
    return Selection.of(cast("Mapping[str, Json]", _snapshot_options(plan).get("filters", {})))


def chosen(plan: Plan) -> Choices:
    """What the plan's snapshot step chooses for tables that can't be followed as they are."""
    return choices.of_options(_snapshot_options(plan))


def _snapshot_options(plan: Plan) -> Mapping[str, Json]:
    return next((spec.options for spec in plan.steps if spec.uses == "snapshot"), {})
