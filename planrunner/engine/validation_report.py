"""The report of ``planrunner validate``: its sections with every check, the verdict, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.preview_text import finding_text
from planrunner.ignoring import finding_json
from planrunner.model import Mark
from planrunner.postgres.preflight_section import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from planrunner.engine.preflight import Checked
    from planrunner.engine.validating import Mended
    from planrunner.model import Finding, Json

FORMAT = 1
_RULE = "═" * 61


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found of one plan; ``mended`` is what ``--fix`` did before, ``only`` what the report is confined to."""

    plan: str
    path: str
    at: datetime
    results: tuple[Checked, ...]
    mended: tuple[Mended, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def failures(self) -> int:
        """How many checks fail: what a step will mend and what the plan ignores does not count."""
        return sum(len(result.open) for result in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind; each is counted once."""
        pairs = list(self._pairs())
        heeded = [(f, mender) for f, mender in pairs if f.ignored is None]
        return {
            "passed": sum(f.mark is Mark.PASS for f, _ in heeded),
            "warnings": sum(f.mark is Mark.WARN for f, _ in heeded),
            "failures": self.failures,
            "mended_by_steps": sum(f.mark is Mark.FAIL and mender is not None for f, mender in heeded),
            "ignored": len(pairs) - len(heeded),
        }

    def sections(self) -> dict[str, list[tuple[Finding, str | None]]]:
        """The findings with the steps that mend them, by section in the report's order."""
        found: dict[str, list[tuple[Finding, str | None]]] = {}
        for finding, mender in self._pairs():
            found.setdefault(finding.section, []).append((finding, mender))
        known = [title for title in SECTIONS if title in found]
        return {title: found[title] for title in (*known, *(t for t in found if t not in known))}

    def _pairs(self) -> Iterator[tuple[Finding, str | None]]:
        for result in self.results:
            yield from zip(result.findings, result.mended, strict=True)


def to_text(report: Report) -> str:
    """The sections, then one line with the verdict."""
    blocks = ["\n".join(_section(title, pairs)) for title, pairs in report.sections().items()]
    return "\n\n".join([*blocks, "\n".join((_RULE, *_told(report.mended), _verdict(report)))])


def to_json(report: Report) -> str:
    """The same for programs; ``schemas/findings.schema.json`` tells its form."""
    tree: Json = {
        "format": FORMAT,
        "plan": report.plan,
        "path": report.path,
        "at": report.at.isoformat(timespec="seconds"),
        "passed": not report.failures,
        "only": list(report.only),
        "counts": dict(report.counts),
        "findings": [
            {**finding_json(finding), "step": result.spec.id, "mended_by_step": mender}
            for result in report.results
            for finding, mender in zip(result.findings, result.mended, strict=True)
        ],
        "fixed": [
            {"code": one.finding.code, "text": one.finding.text, "failure": one.failure}
            for one in report.mended
        ],
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _section(title: str, pairs: Sequence[tuple[Finding, str | None]]) -> Iterator[str]:
    yield f"{title}:"
    for finding, mender in pairs:
        first, *more = finding_text(finding, mender)
        yield f"  {first}"
        if finding.mark is not Mark.PASS and finding.ignored is None and finding.why:
            yield f"      why: {finding.why}"
        yield from (f"  {line}" for line in more)
        if finding.fix is not None and finding.ignored is None and mender is None:
            yield "      --fix does it"


def _told(mended: Sequence[Mended]) -> Iterator[str]:
    for one in mended:
        if one.failure is None:
            yield f"✓ fixed {one.finding.code}: {one.finding.text}"
        else:
            yield f"✗ fix of {one.finding.code} failed: {one.failure}"


def _verdict(report: Report) -> str:
    counts = report.counts
    total = sum(counts.values())
    rest = [
        _counted(counts["warnings"], "warning"),
        f"{counts['mended_by_steps']} to be mended by the plan's steps" if counts["mended_by_steps"] else "",
        f"{counts['ignored']} ignored" if counts["ignored"] else "",
    ]
    notes = "".join(f", {note}" for note in rest if note)
    confined = f"; only {', '.join(report.only)}" if report.only else ""
    if report.failures:
        return f"FAILED: {report.failures} of {_counted(total, 'check')} failed{notes}{confined}"
    if not total:
        return f"PASSED: nothing was found{confined}"
    return f"PASSED: all pre-flight checks successful ({_counted(total, 'check')}{notes}{confined})"


def _counted(count: int, noun: str) -> str:
    return "" if not count else f"{count} {noun}" if count == 1 else f"{count} {noun}s"
