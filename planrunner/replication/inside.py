"""Reading inside a fence where somebody waits for its tables.

Whoever wants ACCESS EXCLUSIVE on a fenced table (TRUNCATE, ALTER TABLE) waits for the fence, and PostgreSQL lets every
session that comes later wait behind him, readers too: a comparison would wait for the fence that waits for it. The
session that holds the fence's locks waits for nobody, so what others can't read at once is read by that one.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Side
    from planrunner.postgres.connection import Server, Session

# Far longer than a lock takes that nobody holds, far shorter than a pause that anybody notices.
_LOCK_MILLISECONDS = 100
_LIMITS = "SELECT set_config('statement_timeout', %s, %s), set_config('lock_timeout', %s, %s)"


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The session that holds the fence's locks, and the side that they close."""

    side: Side
    session: Session

    @contextmanager
    def reading(self, timeout: float) -> Iterator[Session]:
        """The fence's session, for statements of at most ``timeout`` seconds each; its own limits return with success."""
        row = self.session.execute("SELECT current_setting('lock_timeout')").fetchone()
        assert row is not None
        self.session.execute(_LIMITS, [_milliseconds(timeout), True, "0", True])
        yield self.session
        self.session.execute(_LIMITS, ["0", True, row[0], True])


def of(server: Server, inside: Inside | None) -> Inside | None:
    """The fence's session where it stands on ``server``."""
    return inside if inside is not None and inside.side is server.side else None


def limit(session: Session, timeout: float, inside: Inside | None) -> None:
    """Bound the statements of a session beside the fence; LockNotAvailable soon where the fence's can read instead."""
    lock = "0" if inside is None else str(_LOCK_MILLISECONDS)
    session.execute(_LIMITS, [_milliseconds(timeout), False, lock, False])


def _milliseconds(seconds: float) -> str:
    return str(min(max(1, int(seconds * 1000)), 2**31 - 1))
