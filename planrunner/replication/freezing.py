"""Brings a standby to a stand behind a slot, and finds out where: by its own word, and by what it shows.

Its own word is the end of the last record that it has replayed; after a promotion the history of its timeline says the
same. What it shows are markers: one that the source has committed before is there, one from after it is not, although
it has come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, assert_never
from uuid import UUID

from planrunner.errors import StepBlocked, StepConflict, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn
from planrunner.replication import barrier, standby
from planrunner.replication.workspace import Way

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from planrunner.model import Json
    from planrunner.postgres.connection import Server
    from planrunner.replication.standby import Standing
    from planrunner.replication.workspace import Workspace

STEP = "frozen"
BEGUN = "begun"
PATIENCE_SECONDS = 600.0
_NEWS_SECONDS = 5.0
_POLL_SECONDS = 0.1
_RECEIVED_SECONDS = 10.0
_COPY = {Way.RESTORE: "restored server", Way.CLONE: "clone"}


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a frozen server stands: ``end`` is the end of the last record of the source that is in it."""

    way: Way
    end: Lsn
    next_xid: int
    written: int = 0

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> Stand:
        """As the ledger keeps it."""
        return cls(
            way=Way(detail["way"]),
            end=Lsn.parse(detail["end"]),
            next_xid=int(detail["next_xid"]),
            written=int(detail["written"]),
        )

    def to_json(self) -> Mapping[str, Json]:
        """As the ledger keeps it."""
        return {
            "way": self.way.value,
            "end": str(self.end),
            "next_xid": self.next_xid,
            "written": self.written,
        }

    def is_of(self, now: Standing) -> bool:
        """True when the server still stands here."""
        return not self.difference(now)

    def difference(self, now: Standing) -> str:
        """What speaks against it; empty where nothing does."""
        match self.way:
            case Way.PAUSE:
                found = self._went_on(now)
            case Way.PROMOTE:
                found = self._written(now, strangers=now.next_xid != self.next_xid)
            case Way.RESTORE | Way.CLONE:
                # The service itself writes to databases of its own, so transaction ids go on.
                found = self._written(now, strangers=now.written != self.written)
            case _:
                assert_never(self.way)
        # A restart forgets what was replayed before.
        moved = now.end != self.end and not (now.end is None and not now.recovering)
        return found or (f"it has replayed up to {now.end}" if moved else "")

    def _went_on(self, now: Standing) -> str:
        if not now.recovering:
            return "it was promoted"
        return "" if now.paused else "its replay goes on"

    def _written(self, now: Standing, *, strangers: bool) -> str:
        if now.recovering:
            return "it is a standby"
        return "somebody has written there" if strangers else ""


def begun(workspace: Workspace) -> Way | None:
    """The way in which this plan has begun to freeze the server, None where it has not or let it go."""
    found = workspace.ledger.effects(STEP).get(BEGUN)
    return None if found is None else Way(found["way"])


def look(server: Server, way: Way | None) -> Standing:
    """Where a server stands now that was brought to a stand in that way."""
    return standby.look(server, clone=way is Way.CLONE)


def remove_restored(workspace: Workspace, way: Way) -> None:
    """Take away what was made for this plan; StepBlocked where the plan does not say any more of what."""
    known = workspace.ledger.effects(STEP).get(BEGUN, {})
    if workspace.freezing is None or workspace.freezing.restorer is None:
        raise StepBlocked(
            "aws: instances were restored for this plan, and it names no instance of the source any more",
            remedy="Name it again as connections.source.rds, then clean up.",
        )
    workspace.freezing.restorer.remove(way, int(known.get("generation", 1)))


def ended(workspace: Workspace) -> None:
    """Forget that the server is frozen by this plan."""
    with workspace.writing() as session:
        workspace.ledger.forget_effects(session, STEP, BEGUN)
        failpoint("frozen.before_ended")


def refuse_strange(workspace: Workspace) -> None:
    """StepBlocked where the replica is no copy of the source's cluster.

    Whether the clone of an Aurora cluster keeps its identifier is not documented: there the markers alone prove it.
    """
    ours, theirs = workspace.source.identity(), workspace.bulk.identity()
    strange = ours.system_identifier != theirs.system_identifier and begun(workspace) is not Way.CLONE
    if strange or ours.database != theirs.database:
        raise StepBlocked(
            f"replica: it is {theirs.system_identifier}/{theirs.database}, the source is"
            f" {ours.system_identifier}/{ours.database}: not a standby of it",
            remedy="Name a streaming standby of connections.source, and the same database, as connections.replica.",
        )


