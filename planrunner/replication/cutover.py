"""Cutover: fence, barrier, comparison and sequences inside one open transaction on the source.

Until its COMMIT nothing has happened; over the budget, on a difference or on any error it is rolled back and
the application goes on writing to the source.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from planrunner.errors import DifferencesFound, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import barrier, fence, large_objects, late, sequences, verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg import sql

    from planrunner.model import Json, Verification
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.workspace import Workspace
    from planrunner.switching.hooks import Switching

STEP = "cutover_verify"
SWITCHED = "switched"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a cutover may go: the longest pause of writes and the lock timeout in seconds."""

    budget: float
    lock_timeout: float
    headroom: int
    counts_only: bool
    large_objects: large_objects.Terms | None = None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The tables that are stopped; those of them that were followed, and those that are copied in the pause."""

    tables: tuple[Table, ...]
    followed: tuple[Table, ...]
    late: tuple[Table, ...] = ()


@dataclass
class Pause:
    """The pause of writes, split into its parts (seconds).

    With a pooler before it the pause begins earlier, when clients were ``held``, and is ``over`` later.
    """

    workspace: Workspace
    budget: float
    begun: float = 0.0
    held: float | None = None
    over: float | None = None
    parts: dict[str, float] = field(default_factory=dict)

    def spent(self) -> float:
        """Seconds since clients were held back, or the locks were asked for."""
        begun = self.begun if self.held is None else self.held
        return (self.over or self.workspace.clock.monotonic()) - begun

    def left(self) -> float:
        """Seconds that remain of the budget; StepFailed when none does."""
        remaining = self.budget - self.spent()
        if remaining <= 0:
            took = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in self.parts.items())
            raise StepFailed(
                f"the write pause went over its budget of {self.budget:g} s ({took}); everything was rolled"
                " back and the source goes on",
                remedy="Raise write_pause_budget, set verify: counts, or cut over at a quieter hour.",
            )
        return remaining

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part of the pause."""
        begun = self.workspace.clock.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.workspace.clock.monotonic() - begun

    def detail(self) -> dict[str, Json]:
        """The figures in milliseconds, for the ledger."""
        parts = {name: round(seconds * 1000, 1) for name, seconds in self.parts.items()}
        return {"total_ms": round(self.spent() * 1000, 1), "parts_ms": parts}


def gate(workspace: Workspace, terms: Terms) -> None:
    """Everything that can be known before any writer is stopped; DifferencesFound or StepFailed."""
    barrier.check_streams(workspace)
    found = verify.live(workspace, counts_only=terms.counts_only)
    refuse_differences(found, "before the cutover, writes were not stopped")


def refuse_differences(found: Verification, when: str) -> None:
    """DifferencesFound unless the comparison found both sides equal."""
    if found.equal:
        return
    shown = list(found.differences[:20])
    more = len(found.differences) - len(shown)
    lines = "\n  ".join(shown + ([f"and {more} more"] if more else []))
    raise DifferencesFound(
        f"the two sides differ ({when}):\n  {lines}",
        remedy="Find out who writes to the target or changed the schema; `planrunner verify PLAN` compares again.",
    )


def cut_over(workspace: Workspace, terms: Terms, switching: Switching) -> None:
    """Stop writes on the source for good, proven equal, sequences carried; or roll everything back.

    What ``switching`` names is held back for it, and led to the target right after the commit.
    """
    gate(workspace, terms)
    if terms.large_objects is not None:
        # Most of what changed is carried before the pause, so that little is left for it.
        large_objects.level(workspace, terms.large_objects)
    found = catalog.tables(workspace.source)
    # What is left out stays where it is, and open to its writers.
    tables, (followed, late_ones) = workspace.selection.carried(found), verify.divided(workspace, found)
    pause = Pause(workspace, terms.budget)
    workspace.lease  # noqa: B018  # taken before the pause begins
    cut = Cut(tables=tables, followed=followed, late=late_ones)
    with switching.held(Side.TARGET):
        pause.held = switching.since
        proven = _fenced(workspace, cut, terms, pause, switching)
    switch_over(workspace, switching, pause)
    detail = pause.detail()
    workspace.done(STEP, "pause", detail)
    workspace.tell(
        f"cut over: writes paused for {detail['total_ms']} ms, {len(proven.tables)} tables proven equal",
        detail,
    )


