"""Watches the streams of a plan: from wait loops, and as a thread beside the copy.

A look is one query on each server; every half minute one more compares the source's catalogue. What
stops a stream is raised within ten seconds, what only matters later is told, once and when it doubles.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError, ServerError, ServerReplaced, StepFailed
from planrunner.replication import (
    apply_error,
    drift,
    logins,
    published,
    slots,
    subscriptions,
    timeline,
    tracker,
    troubles,
    unsendable,
)
from planrunner.replication.health import Health, observe, wal_disk
from planrunner.replication.silences import Silences
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.replication.flushing import Flushing
    from planrunner.replication.shape import Shape
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.workspace import Workspace

# A worker that failed comes back after wal_retrieve_retry_interval (5 s); with polls of 2 s it is told in 8.
_ABSENT_POLLS = 3
_UNSEEN_SECONDS = 30.0


class Watch:
    """Looks at the streams of ``generations``; ``following``: their subscriptions are there, too.

    ``acting`` watches may give slots up and record what they find; others only tell and raise, for
    they serve commands that change nothing. ``flushing`` is told of each look, where it may act on it.
    ``stopping``: the subscriptions are to stop at a marker, so one that is disabled is nothing to wonder at.
    """

    def __init__(
        self,
        workspace: Workspace,
        generations: Sequence[int],
        *,
        following: bool,
        acting: bool,
        flushing: Flushing | None = None,
        stopping: bool = False,
    ) -> None:
        self._workspace = workspace
        self._stopping = stopping
        self._flushing = flushing
        # A source that is polled has none, and yet a catalogue and a timeline.
        self._generations = tuple(generations) if workspace.streamed else ()
        self._following = following and workspace.streamed
        self._acting = acting
        self._terms = workspace.terms
        self._next_look = self._next_check = float("-inf")
        self._shape: Shape | None = None
        self._absent: dict[int, float] = {}
        self._errors: dict[int, int] = {}
        self._explained: dict[int, int] = {}
        self._pids: dict[int, int | None] = {}
        self._silences = Silences(workspace, acting=acting)
        self._told_at = self._told_room = 0
        self._paused = False
        self._told_replaced = False

    def paused(self) -> bool:
        """True while the slots keep more than the budget's ``pause``: begin nothing that can wait."""
        return self._paused

    def poll(self) -> Health | None:
        """Look if the last look is long enough ago; None when it is not. Raises as ``look``."""
        if self._workspace.clock.monotonic() < self._next_look:
            return None
        return self.look()

    def look(self) -> Health:
        """Look now. StepFailed, with what to do, when a stream can't go on or the catalogue has drifted."""
        health = observe(self._workspace)
        self._next_look = health.at + self._terms.poll
        for found in troubles.slot_troubles(self._workspace, health, self._generations):
            raise found.error()
        self._judge_budget(health)
        if self._following:
            going = [g for g in self._generations if not (self._stopping and _is_disabled(health, g))]
            for found in troubles.subscription_troubles(self._workspace, health, going):
                raise found.error()
            for generation in going:
                self._judge_worker(health, generation)
                self._silences.judge(health, generation)
        if health.at >= self._next_check:
            self.check_catalogue()
        if self._flushing is not None:
            self._flushing.see(health)
        return health

    def check_catalogue(self) -> None:
        """Compare the source's catalogue now with what the copy relies on; StepFailed with each difference."""
        self._next_check = self._workspace.clock.monotonic() + self._terms.check_every
        if self._acting and self._following and logins.due(self._workspace, self._workspace.source):
            logins.renew(self._workspace, self._workspace.source)
        self._judge_timeline()
        if self._shape is None:
            self._shape = drift.recorded(self._workspace)
        if self._shape is not None:
            self._shape = drift.check(
                self._workspace, self._shape, following=self._following, records=self._acting
            )
            for found in self._lacking() if self._workspace.streamed else ():
                raise found.error()

    def _lacking(self) -> Iterator[troubles.Trouble]:
        yield from published.lacking(self._workspace, self._generations)
        if self._following:
            yield from published.unsubscribed(self._workspace, self._generations)

    def _judge_timeline(self) -> None:
        # The slots are there, so a standby that had them goes on; what it had not received yet is no reason to stop.
        replaced = None if self._told_replaced else timeline.changed(self._workspace)
        if replaced is not None:
            self._told_replaced = True
            self._workspace.tell(
                f"warning: {replaced}; the streams go on, but what the former server had acknowledged and this one"
                " had not received is gone here and may be on the target: compare both sides (planrunner verify)",
                {},
            )

    def _judge_worker(self, health: Health, generation: int) -> None:
        subscription = health.subscriptions[generation]
        if subscription.pid is not None and subscription.pid == self._pids.get(generation):
            # One that is still there at the next look works: what failed before it has passed.
            self._errors[generation] = subscription.errors
        self._pids[generation] = subscription.pid
        count = subscription.errors - self._errors.setdefault(generation, subscription.errors)
        if count > self._explained.get(generation, 0):
            self._explained[generation] = count
            self._judge_errors(subscription, count)
        if subscription.pid is not None:
            self._absent.pop(generation, None)
            return
        absent = health.at - self._absent.setdefault(generation, health.at)
        if absent >= _ABSENT_POLLS * self._terms.poll:
            self.check_catalogue()
            raise troubles.worker_missing(self._workspace, health, generation, absent).error()

    def _judge_errors(self, subscription: Subscription, count: int) -> None:
        # The exact DDL is a better answer than the change that tripped over it.
        self.check_catalogue()
        refusal = apply_error.explain(self._workspace, subscription)
        if refusal is not None and refusal.change is not None:
            raise troubles.refused(subscription, refusal).error()
        # Once may be a lock or a lost line, and the worker is back in a moment.
        if count > 1:
            found = unsendable.find(self._workspace, subscription) if refusal is None else None
            if found is not None:
                raise troubles.unsendable(subscription, found).error()
            raise troubles.applies_with_errors(subscription, count, refusal).error()

    def _judge_budget(self, health: Health) -> None:
        budget, kept = self._terms.budget, health.retained
        if budget.give_up is not None and kept > budget.give_up and self._acting:
            if health.streaming > budget.give_up:
                give_up(self._workspace, health)
            self._drop_tracker(health)
        paused = budget.pause is not None and kept > budget.pause
        if paused != self._paused:
            self._paused = paused
            self._tell(
                "the slots keep more WAL than max_wal_retained.pause" if paused else "below the pause again",
                health,
            )
        if kept > max(budget.warn, 2 * self._told_at):
            self._told_at = kept
            self._tell("the slots keep much WAL on the source", health)
        self._judge_room(health)

    def _drop_tracker(self, health: Health) -> None:
        # The streams are well below the limit and need not end for it; what was proven is proven again.
        tracker.drop(self._workspace)
        kept = human_bytes(health.retained)
        self._workspace.tell(
            f"warning: dropped slot {self._workspace.names.tracker}, which kept {kept} of WAL, above max_wal_retained:"
            " a verification compares all tables again",
            {"retained_bytes": health.retained},
        )

    def _judge_room(self, health: Health) -> None:
        room = health.room
        if room is None or room > health.retained // 3:
            return
        if self._told_room == 0 or room < self._told_room // 2:
            self._told_room = max(room, 1)
            self._tell(
                f"the source gives a slot up by itself after {human_bytes(max(room, 0))} more"
                " (max_slot_wal_keep_size)",
                health,
            )

    def _tell(self, what: str, health: Health) -> None:
        budget = self._terms.budget
        limit = "no limit is set" if budget.give_up is None else f"given up at {human_bytes(budget.give_up)}"
        pausing = "; nothing new is begun until then" if self._paused else ""
        self._workspace.tell(
            f"warning: {what}: {human_bytes(health.retained)} kept, {limit}{pausing}; {_disk(self._workspace)}",
            {"retained_bytes": health.retained, "room_bytes": health.room, "paused": self._paused},
        )


