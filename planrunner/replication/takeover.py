"""Taking a plan over from whoever ran it before: the epoch is raised, and the former runner's sessions end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import QueryFailed, StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication.ledger import Lease

if TYPE_CHECKING:
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
LOCK_NOT_AVAILABLE = "55P03"


def take_over(source: Server, target: Server, plan_id: str, clock: Clock) -> Lease:
    """Raise the epoch and end the sessions of former runners on both sides; none of them writes afterwards.

    They are ended before, for a runner that is frozen within a transaction holds the epoch, and after, until none is
    left: what was opened before the epoch was raised has not seen it. Until then a runner in full flight opens new
    ones as fast as they are ended, so that nobody waits for them before.

    LeaseLost as ``Lease.take``. StepFailed after half a minute, naming the side whose sessions do not end; the epoch
    may be raised then, and whoever comes next takes over again.
    """
    give_up = clock.monotonic() + PATIENCE_SECONDS
    while True:
        for server in (source, target):
            end_stale_sessions(server, plan_id)
        try:
            lease = Lease.take(target, plan_id)
            break
        except QueryFailed as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            if clock.monotonic() > give_up:
                raise _they_stay(target, plan_id) from error
    for server in (source, target):
        give_up = clock.monotonic() + PATIENCE_SECONDS
        while end_stale_sessions(server, plan_id):
            if clock.monotonic() > give_up:
                raise _they_stay(server, plan_id)
            clock.sleep(_PAUSE_SECONDS)
    return lease


def end_stale_sessions(server: Server, plan_id: str) -> int:
    """End the sessions that other processes of this plan have on ``server``; how many there were.

    A killed client's backend goes on until it next talks to it: in mid-index-build, or waiting for a
    slot. A frozen one's would go on when it wakes.
    """
    ended = server.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user"
        " AND application_name LIKE %(label)s AND application_name <> %(ours)s",
        {"label": f"planrunner/{plan_id}%", "ours": server.name},
    )
    failpoint("takeover.sessions_ended")
    return len(ended)


def _they_stay(server: Server, plan_id: str) -> StepFailed:
    return StepFailed(
        f"{server.side.value}: the sessions of a former run of this plan do not end",
        remedy=f"Look in pg_stat_activity there for planrunner/{plan_id}, then run again.",
    )
