"""The session advisory lock on the target that keeps a second runner, on whatever machine, away."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING

from planrunner.errors import LeaseLost, LockedByAnother, ServerError
from planrunner.failpoints import failpoint
from planrunner.replication.ledger import Lease, lease_lost
from planrunner.replication.takeover import take_over as take_over_from

if TYPE_CHECKING:
    from planrunner.engine.context import Context
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server, Session

# A killed runner's session ends when its server notices, which takes a moment.
_PATIENCE_SECONDS = 8.0
_PAUSE_SECONDS = 0.25
# A runner whose machine vanished must not hold the lock for the two hours of the system's default.
_LIVENESS = """
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false)
"""
_HOLDER = """
SELECT concat_ws(' ', a.application_name, 'from', coalesce(a.client_addr::text, 'the local socket'),
                 'process', a.pid, 'since', date_trunc('second', a.backend_start))
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""

_END_HOLDER = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s AND a.application_name LIKE 'planrunner/%%'
"""


def alone(context: Context, clock: Clock, *, take_over: bool = False) -> TargetLock:
    """Hold the plan's lock on the target while ``context`` is open, and keep whoever woke late from both servers.

    LockedByAnother names who has it; with ``take_over`` that runner is fenced off instead.
    """
    source, target = context.world.source, context.world.target
    lock = TargetLock(target, context.plan_id, clock, take_over=take_over)
    context.held.put("target lock", lock)
    lock.hold()
    fence_off(source, target, context.plan_id, clock, take_over=take_over)
    return lock


def fence_off(source: Server, target: Server, plan_id: str, clock: Clock, *, take_over: bool) -> None:
    """Let no session of ours that may write be opened once another runner has taken over, whatever step opens it.

    With ``take_over`` it is the other runner that is fenced off: the epoch is raised and its sessions are ended at
    once, not only when the data plane first writes. It may be frozen within a script of the plan's own.
    """

    def refuse() -> None:
        if Lease.is_anothers(target, plan_id):
            raise lease_lost()

    for server in (source, target):
        server.fence = refuse
    if take_over:
        take_over_from(source, target, plan_id, clock)


class TargetLock:
    """Held by a session of its own; PostgreSQL frees it when that session ends, however it ends.

    With ``take_over`` the session of whoever holds it is ended, once: of a runner that is frozen, or out of reach.
    Whatever that runner still does then fails, by the lease.
    """

    def __init__(self, target: Server, plan_id: str, clock: Clock, *, take_over: bool = False) -> None:
        self._target = target
        self._clock = clock
        self._take_over = take_over
        self._plan_id = plan_id
        digest = hashlib.sha256(f"planrunner {plan_id}".encode()).digest()
        self._key = int.from_bytes(digest[:8]) >> 1
        self._session: Session | None = None

    def hold(self) -> None:
        """Take the lock, or make sure that it is still ours; LockedByAnother names who has it."""
        if self._session is not None and self._is_alive(self._session):
            return
        self.close()
        session = self._session = self._target.open(read_only=True)
        with self._target.translated():
            session.execute(_LIVENESS)
            self._take(session)
        # From here on nobody raises it but this process, or one that takes over.
        Lease.look(self._target, self._plan_id)
        if Lease.is_anothers(self._target, self._plan_id):
            raise lease_lost()

    def lost(self) -> LeaseLost | None:
        """What to say of a failure once another runner has taken over: what this one was reading was taken away."""
        with suppress(ServerError):
            if Lease.is_anothers(self._target, self._plan_id):
                return lease_lost()
        return None

    def close(self) -> None:
        """Free the lock; safe to call twice."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _is_alive(self, session: Session) -> bool:
        try:
            with self._target.translated():
                session.execute("SELECT 1")
        except ServerError:
            return False
        return True

    def _take(self, session: Session) -> None:
        give_up = self._clock.monotonic() + _PATIENCE_SECONDS
        while not _tried(session, self._key):
            if self._take_over:
                # Once: a second holder is not the one that we were told to take over from.
                self._take_over = False
                session.execute(_END_HOLDER, [self._key])
                failpoint("takeover.holder_ended")
            if self._clock.monotonic() >= give_up:
                raise LockedByAnother(
                    f"target: another run works on this plan: {self._holder()}",
                    remedy="Wait for it, or end it; its lock is freed with it. If it is frozen, or on a machine that"
                    " can't be reached: planrunner run PLAN --take-over; cutover, rollback and cleanup know it, too.",
                )
            self._clock.sleep(_PAUSE_SECONDS)

    def _holder(self) -> str:
        return str(self._target.value(_HOLDER, [self._key]) or "a session that just ended")


def _tried(session: Session, key: int) -> bool:
    row = session.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone()
    return row is not None and bool(row[0])
