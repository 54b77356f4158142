"""The checks of every step that is still to be done, all of them before the first action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import ChecksFailed
from planrunner.model import Mark
from planrunner.step import Checking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.model import Finding, StepSpec
    from planrunner.step import Run, Step


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The findings of one step. ``mended`` tells for each whether an earlier pending step mends it."""

    spec: StepSpec
    findings: tuple[Finding, ...]
    mended: tuple[str | None, ...]

    @property
    def open(self) -> tuple[Finding, ...]:
        """The failures that no step will mend."""
        pairs = zip(self.findings, self.mended, strict=True)
        return tuple(f for f, step_id in pairs if f.mark is Mark.FAIL and step_id is None)


def checked(step: Checking, run: Run, earlier: Sequence[StepSpec]) -> Checked:
    """Ask one step for its findings; ``earlier`` are the pending steps that stand before it."""
    findings = tuple(step.findings(run))
    mended = tuple(_mender(finding, earlier) for finding in findings)
    return Checked(spec=run.spec, findings=findings, mended=mended)


def check_all(
    pending: Sequence[StepSpec], find: Callable[[str], Step], run_for: Callable[[StepSpec], Run]
) -> tuple[Checked, ...]:
    """The findings of every pending step that can tell them, in the order of the plan."""
    results = []
    for position, spec in enumerate(pending):
        step = find(spec.uses)
        if isinstance(step, Checking):
            results.append(checked(step, run_for(spec), pending[:position]))
    return tuple(results)


def refuse_failures(results: Sequence[Checked]) -> None:
    """ChecksFailed with every finding when one of them is open."""
    failures = [finding for result in results for finding in result.open]
    if failures:
        findings = [finding for result in results for finding in result.findings]
        count = "1 check" if len(failures) == 1 else f"{len(failures)} checks"
        lines = "; ".join(f.text for f in failures[:3]) + ("; …" if len(failures) > 3 else "")
        raise ChecksFailed(
            f"{count} failed, nothing was changed: {lines}",
            findings=findings,
            remedy="\n".join(f.remedy for f in failures if f.remedy) or None,
        )


def _mender(finding: Finding, earlier: Sequence[StepSpec]) -> str | None:
    return next((spec.id for spec in earlier if spec.uses == finding.mended_by), None)
