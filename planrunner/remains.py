"""What this process has open on the servers and beside itself, for the moment in which it is stopped at once.

Written by whoever opens something, read by a signal's handler: nothing here waits for a lock.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# psycopg's names of a session's state, as libpq numbers them.
_STATES = {0: "idle", 1: "a statement is running", 2: "in a transaction", 3: "in a failed transaction"}
_TOOLS = frozenset({"psql", "pg_dump", "pg_restore", "pg_dumpall"})


@dataclass(frozen=True, kw_only=True)
class Child:
    """A child process: its number and program."""

    pid: int
    program: str

    @property
    def ours_to_end(self) -> bool:
        """True for PostgreSQL's tools; a guardian must outlive us, and a hook is the operator's."""
        return self.program in _TOOLS


_sessions: dict[int, tuple[weakref.ref[Any], str]] = {}
_purposes: dict[int, str] = {}
_seen: dict[tuple[str, str], tuple[str, ...]] = {}


def session(side: str, opened: Any) -> None:
    """A session was opened on that side."""
    key = id(opened)
    _sessions[key] = (weakref.ref(opened, lambda _: _forget(key)), side)


def _forget(key: int) -> None:
    _sessions.pop(key, None)
    _purposes.pop(key, None)


def purpose(opened: Any, what: str) -> None:
    """What that session is for, as far as it matters when it is torn."""
    _purposes[id(opened)] = what


def seen(side: str, kind: str, prefix: str, names: Iterable[str]) -> None:
    """What a server shows now, of that kind and with names that begin so; replaces what was seen of those before."""
    others = (name for name in _seen.get((side, kind), ()) if not name.startswith(prefix))
    _seen[side, kind] = (*others, *names)


def made(side: str, kind: str, name: str) -> None:
    """Something of ours was made there just now."""
    gone(side, kind, name)
    _seen[side, kind] = (*_seen[side, kind], name)


def gone(side: str, kind: str, name: str) -> None:
    """It was taken away."""
    _seen[side, kind] = tuple(other for other in _seen.get((side, kind), ()) if other != name)


def listed() -> Iterator[str]:
    """Each thing that is left, as a line: sessions that do something, what the servers showed last, children."""
    for key, (ref, side) in list(_sessions.items()):
        opened = ref()
        told = None if opened is None else _told(key, opened)
        if told is not None:
            yield f"{side}: {told}"
    for (side, kind), names in sorted(_seen.items()):
        for name in names:
            yield f"{side}: {kind} {name}, as last seen; it stays"
    for child in children():
        end = "ended now" if child.ours_to_end else "left to end by itself"
        yield f"here: child {child.program}, process {child.pid}; {end}"


def _told(key: int, opened: Any) -> str | None:
    state = int(opened.pgconn.transaction_status)
    what = _purposes.get(key)
    if state not in _STATES or (state == 0 and what is None):
        return None
    about = "" if what is None else f" ({what})"
    return f"session of process {opened.pgconn.backend_pid}{about}, {_STATES[state]}; its server ends it"


def children() -> list[Child]:
    """The processes that we have started and that have not ended; none where the system has no /proc."""
    found: list[Child] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [child for pid in path.read_text().split() if (child := _child(pid)) is not None]
    return found


def _child(pid: str) -> Child | None:
    with suppress(OSError):
        # The program's name stands in parentheses and may hold any character.
        head, _, rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")
        if rest.split()[0] != "Z":
            return Child(pid=int(pid), program=head.partition(" (")[2])
    return None
