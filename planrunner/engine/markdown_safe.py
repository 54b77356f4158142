"""Text from databases and plans inside Markdown: nothing in it is read as markup."""

from __future__ import annotations

import re

# What GitHub's Markdown reads in a line of text: emphasis, code, links, HTML, tables, mentions, headings.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~&@:$=-])")
_SPACE = re.compile(r"\s+")


def text(words: str, *, limit: int = 400) -> str:
    """Words in one line, every character that means something to Markdown escaped; cut at ``limit``."""
    line = _SPACE.sub(" ", _printable(words)).strip()
    if len(line) > limit:
        line = f"{line[:limit]}…"
    # As entities: a backslash does not protect a pipe in every table, nor an @ or a URL from being linked.
    return _MARKUP.sub(lambda found: f"&#{ord(found[1])};" if found[1] not in "-:()=+!" else found[1], line)


def code(words: str) -> str:
    """Words as HTML code, which no backtick, pipe or newline in them ends."""
    return f"<code>{text(words)}</code>"


def fenced(block: str, language: str = "") -> str:
    """Lines as a fenced block, its fence longer than any run of backticks in them."""
    shown = _printable(block)
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def _printable(words: str) -> str:
    """Without control characters and those that turn the direction of writing, which hide what stands there."""
    return "".join(c if c in "\n\t" or (c.isprintable() and c not in _TURNING) else "�" for c in words)


_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200e\u200f\ufeff")
