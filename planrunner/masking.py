"""Takes what is or looks like a password out of text that people will read."""

from __future__ import annotations

import re

_PASSWORDS = (
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    (re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE), r"\1***"),
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
