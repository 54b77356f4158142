"""The gate before the fence: everything that can be proven while writers go on, each as a line of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.errors import DifferencesFound
from planrunner.failpoints import failpoint
from planrunner.replication import barrier, polling_following, proofs, relations, sequences, verify
from planrunner.replication.crossing import STEP
from planrunner.replication.throttle import Effort

if TYPE_CHECKING:
    from collections.abc import Collection

    from planrunner.replication.sequences import Moved, Sequence
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import Verification

PROOFS, SEQUENCES = "proofs", "sequence values"


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What the gate hands on to the pause: the catalogue's mark, and the target's sequences, which nobody moves.

    ``proven`` is what the comparison inside the pause builds on; None: every table is compared whole.
    """

    marked: str
    proven: verify.Proven | None
    receiving: tuple[Sequence, ...]
    left_out: Collection[str]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is proven, how, and which proofs only warn by the plan's decision (``tolerated``)."""

    mode: verify.Mode = verify.Mode.AUTO
    effort: Effort = field(default_factory=Effort)
    proofs: proofs.Terms = field(default_factory=proofs.Terms)
    tolerated: frozenset[str] = frozenset()


def passed(workspace: Workspace, terms: Terms, *, budget: float) -> Passed:
    """Prove what can be proven before any writer is stopped; DifferencesFound or StepFailed with all that stops it.

    ``budget`` is how many seconds the pause may take.
    """
    barrier.check_streams(workspace)
    marked = proofs.mark(workspace)
    found, built_on = _compared(workspace, terms, budget)
    refuse_differences(found, "before the cutover, writes were not stopped")
    proven = proofs.prove(workspace, terms.proofs, rows=found)
    warns = proofs.WARNING.keys() | terms.tolerated
    lines = [{**proof.to_json(), "stops": proof.name not in warns} for proof in proven]
    workspace.done(STEP, PROOFS, {"proofs": lines})
    for warning in proofs.refuse(proven, tolerated=terms.tolerated):
        workspace.tell(f"warning: {warning}", {})
    failpoint("cutover.proven")
    if not workspace.streamed:
        polling_following.shorten(workspace, jobs=terms.effort.jobs)
    left_out = relations.omitted(workspace.source, workspace.selection).names
    receiving = sequences.read(workspace.target, left_out)
    return Passed(marked=marked, proven=built_on, receiving=receiving, left_out=left_out)


def _compared(workspace: Workspace, terms: Terms, budget: float) -> tuple[Verification, verify.Proven | None]:
    if not workspace.streamed:
        return polling_following.prove(workspace, jobs=terms.effort.jobs), None
    return verify.before_pause(workspace, terms.mode, budget=budget, effort=terms.effort)


def still_holds(
    workspace: Workspace, gate: Passed, sending: tuple[Sequence, ...], moved: Collection[Moved]
) -> None:
    """Inside the pause: DifferencesFound when the catalogue has changed since, or a sequence was not carried."""
    proofs.refuse(proofs.inside(workspace, gate.marked, sending, moved))


def refuse_differences(found: Verification, when: str) -> None:
    """DifferencesFound unless the comparison found both sides equal."""
    if found.equal:
        return
    shown = list(found.differences[:20])
    more = len(found.differences) - len(shown)
    lines = "\n  ".join(shown + ([f"and {more} more"] if more else []))
    raise DifferencesFound(
        f"the two sides differ ({when}):\n  {lines}",
        remedy="Find out who writes to the target or changed the schema; `planrunner verify PLAN` compares again and"
        " names the rows, with --repair it mends them.",
    )
