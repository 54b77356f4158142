"""What the journal tells over time: attempts at the steps, the pace of the copy, the lag of the streams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from planrunner.engine.events import EventKind
from planrunner.engine.report_figures import number, pause, whole
from planrunner.engine.report_model import Attempt, LagSample, Rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from planrunner.engine.events import Event
    from planrunner.engine.report_model import Pause

T = TypeVar("T")

MOST_POINTS = 1_000
SAMPLES, UNITS = "samples", "units"
# With fewer samples of a run, its finished units show its pace more finely.
_ENOUGH_SAMPLES = 4
_BUCKETS = 40
_SHORTEST = timedelta(milliseconds=50)
_ENDINGS = {
    EventKind.STEP_DONE: "done",
    EventKind.STEP_FAILED: "failed",
    EventKind.STEP_WAITING: "waiting",
    EventKind.STEP_INTERRUPTED: "interrupted",
}


# How the journal's news of a crossing begin; their fields are the pause and its parts.
REHEARSED, RETURNED = ("rehearsed:", "rollback rehearsed:"), ("rolled back:",)


@dataclass(frozen=True, kw_only=True)
class _Moved:
    began: datetime
    ended: datetime
    bytes: float
    by: str


def attempts(events: Sequence[Event], *, running: bool) -> Mapping[str, tuple[Attempt, ...]]:
    """Every attempt at each step; one whose runner was killed ends with the run's last event.

    ``running`` tells that the last run is still at work.
    """
    found: dict[str, list[Attempt]] = {}
    runs = list(_runs(events))
    for run in runs:
        begun: dict[str, datetime] = {}
        for event in run:
            if event.step is None:
                continue
            if event.kind is EventKind.STEP_STARTED:
                begun[event.step] = event.at
            elif event.kind in _ENDINGS and event.step in begun:
                ended = Attempt(began=begun.pop(event.step), ended=event.at, ending=_ENDINGS[event.kind])
                found.setdefault(event.step, []).append(ended)
        goes_on = running and run is runs[-1]
        for step, began in begun.items():
            rest = Attempt(began=began, ended=run[-1].at, ending="killed")
            rest = replace(rest, ended=None, ending="running") if goes_on else rest
            found.setdefault(step, []).append(rest)
    return {step: tuple(own) for step, own in found.items()}


def crossings(events: Sequence[Event], beginnings: tuple[str, ...]) -> tuple[Pause, ...]:
    """The pauses of rehearsals or rollbacks; a rollback makes the state forget its step, the journal keeps it."""
    told = (
        event for event in events if event.kind is EventKind.NEWS and event.message.startswith(beginnings)
    )
    found = ((event, pause(event.fields)) for event in told)
    return tuple(replace(one, at=one.at or event.at) for event, one in found if one is not None)


def throughput(events: Sequence[Event]) -> tuple[Rate, ...]:
    """How fast rows were copied, in stretches of time; of each run by samples, else by the units that were finished."""
    moved: list[_Moved] = []
    for run in _runs(events):
        samples = list(_samples(run))
        moved += samples if len(samples) >= _ENOUGH_SAMPLES else _by_units(run)
    return tuple(_rate(group) for group in _grouped(moved))


def lag(events: Sequence[Event]) -> tuple[LagSample, ...]:
    """What the streams were behind; thinned so that of neighbours the worst is kept."""
    found: list[LagSample] = []
    for place, run in enumerate(_runs(events), 1):
        for event in run:
            behind = whole(event.fields.get("lag_bytes"))
            if behind is not None:
                kept = whole(event.fields.get("retained_bytes"))
                found.append(LagSample(at=event.at, run=place, lag_bytes=behind, retained_bytes=kept))
    return tuple(max(group, key=lambda sample: sample.lag_bytes) for group in _grouped(found))


def _runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    run: list[Event] = []
    for event in events:
        if event.kind is EventKind.RUN_STARTED and run:
            yield run
            run = []
        run.append(event)
    if run:
        yield run


def _samples(run: Sequence[Event]) -> Iterator[_Moved]:
    for event in run:
        moved, seconds = number(event.fields.get("moved_bytes")), number(event.fields.get("seconds"))
        if moved is not None and seconds:
            yield _Moved(began=event.at - timedelta(seconds=seconds), ended=event.at, bytes=moved, by=SAMPLES)


def _by_units(run: Sequence[Event]) -> list[_Moved]:
    """The units that were finished, in equal stretches from the event before the first of them."""
    done = [(before, event) for before, event in pairwise(run) if isinstance(event.fields.get("units"), list)]
    sizes = [(e.at, size) for _, e in done if (size := number(e.fields.get("bytes"))) is not None]
    if not sizes:
        return []
    began, ended = done[0][0].at, sizes[-1][0]
    count = max(1, min(_BUCKETS, int((ended - began) / _SHORTEST)))
    width = max(ended - began, _SHORTEST) / count
    stretches = [0.0] * count
    for at, size in sizes:
        stretches[min(count - 1, int((at - began) / width))] += size
    return [
        _Moved(began=began + place * width, ended=began + (place + 1) * width, bytes=size, by=UNITS)
        for place, size in enumerate(stretches)
    ]


def _rate(group: Sequence[_Moved]) -> Rate:
    seconds = sum((one.ended - one.began).total_seconds() for one in group)
    return Rate(
        began=group[0].began,
        ended=group[-1].ended,
        bytes_per_second=round(sum(one.bytes for one in group) / seconds, 1),
        by=group[0].by,
    )


def _grouped(points: list[T]) -> Iterator[list[T]]:
    """Neighbours together, so that no more groups than ``MOST_POINTS`` are left."""
    size = max(1, -(-len(points) // MOST_POINTS))
    return (points[place : place + size] for place in range(0, len(points), size))
