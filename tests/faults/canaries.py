"""Secrets that are found nowhere by chance, and the forms in which a text may hold one."""

from __future__ import annotations

import ast
import base64
import html
import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterable

# What is between a beginning and an end that are unique: signs that some form of text would write otherwise.
SHAPES = {
    "plain": "kept",
    "single quote": "it's",
    "double quote": 'so "called"',
    "backslash": "a\\b\\\\c",
    "colon": "a:b::c",
    "at": "a@b/c?d#e",
    "percent": "100%41%",
    "encoded": "a%2Fb%20c",
    "space": "two words",
    "dollar": "$HOME ${X} $(id)",
    "template": "{{ vars.x }}",
    "unicode": "säcret-\U0001f511",
    "markup": "<b>&amp;</b>",
    "pipe": "a|b",
    "comment": "a;--b/*c*/",
    "equals": "a=b&c=d",
    "json": '{"a":[1]}',
    "base64": "YWJjZGVm==",
    "star": "***",
    "dash": "--password=",
    "lines": "upper line\nlower line",
}
_SEAM = re.compile(r"[ \t|]*\n[ \t|]*")


@dataclass(kw_only=True)
class Canaries:
    """Every secret by the name of its place."""

    known: dict[str, str] = field(default_factory=dict)

    def new(self, place: str, shape: str = "plain") -> str:
        """Another secret of that shape."""
        number = len(self.known)
        self.known[place] = f"Kq{number:03d}w{SHAPES[shape]}Zj{number * 7919 + 104_729:06x}"
        return self.known[place]

    def met(self, text: str, places: Iterable[str] | None = None, *, laid_out: bool = False) -> list[str]:
        """The places whose secrets the text holds, in whatever form, with what stands around them.

        Of a text that was ``laid_out`` for people lines may have been broken: it is read as one line, too, with and
        without a space at the seam.
        """
        texts = dict.fromkeys((text, _SEAM.sub("", text), _SEAM.sub(" ", text))) if laid_out else (text,)
        found = []
        for place in self.known if places is None else places:
            hits = (_around(whole, form) for form in forms(self.known[place]) for whole in texts)
            hit = next(filter(None, hits), None)
            if hit is not None:
                found.append(f"{place} ({self.known[place]}) as {hit}")
        return found


def _around(text: str, form: str) -> str | None:
    at = text.find(form)
    return None if at < 0 else f"{form!r}: …{text[max(0, at - 150) : at + len(form) + 50]}…"


@cache
def forms(secret: str) -> frozenset[str]:
    """How a text may hold a secret: whole, up to its half, or one line of it."""
    data = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    plain = {
        secret,
        unquote(secret),
        secret[: max(12, len(secret) // 2)],
        secret[-max(12, len(secret) // 2) :],
    }
    written = {
        escaped,
        json.dumps(escaped)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
    doubled = {secret.replace("'", "''"), secret.replace('"', '""'), secret.replace("\\", "\\\\")}
    coded = {quote(secret, safe=""), quote(secret), html.escape(secret), data.hex(), data.hex().upper()}
    coded |= {base64.b64encode(data[n:]).decode().rstrip("=")[1:-1] for n in range(3)}
    lines = set(secret.splitlines())
    return frozenset(form for form in plain | lines | written | doubled | coded if len(form) >= 8)


def unescaped(traced: str) -> str:
    """What strace writes, with its escapes taken back."""

    def back(match: re.Match[str]) -> str:
        return bytes(ast.literal_eval(f'b"{match[1]}"')).decode("utf-8", "replace")

    return re.sub(r'"((?:[^"\\]|\\.)*)"', back, traced)
