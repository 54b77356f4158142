"""Text from servers and plans as it may be shown: no name in it moves a cursor or turns a line round."""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str) -> str:
    """Control and direction characters as JSON escapes them; newlines and tabs stay.

    What JSON's encoder wrote stays the same JSON, so that both kinds of output go by here.
    """
    # Nearly every line is plain; only what is not is looked at letter by letter.
    return "\n".join(line if line.isprintable() else _seen(line) for line in text.split("\n"))


def in_one_line(text: str) -> str:
    """The same, newlines escaped too: for what somebody else has named, inside a line of ours."""
    return visible(text).replace("\n", "\\n")


def _seen(line: str) -> str:
    return "".join(c if _plain(c) else _escaped(c) for c in line)


def _plain(character: str) -> bool:
    return character == "\t" or unicodedata.category(character) not in _UNSEEN


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
