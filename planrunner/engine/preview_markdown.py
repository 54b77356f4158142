"""A preview as Markdown for a pull request: the summary first, the details folded, never too long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.engine.preview import Preview, PreviewStep
    from planrunner.step import Action

# GitHub refuses a comment above 65,536 characters.
LIMIT = 60_000
_STATEMENT_LIMIT = 2_000


def to_markdown(preview: Preview) -> str:
    """The preview in less than 60,000 characters; what does not fit is named, not cut in half."""
    head = "\n\n".join((_head(preview), _overview(preview)))
    note = "\n\n_The details of these steps are too long for a comment; see the preview as JSON: "
    left, dropped = LIMIT - len(head) - len(note) - 4_000, list[str]()
    kept = list[str]()
    for step in preview.steps:
        block = _folded(step)
        if len(block) > left:
            dropped.append(step.spec.id)
        elif block:
            kept.append(block)
            left -= len(block) + 2
    tail = f"{note}{', '.join(dropped)[:3_000]}_" if dropped else ""
    return ("\n\n".join((head, *kept)) + tail)[: LIMIT - 2] + "\n"


def _head(preview: Preview) -> str:
    return (
        f"## Migration plan `{preview.plan}`: {headline(preview)}\n\n"
        f"source: {preview.source} → target: {preview.target}, plan id `{preview.plan_id}`"
    )


def _overview(preview: Preview) -> str:
    rows = [
        f"| {s.spec.id} | {s.spec.uses} | {status_of(s)} | {len(s.actions)} | {_attention(s)} |"
        for s in preview.steps[:200]
    ]
    return "\n".join(("| Step | Uses | State | Actions | Attention |", "|---|---|---|---|---|", *rows))


def _attention(step: PreviewStep) -> str:
    named = {flag for action in step.actions for flag in flags(action)}
    named |= {verdict(action) for action in step.actions} - {"do"}
    if step.checked and step.checked.open:
        named.add(f"{len(step.checked.open)} checks fail")
    if step.problem is not None:
        named.add("can't be planned")
    return ", ".join(sorted(named))


def _folded(step: PreviewStep) -> str:
    body = "\n\n".join(_body(step))
    if not body:
        return ""
    return f"<details><summary>{step.spec.id} ({step.spec.uses})</summary>\n\n{body}\n\n</details>"


def _body(step: PreviewStep) -> Iterator[str]:
    if lines := list(condition_lines(step)):
        yield _fenced("\n".join(lines), "")
    if step.problem is not None:
        yield _fenced(step.problem, "")
    if step.checked is not None and step.checked.findings:
        yield _fenced("\n".join(finding_lines(step.checked)), "")
    if step.estimates:
        yield _fenced("\n".join(estimate_lines(step.estimates)), "")
    for action in step.actions:
        yield _action(action)


def _action(action: Action) -> str:
    marked = "".join(f" **{flag}**" for flag in flags(action))
    facts = "".join(f"\n- {name}: {text}" for name, text in details(action))
    statements = _shortened("\n".join(action.statements))
    code = f"\n\n{_fenced(statements, 'sql')}" if statements else ""
    return f"**{verdict(action)}**, {action.where.value}: {action.summary}{marked}{facts}{code}"


def _shortened(text: str) -> str:
    if len(text) <= _STATEMENT_LIMIT:
        return text
    return f"{text[:_STATEMENT_LIMIT]}\n-- … {len(text) - _STATEMENT_LIMIT} characters more"


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
