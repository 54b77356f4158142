"""Shifts: stretches of bulk work. What other processes have in hand of a former one commits nothing any more.

A shift is a word in the ledger which every task of it holds FOR SHARE, beside the lease's epoch. Before the word is
replaced, the sessions of whoever works on the former one are ended, until nobody holds it.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import QueryFailed, ServerError
from planrunner.failpoints import failpoint
from planrunner.replication.restore import STEP
from planrunner.replication.takeover import LOCK_NOT_AVAILABLE, PATIENCE_SECONDS, end_stale_sessions
from planrunner.replication.tasks import LeasedSite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.workspace import Workspace

_OVER = "over"
_LOOK = """
SELECT lease.epoch FROM planrunner.lease JOIN planrunner.effect USING (plan_id)
WHERE plan_id = {plan} AND epoch = {epoch} AND step = {step} AND name = {name} AND detail->>'word' = {word}
"""


class Kind(Enum):
    """What is done in a shift; one of each may be under way at a time."""

    COPY = "copy"
    BUILD = "build"


@contextmanager
def at_work(workspace: Workspace, kind: Kind) -> Iterator[LeasedSite]:
    """A shift for the length of the block; when it ends nothing of it is under way anywhere.

    Where the pool works in this process, whoever submitted a task has waited for it, and nothing is put on record.
    PoolUnfit and PoolLost as ``Pool.open``.
    """
    pool = workspace.pool
    told = pool.open()
    if told is not None:
        workspace.tell(told, {})
    site = LeasedSite(
        source=workspace.bulk.endpoint,
        target=workspace.target.endpoint,
        plan_id=workspace.names.plan_id,
        epoch=workspace.lease.epoch,
        kind=kind.value,
        shift=secrets.token_hex(8),
        code=pool.code,
    )
    if not pool.away:
        yield site
        return
    _replace(workspace, site, site.shift)
    try:
        yield site
    finally:
        # A target that is away now is told by the next shift, before that begins anything.
        with suppress(ServerError):
            _replace(workspace, site, _OVER)


def _name(kind: str) -> str:
    return f"shift {kind}"


def hold(site: LeasedSite) -> sql.Composed:
    """The SELECT by which a transaction holds the lease's epoch and the shift; no row when either is over."""
    return sql.SQL("{} FOR SHARE").format(look(site))


def look(site: LeasedSite) -> sql.Composed:
    """The SELECT that tells whether they are what they were, as far as it is committed now."""
    return sql.SQL(_LOOK).format(
        plan=sql.Literal(site.plan_id),
        epoch=sql.Literal(site.epoch),
        step=sql.Literal(STEP),
        name=sql.Literal(_name(site.kind)),
        word=sql.Literal(site.shift),
    )


def _replace(workspace: Workspace, site: LeasedSite, word: str) -> None:
    give_up = workspace.clock.monotonic() + PATIENCE_SECONDS
    while True:
        for server in {workspace.source, workspace.bulk, workspace.target}:
            end_stale_sessions(server, site.crew)
        try:
            with workspace.writing() as session:
                session.execute("SET LOCAL lock_timeout = '1s'")
                workspace.ledger.record_effect(session, STEP, _name(site.kind), {"word": word})
                failpoint("shift.before_commit")
            failpoint("shift.replaced")
        except QueryFailed as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE or workspace.clock.monotonic() > give_up:
                raise
        else:
            return
