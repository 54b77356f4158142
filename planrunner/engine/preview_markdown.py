"""A preview as Markdown for a pull request: the summary first, the details folded, never too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.engine.lasting import lasting, lasting_lines
from planrunner.engine.markdown_safe import code, fenced, text
from planrunner.engine.preview_text import (
    condition_lines,
    details,
    estimate_lines,
    finding_lines,
    flags,
    headline,
    status_of,
    verdict,
)
from planrunner.engine.verdicts import Verdict, of_step
from planrunner.ignoring import tag
from planrunner.masking import masked
from planrunner.model import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.engine.preview import Preview, PreviewStep
    from planrunner.step import Action

# GitHub refuses a comment above 65,536 characters.
LIMIT = 60_000
_STATEMENT_LIMIT = 2_000
_MOST_STEPS = 100
_MOST_LISTED = 20
# What the head may take of the whole, and what is kept for the notes at the end.
_HEAD_LIMIT = 30_000
_NOTES = 1_500
_LASTING_LIMIT = 6_000
# The figures that a reviewer asks for first.
_FIGURES = (
    "reboot_time",
    "tables",
    "rows",
    "heap_bytes",
    "copy_time",
    "wal_retained",
    "wal_retained_week",
    "storage_after_copy",
    "storage_growth",
    "target_disk",
)


def to_markdown(preview: Preview) -> str:
    """The preview in less than 60,000 characters; what does not fit is named, and how to see it."""
    head, lasts = _cut_lines(_head(preview), _HEAD_LIMIT), _lasting(preview)
    left = LIMIT - len(head) - len(lasts) - _NOTES
    short, dropped, kept = list[str](), list[str](), list[str]()
    for step in preview.steps:
        for block, note in ((_folded(step, whole=True), None), (_folded(step, whole=False), short)):
            if len(block) + 2 <= left:
                kept += [block] if block else []
                left -= len(block) + 2 if block else 0
                if note is not None:
                    note.append(step.spec.id)
                break
        else:
            dropped.append(step.spec.id)
    kept += [lasts] if lasts else []
    return "\n\n".join((head, *kept, *_notes(preview, short, dropped))) + "\n"


def _lasting(preview: Preview) -> str:
    """What stays afterwards, folded."""
    lines = _cut_lines(lasting_lines(lasting(preview)), _LASTING_LIMIT)
    if not lines:
        return ""
    return f"<details><summary>What stays afterwards</summary>\n\n{fenced(lines)}\n\n</details>"


def _notes(preview: Preview, short: Sequence[str], dropped: Sequence[str]) -> Iterator[str]:
    see = f"See it with {code(f'planrunner preview {preview.path}')}."
    if short:
        yield f"Left out for length: the statements of {_listed(short)}. {see}"
    if dropped:
        yield f"Left out for length: everything about {_listed(dropped)}. {see}"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MOST_LISTED} more steps" if len(ids) > _MOST_LISTED else ""
    return ", ".join(text(step_id, limit=20) for step_id in ids[:_MOST_LISTED]) + more


def _cut_lines(lines: Iterator[str], limit: int) -> str:
    """As many whole lines as fit, and how many did not."""
    kept, left = list[str](), limit
    rest = list(lines)
    for place, line in enumerate(rest):
        if len(line) + 1 > left:
            kept.append(f"\n… {len(rest) - place} lines more")
            break
        kept.append(line)
        left -= len(line) + 1
    return "\n".join(kept)


def _head(preview: Preview) -> Iterator[str]:
    yield f"## Migration plan {code(preview.plan)}: {text(headline(preview))}"
    yield ""
    if preview.offline:
        yield "Offline: nothing was asked; what depends on the servers is decided at run time."
    else:
        yield f"source: {text(preview.source)} → target: {text(preview.target)}, plan id {code(preview.plan_id)}"
    yield ""
    yield from _overview(preview)
    yield from _warnings(preview)


def _overview(preview: Preview) -> Iterator[str]:
    yield "| Step | Uses | Verdict | State | Actions | Restarts | Destructive | Attention |"
    yield "|---|---|---|---|--:|--:|--:|---|"
    for step in preview.steps[:_MOST_STEPS]:
        named = (step.spec.id, step.spec.uses, of_step(step).value, status_of(step))
        counts = (
            len(step.actions),
            sum(action.restarts for action in step.actions),
            sum(action.destructive for action in step.actions),
        )
        cells = (*(text(name, limit=60) for name in named), *(str(count or "") for count in counts))
        yield f"| {' | '.join(cells)} | {_attention(step)} |"
    if len(preview.steps) > _MOST_STEPS:
        yield ""
        yield f"… and {len(preview.steps) - _MOST_STEPS} steps more"
    figures = list(_figures(preview))
    if figures:
        yield ""
        yield f"Estimates: {'; '.join(figures)}"


def _figures(preview: Preview) -> Iterator[str]:
    for step in preview.steps:
        for estimate in step.estimates:
            if estimate.name in _FIGURES and estimate.reason is None:
                yield f"{text(estimate.name.replace('_', ' '))} {text(estimate.text)}"


def _warnings(preview: Preview) -> Iterator[str]:
    lines = list(_warned(preview))
    if lines:
        yield ""
        yield from lines[: _MOST_LISTED * 2]
        if len(lines) > _MOST_LISTED * 2:
            yield f"- … and {len(lines) - _MOST_LISTED * 2} more"


def _warned(preview: Preview) -> Iterator[str]:
    for step in preview.steps:
        who = f"- **{text(step.spec.id)}**"
        if step.problem is not None:
            yield f"{who} can't be planned: {text(step.problem)}"
        for action in step.actions:
            if action.restarts or action.destructive or action.blocked is not None:
                why = f": {text(action.blocked)}" if action.blocked else ""
                yield f"{who} {', '.join(_named(action))}: {text(action.summary, limit=200)}{why}"
        for finding in step.checked.findings if step.checked else ():
            if finding.ignored is not None:
                yield f"{who} ignores{tag(finding)}: {text(finding.text)} (reason: {text(finding.ignored)})"
            elif finding.mark is Mark.WARN or (step.checked and finding in step.checked.open):
                verb = "fails" if finding.mark is Mark.FAIL else "warns"
                yield f"{who} {verb}{tag(finding)}: {text(finding.text)}"


def _named(action: Action) -> list[str]:
    named = (
        (action.blocked is not None, "blocked"),
        (action.restarts, "restarts the server"),
        (action.destructive, "destructive"),
    )
    return [name for present, name in named if present]


def _attention(step: PreviewStep) -> str:
    named = {flag for action in step.actions for flag in flags(action)}
    named |= {verdict(action) for action in step.actions} - {Verdict.DO.value, Verdict.DESTRUCTIVE.value}
    if step.checked and step.checked.open:
        named.add(f"{len(step.checked.open)} checks fail")
    if step.problem is not None:
        named.add("can't be planned")
    return ", ".join(sorted(named))


def _folded(step: PreviewStep, *, whole: bool) -> str:
    body = "\n\n".join(_body(step, whole=whole))
    if not body:
        return ""
    title = f"{text(step.spec.id)} ({text(step.spec.uses)}): {of_step(step).value}"
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _body(step: PreviewStep, *, whole: bool) -> Iterator[str]:
    if lines := list(condition_lines(step)):
        yield fenced("\n".join(lines))
    if step.problem is not None:
        yield fenced(_shortened(step.problem))
    if whole and step.checked is not None and step.checked.findings:
        yield fenced("\n".join(finding_lines(step.checked)))
    if step.estimates:
        yield fenced("\n".join(estimate_lines(step.estimates)))
    if step.satisfied:
        yield "Already there:\n\n" + "\n".join(f"- {text(line)}" for line in step.satisfied)
    for action in step.actions:
        yield _action(action, whole=whole)
    if whole and step.upkeep and step.actions:
        yield "Beside that:\n\n" + "\n".join(
            f"- {kept.where.value}: {text(kept.text)}" for kept in step.upkeep
        )


def _action(action: Action, *, whole: bool) -> str:
    marked = "".join(f" **{flag}**" for flag in flags(action))
    line = f"**{verdict(action)}**, {action.where.value}: {text(action.summary)}{marked}"
    if not whole:
        return line
    facts = "".join(f"\n- {name}: {text(words)}" for name, words in details(action))
    statements = _shortened("\n".join(map(masked, action.statements)))
    block = f"\n\n{fenced(statements, 'sql')}" if statements else ""
    return f"{line}\n{facts}{block}" if facts else f"{line}{block}"


def _shortened(words: str) -> str:
    if len(words) <= _STATEMENT_LIMIT:
        return words
    return f"{words[:_STATEMENT_LIMIT]}\n-- … {len(words) - _STATEMENT_LIMIT} characters more"
