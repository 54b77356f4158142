"""Barriers: a row written on the source is seen on the target, so everything before it is there too.

Each generation has a marker table of its own, carried by its publication alone: apply keeps commit order
within a subscription, not between two.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.replication import slots, subscriptions
from planrunner.replication.names import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.replication.workspace import Workspace


def wait(workspace: Workspace, generations: Sequence[int], *, timeout: float, poll: float = 0.01) -> float:
    """Write one marker per generation and wait until the target shows them all; returns the seconds taken.

    StepFailed when the timeout passes or a stream can't go on, with what the servers say of it.
    """
    begun = workspace.clock.monotonic()
    waiting = {generation: _mark(workspace, generation) for generation in generations}
    next_look = begun + 5
    while waiting:
        waiting = {g: token for g, token in waiting.items() if not _arrived(workspace, g, token)}
        now = workspace.clock.monotonic()
        if waiting and now - begun > timeout:
            raise StepFailed(
                f"the target did not catch up within {timeout:.0f} s: {stream_state(workspace)}",
                remedy="Look at the target's log and pg_stat_subscription; run again to go on waiting.",
            )
        if waiting and now > next_look:
            check_streams(workspace)
            workspace.tell(f"waiting for the target: {stream_state(workspace)}", lag(workspace))
            next_look = now + 5
        if waiting:
            workspace.clock.sleep(poll)
    return workspace.clock.monotonic() - begun


def _mark(workspace: Workspace, generation: int) -> uuid.UUID:
    token = uuid.uuid4()
    table = sql.Identifier(SCHEMA, workspace.names.barrier(generation))
    with workspace.source.transaction() as session:
        session.execute(sql.SQL("DELETE FROM {}").format(table))
        session.execute(sql.SQL("INSERT INTO {} (token) VALUES (%s)").format(table), [token])
    return token


def _arrived(workspace: Workspace, generation: int, token: uuid.UUID) -> bool:
    table = sql.Identifier(SCHEMA, workspace.names.barrier(generation))
    found = workspace.target.value(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE token = %s)").format(table), [token]
    )
    return bool(found)


def lag(workspace: Workspace) -> dict[str, int]:
    """Bytes of WAL the target has not confirmed, and bytes that our slots retain on the source."""
    found = slots.existing(workspace.source, workspace.names).values()
    return {
        "lag_bytes": max((s.behind for s in found), default=0),
        "retained_bytes": max((s.retained for s in found), default=0),
    }


def check_streams(workspace: Workspace) -> None:
    """StepFailed when a slot is lost or a subscription is disabled: waiting would be in vain."""
    for slot in slots.existing(workspace.source, workspace.names).values():
        if slot.wal_status == "lost":
            raise StepFailed(
                f"source: slot {slot.name} was invalidated, the WAL it needs is gone; the copy can't be continued",
                remedy="Raise max_slot_wal_keep_size on the source, `planrunner cleanup` this plan, empty the"
                " target and run again.",
            )
    for subscription in subscriptions.existing(workspace.target, workspace.names).values():
        if not subscription.enabled:
            raise StepFailed(
                f"target: subscription {subscription.name} is disabled",
                remedy=f"Find out who disabled it, then: ALTER SUBSCRIPTION {subscription.name} ENABLE;",
            )


def stream_state(workspace: Workspace) -> str:
    """What both servers say of our streams, in one line."""
    found = slots.existing(workspace.source, workspace.names)
    words = []
    for generation, subscription in sorted(subscriptions.existing(workspace.target, workspace.names).items()):
        slot = found.get(generation)
        words.append(
            f"{subscription.name}: worker {subscription.pid or 'not running'}, {subscription.errors} apply errors,"
            f" {slot.behind if slot else '?'} bytes behind"
        )
    return "; ".join(words) or "no subscription"
