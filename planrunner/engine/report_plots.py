"""The geometry of the page's plots: paths in a box of 1,000 by 100 that the page stretches to its width."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from planrunner.engine.report_axis import WIDTH, Axis
from planrunner.engine.report_series import UNITS
from planrunner.engine.report_wording import milliseconds, moment, part
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planrunner.engine.report_axis import Break, Tick
    from planrunner.engine.report_model import LagSample, Pause, Rate, StepLine

HEIGHT = 100.0
# Their halves are written without a fraction, too.
_NICE = (1, 2, 4, 6, 8, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1024)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line or area; ``path`` is an SVG path, ``style`` the number of its colour."""

    label: str
    path: str
    style: int
    area: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A horizontal line at ``y`` and what it stands for."""

    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot over time, with the sentence that tells what it shows."""

    title: str
    description: str
    curves: tuple[Curve, ...]
    grid: tuple[Grid, ...]
    ticks: tuple[Tick, ...]
    breaks: tuple[Break, ...]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a stacked bar, in per cent of its width."""

    label: str
    value: str
    x: float
    width: float
    style: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """One attempt in the timeline, in the same thousandths as the axis."""

    x: float
    width: float
    ending: str
    told: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The attempts at every step over one axis."""

    rows: tuple[tuple[StepLine, tuple[Span, ...]], ...]
    ticks: tuple[Tick, ...]
    breaks: tuple[Break, ...]


def pace(rates: Sequence[Rate]) -> Plot | None:
    """How fast rows were copied, as steps; None when nothing was."""
    if not rates:
        return None
    axis = Axis([(rate.began, rate.ended) for rate in rates])
    top = _top(max(rate.bytes_per_second for rate in rates))
    seconds = sum((rate.ended - rate.began).total_seconds() for rate in rates)
    moved = sum(rate.bytes_per_second * (rate.ended - rate.began).total_seconds() for rate in rates)
    fastest = max(rates, key=lambda rate: rate.bytes_per_second)
    by_units = " A unit counts when it is finished." if any(rate.by == UNITS for rate in rates) else ""
    return Plot(
        title="Pace of the copy",
        description=(
            f"{human_bytes(moved)} in {human_seconds(seconds)}: {human_bytes(moved / seconds)}/s on average,"
            f" at most {human_bytes(fastest.bytes_per_second)}/s until {moment(fastest.ended)}.{by_units}"
        ),
        curves=(Curve(label="copied per second", path=_steps(rates, axis, top), style=1, area=True),),
        grid=_grid(top, lambda value: f"{human_bytes(value)}/s"),
        ticks=axis.ticks(),
        breaks=axis.breaks,
    )


def lag(samples: Sequence[LagSample]) -> Plot | None:
    """What the target was behind, and what the source kept for it; None when nobody looked."""
    if not samples:
        return None
    runs = [list(group) for _, group in groupby(samples, key=lambda sample: sample.run)]
    axis = Axis([(run[0].at, run[-1].at) for run in runs])
    kept = any(sample.retained_bytes is not None for sample in samples)
    top = _top(max(max(s.lag_bytes, s.retained_bytes or 0) for s in samples))
    worst = max(samples, key=lambda sample: sample.lag_bytes)
    curves = [Curve(label="not confirmed by the target", path=_lines(runs, axis, top, _behind), style=1)]
    if kept:
        curves.insert(0, Curve(label="kept on the source", path=_lines(runs, axis, top, _kept), style=2))
    return Plot(
        title="Lag of the streams",
        description=(
            f"{human_bytes(worst.lag_bytes)} of WAL behind at most, at {moment(worst.at)};"
            f" {human_bytes(samples[-1].lag_bytes)} at the last look, {moment(samples[-1].at)}."
        ),
        curves=tuple(curves),
        grid=_grid(top, human_bytes),
        ticks=axis.ticks(),
        breaks=axis.breaks,
    )


def stacked(pause: Pause) -> tuple[Segment, ...]:
    """The parts of a pause one after the other; what no part accounts for comes last."""
    parts = [(part(name), ms) for name, ms in pause.parts_ms.items()]
    rest = pause.total_ms - sum(ms for _, ms in parts)
    if parts and rest >= 0.1:
        parts.append(("in between", rest))
    whole = max(pause.total_ms, sum(ms for _, ms in parts)) or 1.0
    found: list[Segment] = []
    x = 0.0
    for style, (label, ms) in enumerate(parts, 1):
        width = 100 * ms / whole
        found.append(Segment(label=label, value=milliseconds(ms), x=x, width=width, style=style))
        x += width
    return tuple(found)


def timeline(steps: Sequence[StepLine]) -> Timeline | None:
    """When each step was at work; None when the journal tells of no attempt."""
    spans = [(run.began, run.ended or run.began) for step in steps for run in step.runs]
    if not spans:
        return None
    axis = Axis(spans)
    rows = tuple((step, tuple(_span(step, axis))) for step in steps)
    return Timeline(rows=rows, ticks=axis.ticks(), breaks=axis.breaks)


def _span(step: StepLine, axis: Axis) -> Iterator[Span]:
    for run in step.runs:
        ended = run.ended or run.began
        x = axis.place(run.began)
        told = f"{run.ending}, {moment(run.began)}, {human_seconds((ended - run.began).total_seconds())}"
        # The shortest attempt is still seen.
        width = max(axis.place(ended) - x, 5.0)
        yield Span(x=min(x, WIDTH - width), width=width, ending=run.ending, told=told)


def _steps(rates: Sequence[Rate], axis: Axis, top: float) -> str:
    path: list[str] = []
    for rate in rates:
        left, right = axis.place(rate.began), axis.place(rate.ended)
        y = _y(rate.bytes_per_second, top)
        path.append(f"M{left:.1f} {HEIGHT:.0f}V{y:.1f}H{right:.1f}V{HEIGHT:.0f}Z")
    return "".join(path)


def _lines(
    runs: Sequence[Sequence[LagSample]], axis: Axis, top: float, value: Callable[[LagSample], int]
) -> str:
    """One line a run: what was between two runs nobody saw."""
    path: list[str] = []
    for run in runs:
        points = [f"{axis.place(sample.at):.1f} {_y(value(sample), top):.1f}" for sample in run]
        # A line of no length is drawn as a dot.
        path.append(f"M{points[0]}L{'L'.join(points[1:] or points)}")
    return "".join(path)


def _behind(sample: LagSample) -> int:
    return sample.lag_bytes


def _kept(sample: LagSample) -> int:
    return sample.retained_bytes or 0


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - value / top)


def _top(most: float) -> float:
    """The next round number of bytes, in the unit that people read."""
    unit = 1.0
    while most >= 1024 * unit:
        unit *= 1024
    return unit * next(nice for nice in _NICE if most <= nice * unit)


def _grid(top: float, label: Callable[[float], str]) -> tuple[Grid, ...]:
    named = (Grid(y=_y(value, top), label=label(value)) for value in (top, top / 2))
    # The zero line needs no name, and there is no room for one.
    return (*named, Grid(y=HEIGHT, label=""))
