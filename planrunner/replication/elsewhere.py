"""Streams from the source to the target that another tool made: seen from the outside, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import StepFailed
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

_SUBSCRIPTIONS = (
    "SELECT s.subname, s.subslotname, s.subenabled,"
    " EXISTS (SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL)"
    " FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
    " WHERE d.datname = current_database() ORDER BY 1"
)
_CONFIRMED = (
    "SELECT slot_name, confirmed_flush_lsn::text FROM pg_replication_slots"
    " WHERE database = current_database() AND slot_name = ANY (%s)"
)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A subscription of the target's, and the slot that it names."""

    name: str
    slot: str | None
    enabled: bool
    working: bool

    def line(self) -> str:
        """How it does, for people."""
        if not self.enabled:
            return f"{self.name} is disabled"
        return f"{self.name} {'applies' if self.working else 'has no worker'}"


def streams(target: Server, ours: str) -> tuple[Stream, ...]:
    """Every subscription of the database that does not begin with ``ours``."""
    found = [Stream(name=r[0], slot=r[1], enabled=r[2], working=r[3]) for r in target.rows(_SUBSCRIPTIONS)]
    return tuple(stream for stream in found if not stream.name.startswith(ours))


def from_source(workspace: Workspace) -> tuple[Stream, ...]:
    """Those whose slot is in the source's database."""
    found = streams(workspace.target, workspace.names.prefix)
    slots = _confirmed(workspace.source, found)
    return tuple(stream for stream in found if stream.slot in slots)


def wait(workspace: Workspace, timeout: float) -> float:
    """Wait until each of them has confirmed what the source has written until now; returns the seconds taken.

    Slower than a marker of ours: a confirmation is sent every ten seconds or so. StepFailed when it takes longer
    than ``timeout``, or there is no stream to wait for.
    """
    begun = workspace.clock.monotonic()
    until = Lsn.parse(workspace.source.value("SELECT pg_current_wal_insert_lsn()::text"))
    while True:
        found = from_source(workspace)
        confirmed = _confirmed(workspace.source, found)
        behind = [s for s in found if confirmed.get(s.slot or "", Lsn(0)) < until]
        took = workspace.clock.monotonic() - begun
        if found and not behind:
            return took
        if took > timeout or not found:
            told = (
                "; ".join(stream.line() for stream in found)
                or "the target subscribes to nothing of the source's"
            )
            raise StepFailed(
                f"the target did not catch up within {timeout:.0f} s: {told}",
                remedy="Look at the job in SerenAI's console, and at pg_stat_subscription on the target.",
            )
        workspace.rest(0.2)


def _confirmed(source: Server, found: tuple[Stream, ...]) -> dict[str, Lsn]:
    """How far each slot that the source has is confirmed, by its name."""
    rows = source.rows(_CONFIRMED, [[stream.slot for stream in found if stream.slot]])
    return {row[0]: Lsn.parse(row[1]) if row[1] else Lsn(0) for row in rows}
