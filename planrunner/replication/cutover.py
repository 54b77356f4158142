"""The cutover: from source to target, proven equal inside the pause, with a way back where the plan wants one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepBlocked
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import (
    barrier,
    crossing,
    drift,
    fence,
    gate,
    generations,
    large_objects,
    late,
    polling_following,
    restore,
    return_streams,
    sequences,
    tracker,
    verify,
)
from planrunner.replication.crossing import NoSwitch, Pause, Position, Switch
from planrunner.replication.inside import Inside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import Verification

STEP = crossing.STEP
# Where nothing is streamed, nothing of ours is on the source before the fence; rolled back, nothing is again.
OWN_SCHEMA = sql.SQL("CREATE SCHEMA IF NOT EXISTS planrunner")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a crossing may go: the longest pause of writes and the lock timeout in seconds."""

    budget: float
    lock_timeout: float
    headroom: int
    gate: gate.Terms
    reverse: bool = False
    large_objects: large_objects.Terms | None = None
    switch: Switch = field(default_factory=NoSwitch)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The tables that are stopped; those of them that were followed, and those that are copied in the pause."""

    tables: tuple[Table, ...]
    followed: tuple[Table, ...]
    late: tuple[Table, ...] = ()

    @classmethod
    def of(cls, workspace: Workspace) -> Cut:
        """What the source has now. What is left out stays where it is, and open to its writers."""
        found = catalog.tables(workspace.source)
        followed, late_ones = verify.divided(workspace, found)
        return cls(tables=workspace.selection.carried(found), followed=followed, late=late_ones)


_IMPOSSIBLE: Mapping[Position, str] = {
    Position.TARGET: "the target takes the writes since the cutover: there is none to make or rehearse any more",
    Position.GOING: "the cutover was broken off after its commit: finish it with `planrunner run PLAN`",
    Position.RETURNING: "a rollback was broken off after its commit: finish it with `planrunner rollback PLAN`",
}


def impossible(where: Position) -> str | None:
    """Why the target must not be closed for a cutover or its rehearsal, None while the source takes the writes."""
    return _IMPOSSIBLE.get(where)


def guard(workspace: Workspace) -> None:
    """Close the target until the cutover opens it: what was proven equal there stays so.

    StepBlocked, with nothing touched, unless the source takes the writes and this plan's work is on record: a target
    in use is never closed here.
    """
    reason = impossible(crossing.position(workspace))
    if reason is None and restore.PRE_DATA not in workspace.ledger.effects(restore.STEP):
        # After a cleanup, with the source's fence lifted by hand, the servers look as before a cutover.
        reason = "this plan has brought nothing there, or was cleaned up since"
    if reason is not None:
        raise StepBlocked(f"the target is not closed: {reason}")
    there = guarded_tables(workspace)
    message = fence.not_yet(workspace.source, workspace.names.plan_id)
    fence.close_quietly(workspace, workspace.target, there, message)
    failpoint("cutover.guarded")


def guarded_tables(workspace: Workspace) -> tuple[Table, ...]:
    """The carried tables as the target has them."""
    carried = {t.qualified for t in workspace.selection.carried(catalog.tables(workspace.source))}
    return tuple(t for t in catalog.tables(workspace.target) if t.qualified in carried)


def to_guard(workspace: Workspace) -> tuple[Table, ...]:
    """The same once the schema is there: until then as the source has them."""
    if restore.PRE_DATA in workspace.ledger.effects(restore.STEP):
        return guarded_tables(workspace)
    return workspace.selection.carried(catalog.tables(workspace.source))


def cut_over(workspace: Workspace, terms: Terms) -> None:
    """Stop writes on the source for good, open the target and lead the traffic there; or roll everything back."""
    _crossed(workspace, terms, rehearse=False)


def rehearse(workspace: Workspace, terms: Terms, *, asked_by: str) -> None:
    """Go through all of it but the commit, and record the pause that was measured; ``asked_by`` names who asked."""
    pause = _crossed(workspace, terms, rehearse=True)
    at = workspace.clock.now().isoformat(timespec="seconds")
    detail = {"at": at, "asked_by": asked_by, **pause.detail()}
    workspace.done(STEP, crossing.REHEARSALS, {"runs": [*rehearsals(workspace), detail]})
    parts = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in pause.parts.items())
    workspace.tell(
        f"rehearsed: writes paused for {detail['total_ms']} ms ({parts}); everything was rolled back", detail
    )


def rehearsals(workspace: Workspace) -> list[dict[str, Json]]:
    """Every rehearsal so far: ``at``, ``asked_by``, ``total_ms``, ``parts_ms``."""
    runs: list[dict[str, Json]] = workspace.ledger.effects(STEP).get(crossing.REHEARSALS, {}).get("runs", [])
    return runs


def _crossed(workspace: Workspace, terms: Terms, *, rehearse: bool) -> Pause:
    guard(workspace)
    with tracker.used(workspace) if workspace.streamed else nullcontext():
        return _led(workspace, terms, rehearse=rehearse)


def _led(workspace: Workspace, terms: Terms, *, rehearse: bool) -> Pause:
    # The gate may wait for hours while the slots keep WAL: the plan's budget holds here as it does in sync.
    with workspace.giving_up(), drift.explaining(workspace, following=True):
        entered = gate.passed(workspace, terms.gate, budget=terms.budget)
    if terms.large_objects is not None:
        # Most of what changed is carried before the pause, so that little is left for it.
        large_objects.level(workspace, terms.large_objects)
    cut = Cut.of(workspace)
    _forget_former(workspace)
    settling = _Settling(workspace=workspace, cut=cut, terms=terms, entered=entered, rehearse=rehearse)
    made = crossing.Crossing(
        workspace=workspace,
        to=Side.TARGET,
        fence=_fence(workspace, cut, terms),
        settle=settling.settle,
        keep=lambda _: None,
        arrive=lambda pause: arrive(workspace, terms, pause),
        way_back=_way_back(workspace, cut) if terms.reverse else None,
        switch=terms.switch,
    )
    return crossing.cross(made, terms.budget, rehearse=rehearse)


def _fence(workspace: Workspace, cut: Cut, terms: Terms) -> fence.Fence:
    return fence.Fence(
        names=workspace.names,
        tables=cut.tables,
        message=fence.moved_to(workspace.target, workspace.names.plan_id),
        there=fence.standing(workspace.source, workspace.names),
        lock_timeout=terms.lock_timeout,
        dead_man=terms.budget + 1,
        also=(*(() if workspace.streamed else (OWN_SCHEMA,)), *_locks(workspace, terms)),
    )


def _way_back(workspace: Workspace, cut: Cut) -> return_streams.Back:
    return_streams.refuse_unable(workspace, cut.followed, cut.late)
    return return_streams.Back(workspace=workspace, tables=cut.followed)


def _forget_former(workspace: Workspace) -> None:
    """What an earlier crossing, since rolled back, left in the ledger is no word about this one."""
    with workspace.writing() as session:
        workspace.ledger.forget_effects(
            session, STEP, crossing.OPENED, crossing.SWITCHED, crossing.RETURNED, crossing.ALIGNED
        )
    failpoint("cutover.former_forgotten")


def arrive(workspace: Workspace, terms: Terms, pause: Pause | None = None) -> None:
    """After the commit: open the target, lead the traffic there. A resume comes here without the pause's clock."""
    parts = pause or Pause(workspace, terms.budget, begun=workspace.clock.monotonic())
    with parts.part("open"):
        crossing.open_target(workspace)
    if terms.switch:
        with parts.part("lead traffic"):
            terms.switch.after_commit(Side.TARGET)
    failpoint("cutover.switched")
    workspace.done(STEP, crossing.SWITCHED, {})
    if pause is None:
        return
    detail = pause.detail()
    workspace.done(STEP, "pause", detail)
    workspace.tell(f"cut over: writes paused for {detail['total_ms']} ms", detail)


