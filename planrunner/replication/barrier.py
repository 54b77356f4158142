"""Barriers: a row written on the source is seen on the target, so everything before it is there too.

Each generation has a marker table of its own, carried by its publication alone: apply keeps commit order
within a subscription, not between two.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn
from planrunner.replication import holders
from planrunner.replication.health import observe
from planrunner.replication.names import SCHEMA
from planrunner.replication.troubles import ANEW
from planrunner.replication.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.connection import Server
    from planrunner.replication.health import Health
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace

NEWS_SECONDS = 5.0


class NotArrived(StepFailed):
    """The time to wait has passed, and nothing else is known to be wrong."""


def wait(
    workspace: Workspace,
    generations: Sequence[int],
    *,
    timeout: float,
    poll: float = 0.01,
    watch: Watch | None = None,
) -> float:
    """Write one marker per generation and wait until the target shows them all; returns the seconds taken.

    ``watch`` looks at the streams meanwhile; without one they are looked at by a watch that only tells, unless the
    workspace says that it may give them up.
    NotArrived when the timeout passes, StepFailed when a stream can't go on, with what to do about it.
    """
    begun = workspace.clock.monotonic()
    watch = watch or Watch(workspace, generations, following=True, acting=workspace.may_give_up)
    names, ours = workspace.names, workspace.source
    waiting = {generation: mark(ours, names.barrier(generation)) for generation in generations}
    passing: dict[int, Lsn] = {}
    next_look = begun + workspace.terms.poll
    next_news = begun + NEWS_SECONDS
    while waiting:
        waiting = {
            g: token for g, token in waiting.items() if not arrived(workspace.target, names.barrier(g), token)
        }
        now = workspace.clock.monotonic()
        if waiting and now - begun > timeout:
            raise NotArrived(
                f"the target did not catch up within {timeout:.0f} s: {standing(workspace, observe(workspace))}",
                remedy="Look at the target's log and pg_stat_subscription; run again to go on waiting. Where it applies"
                " without a pause and is too slow, more streams make it faster.",
            )
        # A barrier that arrives at once, as inside the fence, costs no look.
        health = watch.poll() if waiting and now > next_look else None
        if health is not None:
            _refuse_passed(workspace, health, waiting, passing)
        if health is not None and now > next_news:
            workspace.tell(f"waiting for the target: {standing(workspace, health)}", lag(health))
            next_news = now + NEWS_SECONDS
        if waiting:
            workspace.rest(poll)
    return workspace.clock.monotonic() - begun


def _refuse_passed(
    workspace: Workspace, health: Health, waiting: Mapping[int, uuid.UUID], passing: dict[int, Lsn]
) -> None:
    """StepFailed where a stream has confirmed what came after its marker, and the marker is not there.

    ``passing`` keeps, from one look to the next, a position behind each marker.
    """
    names = workspace.names
    for generation, token in waiting.items():
        slot, position = health.slots.get(generation), passing.get(generation)
        if position is None:
            passing[generation] = Lsn.parse(workspace.source.value("SELECT pg_current_wal_lsn()::text"))
        elif slot is None or slot.confirmed is None or slot.confirmed <= position:
            continue
        elif not arrived(workspace.target, names.barrier(generation), token):
            raise StepFailed(
                f"target: {names.stream(generation)} has confirmed {slot.confirmed}, and the marker that was written"
                f" before {position} is not in {SCHEMA}.{names.barrier(generation)}: the stream does not bring all that"
                " it confirms",
                remedy="Look for who deletes or holds back rows of schema planrunner on either side (a trigger, a rule,"
                " a subscription that was refreshed or moved); what else did not come `planrunner verify` tells."
                f" {ANEW}",
            )


def mark(publisher: Server, barrier: str) -> uuid.UUID:
    """Write a marker into the table ``barrier`` of the side that publishes; its token."""
    token = uuid.uuid4()
    with publisher.transaction() as session:
        for statement in marking(barrier, str(token)):
            session.execute(statement)
    failpoint("barrier.marked")
    return token


def marking(barrier: str, token: str) -> tuple[sql.Composed, ...]:
    """What ``mark`` executes."""
    table = sql.Identifier(SCHEMA, barrier)
    return (
        # Another process may wait for a marker of its own.
        sql.SQL("DELETE FROM {} WHERE at < now() - interval '1 hour'").format(table),
        sql.SQL("INSERT INTO {} (token) VALUES ({})").format(table, sql.Literal(token)),
    )


def arrived(subscriber: Server, barrier: str, token: uuid.UUID) -> bool:
    """True once the other side shows the marker: everything committed before it is there too."""
    table = sql.Identifier(SCHEMA, barrier)
    found = subscriber.value(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE token = %s)").format(table), [token]
    )
    return bool(found)


def lag(health: Health) -> dict[str, int]:
    """Bytes of WAL the target has not confirmed, and bytes that our slots retain on the source."""
    return {"lag_bytes": health.behind, "retained_bytes": health.retained}


def probe(workspace: Workspace, *, seconds: float) -> None:
    """StepFailed when a stream can't go on; one that is only late, by more than ``seconds``, is told."""
    held = workspace.ledger.generations()
    watch = Watch(workspace, held, following=True, acting=False)
    watch.look()
    try:
        wait(workspace, held, timeout=seconds, watch=watch)
    except NotArrived as late:
        workspace.tell(f"warning: {late.message}", lag(observe(workspace)))


def check_streams(workspace: Workspace) -> None:
    """StepFailed when a slot is lost, a subscription disabled or the source's catalogue has drifted."""
    Watch(workspace, workspace.ledger.generations(), following=True, acting=False).look()


def stream_state(health: Health) -> str:
    """What both servers say of our streams, in one line."""
    words = []
    for generation, subscription in sorted(health.subscriptions.items()):
        slot = health.slots.get(generation)
        words.append(
            f"{subscription.name}: worker {subscription.pid or 'not running'}, {subscription.errors} apply errors,"
            f" {slot.behind if slot else '?'} bytes behind"
        )
    return "; ".join(words) or "no subscription"


def standing(workspace: Workspace, health: Health) -> str:
    """The same, with whoever holds a lock that an apply worker waits for."""
    pids = [made.pid for made in health.subscriptions.values() if made.pid is not None]
    held = holders.of_workers(workspace, workspace.target, pids)
    return stream_state(health) + (f"; the target waits for a lock that others hold: {held}" if held else "")


def streams(health: Health) -> dict[str, Json]:
    """The state of each stream, slot and subscription, for status and report."""
    found: dict[str, Json] = {}
    for generation in sorted({*health.slots, *health.subscriptions}):
        slot, subscription = health.slots.get(generation), health.subscriptions.get(generation)
        figures: dict[str, Json] = {"slot": "missing"}
        if slot is not None:
            figures = {"slot": slot.lost or slot.wal_status, "retained_bytes": slot.retained}
            figures |= {"lag_bytes": slot.behind}
            figures |= {} if slot.room is None else {"room_bytes": slot.room}
        if subscription is not None:
            figures["worker"] = _worker(subscription)
            figures["errors"] = subscription.errors
            figures["conflicts"] = ", ".join(f"{k} {v}" for k, v in subscription.conflicts.items()) or "none"
        found[slot.name if slot else subscription.name if subscription else str(generation)] = figures
    return found


def _worker(subscription: Subscription) -> str:
    if not subscription.enabled:
        return "disabled"
    return "not running" if subscription.pid is None else f"pid {subscription.pid}"
