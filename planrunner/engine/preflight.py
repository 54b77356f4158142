"""The checks of every step that is still to be done, all of them before the first action."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planrunner import ignoring
from planrunner.errors import ChecksFailed
from planrunner.model import Mark
from planrunner.step import Checking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.model import Finding, Plan, StepSpec
    from planrunner.step import Run, Step


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The findings of one step. ``mended`` tells for each whether an earlier pending step mends it."""

    spec: StepSpec
    findings: tuple[Finding, ...]
    mended: tuple[str | None, ...]

    @property
    def open(self) -> tuple[Finding, ...]:
        """The failures that no step will mend and that the plan does not ignore."""
        pairs = zip(self.findings, self.mended, strict=True)
        return tuple(
            f for f, step_id in pairs if f.mark is Mark.FAIL and step_id is None and f.ignored is None
        )

    @property
    def noted(self) -> tuple[Finding, ...]:
        """What only a look at all steps together tells, and the run puts on record beside the failures."""
        return tuple(f for f in self.findings if f.code == ignoring.IN_VAIN.code and f.mark is Mark.WARN)


def checked(step: Checking, run: Run, earlier: Sequence[StepSpec]) -> Checked:
    """Ask one step for its findings; ``earlier`` are the pending steps that stand before it."""
    findings = ignoring.applied(step.findings(run), run.plan)
    mended = tuple(_mender(finding, earlier) for finding in findings)
    return Checked(spec=run.spec, findings=findings, mended=mended)


def check_all(
    pending: Sequence[StepSpec], find: Callable[[str], Step], run_for: Callable[[StepSpec], Run]
) -> tuple[Checked, ...]:
    """The findings of every pending step that can tell them, in the order of the plan."""
    results = list[Checked]()
    plan: Plan | None = None
    for position, spec in enumerate(pending):
        step = find(spec.uses)
        if isinstance(step, Checking):
            run = run_for(spec)
            plan = run.plan
            results.append(checked(step, run, pending[:position]))
    return tuple(results) if plan is None else judged_together(results, plan)


def judged_together(results: Sequence[Checked], plan: Plan) -> tuple[Checked, ...]:
    """The results, the last one with a warning for each code that the plan ignores in vain."""
    asked: dict[str, list[Finding]] = {}
    for result in results:
        asked.setdefault(result.spec.uses, []).extend(result.findings)
    found = ignoring.in_vain(asked, plan)
    if not found or not results:
        return tuple(results)
    last = results[-1]
    more = replace(last, findings=(*last.findings, *found), mended=(*last.mended, *(None for _ in found)))
    return (*results[:-1], more)


def refuse_failures(results: Sequence[Checked]) -> None:
    """ChecksFailed with every finding when one of them is open."""
    failures = [finding for result in results for finding in result.open]
    if failures:
        findings = [finding for result in results for finding in result.findings]
        count = "1 check" if len(failures) == 1 else f"{len(failures)} checks"
        lines = "; ".join(f"{f.text}{ignoring.tag(f)}" for f in failures[:3]) + (
            "; …" if len(failures) > 3 else ""
        )
        raise ChecksFailed(
            f"{count} failed, nothing was changed: {lines}",
            findings=findings,
            remedy="\n".join(f.remedy for f in failures if f.remedy) or None,
        )


def _mender(finding: Finding, earlier: Sequence[StepSpec]) -> str | None:
    return next((spec.id for spec in earlier if spec.uses == finding.mended_by), None)
