"""The YAML parser's complaints in words that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    ("found unknown escape character", "a backslash that starts no escape", "Use single quotes."),
    ("that cannot start any token", "a value that begins with a reserved sign", "Put it in quotes."),
    (
        "expected the node content",
        "a value is missing or begins with a reserved sign",
        "Put it in quotes, or write the value.",
    ),
)
# What was begun and not ended is told where it begins; the parser notices it far below.
_LEFT_OPEN = ("could not find expected ':'", "expected ',' or", "found unexpected end of stream")


def syntax(error: MarkedYAMLError) -> tuple[str, str]:
    """What is wrong and what to do about it."""
    words = error.problem or error.context or ""
    for part, message, remedy in _KNOWN:
        if part in words:
            return message, remedy
    # The parser quotes single characters at most, never a value.
    return f"this is not YAML: {words or 'it can not be read'}", "Check quotes, brackets and indentation."


def decisive_mark(error: MarkedYAMLError) -> Mark | None:
    """Where to look: the place of the complaint, or of what was left open above it."""
    left_open = any(part in (error.problem or "") for part in _LEFT_OPEN)
    first, second = error.problem_mark, error.context_mark
    return (second or first) if left_open else (first or second)
