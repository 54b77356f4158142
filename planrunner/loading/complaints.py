"""The YAML parser's complaints in words that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.loading import slips
from planrunner.loading.document import Spot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yaml import MarkedYAMLError
    from yaml.error import Mark

_KNOWN = (
    ("'\\t' that cannot start", "a tab where spaces belong", "Indent with spaces."),
    (
        "mapping values are not allowed here",
        "a colon where no key can stand",
        "Put a value that holds ': ' in quotes, and check this line's indentation against the line above.",
    ),
    (
        "expected <block end>, but found",
        "this line does not fit the ones above",
        "Check the indentation: keys of one mapping and dashes of one list stand in one column.",
    ),
    (
        "could not find expected ':'",
        "a key without a colon",
        "Write KEY: VALUE, or close the quote or bracket that is still open above.",
    ),
    (
        "expected ',' or '}'",
        "a { that is not closed, or a comma is missing",
        "Separate the entries between { and } by commas.",
    ),
    (
        "expected ',' or ']'",
        "a [ that is not closed, or a comma is missing",
        "Separate the entries between [ and ] by commas.",
    ),
    (
        "found unexpected end of stream",
        "a quote that is not closed",
        "Close it; a quote inside single quotes is written twice.",
    ),
    ("incompatible YAML document", "a version of YAML that is not 1.2", "Take the %YAML line away."),
    (
        "expected '<document start>'",
        "text behind the end of the document",
        "Take the line ... or --- above it away; a file holds one document.",
    ),
    ("found unknown escape character", "a backslash that starts no escape", "Use single quotes."),
    ("that cannot start any token", "a value that begins with a reserved sign", "Put it in quotes."),
    (
        "expected the node content",
        "a value is missing or begins with a reserved sign",
        "Put it in quotes, or write the value.",
    ),
)
_KNOWN_ELSEWHERE = (
    "a merge conflict that is not resolved",
    "Keep one side and remove the marks <<<<<<<, ======= and >>>>>>>.",
)
_QUOTE_WITHIN = "an apostrophe inside single quotes", "Write it twice, or use double quotes around the value."
# What was begun and not ended is told where it begins; the parser notices it far below.
_LEFT_OPEN = ("could not find expected ':'", "expected ',' or", "found unexpected end of stream")


def told(error: MarkedYAMLError, lines: Sequence[str]) -> tuple[Spot, str, str]:
    """Where to look, what is wrong and what to do about it."""
    if (marked := slips.conflict(lines)) is not None:
        return Spot(line=marked + 1), *_KNOWN_ELSEWHERE
    stop = error.problem_mark
    if stop is not None and stop.line < len(lines):
        if slips.quote_within(lines[stop.line], stop.column):
            return _spot(stop), *_QUOTE_WITHIN
        stopped = _decisive_mark(error) or stop
        slip = slips.in_line(lines[stopped.line]) if stopped.line < len(lines) else None
        if slip is not None and "'\\t'" not in (error.problem or ""):
            return _spot(stopped), *slip
    return _spot(_decisive_mark(error)), *_syntax(error)


def _spot(mark: Mark | None) -> Spot:
    return Spot(line=mark.line + 1, column=mark.column + 1) if mark else Spot()


def _syntax(error: MarkedYAMLError) -> tuple[str, str]:
    words = error.problem or error.context or ""
    for part, message, remedy in _KNOWN:
        if part in words:
            return message, remedy
    # The parser quotes single characters at most, never a value.
    return f"this is not YAML: {words or 'it can not be read'}", "Check quotes, brackets and indentation."


def _decisive_mark(error: MarkedYAMLError) -> Mark | None:
    """The place of the complaint, or of what was left open above it."""
    left_open = any(part in (error.problem or "") for part in _LEFT_OPEN)
    first, second = error.problem_mark, error.context_mark
    return (second or first) if left_open else (first or second)
