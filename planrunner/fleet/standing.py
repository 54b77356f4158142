"""How each member does, from its state, its lock and the fleet's journal; asks no server but those that keep states."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from planrunner.errors import DecisionNeeded, Interrupted, PlanrunnerError
from planrunner.model import StepStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from planrunner.fleet.homes import HomeOf
    from planrunner.fleet.journal import Chronicle, Past
    from planrunner.fleet.model import Fleet, Member
    from planrunner.state.record import State

# Over a line each takes a moment; side by side they take it together.
_LOOKS_AT_ONCE = 8
_ENDED = (StepStatus.DONE, StepStatus.SKIPPED)
# Asked to stop: in its work, or before it was ready to hear.
INTERRUPTED = frozenset({Interrupted.exit_code, -signal.SIGTERM})


class Standing(Enum):
    """How a member does."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"
    REACHED = "reached"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class MemberView:
    """One line of the table. ``step`` is the one it is at, ``told`` why it failed or what it waits for.

    ``until`` is the step up to which it was to go and is done, where it goes on from there once it is asked to.
    ``rows`` and ``bytes`` are what its copy has moved, ``lag_bytes`` how far its target was behind when a step last
    told; None where nothing is known. ``since`` is when its standing began.
    """

    name: str
    wave: str
    standing: Standing
    steps_done: int
    steps: int
    step: str | None = None
    rows: int | None = None
    bytes: int | None = None
    lag_bytes: int | None = None
    since: datetime | None = None
    attempts: int = 0
    seconds: float = 0.0
    told: str | None = None
    until: str | None = None

    @property
    def remark(self) -> str | None:
        """What there is to say of it besides the figures."""
        return f"done up to {self.until}" if self.until is not None else self.told


def look(fleet: Fleet, homes: HomeOf, known: Chronicle) -> tuple[MemberView, ...]:
    """Every member, in the order of the waves."""
    if fleet.state is None:
        return tuple(view_of(member, homes, known) for member in fleet.members)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as threads:
        return tuple(threads.map(lambda one: view_of(one, homes, known), fleet.members))


def view_of(member: Member, homes: HomeOf, known: Chronicle) -> MemberView:
    """One member."""
    past = known.of(member.name)
    try:
        with homes(member) as home:
            running = home.holder() is not None
            state = home.load()
    except PlanrunnerError as error:
        return _view(member, past, None, standing=Standing.FAILED, told=error.message)
    until = _reached(member, state, past.until, known.until)
    standing = Standing.RUNNING if running else _standing(member, state, past, until)
    view = _view(member, past, state, standing=standing, told=_told(standing, member, state, past))
    return replace(view, until=until) if standing is Standing.REACHED else view


def is_done(member: Member, state: State | None, until: str | None = None) -> bool:
    """True when every step of the member's plan has ended well, or every one up to ``until``."""
    return state is not None and all(state.status(step) in _ENDED for step in member.up_to(until))


def _reached(member: Member, state: State | None, *asked: str | None) -> str | None:
    """The last of the steps up to which it was ``asked`` to go, by itself or with the fleet, and is done."""
    known = [step for step in member.steps if step in asked and is_done(member, state, step)]
    return known[-1] if known else None


def words_of(code: int) -> str:
    """How a run ended that left no error."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _standing(member: Member, state: State | None, past: Past, until: str | None) -> Standing:
    return _by_state(member, state, until) or _by_last_run(member, state, past)


def _by_state(member: Member, state: State | None, until: str | None) -> Standing | None:
    """What the state alone says, however the last run ended that the fleet saw: another may have brought it so far."""
    if is_done(member, state):
        return Standing.DONE
    if _at(member, state, StepStatus.WAITING):
        return Standing.WAITING
    further = _at(member, state, StepStatus.RUNNING) or _at(member, state, StepStatus.FAILED)
    return Standing.REACHED if until is not None and not further else None


def _by_last_run(member: Member, state: State | None, past: Past) -> Standing:
    if past.code == DecisionNeeded.exit_code:
        return Standing.WAITING
    ended_badly = past.ended and past.code not in {0, *INTERRUPTED}
    if ended_badly or _at(member, state, StepStatus.FAILED):
        return Standing.FAILED
    # Begun, and nobody is at work any more: interrupted, or killed together with its fleet.
    return Standing.STOPPED if past.begun or (state is not None and state.steps) else Standing.PENDING


def _at(member: Member, state: State | None, status: StepStatus) -> str | None:
    if state is None:
        return None
    return next((step for step in member.steps if state.status(step) is status), None)


def _told(standing: Standing, member: Member, state: State | None, past: Past) -> str | None:
    if standing is Standing.WAITING:
        step = _at(member, state, StepStatus.WAITING)
        asked = past.told if past.code == DecisionNeeded.exit_code else None
        return asked or f"step {step} waits for approval"
    if standing is not Standing.FAILED:
        return None
    step = _at(member, state, StepStatus.FAILED)
    error = state.steps[step].error if state is not None and step is not None else None
    if past.ended and past.code not in {None, 0}:
        return past.told or error or words_of(past.code or 0)
    return error


def _view(
    member: Member, past: Past, state: State | None, *, standing: Standing, told: str | None
) -> MemberView:
    ended = [step for step in member.steps if state is not None and state.status(step) in _ENDED]
    left = next((step for step in member.steps if step not in ended), None)
    return MemberView(
        name=member.name,
        wave=member.wave,
        standing=standing,
        steps_done=len(ended),
        steps=len(member.steps),
        step=left if state is not None and state.steps else None,
        rows=_figure(member.steps, state, "rows"),
        bytes=_figure(member.steps, state, "bytes"),
        lag_bytes=None if standing is Standing.DONE else _figure(member.steps, state, "lag_bytes"),
        since=_since(member, state, past),
        attempts=past.begun,
        seconds=past.worked,
        told=told,
    )


def _figure(steps: Sequence[str], state: State | None, name: str) -> int | None:
    """The last step's figure of that name."""
    known = [state.steps[step].progress for step in reversed(steps) if step in state.steps] if state else []
    found = (progress.get(name) for progress in known)
    return next((value for value in found if type(value) is int), None)


def _since(member: Member, state: State | None, past: Past) -> datetime | None:
    steps = [state.steps[step] for step in member.steps if step in state.steps] if state else []
    moments = [m for step in steps for m in (step.started, step.resumed, step.finished) if m is not None]
    moments += [m for m in (past.last_begun, past.last_ended) if m is not None]
    return max(moments, default=None)
