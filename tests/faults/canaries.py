"""Secrets that are found nowhere by chance, the forms in which a text may hold one, and the plan that is full of them."""

from __future__ import annotations

import ast
import base64
import html
import json
import re
from dataclasses import dataclass, field
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
}


@dataclass(kw_only=True)
class Canaries:
    """Every secret by the name of its place."""

    known: dict[str, str] = field(default_factory=dict)

    def new(self, place: str, shape: str = "plain") -> str:
        """Another secret of that shape."""
        number = len(self.known)
        self.known[place] = f"Kq{number:03d}w{SHAPES[shape]}Zj{number * 7919 + 104_729:06x}"
        return self.known[place]

    def met(self, text: str, places: Iterable[str] | None = None) -> list[str]:
        """The places whose secrets the text holds, in whatever form, with what stands around them."""
        found = []
        for place in self.known if places is None else places:
            for form in forms(self.known[place]):
                at = text.find(form)
                if at >= 0:
                    around = text[max(0, at - 150) : at + len(form) + 50]
                    found.append(f"{place} ({self.known[place]}) as {form!r}: …{around}…")
                    break
        return found


def forms(secret: str) -> set[str]:
    """How a text may hold a secret, whole or up to its half."""
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
    return {form for form in plain | written | doubled | coded if len(form) >= 8}


def unescaped(traced: str) -> str:
    """What strace writes, with its escapes taken back."""

    def back(match: re.Match[str]) -> str:
        return bytes(ast.literal_eval(f'b"{match[1]}"')).decode("utf-8", "replace")

    return re.sub(r'"((?:[^"\\]|\\.)*)"', back, traced)


SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, tenant text);
INSERT INTO orders SELECT n, 'tenant ' || n FROM generate_series(1, 200) n;
-- Large enough for a psql of its own.
CREATE TABLE parcels (id int PRIMARY KEY, filler text);
ALTER TABLE parcels ALTER filler SET STORAGE EXTERNAL;
INSERT INTO parcels SELECT n, repeat(md5(n::text), 300) FROM generate_series(1, 500) n;
CREATE EXTENSION pg_stat_statements;
"""