def freeze(workspace: Workspace, generation: int, least: Lsn) -> Stand:
    """Freeze the server once it has replayed past ``least``, and return where it stands.

    The markers go through the barrier table of ``generation``. StepConflict where somebody else has paused it,
    StepBlocked where it was promoted before, StepFailed where the two ways to know its end disagree.
    """
    assert workspace.freezing is not None
    way = workspace.freezing.way
    match way:
        case Way.PAUSE:
            end = _paused(workspace, generation, least)
        case Way.PROMOTE:
            end = _promoted(workspace, generation, least)
        case Way.RESTORE | Way.CLONE:
            way, end = _restored(workspace, generation)
        case _:
            assert_never(way)
    if end < least:
        raise StepFailed(
            f"replica: it stands at {end}, the slot begins at {least}: what lies between would be missing",
            remedy="`planrunner cleanup` this plan, and run again with a standby that follows.",
        )
    _refuse_later(workspace, generation, end)
    now = look(workspace.bulk, way)
    stand = Stand(way=way, end=end, next_xid=now.next_xid, written=now.written)
    if (difference := stand.difference(now)) != "":
        raise StepFailed(f"replica: it was to stand still at {end}: {difference}", remedy="Run again.")
    return stand


def _paused(workspace: Workspace, generation: int, least: Lsn) -> Lsn:
    server, clock = workspace.bulk, workspace.clock
    now = standby.look(server)
    if not now.recovering:
        raise StepBlocked(
            "replica: it is no standby, so there is no replay to pause",
            remedy="Name a streaming standby of the source as connections.replica.",
        )
    if begun(workspace) is None and now.state != "not paused":
        raise StepConflict(
            "replica: somebody else has paused its replay",
            remedy="Find out who needs it so. SELECT pg_wal_replay_resume(); lets it go on; then run again.",
        )
    workspace.done(STEP, BEGUN, {"way": Way.PAUSE.value})
    deadline = clock.monotonic() + PATIENCE_SECONDS
    while True:
        # It may be stopped before the slots, by a process that was killed.
        standby.resume(server)
        _await_replayed(workspace, generation, least)
        end = standby.pause(server, clock)
        held = standby.locked(server)
        if not held:
            return end
        workspace.tell(
            f"the standby goes on for a moment: {', '.join(held)}: locked there as it stood",
            {"locked": list(held)},
        )
        if clock.monotonic() > deadline:
            standby.resume(server)
            raise StepFailed(
                f"replica: wherever it was paused, {', '.join(held)} could not be read: a transaction of the source"
                " holds ACCESS EXCLUSIVE",
                remedy="End that transaction on the source (pg_locks), then run again.",
            )
        clock.sleep(_POLL_SECONDS)


def _promoted(workspace: Workspace, generation: int, least: Lsn) -> Lsn:
    server = workspace.bulk
    if standby.look(server).recovering:
        if begun(workspace) is not None:
            standby.resume(server)
        _await_replayed(workspace, generation, least)
        workspace.done(STEP, BEGUN, {"way": Way.PROMOTE.value})
        standby.promote(server, workspace.clock)
    elif begun(workspace) is None:
        raise StepBlocked(
            "replica: it was promoted before the slot was made, so the slot does not have what it lacks",
            remedy="Name a standby that still follows the source as connections.replica.",
        )
    end, told = standby.switched_at(server), standby.look(server).end
    # Since a restart it does not tell any more what it had replayed.
    if end is None or told not in (None, end):
        raise StepFailed(
            f"replica: it says that it had replayed up to {told}, the history of its timeline says {end}",
            remedy="`planrunner cleanup` this plan, and run again with another standby.",
        )
    return end


