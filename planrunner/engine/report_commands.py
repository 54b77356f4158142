"""The commands that go on from where a migration stands, and those that go back."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from planrunner.engine.report_model import WayBack
from planrunner.engine.report_verdict import MIGRATED, ROLLED_BACK
from planrunner.replication.names import SCHEMA, Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CLEANUP = (
    "Take away what the plan left on both servers, and end the way back. It lists everything and asks first."
)


def way_back(
    plan: Path, plan_id: str | None, word: str, *, cut_over: bool, reverse: bool, flags: Sequence[str]
) -> Iterator[WayBack]:
    """What can be done now; ``cut_over`` tells that writes were stopped on the source for good."""

    def command(verb: str) -> str:
        return " ".join(("planrunner", verb, shlex.quote(str(plan)), *flags))

    if cut_over and reverse:
        told = "Go back: writes return to the source, and nothing that was written on the target is lost."
        yield WayBack(purpose=told, command=command("rollback"))
    if cut_over and plan_id is not None:
        lost = "" if reverse else " What was written on the target since the cutover is not there."
        yield WayBack(
            purpose=f"Lift the fence by hand, on the source: it takes writes again.{lost}",
            command=f"DROP FUNCTION {SCHEMA}.{Names(plan_id=plan_id).fence_function}() CASCADE;",
        )
    if word not in {MIGRATED, ROLLED_BACK}:
        yield WayBack(purpose="Go on where it stopped.", command=command("run"))
    yield WayBack(purpose=CLEANUP, command=command("cleanup"))
