"""Lints one file: what keeps it from loading, and what it could do better, but for what it says not to tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planrunner.errors import UsageError
from planrunner.linting import rules
from planrunner.linting.disables import disables, unmatched
from planrunner.linting.practice import advice
from planrunner.linting.rules import Severity
from planrunner.loading import codes
from planrunner.loading.build import examine
from planrunner.loading.order import entries
from planrunner.loading.overlays import assembled
from planrunner.loading.source import parse_bytes
from planrunner.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from planrunner.linting.disables import Disable
    from planrunner.loading.document import Document
    from planrunner.loading.variables import Given


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem and how much it matters; ``disabled`` is the reason that an inline comment gives."""

    problem: Problem
    severity: Severity
    disabled: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in one file, in source order, and how many steps it has."""

    path: str
    steps: int
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings of that severity are not disabled."""
        return sum(f.severity is severity and f.disabled is None for f in self.findings)


def inspect(path: Path, given: Given, *, text: bytes | None = None) -> Inspection:
    """Lint the file, or ``text`` as if it were in that file. UsageError when a variable file can't be read."""
    try:
        document = assembled(path) if text is None else parse_bytes(str(path), text)
    except UsageError as error:
        return _unreadable(path, error)
    found = examine(document, path, given)
    hidden, misused = disables(document) if document.tree is not None else ((), ())
    # What a plan could do better is asked once it loads; before, a misspelt key would be told twice.
    better = [] if found.problems else advice(found, given.environ)
    findings = [
        *(_finding(p, ()) for p in (*found.problems, *misused)),
        *(_finding(p, hidden) for p in better),
    ]
    if not found.problems:
        findings += [_finding(p, ()) for p in _idle(document, hidden, better)]
    ordered = sorted(findings, key=lambda finding: _place(finding.problem, str(path)))
    return Inspection(path=str(path), steps=len(entries(found.tree)), findings=tuple(ordered))


def refused(path: str, problems: Iterable[Problem]) -> Inspection:
    """The inspection of a file that is read as something else than one plan: all that is wrong with it is an error."""
    findings = tuple(Finding(problem=problem, severity=Severity.ERROR) for problem in problems)
    return Inspection(path=path, steps=0, findings=findings)


def _place(problem: Problem, plan: str) -> tuple[bool, str, int, int]:
    return problem.path != plan, problem.path, problem.line, problem.column


def together(found: Sequence[Inspection]) -> list[Inspection]:
    """The inspections of one call: a variable of the environment is unknown when no plan that loads declares it."""
    loaded = [inspection for inspection in found if not inspection.count(Severity.ERROR)]
    told = Counter(f.problem.message for i in loaded for f in i.findings if _of_environment(f))
    return [
        replace(
            i,
            findings=tuple(
                f for f in i.findings if not _of_environment(f) or told[f.problem.message] == len(loaded)
            ),
        )
        for i in found
    ]


def _of_environment(finding: Finding) -> bool:
    return finding.problem.code == rules.UNKNOWN_IN_ENVIRONMENT


def _finding(problem: Problem, hidden: Iterable[Disable]) -> Finding:
    reason = next((d.reason for d in hidden if d.hides(problem)), None)
    return Finding(problem=problem, severity=rules.rules()[problem.code].severity, disabled=reason)


def _idle(document: Document, hidden: Iterable[Disable], better: Iterable[Problem]) -> list[Problem]:
    problems = list(better)
    return [unmatched(document, d) for d in hidden if not any(d.hides(problem) for problem in problems)]


def _unreadable(path: Path, error: UsageError) -> Inspection:
    message = error.message.removeprefix(f"{path}: ")
    problem = Problem(
        path=str(path),
        line=1,
        column=1,
        where="",
        message=message,
        remedy=error.remedy,
        code=codes.UNREADABLE,
    )
    return refused(str(path), (problem,))