def _restored(workspace: Workspace, generation: int) -> tuple[Way, Lsn]:
    assert workspace.freezing is not None
    if workspace.freezing.restorer is None:
        raise StepBlocked(
            "replica: the plan names no instance that could be restored",
            remedy="Name the source's RDS instance as connections.source.rds: {instance: NAME}.",
        )
    known = workspace.ledger.effects(STEP).get(BEGUN, {})
    if known.get("generation") != generation or "since" not in known:
        known = _marked(workspace, generation, workspace.freezing.restorer.way())
        workspace.done(STEP, BEGUN, known)
    way, since = Way(known["way"]), datetime.fromisoformat(known["since"])
    server = workspace.freezing.restorer.make(way, generation, since)
    workspace.freezing = replace(workspace.freezing, server=server)
    refuse_strange(workspace)
    if not _shows(server, workspace.names.barrier(generation), UUID(known["token"])):
        raise StepFailed(
            f"replica: the {_COPY[way]} lacks what the source had committed before it was asked for",
            remedy="`planrunner cleanup` removes it; then run again.",
        )
    end = standby.cloned_at(server) if way is Way.CLONE else standby.recovered_to(server)
    if end < (least := Lsn.parse(known["after"])):
        raise StepFailed(
            f"replica: it says that it stands at {end}, and shows what the source committed after {least}",
            remedy="`planrunner cleanup` removes it; then run again, or read on the source (from: primary).",
        )
    return way, end


def _marked(workspace: Workspace, generation: int, way: Way) -> Mapping[str, Any]:
    """What is known of a copy before anybody can have asked for it: a marker that it has to show, when and after what."""
    after = written(workspace.source)
    token = barrier.mark(workspace.source, workspace.names.barrier(generation))
    since: datetime = workspace.source.value("SELECT clock_timestamp()")
    return {
        "way": way.value,
        "generation": generation,
        "token": str(token),
        "after": str(after),
        "since": since.isoformat(),
    }


def server_of(workspace: Workspace, generation: int) -> Server | None:
    """The server that rows of ``generation`` come from, looked up where it was restored by an earlier process."""
    held = workspace.freezing
    if held is None or held.restorer is None or held.server is not None:
        return None if held is None else held.server
    found = held.restorer.found(generation)
    if found is not None:
        workspace.freezing = replace(held, server=found)
    return found


def _await_replayed(workspace: Workspace, generation: int, least: Lsn) -> None:
    """Wait until the standby has replayed past ``least`` and shows a marker that was written after it."""
    server, clock, table = workspace.bulk, workspace.clock, workspace.names.barrier(generation)
    token = barrier.mark(workspace.source, table)
    begin = clock.monotonic()
    news = begin + _NEWS_SECONDS
    while True:
        at = standby.look(server).end
        if at is not None and at >= least and _shows(server, table, token):
            return
        if clock.monotonic() > begin + PATIENCE_SECONDS:
            raise StepFailed(
                f"replica: it has replayed up to {at}, and not up to the slot ({least}) within"
                f" {PATIENCE_SECONDS:.0f} s",
                remedy="See that it follows the source: pg_stat_wal_receiver there, pg_stat_replication on the source.",
            )
        if clock.monotonic() > news:
            workspace.tell(f"waiting for the standby: at {at}, the slot is at {least}", {"replayed": str(at)})
            news = clock.monotonic() + _NEWS_SECONDS
        clock.sleep(_POLL_SECONDS)


def _shows(server: Server, table: str, token: UUID) -> bool:
    """Whether the marker is there; the table itself may not be replayed yet."""
    if server.value("SELECT to_regclass(%s)", [f"planrunner.{table}"]) is None:
        return False
    return barrier.arrived(server, table, token)


def _refuse_later(workspace: Workspace, generation: int, end: Lsn) -> None:
    """StepFailed when the frozen server shows, or has replayed, what the source committed after it was frozen."""
    server, clock, table = workspace.bulk, workspace.clock, workspace.names.barrier(generation)
    before = written(workspace.source)
    if end > before:
        raise StepFailed(
            f"replica: it stands at {end}, the source has written only up to {before}: not the same history",
            remedy="Name a standby of connections.source as connections.replica.",
        )
    token = barrier.mark(workspace.source, table)
    after = written(workspace.source)
    deadline = clock.monotonic() + _RECEIVED_SECONDS
    # Meaningful only once it could have been replayed. One that is fed from an archive does not tell.
    while (at := standby.received(server)) is not None and at < after and clock.monotonic() < deadline:
        clock.sleep(_POLL_SECONDS)
    if barrier.arrived(server, table, token):
        raise StepFailed(
            f"replica: it was to stand still at {end}, and shows what the source committed after it",
            remedy="Look who lets its replay go on, then run again.",
        )


def written(source: Server) -> Lsn:
    """Up to where the source has written its WAL."""
    return Lsn.parse(source.value("SELECT pg_current_wal_flush_lsn()::text"))
