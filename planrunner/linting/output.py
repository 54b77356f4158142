"""Findings as text for people, JSON for programs and annotations for GitHub."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from planrunner.linting.rules import Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.linting.inspect import Finding, Inspection

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def to_text(found: Sequence[Inspection]) -> str:
    """Each finding with its line and a caret, each good file in a line, and how many there are of what."""
    lines: list[str] = []
    for inspection in found:
        if not inspection.count(Severity.ERROR):
            lines.append(f"{inspection.path}: ok, {inspection.steps} steps")
        lines += [_lines(finding) for finding in inspection.findings if finding.disabled is None]
    total = _total(found)
    return "\n".join([*lines, total] if total else lines)


def _lines(finding: Finding) -> str:
    first, newline, rest = finding.problem.render().partition("\n")
    return f"{first}  [{finding.severity.value} {finding.problem.code}]{newline}{rest}"


def _total(found: Sequence[Inspection]) -> str:
    words = ((Severity.ERROR, "problem"), (Severity.WARNING, "warning"), (Severity.NOTE, "note"))
    counts = [(sum(i.count(severity) for i in found), word) for severity, word in words]
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)


def to_json(found: Sequence[Inspection], *, ok: bool) -> str:
    """``problems`` are the errors alone; ``findings`` are all, disabled ones too."""
    every = [finding for inspection in found for finding in inspection.findings]
    problems = [asdict(f.problem) for f in every if f.severity is Severity.ERROR]
    findings = [
        {
            **asdict(f.problem),
            "severity": f.severity.value,
            "disabled": f.disabled is not None,
            "reason": f.disabled,
        }
        for f in every
    ]
    files = [{"path": i.path, "steps": i.steps, "ok": not i.count(Severity.ERROR)} for i in found]
    return json.dumps({"ok": ok, "problems": problems, "findings": findings, "files": files}, indent=2)


def to_github(found: Sequence[Inspection]) -> str:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    return "\n".join(line for inspection in found for line in _commands(inspection))


def _commands(inspection: Inspection) -> Iterator[str]:
    for finding in inspection.findings:
        if finding.disabled is None:
            problem = finding.problem
            place = f"file={_property(problem.path)},line={problem.line},col={problem.column}"
            place += f",title={_property(problem.code)}"
            where = f"{problem.where}: " if problem.where else ""
            text = f"{where}{problem.message}" + (f"\n{problem.remedy}" if problem.remedy else "")
            yield f"::{_COMMANDS[finding.severity]} {place}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
