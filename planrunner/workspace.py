"""Gives the steps of one run the data plane they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.terms import terms
from planrunner.replication.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json
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
            terms=terms(_options_of(run, "sync")),
        )
        run.held.put("workspace", found)
    return found


def _options_of(run: Run, uses: str) -> Mapping[str, Json]:
    # How streams are watched stands in the sync step, and rules from the moment the slot is made.
    return next((spec.options for spec in run.plan.steps if spec.uses == uses), {})
