"""A crossing: writers leave one side and go to the other, inside one open transaction on the side that they leave.

The cutover goes from source to target, a rollback back. Until the transaction's COMMIT nothing has happened: over
the budget, on a difference or on any error it is rolled back and writers go on where they are. After it the other
side is opened, which waits for nobody, and traffic is switched; never are both sides open.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import psycopg

from planrunner import remains
from planrunner.errors import DifferencesFound, LeaseLost, PlanrunnerError, ServerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres.lsn import Lsn
from planrunner.replication import fence, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from planrunner.model import Json
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.fence import Fence
    from planrunner.replication.return_streams import ReturnStream
    from planrunner.replication.workspace import Workspace

STEP = "cutover_verify"
OPENED, SWITCHED, RETURNED, ALIGNED = "opened", "switched", "returned", "aligned"
REHEARSALS = "rehearsals"


class Position(Enum):
    """Where writers are: on the source, between, on the target, or between on the way back."""

    SOURCE = "source"
    GOING = "going"
    TARGET = "target"
    RETURNING = "returning"


def position(workspace: Workspace) -> Position:
    """Ask both servers and the ledger."""
    done = workspace.ledger.effects(STEP)
    returned = done.get(RETURNED)
    if returned is not None and not returned.get("finished"):
        return Position.RETURNING
    if not fence.standing(workspace.source, workspace.names).closed:
        return Position.SOURCE
    if fence.standing(workspace.target, workspace.names).closed or (OPENED in done and SWITCHED not in done):
        return Position.GOING
    return Position.TARGET


class Switch(Protocol):
    """What leads the traffic, see ``switching.hooks``; false when there is nothing to lead."""

    since: float | None

    def __bool__(self) -> bool:
        """True when traffic is led."""
        ...

    def held(self, to: Side) -> AbstractContextManager[None]:
        """Hold traffic back for the length of a block, and let it go when that fails before the commit."""
        ...

    def check(self) -> None:
        """StepFailed when traffic is not held back any more."""
        ...

    def after_commit(self, to: Side) -> None:
        """Lead the traffic to ``to``; called again by a resume."""
        ...

    def on_rollback(self, to: Side) -> None:
        """Let traffic go on where it was."""
        ...


class NoSwitch:
    """Clients find the other side by themselves."""

    since: float | None = None

    def __bool__(self) -> bool:
        return False

    def held(self, to: Side) -> AbstractContextManager[None]:  # noqa: ARG002  # nothing is held
        """Nothing to hold."""
        return nullcontext()

    def check(self) -> None:
        """Nothing is held."""

    def after_commit(self, to: Side) -> None:
        """Nothing to lead."""

    def on_rollback(self, to: Side) -> None:
        """Nothing to let go."""


@dataclass
class Pause:
    """The pause of writes, split into its parts (seconds)."""

    workspace: Workspace
    budget: float
    begun: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    def spent(self) -> float:
        """Seconds since writers were held, or the locks were asked for."""
        return self.workspace.clock.monotonic() - self.begun

    def left(self) -> float:
        """Seconds that remain of the budget; StepFailed when none does."""
        remaining = self.budget - self.spent()
        if remaining <= 0:
            took = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in self.parts.items())
            raise StepFailed(
                f"the write pause went over its budget of {self.budget:g} s ({took}); everything was rolled"
                " back and writers go on",
                remedy="Raise write_pause_budget, set verify: changed, or cut over at a quieter hour.",
            )
        return remaining

    @contextmanager
    def waiting(self, name: str) -> Iterator[float]:
        """Time a part that waits for the other side, for the seconds that are left; what fails there says what became."""
        left = self.left()
        try:
            with self.part(name):
                yield left
        except StepFailed as error:
            raise type(error)(
                f"{error.message.rstrip('.')}; everything was rolled back and writers go on",
                remedy=error.remedy,
            ) from error

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part of the pause."""
        begun = self.workspace.clock.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + self.workspace.clock.monotonic() - begun

    def detail(self) -> dict[str, Json]:
        """The figures in milliseconds, for the ledger."""
        parts = {name: round(seconds * 1000, 1) for name, seconds in self.parts.items()}
        return {"total_ms": round(self.spent() * 1000, 1), "parts_ms": parts}


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One change of sides.

    ``settle`` is what is done inside the pause once nobody writes: barrier, comparison, sequences, and the
    record of it; it raises when the sides differ. ``keep`` is given the fence's session just before its COMMIT,
    for what must be true together with it. ``arrive`` opens the other side after it. ``way_back`` is None where
    the plan wants none.
    """

    workspace: Workspace
    to: Side
    fence: Fence
    settle: Callable[[Session, Pause], None]
    keep: Callable[[Session], None]
    arrive: Callable[[Pause], None]
    way_back: ReturnStream | None
    switch: Switch

    @property
    def leaving(self) -> Server:
        """The side that writers leave."""
        return self.workspace.source if self.to is Side.TARGET else self.workspace.target


def cross(crossing: Crossing, budget: float, *, rehearse: bool = False) -> Pause:
    """Lead writers over, with everything proven; or, to rehearse, roll it all back at the end.

    After any error writers go on where they were, and what was prepared for the way back is gone.
    """
    workspace = crossing.workspace
    workspace.lease  # noqa: B018  # taken before the pause begins
    with _prepared(crossing, rehearse=rehearse):
        pause = Pause(workspace, budget)
        _held(crossing, pause, rehearse=rehearse)
    return pause


@contextmanager
def _prepared(crossing: Crossing, *, rehearse: bool) -> Iterator[None]:
    way_back = crossing.way_back
    if way_back is None:
        yield
        return
    try:
        way_back.prepare()
        yield
    except BaseException as error:
        if not _stands(crossing, error):
            _forgotten(crossing.workspace, way_back)
        raise
    if rehearse:
        way_back.forget()


def _stands(crossing: Crossing, error: BaseException) -> bool:
    """Whether the fence is committed; where that can't be told, ``error`` is still the news."""
    try:
        return _closed(crossing)
    except ServerError:
        raise error from None


