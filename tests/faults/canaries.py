"""Secrets that are found nowhere by chance, and the forms in which a text may hold one."""

from __future__ import annotations

import ast
import base64
import hashlib
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
    "mixed": 'it\'s "so" a\\b <c>&d|e %41 {{ f }} ü $g\t#h',
}
# Both ends survive every way of escaping what stands between them.
_ENDS = re.compile(r"\A(Kq\d{3}w[0-9a-f]{8}).*(Zj[0-9a-f]{10})\Z", re.DOTALL)
_SEAM = re.compile(r"[ \t|]*\n[ \t|]*")


@dataclass(kw_only=True)
class Canaries:
    """Every secret by the name of its place; ``first`` keeps those of one apart from another's."""

    known: dict[str, str] = field(default_factory=dict)
    first: int = 0

    def new(self, place: str, shape: str = "plain") -> str:
        """Another secret of that shape."""
        number = self.first + len(self.known)
        unique = hashlib.sha256(str(number).encode()).hexdigest()
        self.known[place] = f"Kq{number:03d}w{unique[:8]}{SHAPES[shape]}Zj{unique[8:18]}"
        return self.known[place]

    def short(self, place: str, length: int) -> str:
        """Another secret that is as short as it may be."""
        number = self.first + len(self.known)
        self.known[place] = f"{number % 100:02d}~Kq{hashlib.sha256(str(number).encode()).hexdigest()}"[
            :length
        ]
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
    ends = _ENDS.match(secret)
    plain |= {*ends.groups(), *(end.encode().hex() for end in ends.groups())} if ends else set()
    return frozenset(
        form for form in plain | lines | written | doubled | coded if len(form) >= min(8, len(secret))
    )


def unescaped(traced: str) -> str:
    """What strace writes, with its escapes taken back."""

    def back(match: re.Match[str]) -> str:
        return bytes(ast.literal_eval(f'b"{match[1]}"')).decode("utf-8", "replace")

    return re.sub(r'"((?:[^"\\]|\\.)*)"', back, traced)
