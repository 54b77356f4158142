"""The client's own record: a line before a transaction is sent, and one when its answer is in, or known to be lost."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class End(StrEnum):
    """What the client was told of a transaction."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(kw_only=True)
class Entry:
    """A transaction: who sent what where, and what became of it. ``saw`` is what it returned, ``why`` the SQLSTATE."""

    tx: int
    worker: int
    kind: str
    side: str
    about: dict[str, int] = field(default_factory=dict)
    end: End = End.UNKNOWN
    saw: int | None = None
    why: str = ""


class Ledger:
    """An append-only file; every line is one write, so a client that is killed leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    def begins(self, entry: Entry) -> None:
        """Before it is sent."""
        self._write([entry.tx, entry.worker, entry.kind, entry.side, entry.about])

    def ended(self, entry: Entry) -> None:
        """When the answer is in, or known to be lost."""
        self._write([entry.tx, entry.end, entry.saw, entry.why])

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)

    def _write(self, line: Sequence[Any]) -> None:
        with self._lock:
            os.write(self._file, (json.dumps(line, separators=(",", ":")) + "\n").encode())


def entries(path: Path) -> list[Entry]:
    """Everything that was sent, in the order in which it was; what has no end is of unknown outcome."""
    found: dict[int, Entry] = {}
    for line in _lines(path):
        if len(line) == 5:
            tx, worker, kind, side, about = line
            assert tx not in found, f"transaction {tx} was begun twice"
            found[tx] = Entry(tx=tx, worker=worker, kind=kind, side=side, about=about)
        else:
            tx, end, saw, why = line
            entry = found[tx]
            entry.end, entry.saw, entry.why = End(end), saw, why
    return list(found.values())


def _lines(path: Path) -> Iterator[list[Any]]:
    whole, _, _ = path.read_text().rpartition("\n")
    return (json.loads(line) for line in whole.splitlines())