def _forgotten(workspace: Workspace, way_back: ReturnStream) -> None:
    try:
        way_back.forget()
    except PlanrunnerError as error:
        # What stopped the crossing is the news; the next attempt, or a cleanup, takes it away.
        workspace.tell(f"warning: the way back that was prepared is still there: {error.message}", {})


def _held(crossing: Crossing, pause: Pause, *, rehearse: bool) -> None:
    """Hold the traffic, raise the fence, and go over; clients' pause begins with the first of these."""
    switch = crossing.switch
    with switch.held(crossing.to):
        pause.begun = crossing.workspace.clock.monotonic()
        if switch and switch.since is not None:
            pause.parts["hold traffic"] = pause.begun - switch.since
            pause.begun = switch.since
        session = crossing.leaving.open(read_only=False)
        remains.purpose(session, "the fence: writers wait for its locks")
        pid = session.info.backend_pid
        try:
            with _rolled_back(crossing), crossing.leaving.translated("cross over"):
                _fenced(crossing, session, pause)
                if rehearse:
                    session.execute("ROLLBACK")
            if not rehearse:
                _over(crossing, session, pid, pause)
        finally:
            # Before whoever holds the traffic lets it go on: the locks go with the session.
            session.close()
    if rehearse:
        switch.on_rollback(crossing.to)


@contextmanager
def _rolled_back(crossing: Crossing) -> Iterator[None]:
    """Before the COMMIT: tell of a line that broke in the pause what became of the fence, or will in a moment."""
    try:
        yield
    except ServerError as error:
        if not outcome.broke(error):
            raise
        told = error.message.removesuffix(".")
        raise StepFailed(
            f"{told}. The fence was raised then and is rolled back: at the latest {crossing.fence.dead_man:g} s"
            f" after it last heard of us the {crossing.leaving.side.value} does so by itself, and writers go on there",
            remedy=error.remedy,
        ) from error


def _over(crossing: Crossing, session: Session, pid: int, pause: Pause) -> None:
    # A signal waits until the other side is open: nobody could write anywhere.
    with crossing.workspace.shield():
        crossing.switch.check()
        with pause.part("commit"), crossing.leaving.translated("cross over"):
            _commit(crossing, session, pid)
        crossing.arrive(pause)