@dataclass(frozen=True, kw_only=True)
class _Settling:
    """What is done inside the pause once nobody writes to the source any more."""

    workspace: Workspace
    cut: Cut
    terms: Terms
    entered: gate.Passed
    rehearse: bool

    def settle(self, session: Session, pause: Pause) -> None:
        """Wait for the barrier, bring what no stream carries, compare, carry sequences; record it."""
        with drift.explaining(self.workspace, following=True):
            self._settled(session, pause)

    def _settled(self, session: Session, pause: Pause) -> None:
        workspace = self.workspace
        inside = Inside(side=Side.SOURCE, session=session)
        polled = self._arrived(inside, pause)
        failpoint("cutover.barrier_passed")
        brought = self._bring_rest(inside, pause)
        with pause.part("verification"):
            found = self._compared(inside, pause, polled)
        failpoint("cutover.verified")
        with pause.part("sequences"):
            moved = self._carry_sequences()
        with pause.part("record"), workspace.writing() as writer:
            for name, figures in {**brought, **evidence(found, moved)}.items():
                workspace.ledger.record_effect(writer, STEP, name, figures)
        failpoint("cutover.sequences_carried")

    def _arrived(self, inside: Inside, pause: Pause) -> Verification | None:
        """Return once the target has everything; where the source is polled, with what the last round has proven."""
        workspace = self.workspace
        if not workspace.streamed:
            with pause.part("last round"):
                return polling_following.last(
                    workspace, inside, timeout=pause.left(), jobs=self.terms.gate.effort.jobs
                )
        with pause.waiting("barrier") as left:
            barrier.wait(workspace, workspace.ledger.generations(), timeout=left, poll=0.002)
        return None

    def _compared(self, inside: Inside, pause: Pause, polled: Verification | None) -> Verification:
        followed = self.cut.followed if polled is None else ()
        found = verify.still(
            self.workspace,
            (*followed, *self.cut.late),
            counts_only=self.terms.gate.mode is verify.Mode.COUNTS,
            timeout=pause.left(),
            proven=self.entered.proven,
            jobs=self.terms.gate.effort.jobs,
            inside=inside,
        )
        if polled is not None:
            both = sorted((*polled.tables, *found.tables), key=lambda v: v.table)
            found = replace(found, tables=tuple(both), seconds=polled.seconds + found.seconds)
        when = "writes were stopped, then everything was rolled back and the source goes on"
        gate.refuse_differences(found, when)
        return found

    def _carry_sequences(self) -> tuple[sequences.Moved, ...]:
        entered = self.entered
        sending = sequences.read(self.workspace.source, entered.left_out)
        if self.rehearse:
            return ()
        with self.workspace.writing() as writer:
            moved = sequences.carry(writer, sending, entered.receiving, self.terms.headroom)
        gate.still_holds(self.workspace, entered, sending, moved)
        return moved

    def _bring_rest(self, inside: Inside, pause: Pause) -> dict[str, Mapping[str, Json]]:
        """Bring what no stream carries, now that nobody writes; tells how much, by its kind."""
        brought: dict[str, Mapping[str, Json]] = {}
        workspace, objects = self.workspace, self.terms.large_objects
        if self.cut.late:
            with pause.part("late tables"):
                brought["late tables"] = dict(
                    late.bring(workspace, inside, self.cut.late, timeout=pause.left())
                )
        if objects is not None:
            within = inside.session if _locks(workspace, self.terms) else None
            with pause.part("large objects"):
                left = pause.left()
                brought["large objects"] = dict(
                    large_objects.level(workspace, objects, timeout=left, within=within)
                )
        return brought


