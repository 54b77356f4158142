"""Splits a script into its statements as psql does, and refuses what only psql understands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tokens as PostgreSQL's scan.l has them; what none of these begins is a sign of its own.
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<text>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
  | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
  | (?P<dollar>\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_\u0080-\U0010ffff]*)?\$)
  | (?P<word>[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*)
  | (?P<number>[0-9][0-9A-Za-z_.]*)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = re.compile(r"/\*|\*/")
_TRANSACTION = ("begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare")
_DESTRUCTIVE = ("drop", "truncate", "delete")


class StatementsUnfit(Exception):
    """The script can't be sent to a server; ``line`` counts from 1."""

    def __init__(self, line: int, reason: str, remedy: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement without its semicolon; ``line`` is where it begins, ``words`` its unquoted words, in lower case."""

    text: str
    line: int
    words: tuple[str, ...]

    @property
    def controls_transaction(self) -> bool:
        """True for BEGIN, COMMIT and the like; PREPARE counts only as PREPARE TRANSACTION."""
        first = self.words[0] if self.words else ""
        return first in _TRANSACTION and (first != "prepare" or self.words[1:2] == ("transaction",))

    @property
    def destructive(self) -> bool:
        """True when it takes something away: DROP, TRUNCATE, DELETE, also inside ALTER or WITH."""
        return any(word in _DESTRUCTIVE for word in self.words)


def split(text: str) -> tuple[Statement, ...]:
    """The statements of ``text``, comments kept; StatementsUnfit for psql's own commands and what is not closed."""
    return tuple(_Splitter(text).statements())


class _Splitter:
    def __init__(self, text: str) -> None:
        self._text = text
        self._start = 0
        self._first: int | None = None
        self._words: list[str] = []
        self._parentheses = 0
        self._blocks = 0

    def statements(self) -> Iterator[Statement]:
        place = 0
        while place < len(self._text):
            match = _TOKEN.match(self._text, place)
            assert match is not None
            kind, place = str(match.lastgroup), self._end(match)
            if kind in ("space", "comment", "block"):
                continue
            if kind == "sign" and match[0] == ";" and not self._parentheses and not self._blocks:
                yield from self._finished(match.start())
                self._start = place
                continue
            if self._first is None:
                self._first = match.start()
            self._take(kind, match)
        yield from self._finished(len(self._text))

    def _end(self, match: re.Match[str]) -> int:
        """Where the token ends; dollar quotes and nested comments are more than a pattern can tell."""
        if match.lastgroup == "dollar":
            closing = self._text.find(match[0], match.end())
            if closing < 0:
                raise self._unfit(match.start(), f"the quote {match[0]} is not closed", "Close it.")
            return closing + len(match[0])
        if match.lastgroup != "block":
            return match.end()
        depth = 1
        for mark in _OPENING.finditer(self._text, match.end()):
            depth += 1 if mark[0] == "/*" else -1
            if depth == 0:
                return mark.end()
        raise self._unfit(match.start(), "the comment /* is not closed", "Close it.")

    def _take(self, kind: str, match: re.Match[str]) -> None:
        if kind == "word":
            self._word(match[0].lower())
        elif kind == "sign":
            self._sign(match)

    def _word(self, word: str) -> None:
        self._words.append(word)
        # The body of a function in SQL's own way: BEGIN ATOMIC … END holds semicolons, and CASE has an END too.
        if not _makes_routine(self._words):
            return
        if word == "begin" or (word == "case" and self._blocks):
            self._blocks += 1
        elif word == "end" and self._blocks:
            self._blocks -= 1

    def _sign(self, match: re.Match[str]) -> None:
        sign = match[0]
        if sign == "\\":
            command = self._text[match.start() :].split(None, 1)[0][:20]
            raise self._unfit(
                match.start(),
                f"{command} is a command of psql, not SQL",
                "Leave it out; what it does can't be done here. A hook may run psql: before: [{command: [psql, …]}]",
            )
        if sign in "'\"":
            raise self._unfit(match.start(), f"the quote {sign} is not closed", "Close it.")
        if sign == "(":
            self._parentheses += 1
        elif sign == ")":
            self._parentheses = max(0, self._parentheses - 1)

    def _finished(self, end: int) -> Iterator[Statement]:
        first, words = self._first, tuple(self._words)
        if first is not None:
            if words[:1] == ("copy",) and "stdin" in words:
                raise self._unfit(
                    first, "COPY … FROM STDIN has no rows here", "Write INSERT, or COPY FROM a file."
                )
            yield Statement(text=self._text[self._start : end].strip(), line=self._line(first), words=words)
        self._first, self._words, self._parentheses, self._blocks = None, [], 0, 0

    def _line(self, place: int) -> int:
        return self._text.count("\n", 0, place) + 1

    def _unfit(self, place: int, reason: str, remedy: str) -> StatementsUnfit:
        return StatementsUnfit(self._line(place), reason, remedy)


def _makes_routine(words: list[str]) -> bool:
    lead = words[1:] if words[1:3] != ["or", "replace"] else words[3:]
    return words[0] == "create" and lead[:1] in (["function"], ["procedure"])
