"""A stream over whose line nothing is heard: noticed at both of its ends within half a minute, and begun anew.

The servers' own limits (wal_sender_timeout, wal_receiver_timeout) take a minute, and while a worker dials there is none:
it never heeds connect_timeout. A worker that waits for changes tells its sender so every ten seconds; one that applies a
long transaction does not, so only two ends that both wait are taken for a silent line.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from planrunner.errors import QueryFailed
from planrunner.failpoints import failpoint
from planrunner.replication import troubles

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.health import Health
    from planrunner.replication.slots import Slot
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace

SILENCE_SECONDS = 20.0
# With a longer interval, or none, silence is nothing to wonder at.
_REPORTS = "SELECT setting::int BETWEEN 1 AND 10 FROM pg_settings WHERE name = 'wal_receiver_status_interval'"
_END = "SELECT pg_terminate_backend(%s)"


class Silences:
    """Keeps in mind since when nothing was heard over each stream; ``acting``: may end what waits in vain."""

    def __init__(self, workspace: Workspace, *, acting: bool) -> None:
        self._workspace = workspace
        self._acting = acting
        self._heard: dict[int, tuple[float, object]] = {}
        self._apart: dict[int, float] = {}

    def judge(self, health: Health, generation: int) -> None:
        """Begin a silent stream anew; StepFailed when its worker gets no session on the source."""
        subscription, slot = health.subscriptions[generation], health.slots[generation]
        self._judge_apart(health, generation, subscription, slot)
        if slot.replied is None or subscription.received is None:
            self._heard.pop(generation, None)
            return
        seen = (slot.active_pid, slot.replied, subscription.pid, subscription.received)
        since, before = self._heard.setdefault(generation, (health.at, seen))
        if before != seen:
            self._heard[generation] = (health.at, seen)
        elif health.at - since >= SILENCE_SECONDS and self._workspace.target.value(_REPORTS):
            del self._heard[generation]
            self._renew(subscription, slot, health.at - since)

    def _judge_apart(self, health: Health, generation: int, subscription: Subscription, slot: Slot) -> None:
        # A worker that has long to apply what it was sent is given up by its sender, and none the worse.
        if subscription.pid is None or slot.active_pid is not None or subscription.applies:
            self._apart.pop(generation, None)
            return
        apart = health.at - self._apart.setdefault(generation, health.at)
        if apart >= SILENCE_SECONDS:
            trouble = troubles.unattached(self._workspace, health, generation, apart)
            # A dial that nobody answers would go on for ever, also when the line is good again.
            self._end(self._workspace.target, subscription.pid)
            raise trouble.error()

    def _renew(self, subscription: Subscription, slot: Slot, seconds: float) -> None:
        self._workspace.tell(
            f"warning: the line from the target to the source is silent: for {seconds:.0f} s neither end of"
            f" {subscription.name} has heard of the other; a firewall, proxy or load balancer between swallows what is"
            " sent." + (" Both ends are ended, and the worker dials anew" if self._acting else ""),
            {"subscription": subscription.name, "silent_seconds": round(seconds, 1)},
        )
        self._end(self._workspace.source, slot.active_pid)
        self._end(self._workspace.target, subscription.pid)

    def _end(self, server: Server, pid: int | None) -> None:
        if self._acting and pid is not None:
            failpoint("stream.before_end")
            # Without the right to, the servers' own limits do it, later.
            with suppress(QueryFailed):
                server.rows(_END, [pid])
