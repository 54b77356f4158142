"""What a migration does not carry exactly, told once and kept in the ledger for status and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.replication.workspace import Workspace

STEP = "decision"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One thing that stays behind or arrives changed. ``key`` is stable, ``text`` says what and what to do."""

    key: str
    text: str


def untold(workspace: Workspace, found: Sequence[Decision]) -> tuple[Decision, ...]:
    """Those of ``found`` that the ledger does not hold, or holds with another text."""
    told = workspace.ledger.effects(STEP)
    return tuple(d for d in found if told.get(d.key, {}).get("text") != d.text)


def tell(workspace: Workspace, found: Sequence[Decision]) -> None:
    """Record decisions in one transaction of their own, and tell those that are new."""
    new = untold(workspace, found)
    if not new:
        return
    with workspace.writing() as session:
        for decision in new:
            workspace.ledger.record_effect(session, STEP, decision.key, {"text": decision.text})
        failpoint("decisions.before_commit")
    failpoint("decisions.recorded")
    for decision in new:
        workspace.tell(f"decision: {decision.text}", {"decision": decision.text, "about": decision.key})


def told(workspace: Workspace) -> list[str]:
    """The text of every decision so far, by key; a figure of the report."""
    return [detail["text"] for _, detail in sorted(workspace.ledger.effects(STEP).items())]