def _is_disabled(health: Health, generation: int) -> bool:
    subscription = health.subscriptions.get(generation)
    return subscription is not None and not subscription.enabled


def _disk(workspace: Workspace) -> str:
    disk = wal_disk(workspace.source)
    holds = "of unknown size" if disk.wal_bytes is None else f"of {human_bytes(disk.wal_bytes)}"
    return f"pg_wal is {holds} now, how much is free on its disk the server can't tell"


def give_up(workspace: Workspace, health: Health) -> None:
    """Drop our slots, then our subscriptions, and raise StepFailed: a full disk would stop production.

    The slots go first and whatever the target says: they are what fills the disk. Publications, barrier
    tables and the ledger are left to cleanup.
    """
    kept = human_bytes(health.retained)
    for generation in health.slots:
        slots.drop(workspace, generation)
    workspace.done(
        "sync",
        troubles.GIVEN_UP,
        {"retained": kept, "at": workspace.clock.now().isoformat(timespec="seconds")},
    )
    left: list[str] = []
    for generation, subscription in health.subscriptions.items():
        try:
            subscriptions.drop(workspace, generation)
        except PlanrunnerError as error:
            left.append(f"{subscription.name} ({error.message})")
    names = ", ".join(slot.name for slot in health.slots.values())
    limit = human_bytes(workspace.terms.budget.give_up or 0)
    workspace.tell(f"warning: gave up slot {names}: {kept} of WAL kept", {"retained_bytes": health.retained})
    raise StepFailed(
        f"source: slot {names} kept {kept} of WAL, above max_wal_retained {limit}, and was given up before the disk"
        " is full; what was copied can't be followed any more"
        + (f"; not dropped on the target: {', '.join(left)}" if left else ""),
        remedy=f"Make room on the source's disk or raise max_wal_retained, then {troubles.ANEW}",
    )


class Background:
    """A watch that looks by itself, in a thread; what it finds is raised where ``check`` is called."""

    def __init__(self, watch: Watch, workspace: Workspace) -> None:
        self._watch = watch
        self._workspace = workspace
        self._found: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def check(self) -> None:
        """Raise what was found since, if anything; cheap."""
        if self._found is not None:
            raise self._found

    def paused(self) -> bool:
        """True while nothing new should be begun."""
        return self._watch.paused()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        self._thread.join()

    def _look_on(self) -> None:
        unseen_since: float | None = None
        while not self._ended.wait(self._workspace.terms.poll):
            now = self._workspace.clock.monotonic()
            try:
                self._workspace.pulse.beat(self._watch.look())
                unseen_since = None
            except ServerError as error:
                # A server that restarts is back soon; one that stays away leaves the disk unwatched.
                unseen_since = unseen_since or now
                if isinstance(error, ServerReplaced) or now - unseen_since > _UNSEEN_SECONDS:
                    self._found = error
                    return
            except BaseException as error:  # noqa: BLE001  # raised by check, in the thread that works
                self._found = error
                return


@contextmanager
def watching(workspace: Workspace, generations: Sequence[int]) -> Iterator[Background]:
    """Watch the slots of ``generations`` while the block copies; what was found is raised at its end, too.

    An error of the block itself goes first.
    """
    background = Background(Watch(workspace, generations, following=False, acting=True), workspace)
    workspace.pulse.begin()
    background.start()
    try:
        yield background
    finally:
        background.stop()
        workspace.pulse.end()
    background.check()
