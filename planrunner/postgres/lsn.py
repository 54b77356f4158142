"""Log sequence numbers: a position in the WAL as a 64-bit byte count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

_TEXT = re.compile(r"\A([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")


@total_ordering
@dataclass(frozen=True)
class Lsn:
    """A WAL position. ``Lsn.parse('0/16B3748')``; the difference of two is in bytes."""

    value: int

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read PostgreSQL's own form, two hexadecimal words; ValueError for anything else."""
        match = _TEXT.match(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __sub__(self, other: Lsn) -> int:
        return self.value - other.value

    def __lt__(self, other: Lsn) -> bool:
        return self.value < other.value
