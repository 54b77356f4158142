"""Inline disables: ``# planrunner: disable=PR203 -- because the CA is not there yet``, on the line or above it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from planrunner.linting import rules
from planrunner.linting.rules import Severity
from planrunner.loading.document import Spot, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.loading.document import Document
    from planrunner.model import Problem

_COMMENT = re.compile(r"(?:^|(?<=\s))#\s*planrunner:\s*(?P<word>[\w-]*)(?P<rest>.*)$")
_CODES = re.compile(r"\s*=\s*(?P<codes>[\w]+(?:\s*,\s*[\w]+)*)\s*(?:--\s*(?P<reason>.*?))?\s*$")
_HOW = "Write # planrunner: disable=PR203 -- because …"


@dataclass(frozen=True, kw_only=True)
class Disable:
    """One code of one comment: what it hides on ``line`` of the file, and why."""

    path: str
    code: str
    line: int
    reason: str
    spot: Spot

    def hides(self, problem: Problem) -> bool:
        """Whether it speaks of this problem."""
        return (self.path, self.line, self.code) == (problem.path, problem.line, problem.code)


def disables(document: Document) -> tuple[tuple[Disable, ...], tuple[Problem, ...]]:
    """The comments of a readable file that disable something, and what is wrong with others."""
    found: list[Disable] = []
    problems: list[Problem] = []
    for spot, word, rest in _comments(document):
        match = _CODES.match(rest) if word == "disable" else None
        if match is None:
            text = "this comment is meant for planrunner and says nothing it knows"
            problems.append(_at(document, spot, text, _HOW, rules.DISABLE_OF_NO_WARNING))
        elif not match["reason"]:
            text = "a disable without a reason"
            problems.append(_at(document, spot, text, _HOW, rules.DISABLE_WITHOUT_REASON))
        else:
            codes = [code.strip() for code in match["codes"].split(",")]
            line = _meant(document.lines, spot.line)
            found += [
                Disable(path=document.path, code=c, line=line, reason=match["reason"], spot=spot)
                for c in codes
                if _fits(c)
            ]
            problems += [_unfit(document, spot, code) for code in codes if not _fits(code)]
    return tuple(found), tuple(problems)


def unmatched(document: Document, disable: Disable) -> Problem:
    """That a disable hides nothing."""
    text = f"nothing of {disable.code} is found on line {disable.line}"
    return _at(document, disable.spot, text, "Take the comment out.", rules.DISABLE_WITHOUT_MATCH)


def _fits(code: str) -> bool:
    rule = rules.rules().get(code)
    return rule is not None and rule.severity is not Severity.ERROR


def _unfit(document: Document, spot: Spot, code: str) -> Problem:
    if code in rules.rules():
        text, remedy = f"{code} is an error and can't be disabled", "Correct the plan."
    else:
        text = f"there is no rule {code[:20]}"
        known = [rule.code for rule in rules.rules().values() if rule.severity is not Severity.ERROR]
        remedy = suggestion(code, known, label="There are")
    return _at(document, spot, text, remedy, rules.DISABLE_OF_NO_WARNING)


def _at(document: Document, spot: Spot, message: str, remedy: str, code: str) -> Problem:
    return document.problem_at(spot, message, remedy, code)


def _comments(document: Document) -> Iterator[tuple[Spot, str, str]]:
    candidates = [
        (number, match)
        for number, line in enumerate(document.lines, 1)
        if "planrunner:" in line and (match := _COMMENT.search(line))
    ]
    texts = _texts(document.lines) if candidates else ()
    for number, match in candidates:
        place = (number - 1, match.start())
        # A # inside a text begins no comment.
        if not any(begin <= place < end for begin, end in texts):
            yield Spot(line=number, column=match.start() + 1), match["word"], match["rest"]


def _texts(lines: Sequence[str]) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Where scalars begin and end, as (line, column) from 0."""
    try:
        tokens = list(yaml.scan("\n".join(lines), Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        return ()
    return tuple(
        ((token.start_mark.line, token.start_mark.column), (token.end_mark.line, token.end_mark.column))
        for token in tokens
        if isinstance(token, yaml.ScalarToken)
    )


def _meant(lines: Sequence[str], line: int) -> int:
    """The line that a comment on ``line`` speaks of: its own, or the next that is more than a comment."""
    if not lines[line - 1].lstrip().startswith("#"):
        return line
    below = range(line, len(lines))
    return next((i + 1 for i in below if lines[i].strip() and not lines[i].lstrip().startswith("#")), line)