def _fenced(crossing: Crossing, session: Session, pause: Pause) -> None:
    # Clients that are held back wait for the locks too.
    patience = pause.left() if crossing.switch else fence.LOCK_PATIENCE_SECONDS
    with pause.part("fence"):
        begun = fence.raise_fence(
            crossing.workspace, crossing.leaving, session, crossing.fence, patience=patience
        )
    if not crossing.switch:
        # Whoever waited for locks in vain has let writers go on meanwhile.
        pause.begun = begun
    pause.left()
    try:
        crossing.settle(session, pause)
    except DifferencesFound:
        # Without the fence's session writers have gone on, and what differs is theirs: then that is the news.
        session.execute("SELECT 1")
        raise
    if crossing.way_back is not None:
        with pause.part("way back"):
            aligned = crossing.way_back.align(pause.left())
            crossing.workspace.done(STEP, ALIGNED, {"lsn": str(aligned)})
        failpoint("cutover.aligned")
    crossing.keep(session)
    failpoint("cutover.before_commit")
    pause.left()


def _commit(crossing: Crossing, session: Session, pid: int) -> None:
    try:
        session.execute("COMMIT")
    except (psycopg.OperationalError, psycopg.InternalError) as error:
        # The reply was lost, the line was cut, or the server has ended a fence that was silent for too long:
        # whether it was committed, the server itself tells.
        session.close()
        if not _committed(crossing, pid):
            raise StepFailed(
                f"{crossing.leaving.side.value}: the line broke at the COMMIT of the fence, which did not take effect:"
                " everything was rolled back and writers go on there",
                remedy="Run again when the line is good.",
            ) from error
    failpoint("cutover.after_commit")


def _committed(crossing: Crossing, pid: int) -> bool:
    """Ask until there is an answer that stays true; StepFailed when there is none for a minute."""
    server, clock = crossing.leaving, crossing.workspace.clock

    def asked() -> bool:
        # As long as its session lives the COMMIT may yet be through.
        if not outcome.ended(server, clock, pid):
            raise _unknown(server, "the session that sent it does not end there")
        return _closed(crossing)

    try:
        return outcome.persistently(asked, clock)
    except ServerError as error:
        raise _unknown(server, error.message) from error


def _unknown(server: Server, why: str) -> StepFailed:
    side = server.side.value
    return StepFailed(
        f"{side}: the line broke at the COMMIT of the fence, and whether it took effect is not known yet: {why}. If it"
        " did, nobody can write on either side before the next run",
        remedy=f"Make the {side} reachable and run again at once: it asks the {side}, and goes on from what it shows.",
    )


def _closed(crossing: Crossing) -> bool:
    return fence.standing(crossing.leaving, crossing.workspace.names).closed


def open_target(workspace: Workspace) -> None:
    """Open the target to writers, in one transaction with the note that it is open.

    Nobody can write anywhere until then, so a line that breaks is tried again for a while.
    """

    def opened() -> None:
        with workspace.writing() as session:
            if fence.there_is(workspace.target, workspace.names):
                session.execute(fence.opening(workspace.names))
            workspace.ledger.record_effect(session, STEP, OPENED, {})

    with _between(Side.SOURCE, Side.TARGET):
        outcome.persistently(opened, workspace.clock)
    failpoint("cutover.opened")


def open_source(workspace: Workspace) -> None:
    """Open the source to writers again; a line that breaks is tried again for a while."""
    workspace.lease  # noqa: B018  # nobody but the holder opens a side
    with _between(Side.TARGET, Side.SOURCE):
        outcome.persistently(
            lambda: workspace.source.execute(fence.opening(workspace.names)), workspace.clock
        )
    failpoint("rollback.opened")


@contextmanager
def _between(closed: Side, closed_too: Side) -> Iterator[None]:
    """Tell of an opening that fails that nobody can write anywhere until then."""
    try:
        yield
    except LeaseLost:
        raise
    except ServerError as error:
        raise StepFailed(
            f"{error.message}. The {closed.value} is closed and the {closed_too.value} is not open yet: nobody can write"
            " on either side before the next run",
            remedy=f"Make the {closed_too.value} reachable and run again at once, which opens it. {error.remedy or ''}",
        ) from error


def aligned_at(workspace: Workspace) -> Lsn | None:
    """Where the way back's slot was moved to at the last crossing, None when there was none."""
    found = workspace.ledger.effects(STEP).get(ALIGNED)
    return None if found is None else Lsn.parse(found["lsn"])
