"""Takes what is or looks like a password out of text that people will read."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

T = TypeVar("T")

_PASSWORDS = (
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    # What is left out of a shape is no password.
    (re.compile(r"(password\s*=\s*)(?!…)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"(password\s+)'(?:[^']|'')*'", re.IGNORECASE), r"\1***"),
    (re.compile(r"([\"']password[\"']\s*:\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*')", re.IGNORECASE), r"\1***"),
    # A login token of RDS is a signed URL.
    (re.compile(r"(X-Amz-(?:Signature|Security-Token|Credential)=)[^&\s]+", re.IGNORECASE), r"\1***"),
)


def masked(text: str) -> str:
    """The text with ``***`` in place of every password that a URL, a DSN, SQL or JSON would hold."""
    for pattern, shown in _PASSWORDS:
        text = pattern.sub(shown, text)
    return text


def without_passwords(value: T) -> T:
    """The value with every text in it masked: those in frozen dataclasses, tuples and mappings, too."""
    return cast("T", _masked(value))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, tuple):
        return tuple(map(_masked, value))
    if isinstance(value, dict):
        return {_masked(key): _masked(member) for key, member in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _masked(getattr(value, f.name)) for f in fields(value)})
    return value
