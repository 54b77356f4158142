"""The rollback: the cutover mirrored. Writers leave the target and go back to the source, which has followed it.

The same fence, barrier, comparison and sequences, so nothing that was written on the target is lost; afterwards the
target follows the source again, and the cutover can be made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.replication import (
    crossing,
    fence,
    gate,
    ranges,
    relations,
    return_streams,
    sequences,
    subscriptions,
    tracker,
    verify,
)
from planrunner.replication.crossing import OPENED, RETURNED, SWITCHED, Pause, Position
from planrunner.replication.cutover import STEP, Cut, evidence, guarded_tables
from planrunner.replication.inside import Inside

if TYPE_CHECKING:
    from planrunner.postgres.connection import Session
    from planrunner.replication.cutover import Terms
    from planrunner.replication.return_streams import Onward
    from planrunner.replication.workspace import Workspace

CATCH_UP_SECONDS = 600.0


def impossible(workspace: Workspace, where: Position) -> str | None:
    """Why there can be no rollback and what to do, None when writers are on the target and the source follows."""
    if where is Position.SOURCE:
        return (
            "there is nothing to roll back: the source takes the writes. `planrunner cleanup PLAN` ends a migration"
            " that was not cut over"
        )
    if where is Position.RETURNING:
        return "a rollback was broken off after its commit: finish it with `planrunner rollback PLAN`"
    if where is Position.GOING:
        return (
            "the cutover is half done: the source is closed, and what follows from that is not finished. Finish it with"
            " `planrunner run PLAN`, then roll back"
        )
    if where is Position.TARGET and not return_streams.following_back(workspace):
        return (
            "no stream leads back to the source, so what was written on the target since the cutover would be lost. A"
            " way back is made at the cutover by `reverse: true` in the cutover_verify step; without it the data has to"
            " be carried back by a plan of its own"
        )
    return None


def next_generation(workspace: Workspace) -> int:
    """The generation by which the target follows the source again after the last rollback, or after the next one."""
    found = workspace.ledger.effects(STEP).get(RETURNED)
    return _following(workspace) if found is None else int(found["generation"])


def _following(workspace: Workspace) -> int:
    return max(workspace.ledger.generations(), default=0) + 1


def returned(workspace: Workspace) -> bool:
    """True when the last crossing was a rollback."""
    return RETURNED in workspace.ledger.effects(STEP)


def roll_back(workspace: Workspace, terms: Terms) -> None:
    """Bring writers back to the source with all that was written on the target; or leave everything as it is."""
    _crossed(workspace, terms, rehearse=False)


def rehearse(workspace: Workspace, terms: Terms) -> None:
    """Go through all of it but the commit, and tell the pause that was measured."""
    detail = _crossed(workspace, terms, rehearse=True).detail()
    workspace.tell(
        f"rollback rehearsed: writes paused for {detail['total_ms']} ms; everything was rolled back", detail
    )


def _crossed(workspace: Workspace, terms: Terms, *, rehearse: bool) -> Pause:
    # What is far behind is not waited for inside the pause.
    return_streams.wait_back(workspace, CATCH_UP_SECONDS)
    with tracker.used(workspace):
        return _led(workspace, terms, rehearse=rehearse)


def _led(workspace: Workspace, terms: Terms, *, rehearse: bool) -> Pause:
    wishes = terms.gate
    ends = return_streams.ends_back(workspace)
    found, proven = verify.before_pause(
        workspace, wishes.mode, budget=terms.budget, ends=ends, effort=wishes.effort
    )
    gate.refuse_differences(found, "before the rollback, writes were not stopped")
    cut = Cut.of(workspace)
    onward = return_streams.Onward(
        workspace=workspace,
        tables=cut.followed,
        generation=_following(workspace),
    )
    made = crossing.Crossing(
        workspace=workspace,
        to=Side.SOURCE,
        fence=fence.Fence(
            names=workspace.names,
            tables=guarded_tables(workspace),
            message=fence.moved_to(workspace.source, workspace.names.plan_id),
            there=fence.standing(workspace.target, workspace.names),
            lock_timeout=terms.lock_timeout,
            dead_man=terms.budget + 1,
        ),
        settle=lambda session, pause: _settle(
            workspace, cut, terms, proven, session, pause, rehearse=rehearse
        ),
        keep=lambda session: _keep(workspace, session, onward),
        arrive=lambda pause: arrive(workspace, terms, pause),
        way_back=onward,
        switch=terms.switch,
    )
    return crossing.cross(made, terms.budget, rehearse=rehearse)


def _settle(  # noqa: PLR0913  # what the pause is about
    workspace: Workspace,
    cut: Cut,
    terms: Terms,
    proven: verify.Proven | None,
    session: Session,
    pause: Pause,
    *,
    rehearse: bool,
) -> None:
    with pause.waiting("barrier") as left:
        return_streams.wait_back(workspace, left)
    failpoint("rollback.barrier_passed")
    with pause.part("verification"):
        found = verify.still(
            workspace,
            cut.followed,
            counts_only=terms.gate.mode is verify.Mode.COUNTS,
            timeout=pause.left(),
            proven=proven,
            jobs=terms.gate.effort.jobs,
            strays=False,
            inside=Inside(side=Side.TARGET, session=session),
        )
    when = "writes were stopped, then everything was rolled back and the target goes on"
    gate.refuse_differences(found, when)
    failpoint("rollback.verified")
    with pause.part("sequences"):
        left_out = relations.omitted(workspace.source, workspace.selection).names
        ours, theirs = sequences.both_sides(workspace.source, workspace.target, left_out)
        if rehearse:
            return
        with workspace.writing_to(workspace.source) as writer:
            moved = sequences.carry(writer, theirs, ours, terms.headroom)
    for name, figures in evidence(found, moved).items():
        workspace.done(STEP, f"rollback {name}", figures)
    failpoint("rollback.sequences_carried")


def _keep(workspace: Workspace, session: Session, onward: Onward) -> None:
    """What must be true together with the target's being closed, in the fence's own transaction."""
    workspace.lease.hold(session)
    workspace.ledger.forget_effects(session, STEP, OPENED, SWITCHED)
    workspace.ledger.follow_anew(session, [t.qualified for t in onward.tables], onward.generation)
    workspace.ledger.forget_effects(session, ranges.STEP, *ranges.recorded(workspace))
    workspace.ledger.forget_effects(session, f"{ranges.STEP} made", "prepared")
    at = workspace.clock.now().isoformat(timespec="seconds")
    workspace.ledger.record_effect(
        session, STEP, RETURNED, {"at": at, "finished": False, "generation": onward.generation}
    )


def arrive(workspace: Workspace, terms: Terms, pause: Pause | None = None) -> None:
    """After the commit: open the source, lead the traffic there. A resume comes here without the pause's clock."""
    parts = pause or Pause(workspace, terms.budget, begun=workspace.clock.monotonic())
    with parts.part("open"):
        crossing.open_source(workspace)
    if terms.switch:
        with parts.part("lead traffic"):
            terms.switch.after_commit(Side.SOURCE)
    failpoint("rollback.switched")
    returned = workspace.ledger.effects(STEP)[RETURNED]
    detail = {} if pause is None else dict(pause.detail())
    workspace.done(STEP, RETURNED, {**returned, **detail, "finished": True})
    failpoint("rollback.noted")
    if pause is not None:
        workspace.tell(
            f"rolled back: writes paused for {detail['total_ms']} ms; the source takes them again", detail
        )


def follow_again(workspace: Workspace) -> None:
    """End the stream that led back, then let the target follow the source from the rollback's moment on."""
    return_streams.drop_back(workspace)
    failpoint("rollback.retired")
    generation = workspace.ledger.effects(STEP)[RETURNED]["generation"]
    tables = Cut.of(workspace).followed
    onward = return_streams.Onward(workspace=workspace, tables=tables, generation=generation)
    onward.start(crossing.aligned_at(workspace))
    workspace.tell(
        "the target follows the source again; the cutover can be made anew", {"generation": generation}
    )


def follows_again(workspace: Workspace) -> bool:
    """True when the target follows the source after the last rollback, or there was none."""
    returned = workspace.ledger.effects(STEP).get(RETURNED)
    if returned is None:
        return True
    made = subscriptions.existing(workspace.target, workspace.names).get(returned["generation"])
    return made is not None and made.enabled and not return_streams.back_exists(workspace)
