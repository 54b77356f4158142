"""Shows a run from a second terminal: redrawn in place, a line for each change, or a JSON line for each look."""

from __future__ import annotations

import json
import sys
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from planrunner.cli.options import Output
from planrunner.shown import in_one_line, visible
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.watching import Look
    from planrunner.model import Json

LEAST_SECONDS = 0.2


def watch(opened: OpenedPlan, *, interval: float, output: Output) -> None:
    """Look every ``interval`` seconds until no run is at work; one look when none was."""
    from planrunner.cli.opening import onlooker
    from planrunner.clock import SystemClock
    from planrunner.engine.watching import Watcher
    from planrunner.registry import step

    clock = SystemClock()
    watcher = Watcher(opened.plan, opened.home(), connect=onlooker(), clock=clock, find=step)
    drawing, show = _shown(opened.plan.name, output)
    with closing(watcher), drawing:
        while True:
            look = watcher.look()
            show(look)
            if look.holder is None:
                return
            clock.sleep(max(LEAST_SECONDS, interval))


def _shown(name: str, output: Output) -> tuple[AbstractContextManager[object], Callable[[Look], None]]:
    if output is Output.JSON:
        return nullcontext(), _json_line
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        return nullcontext(), Changes(name).show
    live = Live(console=console, auto_refresh=False)
    return live, lambda look: live.update(Text("\n".join(lines_of(name, look))), refresh=True)


def _json_line(look: Look) -> None:
    sys.stdout.write(visible(json.dumps(look.to_json(), ensure_ascii=False)) + "\n")
    sys.stdout.flush()


class Changes:
    """One line for what changed since the last look: a step's status, units, a pause, a server that went away."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: dict[str, str] = {}

    def show(self, look: Look) -> None:
        """Write the lines of what is new."""
        for key, value, more in self._facts(look):
            if self._told.get(key) != value:
                self._told[key] = value
                sys.stdout.write(f"{look.at:%H:%M:%S}  {in_one_line(f'{value}{more}')}\n")
        sys.stdout.flush()

    def _facts(self, look: Look) -> Iterator[tuple[str, str, str]]:
        """What is told, its words by which a change is known, and figures that alone are no change."""
        yield "run", _lead(self._name, look), ""
        yield "control", f"asked: {look.control}", ""
        for step in look.steps:
            yield step.id, f"{step.id}: {step.status}", f" ({step.error})" if step.error else ""
        if "units" in look.sample:
            figures = "; ".join(_figures(look))
            yield "units", f"units {look.sample['units_done']} of {look.sample['units']}", f"; {figures}"
        yield "away", f"away: {look.away}" if look.away else "servers answer", ""


def lines_of(name: str, look: Look) -> list[str]:
    """A look as a screen of text."""
    from planrunner.cli.screen import table

    rows = [(s.id, s.uses, s.status, "" if s.seconds is None else f"{s.seconds:.1f} s") for s in look.steps]
    lines = [_lead(name, look), *table(("STEP", "USES", "STATUS", "TIME"), rows).splitlines()]
    lines += _figures(look)
    lines += [f"slot {slot}: {told}" for slot, told in _slots(look.sample)]
    lines += [f"building: {text}" for text in _texts(look.sample.get("building"))]
    lines += [f"{s.id}: {s.error}" for s in look.steps if s.error]
    if str(look.control) != "as the plan says":
        lines.append(f"asked: {look.control}")
    if look.away is not None:
        lines.append(f"away, looked for again: {look.away}")
    return [*lines, f"{look.at:%H:%M:%S}"]


def _lead(name: str, look: Look) -> str:
    if look.holder is None:
        return f"plan {name}: no run is at work"
    paused = ", paused" if look.control.steer.paused else ""
    return f"plan {name}: a run is at work{paused} ({look.holder})"


def _figures(look: Look) -> Iterator[str]:
    sample, pace = look.sample, look.pace
    if "units" in sample:
        done = _whole(sample, "bytes") + _whole(sample, "moving_bytes")
        yield (
            f"{sample['units_done']} of {sample['units']} units,"
            f" {_whole(sample, 'rows') + _whole(sample, 'moving_rows'):,} rows,"
            f" {human_bytes(done)} of about {human_bytes(max(done, _whole(sample, 'bytes_total')))}"
        )
    if pace.bytes is not None and pace.rows is not None:
        eta = "" if pace.eta is None else f", {human_seconds(pace.eta)} to go"
        yield f"{pace.rows:,.0f} rows/s, {pace.bytes / 1e6:.1f} MB/s{eta}"
    if "lag_bytes" in sample:
        late = sample.get("lag_seconds")
        seconds = f", {human_seconds(late)}" if isinstance(late, int | float) else ""
        kept = human_bytes(_whole(sample, "retained_bytes"))
        yield f"lag {human_bytes(_whole(sample, 'lag_bytes'))}{seconds}; slots retain {kept}"


def _slots(sample: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    streams = sample.get("streams")
    for name, figures in streams.items() if isinstance(streams, dict) else ():
        if isinstance(figures, dict):
            lag = human_bytes(_whole(figures, "lag_bytes"))
            kept = human_bytes(_whole(figures, "retained_bytes"))
            yield name, f"{figures.get('slot')}, retains {kept}, {lag} not confirmed"


def _texts(value: Json) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _whole(sample: Mapping[str, Json], name: str) -> int:
    value = sample.get(name)
    return int(value) if isinstance(value, int | float) else 0
