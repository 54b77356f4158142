"""The commands that go on from where a migration stands, and those that go back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.cleanup import CLEANED
from planrunner.engine.events import EventKind
from planrunner.engine.report_model import WayBack
from planrunner.engine.report_verdict import MIGRATED, ROLLED_BACK
from planrunner.replication.names import SCHEMA, Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from planrunner.engine.events import Event

CLEANUP = (
    "Take away what the plan left on both servers, and end the way back. It lists everything and asks first."
)

LOST = "What was written on the target since the cutover is not there."
BOTH = "Only when a rollback can't be: stop the application first, for both sides take writes then."


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a migration stands: ``cut_over`` when writes were stopped on the source for good.

    ``reverse`` tells that the target's writes flow back, ``cleaned`` that nothing of the plan is left.
    """

    word: str
    cut_over: bool
    reverse: bool
    cleaned: bool


def way_back(plan: Path, plan_id: str | None, standing: Standing, flags: Sequence[str]) -> Iterator[WayBack]:
    """What can be done now; ``flags`` lead to the same plan and state."""

    def command(verb: str) -> str:
        return " ".join(("planrunner", verb, shlex.quote(str(plan)), *flags))

    returns = standing.reverse and not standing.cleaned
    if standing.cut_over and returns:
        told = "Go back: writes return to the source, and nothing that was written on the target is lost."
        yield WayBack(purpose=told, command=command("rollback"))
    if standing.cut_over and plan_id is not None:
        yield WayBack(
            purpose=f"Lift the fence by hand, on the source: it takes writes again. {BOTH if returns else LOST}",
            command=f"DROP FUNCTION {SCHEMA}.{Names(plan_id=plan_id).fence_function}() CASCADE;",
        )
    if standing.word == ROLLED_BACK:
        yield WayBack(purpose="Cut over anew.", command=command("run"))
    elif standing.word != MIGRATED:
        yield WayBack(purpose="Go on where it stopped.", command=command("run"))
    if not standing.cleaned:
        yield WayBack(purpose=CLEANUP, command=command("cleanup"))


def cleaned(events: Sequence[Event]) -> bool:
    """True when the last run that did anything took away what was left on the servers."""
    last = next((event for event in reversed(events) if event.kind is EventKind.RUN_ENDED), None)
    return last is not None and last.fields.get("result") == CLEANED