def _locks(workspace: Workspace, terms: Terms) -> Sequence[sql.SQL]:
    """What holds back writers of large objects, where our login may ask for it."""
    if terms.large_objects is None or not workspace.source.identity().superuser:
        return ()
    return (large_objects.lock_statement(),)


def evidence(found: Verification, moved: Sequence[sequences.Moved]) -> dict[str, Mapping[str, Json]]:
    """What the comparison inside the pause found and where sequences stand, for the ledger."""
    return {
        "verification": {
            "equal": found.equal,
            "tables": [
                {"table": v.table, "rows": v.source_rows, "equal": v.equal, "how": v.how}
                for v in found.tables
            ],
            "rows": sum(v.source_rows for v in found.tables),
            "sequences": len(moved),
            "sequences_moved": sum(1 for m in moved if m.changed),
            "seconds": round(found.seconds, 3),
        },
        gate.SEQUENCES: {"sequences": sequences.values(moved)},
    }


def retire(workspace: Workspace) -> None:
    """End the stream that led here, and what followed it to prove both sides equal."""
    tracker.drop(workspace)
    generations.clear_all(workspace)
    failpoint("cutover.retired")


def begin_way_back(workspace: Workspace) -> None:
    """Let the source follow the target from the cutover's moment on."""
    tables = Cut.of(workspace).followed
    return_streams.Back(workspace=workspace, tables=tables).start(crossing.aligned_at(workspace))
