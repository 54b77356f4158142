"""Looks at a run again and again from outside: its state, its journal, and its servers, changing nothing."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.engine.looking import looking_at, recorded
from planrunner.errors import PlanrunnerError, StateUnfit
from planrunner.model import StepStatus
from planrunner.step import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from planrunner.engine.context import Connect
    from planrunner.engine.looking import StepView, View
    from planrunner.model import Json, Plan
    from planrunner.ports import Clock, StateHome
    from planrunner.state.control import Control
    from planrunner.state.lock import Holder
    from planrunner.state.record import State
    from planrunner.step import Step

WINDOW_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a second moved over the last window; None before there were two looks at a copy. ``eta`` in seconds."""

    rows: float | None = None
    bytes: float | None = None
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look. ``sample`` is what the step at work tells, empty where it tells nothing; ``away`` says who is away."""

    at: datetime
    holder: Holder | None
    control: Control
    steps: tuple[StepView, ...]
    sample: Mapping[str, Json] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    away: str | None = None

    @property
    def at_work(self) -> StepView | None:
        """The step at work, None between two of them."""
        return next((step for step in self.steps if step.status == StepStatus.RUNNING.value), None)

    def to_json(self) -> Mapping[str, Json]:
        """The look for programs."""
        return {
            "at": self.at.isoformat(timespec="milliseconds"),
            "running": None if self.holder is None else str(self.holder),
            "paused": self.control.steer.paused,
            "asked": str(self.control),
            "step": self.at_work.id if self.at_work else None,
            "steps": [
                {"id": s.id, "uses": s.uses, "status": s.status, "seconds": s.seconds, "error": s.error}
                for s in self.steps
            ],
            "figures": dict(self.sample),
            "rows_per_second": self.pace.rows,
            "bytes_per_second": self.pace.bytes,
            "eta_seconds": self.pace.eta,
            "away": self.away,
        }


@dataclass(frozen=True, kw_only=True)
class _Point:
    at: float
    rows: float
    bytes: float
    behind: float


class Watcher:
    """Keeps one session on each server; one that is away is tried again at the next look. Close it at the end."""

    def __init__(
        self, plan: Plan, home: StateHome, *, connect: Connect, clock: Clock, find: Callable[[str], Step]
    ) -> None:
        self._plan = plan
        self._home = home
        self._connect = connect
        self._clock = clock
        self._find = find
        self._opened = ExitStack()
        self._view: View | None = None
        self._points: deque[_Point] = deque()
        self._last: tuple[State | None, Holder | None, Control] | None = None

    def close(self) -> None:
        """End the sessions; safe to call twice."""
        self._opened.close()
        self._view = None

    def look(self) -> Look:
        """Look once; StateUnfit for a state that can't be used, everything else that fails is told as ``away``."""
        away: str | None = None
        try:
            self._last = self._home.load(), self._home.holder(), self._home.control()
        except StateUnfit:
            raise
        except PlanrunnerError as error:
            if self._last is None:
                raise
            away = error.message
        assert self._last is not None
        state, holder, control = self._last
        steps = recorded(self._plan, state, running=holder is not None)
        sample, missing = self._sample(state, steps) if holder is not None else ({}, None)
        return Look(
            at=self._clock.now(),
            holder=holder,
            control=control,
            steps=steps,
            sample=sample,
            pace=self._pace(sample),
            away=away or missing,
        )

    def _sample(
        self, state: State | None, steps: tuple[StepView, ...]
    ) -> tuple[Mapping[str, Json], str | None]:
        running = next((s for s in steps if s.status == StepStatus.RUNNING.value), None)
        spec = None if running is None else self._plan.step(running.id)
        step = None if spec is None else self._find(spec.uses)
        # Before the first run has learnt the plan's id there is nothing to find on the servers.
        if spec is None or not isinstance(step, Sampling) or state is None or state.plan_id is None:
            return {}, None
        try:
            if self._view is None:
                opening = looking_at(
                    self._plan, state, connect=self._connect, clock=self._clock, find=self._find
                )
                self._view = self._opened.enter_context(opening)
            return step.sample(self._view.run(spec)), None
        except StateUnfit:
            raise
        except PlanrunnerError as error:
            self.close()
            return {}, error.message

    def _pace(self, sample: Mapping[str, Json]) -> Pace:
        if "bytes" not in sample:
            return Pace()
        moved = _number(sample, "bytes") + _number(sample, "moving_bytes")
        rows = _number(sample, "rows") + _number(sample, "moving_rows")
        now = _Point(at=self._clock.monotonic(), rows=rows, bytes=moved, behind=_number(sample, "lag_bytes"))
        self._points.append(now)
        while now.at - self._points[0].at > WINDOW_SECONDS and len(self._points) > 2:
            self._points.popleft()
        first = self._points[0]
        seconds = now.at - first.at
        if seconds <= 0:
            return Pace()
        pace = max(0.0, (now.bytes - first.bytes) / seconds)
        left = _number(sample, "bytes_total") - moved
        if _number(sample, "units_done") >= _number(sample, "units"):
            # Everything is copied: what is left is what the target lags behind.
            left, speed = now.behind, (first.behind - now.behind) / seconds
        else:
            speed = pace
        return Pace(
            rows=round(max(0.0, (now.rows - first.rows) / seconds), 1),
            bytes=round(pace, 1),
            eta=round(left / speed, 1) if speed > 0 and left > 0 else None,
        )


def _number(sample: Mapping[str, Json], name: str) -> float:
    value = sample.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
