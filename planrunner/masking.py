"""Takes what is or looks like a password, and every sensitive value, out of text that people will read."""

from __future__ import annotations

import html
import json
import re
import shlex
import threading
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

T = TypeVar("T")

HIDDEN = "***"
# Shorter ones would be found by chance in other words, and what surrounds the mask would give them away.
SHORTEST = 6
# Of what is looked up and need not be told apart from names: a password may be "postgres", and its mask would be in
# every other line. Nobody's generated password is shorter.
SHORTEST_SECRET = 12

_PASSWORDS = (
    # libpq takes whatever stands before the @, spaces too; what is a port is no password.
    (re.compile(r"(postgres(?:ql)?://[^\s:/@]*):(?!\d{1,5}(?:[/?,\s]|\Z))[^@/\n]+@"), r"\1:***@"),
    (re.compile(r"(\w+://[^\s:/@]*):(?!\d{1,5}(?:[/?,\s]|\Z))[^\s]+@"), r"\1:***@"),
    # A key of a URI that hides behind percent signs may be one.
    (re.compile(r"([?&][^=&\s]*%[^=&\s]*=)[^&\s]+"), r"\1***"),
    # What is left out of a shape is no password. In a statement the pairs stand in quotes, and theirs are doubled.
    (
        re.compile(
            r"(password\s*=\s*)(?!…)"
            r"(''(?:\\\\\\\\|\\\\''|[^'\\])+''|'(?:[^'\\]|\\.)*(?:'|\Z)|(?:\\.|''|'(?=[^\s'\",;:.)\]}>])|[^\s\\'])+)",
            re.IGNORECASE | re.DOTALL,
        ),
        r"\1***",
    ),
    (re.compile(r"(password\s+)(?!'…')(?:E?'(?:[^']|'')*')", re.IGNORECASE), r"\1***"),
    (
        re.compile(
            r"([\"']password[\"']\s*:\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')", re.IGNORECASE | re.DOTALL
        ),
        r"\1***",
    ),
    # A login token of RDS is a signed URL.
    (re.compile(r"(X-Amz-(?:Signature|Security-Token|Credential)=)[^&\s]+", re.IGNORECASE), r"\1***"),
)


class _Hushed:
    """The sensitive values of this process, in every form in which a text may hold them."""

    def __init__(self) -> None:
        self._forms: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self.pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        new = frozenset(form for form in _forms(value) if len(form) >= SHORTEST)
        with self._lock:
            if new <= self._forms:
                return
            self._forms |= new
            # The longest first: one value may be a part of another.
            longest_first = sorted(self._forms, key=len, reverse=True)
            self.pattern = re.compile("|".join(map(re.escape, longest_first)))

    def clear(self) -> None:
        self._forms, self.pattern = frozenset(), None


_hushed = _Hushed()


def _forms(value: str) -> set[str]:
    decoded = unquote(value)
    inside = {value, decoded, quote(value, safe=""), quote(decoded, safe="")}
    inside |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    inside |= {value.replace("'", "''"), value.replace('"', '""'), html.escape(value)}
    doubled = value.replace("\\", "\\\\")
    inside |= {doubled.replace("'", "\\'"), doubled.replace("'", "''"), value.replace("|", "\\|")}
    # In a command as a shell would be given it.
    inside.add(shlex.quote(value).removeprefix("'").removesuffix("'"))
    # A text of several lines is shown line by line.
    return inside | {line.strip() for line in value.splitlines()}


def hush(value: str) -> None:
    """From now on no text of this process shows ``value``: see ``hushed``. A value of a few letters stays."""
    _hushed.add(value)


def hush_secret(value: str) -> None:
    """Hush what a reference leads to, unless it may as well be a word of its own elsewhere.

    Nothing is meant to show it anyway; this is for the words of other programs, which may repeat what they were given.
    """
    if len(value) >= SHORTEST_SECRET:
        _hushed.add(value)


def speak() -> None:
    """Forget what was hushed: for a process that goes on with other plans, and for tests."""
    _hushed.clear()


def hushed(text: str) -> str:
    """The text with ``***`` in place of every sensitive value."""
    return text if _hushed.pattern is None else _hushed.pattern.sub(HIDDEN, text)


def masked(text: str) -> str:
    """The text with ``***`` in place of sensitive values and every password that a URL, DSN, SQL or JSON would hold."""
    # Those first that are known whole: of a value with a space in it a pattern would leave a half.
    text = hushed(text)
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


def without_passwords(value: T) -> T:
    """The value with every text in it masked: those in frozen dataclasses, tuples and mappings, too."""
    return cast("T", _changed(value, masked))


def without_hushed(value: T) -> T:
    """The value with every sensitive value in its texts masked, and nothing else changed."""
    return value if _hushed.pattern is None else cast("T", _changed(value, hushed))


def _changed(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple | list):
        made = [_changed(member, change) for member in value]
        return made if isinstance(value, list) else tuple(made)
    if isinstance(value, dict):
        return {_changed(key, change): _changed(member, change) for key, member in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _changed(getattr(value, f.name), change) for f in fields(value)})
    return value
