"""Shows the events of a run as they happen: live lines, plain lines, or JSON lines."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, assert_never

from planrunner.cli.options import Output
from planrunner.engine.events import EventKind
from planrunner.engine.preview_text import IGNORED, MARKS
from planrunner.ignoring import told_finding
from planrunner.model import Mark
from planrunner.shown import in_one_line, visible
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from planrunner.engine.events import Event
    from planrunner.model import Plan
    from planrunner.state.record import State

_ICONS = {"done": "✓", "failed": "✗", "waiting": "?", "interrupted": "!", "pending": "·", "skipped": "-"}
_ENDINGS = {
    EventKind.STEP_DONE: "done",
    EventKind.STEP_FAILED: "failed",
    EventKind.STEP_WAITING: "waiting",
    EventKind.STEP_INTERRUPTED: "interrupted",
    EventKind.STEP_SKIPPED: "skipped",
    EventKind.STEP_UNDONE: "pending",
}
_LASTING = frozenset({EventKind.FINDING, EventKind.WARNING, EventKind.DECISION, EventKind.RETRY})


class Display(Protocol):
    """Shows events, and steps aside while a question is asked."""

    def show(self, event: Event) -> None:
        """Show one event; called under the journal's lock, so one at a time."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Leave the terminal alone for the length of the block."""
        ...


@contextmanager
def display_for(output: Output, plan: Plan, state: State | None) -> Iterator[Display]:
    """The display that fits: live lines on a terminal, plain lines elsewhere."""
    match output:
        case Output.JSON:
            yield JsonLines()
        case Output.TEXT if not sys.stdout.isatty():
            yield PlainLines()
        case Output.TEXT:
            live = LiveLines(plan, state)
            with live.running():
                yield live
        case _:
            assert_never(output)


class JsonLines:
    """One event a line, as the journal has it."""

    def show(self, event: Event) -> None:
        """Write the event to stdout."""
        _write(event.to_json())

    def paused(self) -> AbstractContextManager[None]:
        """There is nothing to pause."""
        return nullcontext()


class PlainLines:
    """One event a line, for people who read a log."""

    def show(self, event: Event) -> None:
        """Write the event to stdout."""
        # No name that a stranger gave begins a line of its own, which would read as one of ours.
        _write(f"{event.at:%H:%M:%S}  {line_of(event)}".replace("\n", "\n          "))

    def paused(self) -> AbstractContextManager[None]:
        """There is nothing to pause."""
        return nullcontext()


def line_of(event: Event) -> str:
    """An event as one line of text."""
    lead = f"{event.step}: " if event.step else ""
    match event.kind:
        case EventKind.FINDING:
            fields = event.fields
            mark = IGNORED if fields.get("ignored") else MARKS[Mark(fields["mark"])]
            told = event.message if fields["mark"] == Mark.PASS.value else told_finding(event.message, fields)
            return f"{lead}{mark} {told}"
        case EventKind.INTENT:
            return f"{lead}→ {event.message}"
        case EventKind.WARNING | EventKind.RETRY:
            return f"{lead}! {event.message}"
        case _:
            return f"{lead}{event.message}"


@dataclass(frozen=True, kw_only=True)
class _Line:
    uses: str
    status: str = "pending"
    message: str = ""
    began: float | None = None
    seconds: float = 0.0
    tables: int = 0
    rows: int = 0
    bytes: int = 0


class LiveLines:
    """One line a step, redrawn in place; findings and warnings stay above."""

    def __init__(self, plan: Plan, state: State | None) -> None:
        self._lines = {
            spec.id: _Line(uses=spec.uses, status=state.status(spec.id).value if state else "pending")
            for spec in plan.steps
        }
        self._live: Live | None = None
        self._console: Console | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draw for the length of the block."""
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False, markup=False)
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=4)
        with self._live:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop drawing while a question is asked."""
        assert self._live is not None
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def show(self, event: Event) -> None:
        """Take the event into its step's line."""
        if event.kind in _LASTING and self._console is not None:
            self._console.print(visible(line_of(event)))
        known = self._lines.get(event.step or "")
        if known is not None and event.step is not None:
            self._lines[event.step] = _advanced(known, event)

    def _drawn(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(width=1)
        table.add_column(width=max(map(len, self._lines)), no_wrap=True)
        table.add_column(width=9, justify="right", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for step_id, line in self._lines.items():
            table.add_row(_ICONS.get(line.status, "▸"), step_id, _clock(line), _text(line))
        return table


def _advanced(line: _Line, event: Event) -> _Line:
    moment, message = event.at.timestamp(), in_one_line(event.message)
    if event.kind is EventKind.STEP_STARTED:
        return replace(line, status="running", began=moment, message=message)
    if event.kind in _ENDINGS:
        seconds = moment - line.began if line.began else 0.0
        return replace(line, status=_ENDINGS[event.kind], message=message, began=None, seconds=seconds)
    if event.kind is EventKind.NEWS and "table" in event.fields:
        rows, size = event.fields.get("rows"), event.fields.get("bytes")
        return replace(
            line,
            message=message,
            tables=line.tables + 1,
            rows=line.rows + (rows if isinstance(rows, int) else 0),
            bytes=line.bytes + (size if isinstance(size, int) else 0),
        )
    return replace(line, message=message)


def _clock(line: _Line) -> str:
    from time import time

    seconds = line.seconds if line.began is None else max(0.0, time() - line.began)
    if line.began is None and not seconds:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f}:{seconds % 60:02.0f} min"


def _text(line: _Line) -> str:
    if not line.tables:
        return visible(line.message) or line.uses
    return f"{line.tables} tables, {line.rows:,} rows, {human_bytes(line.bytes)}; {visible(line.message)}"


def _write(text: str) -> None:
    sys.stdout.write(visible(text) + "\n")
    sys.stdout.flush()
