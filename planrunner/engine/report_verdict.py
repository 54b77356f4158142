"""How a migration ended, in one word and in one sentence; nothing is claimed that no step told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.report_model import Tone, Verdict
from planrunner.engine.report_wording import counted
from planrunner.model import StepStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from planrunner.engine.looking import StepView
    from planrunner.engine.report_model import Pause, ProofLine, VerdictLine
    from planrunner.model import Plan
    from planrunner.state.record import State, StepState

MIGRATED, ROLLED_BACK, REHEARSED = "migrated", "rolled back", "rehearsed"
INTERRUPTED, INCOMPLETE = "interrupted", "incomplete"
_CUTOVER = "cutover_verify"
_SENTENCES = {
    ROLLED_BACK: (Tone.OPEN, "Rolled back: the source is in charge again", "Writes go to the source."),
    REHEARSED: (Tone.OPEN, "Rehearsed: nothing was changed", "Everything but the commit was done."),
    StepStatus.FAILED.value: (Tone.BAD, "Failed", "It can be resumed: run the plan again."),
    StepStatus.WAITING.value: (Tone.OPEN, "Waiting", "Someone must agree or decide first."),
    INTERRUPTED: (Tone.OPEN, "Interrupted", "Run the plan again to go on."),
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the verdict rests on."""

    steps: Sequence[StepView]
    verification: Sequence[VerdictLine]
    proofs: Sequence[ProofLine]
    verified: bool | None
    decisions: int


def result(plan: Plan, state: State | None, steps: Sequence[StepView], pauses: Pauses) -> str:
    """One word: migrated, rolled back, rehearsed, failed, waiting, interrupted, running or incomplete."""
    statuses = {step.status for step in steps}
    if pauses.rolled_back is not None and not _after(plan, state, pauses.rolled_back.at):
        return ROLLED_BACK
    ended = {StepStatus.DONE.value, StepStatus.SKIPPED.value}
    if StepStatus.DONE.value in statuses and statuses <= ended:
        return REHEARSED if _only_rehearsed(plan, pauses) else MIGRATED
    known = (StepStatus.FAILED, StepStatus.WAITING, StepStatus.RUNNING)
    return next((s for s in (*(k.value for k in known), INTERRUPTED) if s in statuses), INCOMPLETE)


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """The pauses of writes that steps told: of the cutover, of its rehearsals, of the way back."""

    cutover: Pause | None
    rehearsals: tuple[Pause, ...]
    rolled_back: Pause | None


def verified(verification: Sequence[VerdictLine], *, equal: bool, proofs: Sequence[ProofLine]) -> bool | None:
    """True when every table is equal and no proof failed that stops a cutover.

    None when nothing was compared: silence is no proof.
    """
    if not verification:
        return None
    refused = any(proof.stops and not proof.equal for proof in proofs)
    return equal and all(line.equal for line in verification) and not refused


def verdict(word: str, evidence: Evidence) -> Verdict:
    """The sentence at the top."""
    if word == MIGRATED:
        return _migrated(evidence)
    if word in _SENTENCES:
        tone, text, reason = _SENTENCES[word]
        at = next((f" at step {step.id}" for step in evidence.steps if step.status == word), "")
        return Verdict(tone=tone, text=f"{text}{at}", reason=reason)
    done = sum(step.status == StepStatus.DONE.value for step in evidence.steps)
    begun = any(step.attempts for step in evidence.steps)
    return Verdict(
        tone=Tone.OPEN,
        text="Under way" if begun else "Not begun",
        reason=f"{done} of {len(evidence.steps)} steps are done.",
    )


def _migrated(evidence: Evidence) -> Verdict:
    if evidence.verified is None:
        return _said(Tone.OPEN, "Done, without a proof", "No comparison of the two sides is on record.")
    if not evidence.verified:
        apart = sum(not line.equal for line in evidence.verification)
        apart += sum(proof.stops is True and not proof.equal for proof in evidence.proofs)
        failed = f"{counted(apart, 'comparison')} failed." if apart else "The comparison as a whole failed."
        return _said(Tone.BAD, "Migrated, but not proven: the sides differ", failed)
    unclear = any(not proof.equal and proof.stops is None for proof in evidence.proofs)
    tone = Tone.OPEN if unclear else Tone.GOOD
    if any(_counted_only(line) for line in evidence.verification):
        counts = "of some only the rows were counted"
        return _said(tone, "Migrated: every row count proven", f"{'; '.join((*_basis(evidence), counts))}.")
    return _said(tone, "Migrated: every row proven", f"{'; '.join(_basis(evidence))}.")


def _basis(evidence: Evidence) -> Iterator[str]:
    """What a good verdict rests on, and what it leaves open."""
    yield f"{counted(len(evidence.verification), 'table')} compared on both sides and equal"
    holding = sum(proof.equal for proof in evidence.proofs)
    if holding == len(evidence.proofs) > 0:
        yield f"{counted(holding, 'further proof')} held"
    elif evidence.proofs:
        yield f"{holding} of {counted(len(evidence.proofs), 'further proof')} held"
    if evidence.decisions:
        yield f"{counted(evidence.decisions, 'thing')} not carried exactly"


def _counted_only(line: VerdictLine) -> bool:
    how = (line.how or "count").lower()
    return "count" in how and not any(word in how for word in ("digest", "hash"))


def _only_rehearsed(plan: Plan, pauses: Pauses) -> bool:
    if any(spec.uses == _CUTOVER and spec.options.get("rehearse") is True for spec in plan.steps):
        return True
    return bool(pauses.rehearsals) and pauses.cutover is None


def _after(plan: Plan, state: State | None, moment: datetime | None) -> bool:
    """True when a cutover was finished after that moment."""
    ends = [s.finished for spec in plan.steps if (s := _step(state, spec.id)) and spec.uses == _CUTOVER]
    return moment is not None and any(end is not None and end > moment for end in ends)


def _step(state: State | None, step_id: str) -> StepState | None:
    return state.steps.get(step_id) if state else None


def _said(tone: Tone, text: str, reason: str) -> Verdict:
    return Verdict(tone=tone, text=text, reason=reason)
