"""How an action writes its statements, and whether a statement that was executed is one of them.

A statement is the exact SQL or AWS call, and may hold ``…`` where only the run knows the text. What follows two
dashes and two spaces before them is a remark; its parts are parted by semicolons:

    DROP TABLE IF EXISTS "planrunner"."barrier_3fa1_1"  -- on the source; if it is there

A call that begins with ``aws`` is AWS's; ``on the source`` or ``on the target`` tells the side where that is not
the action's own; a part that begins with ``if``, ``where`` or ``unless`` says that the statement may not be needed;
``as pg_dump words it`` that it is a part of a dump; everything else is for people. A statement that is a remark as
a whole executes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from planrunner.model import Side

if TYPE_CHECKING:
    from collections.abc import Iterator

ANYTHING = "…"
DUMPED = "as pg_dump words it"
_REMARK = re.compile(r"^(?P<text>.*?)(?:(?:^|\s\s)--\s(?P<remark>.*))?$", re.DOTALL)
_SIDES = {"on the source": Side.SOURCE, "on the target": Side.TARGET}
_SOMETIMES = ("if ", "where ", "unless ")
# What a semicolon does not end: comments, strings, quoted names, dollar-quoted bodies, SQL-standard bodies.
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|[Ee]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?<![\w$])\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$|\bBEGIN\s+ATOMIC\b|\bCASE\b|\bEND\b|;",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A statement without its remark; ``side`` is None for the action's own, ``sometimes``: it may not be needed.

    ``dumped``: pg_dump words it, so it is sent as a part of a dump and never otherwise.
    """

    text: str
    side: Side | None = None
    sometimes: bool = False
    dumped: bool = False

    @property
    def exact(self) -> bool:
        """True when nothing of it is left to the run."""
        return ANYTHING not in self.text

    def matches(self, executed: str) -> bool:
        """True when ``executed`` is this statement; white space outside of it counts as one space."""
        return _pattern(_spaced(self.text)).fullmatch(_spaced(executed)) is not None


def read(statement: str) -> Shape | None:
    """The shape that a statement of an action has; None for one that executes nothing."""
    found = _REMARK.match(statement)
    text, remark = (found["text"].strip(), found["remark"] or "") if found else (statement.strip(), "")
    if not text:
        return None
    parts = [part.strip() for part in remark.split(";")]
    side = next((_SIDES[part] for part in parts if part in _SIDES), None)
    if text.startswith("aws "):
        side = Side.AWS
    sometimes = any(part.startswith(_SOMETIMES) for part in parts)
    return Shape(text=text, side=side, sometimes=sometimes, dumped=DUMPED in parts)


def parted(script: str) -> Iterator[str]:
    """The statements of a script, each without its comments and its semicolon."""
    begun, place, depth = [""], 0, 0
    for token in _TOKEN.finditer(script):
        begun.append(script[place : token.start()])
        place, word = token.end(), token[0]
        if word == ";" and depth == 0:
            if text := "".join(begun).strip():
                yield text
            begun = []
            continue
        depth = _depth(depth, word.upper())
        if not word.startswith(("--", "/*")):
            begun.append(word)
    if text := "".join([*begun, script[place:]]).strip():
        yield text


def _depth(depth: int, word: str) -> int:
    # Only within a body that BEGIN ATOMIC has opened do CASE and END count.
    if word.startswith("BEGIN"):
        return depth + 1
    if depth and word == "CASE":
        return depth + 1
    return depth - 1 if depth and word == "END" else depth


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split(ANYTHING))), re.DOTALL)


def _spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().removesuffix(";").rstrip()
