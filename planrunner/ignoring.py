"""What a plan lives with: findings of its checks that stop nothing, each with the reason of whoever decided so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from planrunner.model import Mark
from planrunner.postgres.preflight_section import ITSELF, Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Finding, Json, Plan, StepSpec

IN_VAIN = Check(
    code="PR0002",
    section=ITSELF,
    title="Nothing is ignored in vain",
    why="An entry of ignore that meets nothing any more would hide the check when it finds something new.",
    mend="Take the entry out of ignore in the plan's validate step.",
)
_STEP = "validate"
# Whose step makes a check, by the beginning of its code; all others are made by validate.
MAKERS: Mapping[str, str] = {
    "PR09": "cutover_verify",
    "PR11": "snapshot",
    "PR12": "sync",
    "PR13": "cutover_verify",
    "PR14": "snapshot",
    "PR1404": "cutover_verify",
    "PR1405": _STEP,
}
# With one of these failing, others were left out: that they found nothing says nothing.
_LEAVE_OUT = frozenset({"PR0001", "PR0201"})


def maker(code: str) -> str:
    """The ``uses`` of the step that makes the check of that code."""
    return MAKERS.get(code, MAKERS.get(code[:4], _STEP))


def reasons(plan: Plan) -> Mapping[str, str]:
    """The codes that the plan ignores, and why."""
    spec = _spec(plan)
    listed = cast("Sequence[Mapping[str, str]]", spec.options.get("ignore", ()) if spec else ())
    return {entry["check"]: entry["reason"] for entry in listed}


def applied(findings: Sequence[Finding], plan: Plan) -> tuple[Finding, ...]:
    """The findings; warnings and failures of a check that the plan ignores carry its reason."""
    known = reasons(plan)
    return tuple(
        replace(finding, ignored=known[finding.code])
        if finding.code in known and finding.mark is not Mark.PASS
        else finding
        for finding in findings
    )


def in_vain(results: Mapping[str, Sequence[Finding]], plan: Plan) -> tuple[Finding, ...]:
    """A warning for each code that is ignored and meets nothing; ``results`` holds the findings of each ``uses``.

    A check whose step was not asked, or that may have been left out, is not judged.
    """
    spec = _spec(plan)
    findings = [finding for found in results.values() for finding in found]
    if spec is None or any(map(leaves_out, findings)):
        return ()
    met = {finding.code for finding in findings if finding.ignored is not None}
    planned = {other.uses for other in plan.steps}
    judged = [code for code in reasons(plan) if maker(code) in results or maker(code) not in planned]
    tell = IN_VAIN.failed if spec.options.get("warnings_fail", False) else IN_VAIN.warned
    return tuple(
        tell(f"{code} is ignored, and finds nothing", f"Take it out of ignore in the step {spec.id}.")
        for code in judged
        if code not in met
    )


def leaves_out(finding: Finding) -> bool:
    """Whether it says that others may be missing: a failed question is not a check that passed."""
    return finding.code in _LEAVE_OUT and finding.mark is Mark.FAIL


def tag(finding: Finding) -> str:
    """The code as it stands behind a finding's text: `` [PR0601]``; nothing where it has none."""
    return f" [{finding.code}]" if finding.code else ""


def told_finding(text: str, fields: Mapping[str, Json]) -> str:
    """A finding in one line, from its fields as ``finding_json`` has them; leniently: older ones have fewer."""
    code, reason = fields.get("code"), fields.get("reason")
    return f"{text}{f' [{code}]' if code else ''}{f' (ignored: {reason})' if fields.get('ignored') else ''}"


def finding_json(finding: Finding) -> dict[str, Json]:
    """One finding for programs, the same wherever it is told."""
    fix = finding.fix
    return {
        "code": finding.code or None,
        "section": finding.section,
        "mark": finding.mark.value,
        "text": finding.text,
        "why": finding.why,
        "remedy": finding.remedy,
        "fix": {"where": fix.where.value, "statements": list(fix.statements)} if fix else None,
        "docs": finding.page,
        "ignored": finding.ignored is not None,
        "reason": finding.ignored,
        "mended_by": finding.mended_by,
    }


def _spec(plan: Plan) -> StepSpec | None:
    return next((spec for spec in plan.steps if spec.uses == _STEP), None)
