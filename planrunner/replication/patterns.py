"""Patterns of table names as plans write them: ``public.inv_*``, ``"odd.schema"."Table"``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

# A part in double quotes is a name as it is; without quotes * and ? stand for any characters, any one.
_PART = r'"(?:[^"]|"")+"|[^".]+'
_PATTERN = re.compile(rf"(?P<schema>{_PART})\.(?P<name>{_PART})", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """One pattern; names are compared as the catalogue spells them, upper and lower case apart."""

    text: str

    def __post_init__(self) -> None:
        if _PATTERN.fullmatch(self.text) is None:
            raise ValueError(f"not a table pattern: {self.text!r}; write schema.table, quote odd names")

    def matches(self, schema: str, name: str) -> bool:
        """True when both parts fit."""
        fits_schema, fits_name = self._parts
        return bool(fits_schema.fullmatch(schema) and fits_name.fullmatch(name))

    @cached_property
    def _parts(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        found = _PATTERN.fullmatch(self.text)
        assert found is not None
        return _compiled(found["schema"]), _compiled(found["name"])


def _compiled(part: str) -> re.Pattern[str]:
    if part.startswith('"'):
        return re.compile(re.escape(part[1:-1].replace('""', '"')))
    words = {"*": ".*", "?": "."}
    return re.compile("".join(words.get(char) or re.escape(char) for char in part), re.DOTALL)


def written(schema: str, name: str) -> str:
    """The pattern that means this table and no other."""
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(part: str) -> str:
    if re.fullmatch(r"[^\"'.*?\s]+", part):
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'
