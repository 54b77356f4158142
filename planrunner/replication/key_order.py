"""The order of key values as the server keeps it, by their text forms: which bucket a changed row falls into."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

# ISO forms under the settings every session of ours has pinned; years have four digits or more.
_MOMENT = re.compile(r"\A(\d{4,})-(\d\d-\d\d)(?: (\d\d:\d\d:\d\d(?:\.\d+)?)(?:\+00)?)?( BC)?\Z")
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_TEXTS = frozenset({"text", "character varying"})


def comparable(kind: str, text: str) -> Any:
    """``text`` as a value that sorts among its like as the server sorts type ``kind``; texts as under COLLATE "C".

    ValueError for a form that is not known: its place can't be told.
    """
    if kind in _WHOLE:
        return int(text)
    if kind == "uuid":
        # Always lower-case, so the digits' order is that of the bytes.
        return text
    if kind in _TEXTS:
        if "\ufffd" in text:
            raise ValueError("bytes that are no UTF-8")
        return text.encode()
    return _number(text) if kind == "numeric" else _moment(text)


def _number(text: str) -> tuple[int, Decimal]:
    special = {"-Infinity": -1, "Infinity": 1, "NaN": 2}.get(text)
    return (0, Decimal(text)) if special is None else (special, Decimal(0))


def _moment(text: str) -> tuple[int, int, str]:
    if text in {"infinity", "-infinity"}:
        return (1 if text == "infinity" else -1, 0, "")
    match = _MOMENT.match(text)
    if match is None:
        raise ValueError(f"not a time: {text!r}")
    year = int(match[1]) if match[4] is None else 1 - int(match[1])
    return (0, year, f"{match[2]} {match[3] or ''}")