def switch_over(workspace: Workspace, switching: Switching, pause: Pause | None = None) -> None:
    """Lead the application's traffic to the target; nothing when it was led there already."""
    if not switching or SWITCHED in workspace.ledger.effects(STEP):
        return
    begun = workspace.clock.monotonic()
    switching.after_commit(Side.TARGET)
    if pause is not None:
        pause.parts["switch"] = workspace.clock.monotonic() - begun
        pause.over = workspace.clock.monotonic()
    workspace.done(STEP, SWITCHED, {"to": Side.TARGET.value})


def _fenced(workspace: Workspace, cut: Cut, terms: Terms, pause: Pause, switching: Switching) -> Verification:
    session = workspace.source.open(read_only=False)
    try:
        with workspace.source.translated("cutover"):
            proven = _inside(workspace, session, cut, terms, pause)
            switching.check()
            with pause.part("commit"):
                _commit(workspace, session)
        return proven
    finally:
        session.close()


def _inside(workspace: Workspace, session: Session, cut: Cut, terms: Terms, pause: Pause) -> Verification:
    if pause.held is not None:
        pause.parts["hold"] = workspace.clock.monotonic() - pause.held
    # Clients that are held back wait for the locks too.
    patience = fence.LOCK_PATIENCE_SECONDS if pause.held is None else pause.left()
    with pause.part("fence"):
        pause.begun = fence.raise_fence(
            workspace,
            session,
            cut.tables,
            lock_timeout=terms.lock_timeout,
            dead_man=terms.budget + 1,
            also=_locks(workspace, terms),
            patience=patience,
        )
    with pause.part("barrier"):
        barrier.wait(workspace, workspace.ledger.generations(), timeout=pause.left(), poll=0.002)
    failpoint("cutover.barrier_passed")
    brought = _bring_rest(workspace, session, cut, terms, pause)
    with pause.part("verification"):
        compared = (*cut.followed, *cut.late)
        found = verify.still(workspace, compared, counts_only=terms.counts_only, timeout=pause.left())
    refuse_differences(found, "writes were stopped, then everything was rolled back and the source goes on")
    with pause.part("sequences"):
        ours, theirs = sequences.read(workspace.source), sequences.read(workspace.target)
        with workspace.writing() as writer:
            moved = sequences.carry(writer, ours, theirs, terms.headroom)
            workspace.ledger.record_effect(writer, STEP, "verification", _evidence(found, len(ours), moved))
            workspace.ledger.record_effect(writer, STEP, "pause", pause.detail())
            for name, figures in brought.items():
                workspace.ledger.record_effect(writer, STEP, name, figures)
    failpoint("cutover.before_commit")
    pause.left()
    return found


def _bring_rest(
    workspace: Workspace, session: Session, cut: Cut, terms: Terms, pause: Pause
) -> dict[str, Mapping[str, Json]]:
    """Bring what no stream carries, now that nobody writes; tells how much, by its kind."""
    brought: dict[str, Mapping[str, Json]] = {}
    if cut.late:
        with pause.part("late tables"):
            brought["late tables"] = dict(late.bring(workspace, cut.late, timeout=pause.left()))
    if terms.large_objects is not None:
        within = session if _locks(workspace, terms) else None
        with pause.part("large objects"):
            brought["large objects"] = dict(
                large_objects.level(workspace, terms.large_objects, timeout=pause.left(), within=within)
            )
    return brought


def _locks(workspace: Workspace, terms: Terms) -> Sequence[sql.SQL]:
    """What holds back writers of large objects, where our login may ask for it."""
    if terms.large_objects is None or not workspace.source.identity().superuser:
        return ()
    return (large_objects.lock_statement(),)


def _evidence(found: Verification, sequences_seen: int, moved: int) -> Mapping[str, Json]:
    return {
        "equal": found.equal,
        "tables": [{"table": v.table, "rows": v.source_rows, "equal": v.equal} for v in found.tables],
        "rows": sum(v.source_rows for v in found.tables),
        "sequences": sequences_seen,
        "sequences_moved": moved,
        "seconds": round(found.seconds, 3),
    }


def _commit(workspace: Workspace, session: Session) -> None:
    try:
        session.execute("COMMIT")
    except psycopg.OperationalError:
        # The reply was lost: whether it was committed, the source itself tells.
        if not fence.fenced(workspace.source, workspace.names):
            raise
    failpoint("cutover.after_commit")
