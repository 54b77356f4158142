"""Slips of the keyboard that YAML's parser notices late or calls by another name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFLICT = re.compile(r"(?:<{7}|>{7})(?: .*)?\s*")
_IN_THE_LINE = (
    (
        re.compile(r"\s*-[^\s\-.\d]"),
        "a dash without a space after it",
        "Write a space between the dash and the value.",
    ),
    (re.compile(r"\s*[\w-]+:[^\s/:]"), "a colon without a space after it", "Write KEY: VALUE, with a space."),
)
_ESCAPE = re.compile(r"\\U([0-9A-Fa-f]{8})")


def conflict(lines: Sequence[str]) -> int | None:
    """The index of the line with a version control's mark of a conflict, if there is one."""
    return next((index for index, line in enumerate(lines) if _CONFLICT.fullmatch(line)), None)


def in_line(line: str) -> tuple[str, str] | None:
    """What is wrong with a line at which the parser stopped, and what to do; None where it isn't plain."""
    for pattern, message, remedy in _IN_THE_LINE:
        if pattern.match(line):
            return message, remedy
    return None


def quote_within(line: str, column: int) -> bool:
    """Whether the parser stopped right behind an apostrophe inside single quotes."""
    return column > 0 and line[column - 1 : column] == "'" and bool(re.match(r"\w", line[column:]))


def impossible_escape(lines: Sequence[str]) -> tuple[int, int] | None:
    """Line and column, from 0, of an escape beyond the last character."""
    for index, line in enumerate(lines):
        for match in _ESCAPE.finditer(line):
            if int(match[1], 16) > 0x10FFFF:
                return index, match.start()
    return None


def other_encoding(data: bytes) -> str | None:
    """The encoding that a file betrays by its first bytes, where that is not UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if data[1:2] == b"\0" or (data[:1] == b"\0" and data[1:2] != b"\0" and len(data) > 1):
        return "UTF-16"
    return None
