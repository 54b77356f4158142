"""Which rows of the source may have changed since an earlier look, told by their xmin and that look's snapshot.

Whatever was committed after a snapshot was taken, by a transaction that ran then or began later, carries an xid that
is not below the snapshot's xmin: a subtransaction's is above its parent's, and the parent was running. So the xmin of
the earlier snapshot is the horizon, and not the newest xid that was seen: a row of a savepoint, or of a transaction
that was held open, may carry one far below that. VACUUM freezes a row by a hint and leaves its xmin where it is.

A row's xmin has 32 bits, a snapshot's 64: both are compared by their age, which tells apart what is less than 2^31
transactions old. An older row may look changed, which costs its copy and does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server, Session

# Half of what ages tell apart.
FAR = 1 << 30
_XIDS = 1 << 32
_SPECIAL = 3  # invalid, bootstrap, frozen: no transaction has these
# Known by every version from 12 on; pg_current_snapshot() came with 13.
_NOW = """
SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s) FROM txid_current_snapshot() s
"""
_HOLDER = """
SELECT held.text FROM (
  SELECT backend_xid AS xid, format('process %%s (%%s, %%s), for %%s s', pid, usename,
         coalesce(nullif(application_name, ''), 'no application name'),
         extract(epoch FROM clock_timestamp() - xact_start)::int) AS text
  FROM pg_stat_activity WHERE backend_xid IS NOT NULL
  UNION ALL SELECT transaction, format('prepared transaction %%s of %%s, for %%s s', quote_literal(gid), owner,
         extract(epoch FROM clock_timestamp() - prepared)::int) FROM pg_prepared_xacts) held
WHERE age(held.xid) = age(%s::text::xid)
"""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """A snapshot of the source: its ``xmin``, and ``next``, the xid that no transaction had yet; 64 bits each."""

    xmin: int
    next: int

    def reaches(self, since: int) -> bool:
        """Whether ages still tell which rows changed after a snapshot with the xmin ``since``."""
        return 0 <= self.next - since <= FAR


def now(session: Session) -> Horizon:
    """The snapshot that the session's transaction reads by."""
    row = session.execute(_NOW).fetchone()
    assert row is not None
    return Horizon(xmin=int(row[0]), next=int(row[1]))


def changed(since: int) -> sql.Composed:
    """What holds for every row that may have changed after a snapshot with the xmin ``since``."""
    return sql.SQL("age(xmin) <= age({}::xid)").format(sql.Literal(str(_xid(since))))


def _xid(since: int) -> int:
    low = since % _XIDS
    # An age of those is none; the last one before them is the same horizon.
    return (since - low - 1) % _XIDS if low < _SPECIAL else low


def holder(source: Server, horizon: Horizon) -> str | None:
    """Who keeps the horizon where it is, in words; None where nobody does any more, or it can't be seen who."""
    found = source.value(_HOLDER, [str(_xid(horizon.xmin))])
    return None if found is None else str(found)
