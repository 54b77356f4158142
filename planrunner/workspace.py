"""Gives the steps of one run the data plane they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from planrunner.pools.choosing import pool_of
from planrunner.replication import choices, sampling
from planrunner.replication.selection import Selection
from planrunner.replication.terms import polls as polling
from planrunner.replication.terms import terms
from planrunner.replication.workspace import Freezing, Way, Workspace
from planrunner.restoring import restorer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json, Plan
    from planrunner.replication.choices import Choices
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
            terms=terms(_options_of(run, "sync")),
        )
        found.choices = chosen(run.plan)
        found.freezing = freezing(run)
        found.shield = run.shield
        found.steering = run.steering
        found.pool = pool_of(run.plan.pool)
        run.held.put("workspace", found)
    return found


def freezing(run: Run) -> Freezing | None:
    """The frozen server that the plan's snapshot step reads from, None where it reads from the source."""
    origin = snapshot_option(run, "from", "primary")
    if origin == "restore":
        return Freezing(server=None, way=Way.RESTORE, restorer=restorer(run))
    if origin != "replica" or run.replica is None:
        return None
    return Freezing(server=run.replica, way=Way(snapshot_option(run, "freeze", Way.PAUSE.value)))


def sampled(run: Run) -> Mapping[str, Json]:
    """How far the data plane is, cheap enough to be asked every few seconds."""
    space = workspace(run)
    figures, space.totals = sampling.sample(space, space.totals)
    return figures


def snapshot_option(run: Run, name: str, default: T) -> T:
    """An option of the plan's snapshot step, for the steps that go on from what it made."""
    return cast("T", _options_of(run, "snapshot").get(name, default))


def selected(plan: Plan) -> Selection:
    """What the plan's snapshot step selects; every step goes by it. StepFailed when a filter is malformed."""
    return Selection.of(cast("Mapping[str, Json]", _options_in(plan, "snapshot").get("filters", {})))


def chosen(plan: Plan) -> Choices:
    """What the plan's snapshot step chooses for tables that can't be followed as they are."""
    return choices.of_options(_options_in(plan, "snapshot"))


def polls(plan: Plan) -> bool:
    """Whether the plan's sync step polls the source, so that nothing of logical replication is made."""
    return polling(_options_in(plan, "sync"))


def _options_of(run: Run, uses: str) -> Mapping[str, Json]:
    # How streams are watched stands in the sync step, and rules from the moment the slot is made.
    return _options_in(run.plan, uses)


def _options_in(plan: Plan, uses: str) -> Mapping[str, Json]:
    return next((spec.options for spec in plan.steps if spec.uses == uses), {})
