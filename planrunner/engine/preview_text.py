"""A preview as plain text, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.engine.lasting import lasting, lasting_lines
from planrunner.engine.verdicts import of_action, of_step
from planrunner.ignoring import tag
from planrunner.masking import masked
from planrunner.model import Mark
from planrunner.shown import in_one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from planrunner.engine.preflight import Checked
    from planrunner.engine.preview import Preview, PreviewStep
    from planrunner.model import Estimate, Finding
    from planrunner.step import Action

MARKS = {Mark.PASS: "✓", Mark.WARN: "!", Mark.FAIL: "✗"}
# In the place of the mark where the plan ignores the finding.
IGNORED = "○"


def to_text(preview: Preview) -> str:
    """Every step with its findings and actions, then one line that sums up."""
    asked = ["  offline: nothing was asked, what depends on the servers is decided at run time"]
    head = [
        f"plan {preview.plan} ({preview.path}), plan id {preview.plan_id}",
        *(asked if preview.offline else []),
        f"  source  {preview.source}",
        f"  target  {preview.target}",
    ]
    blocks = ["\n".join(_step(step)) for step in preview.steps]
    left = "\n".join(lasting_lines(lasting(preview)))
    return "\n\n".join(["\n".join(head), *blocks, *([left] if left else []), headline(preview)]) + "\n"


def headline(preview: Preview) -> str:
    """One sentence: how much is to be done and what stands in the way."""
    steps = sum(bool(step.actions) for step in preview.steps)
    parts = [f"{len(preview.actions)} actions in {steps} steps" if preview.changes else "nothing is missing"]
    counts = {
        "destructive": sum(a.destructive for a in preview.actions),
        "with a restart": sum(a.restarts for a in preview.actions),
        "blocked": sum(a.blocked is not None for a in preview.actions),
        "to be answered": sum(a.asks is not None for a in preview.actions),
        "steps to be approved": sum(step.waits_for_approval for step in preview.steps),
        "problems": preview.failures,
    }
    return ", ".join(parts + [f"{count} {what}" for what, count in counts.items() if count])


def verdict(action: Action) -> str:
    """The action's verdict as a word."""
    return of_action(action).value


def flags(action: Action) -> tuple[str, ...]:
    """What a reviewer must not overlook."""
    named = (
        (action.asks is not None, "asks"),
        (action.destructive, "destructive"),
        (action.restarts, "restarts the server"),
        (not action.observable, "can't be observed"),
    )
    return tuple(name for present, name in named if present)


def details(action: Action) -> Iterator[tuple[str, str]]:
    """The action's further facts, named."""
    if action.blocked is not None:
        yield "blocked", action.blocked
    if action.asks is not None:
        yield "asks", action.asks
    for lock in action.locks:
        yield "locks", lock
    for need in action.needs:
        yield "needs", need
    if action.undo is not None:
        yield "undo", action.undo


def finding_lines(checked: Checked) -> Iterator[str]:
    """The findings of one step, section by section, with their marks and what mends them."""
    yield from _sectioned(zip(checked.findings, checked.mended, strict=True))


def findings_text(findings: Sequence[Finding]) -> str:
    """Findings of several steps, section by section, as one text."""
    return "\n".join(_sectioned((finding, None) for finding in findings))


def _sectioned(findings: Iterable[tuple[Finding, str | None]]) -> Iterator[str]:
    section = None
    for finding, mender in findings:
        if finding.section != section:
            section = finding.section
            yield f"{section}:"
        yield from (f"  {line}" for line in finding_text(finding, mender))


def finding_text(finding: Finding, mender: str | None = None) -> Iterator[str]:
    """One finding with its mark and code, and below it what mends it, or why nobody has to.

    ``mender`` is the id of the step that will mend it.
    """
    if finding.mark is Mark.PASS:
        yield f"{MARKS[finding.mark]} {in_one_line(finding.text)}"
        return
    yield f"{MARKS[finding.mark] if finding.ignored is None else IGNORED} {in_one_line(finding.text)}{tag(finding)}"
    if finding.ignored is not None:
        yield f"    ignored: {finding.ignored}"
    elif finding.mark is Mark.FAIL and mender is not None:
        yield f"    will be mended by step {mender}"
    else:
        yield from (f"    {line}" for line in (finding.remedy or "").splitlines())
        if finding.page is not None:
            yield f"    see {finding.page}"


def estimate_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """What the step will come to, a line each, and below it how that came about."""
    if estimates:
        yield "Estimates:"
    for estimate in estimates:
        label = estimate.name.replace("_", " ")
        if estimate.reason is not None:
            yield f"  {label}: not measured ({estimate.reason})"
        else:
            yield f"  {label}: {estimate.text}"
            if estimate.formula is not None:
                yield f"      {estimate.formula}"


def status_of(step: PreviewStep) -> str:
    """The step's state in a word or two."""
    if step.done:
        return "done"
    if step.problem is not None:
        return "problem"
    if step.skipped is not None:
        return "skipped"
    if not step.actions:
        return "nothing missing" if step.asked else "not asked"
    return "waits for approval" if step.waits_for_approval else "pending"


def condition_lines(step: PreviewStep) -> Iterator[str]:
    """Why the step is skipped, or what the run will decide that by."""
    if step.skipped is not None:
        yield step.skipped
    if step.condition is not None:
        yield f"decided at run time: only when {step.condition}"


def _step(step: PreviewStep) -> Iterator[str]:
    found = "" if step.skipped is not None else f"; verdict: {of_step(step).value}"
    yield f"{step.spec.id} ({step.spec.uses}): {status_of(step)}{found}"
    yield from (f"  {line}" for line in condition_lines(step))
    if step.problem is not None:
        yield from (f"  ✗ {line}" for line in step.problem.splitlines())
    if step.checked is not None:
        yield from (f"  {line}" for line in finding_lines(step.checked))
    yield from (f"  {line}" for line in estimate_lines(step.estimates))
    yield from (f"  = already there: {in_one_line(text)}" for text in step.satisfied)
    for action in step.actions:
        yield from _action(action)
    yield from (f"  ~ {kept.where.value}: {in_one_line(kept.text)}" for kept in step.upkeep)


def _action(action: Action) -> Iterator[str]:
    marked = "".join(f" [{flag}]" for flag in flags(action))
    yield f"  - {verdict(action)}, {action.where.value}: {in_one_line(action.summary)}{marked}"
    for statement in map(masked, action.statements):
        yield from (f"      {line}" for line in statement.split("\n"))
    for name, text in details(action):
        yield f"      {name}: {in_one_line(text)}"
