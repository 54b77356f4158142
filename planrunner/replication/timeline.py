"""The source's timeline: it is another one after a standby was promoted, or a backup restored to a point in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import ServerError

if TYPE_CHECKING:
    from planrunner.replication.workspace import Workspace

STEP = "drift"
TIMELINE = "timeline"
# The name of a WAL file begins with it. pg_control_checkpoint() tells it only after the next checkpoint.
_NOW = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"


def now(workspace: Workspace) -> int | None:
    """The timeline that the source writes; None where it does not tell, as some managed services."""
    try:
        found = workspace.source.value(_NOW)
    except ServerError:
        return None
    return None if found is None else int(found)


def remember(workspace: Workspace) -> None:
    """Record it with the snapshot; where one is recorded it stays, for the oldest slot counts."""
    found = now(workspace)
    if found is not None and TIMELINE not in workspace.ledger.effects(STEP):
        workspace.done(STEP, TIMELINE, {TIMELINE: found})


def changed(workspace: Workspace) -> str | None:
    """What happened to the source since the copy began, in words; None while it is on the same timeline."""
    recorded = workspace.ledger.effects(STEP).get(TIMELINE)
    if recorded is None:
        return None
    before, found = recorded[TIMELINE], now(workspace)
    if found is None or found == before:
        return None
    return (
        f"the source is on timeline {found}, the copy began on timeline {before}: a standby was promoted or a backup"
        " restored"
    )
