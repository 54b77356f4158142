"""Tells how two values of a plan's field differ, for people: only the parts that changed, never a password."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from planrunner.masking import masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Json

ABSENT = object()
_MOST_CHARACTERS = 120


def plain(value: object) -> Json:
    """The value as JSON has it, for the record: what JSON has no word for as its text, passwords as ``***``."""
    made: Json = json.loads(json.dumps(value, default=str))
    return _masked(made)


def _masked(value: Json) -> Json:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: _masked(member) for key, member in value.items()}
    return [_masked(member) for member in value] if isinstance(value, list) else value


def difference(name: str, before: object, after: object) -> Iterator[str]:
    """One line for each part of the field ``name`` that differs: ``with.jobs: 4 → 8``."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            yield from difference(f"{name}.{key}", before.get(key, ABSENT), after.get(key, ABSENT))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from difference(f"{name}[{place}]", one, other)
    else:
        yield f"{name}: {_told(before)} → {_told(after)}"


def _told(value: object) -> str:
    if value is ABSENT:
        return "not there"
    text = masked(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
