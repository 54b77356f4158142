"""How the plan lets its crossings go: budgets, proofs, and how the traffic is led."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication import cutover, gate, large_objects, proofs, verify
from planrunner.replication.names import FENCE_TRIGGER
from planrunner.replication.throttle import Effort
from planrunner.switching import build
from planrunner.switching.hooks import Surroundings
from planrunner.units import seconds, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.step import Run
    from planrunner.switching.hooks import Switching

# What lasts of a crossing, on the side that was left.
STAYS_CLOSED = (
    "the triggers that refuse every write to the side that was left, and schema planrunner there: on purpose, so that"
    " nobody writes where nobody reads; planrunner cleanup prints the statement that takes them away"
)


def terms(run: Run) -> cutover.Terms:
    """How the plan lets its crossings go."""
    return cutover.Terms(
        budget=seconds(run.option("write_pause_budget", "5s")),
        lock_timeout=seconds(run.option("lock_timeout", "200ms")),
        headroom=run.option("sequence_headroom", 100),
        gate=_gate_terms(run),
        reverse=run.option("reverse", False),  # noqa: FBT003  # the option's default
        large_objects=large_object_terms(run),
        switch=switching(run),
    )


def switching(run: Run) -> Switching:
    """What the plan says about leading the traffic."""
    surroundings = Surroundings(
        source=run.source,
        target=run.target,
        fence_trigger=FENCE_TRIGGER,
        fence_function=workspace(run).names.fence_function,
        budget=seconds(run.option("write_pause_budget", "5s")),
        clock=run.clock,
        resolve=run.resolve,
        tell=run.tell,
    )
    return build.switching(run.option("switch", []), run.plan.path.parent, surroundings)


def _gate_terms(run: Run) -> gate.Terms:
    tolerated: Sequence[str] = run.option("tolerate", ())
    return gate.Terms(
        mode=verify.Mode(run.option("verify", "auto")),
        effort=effort(run),
        tolerated=frozenset(tolerated),
        proofs=proofs.Terms(
            owners=run.option_of("snapshot", "owners", "keep") == "keep",
            grants=run.option_of("snapshot", "grants", "keep") == "keep",
            headroom=run.option("sequence_headroom", 100),
            max_lag=size(run.option_of("sync", "max_lag", "16MB")),
        ),
    )


def effort(run: Run) -> Effort:
    """How much live verification may ask of the servers."""
    return Effort(jobs=run.option("verify_jobs", 2), max_load=run.option("max_load", None))


def large_object_terms(run: Run) -> large_objects.Terms | None:
    """How large objects cross, None where the plan leaves them."""
    if run.option_of("snapshot", "large_objects", "refuse") != "copy":
        return None
    return large_objects.Terms(
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
        sizes_only=run.option("verify", "auto") == "counts",
    )
