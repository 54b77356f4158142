"""The journal: everything a run does, one JSON line each, on the disk before anyone hears of it."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.masking import hushed, without_hushed
from planrunner.reading import regular
from planrunner.shown import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from planrunner.model import Json
    from planrunner.ports import Clock

    Listener: TypeAlias = "Callable[[Event], None]"

_TAIL_BYTES = 1 << 20


class EventKind(Enum):
    """What an event tells."""

    RUN_STARTED = "run_started"
    RUN_ENDED = "run_ended"
    STEP_STARTED = "step_started"
    STEP_DONE = "step_done"
    STEP_FAILED = "step_failed"
    STEP_WAITING = "step_waiting"
    STEP_INTERRUPTED = "step_interrupted"
    STEP_SKIPPED = "step_skipped"
    STEP_UNDONE = "step_undone"
    RETRY = "retry"
    INTENT = "intent"
    OUTCOME = "outcome"
    FINDING = "finding"
    NEWS = "news"
    WARNING = "warning"
    DECISION = "decision"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the journal: a sentence for people, ``fields`` for machines; ``step`` is an id."""

    serial: int
    at: datetime
    kind: EventKind
    step: str | None
    message: str
    fields: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> str:
        """The event as one line without its newline."""
        written = json.dumps(
            {
                "serial": self.serial,
                "at": self.at.isoformat(timespec="milliseconds"),
                "kind": self.kind.value,
                "step": self.step,
                "message": self.message,
                "fields": self.fields,
            },
            ensure_ascii=False,
        )
        # Whatever reads lines cuts where it thinks they end, and people read this file in a terminal.
        return visible(written)


class Journal:
    """Appends events to a file, then tells the listeners. Safe to use from several threads."""

    def __init__(self, path: Path | None, *, clock: Clock, listeners: Sequence[Listener] = ()) -> None:
        self._clock = clock
        self._listeners = tuple(listeners)
        self._lock = threading.Lock()
        self._file = None if path is None else _opened(path)
        failpoint("journal.opened")
        self._serial = 0 if path is None else _last_serial(path)

    def write(
        self,
        kind: EventKind,
        message: str,
        *,
        step: str | None = None,
        fields: Mapping[str, Json] | None = None,
    ) -> Event:
        """Append one event; an intent reaches the disk before this returns."""
        with self._lock:
            self._serial += 1
            event = Event(
                serial=self._serial,
                at=self._clock.now(),
                kind=kind,
                step=step,
                # Everything that is shown or kept of a run comes by here.
                message=hushed(message),
                fields=without_hushed(fields or {}),
            )
            self._append(event)
            for listener in self._listeners:
                listener(event)
        # A check that was made is one of hundreds, and nothing hangs on it.
        failpoint("finding" if kind is EventKind.FINDING else "journal")
        return event

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _append(self, event: Event) -> None:
        if self._file is None:
            return
        self._file.write(event.to_json().encode() + b"\n")
        self._file.flush()
        if event.kind is EventKind.INTENT:
            os.fsync(self._file.fileno())


def read_events(path: Path) -> tuple[Event, ...]:
    """Every whole event of the file, oldest first; a line that a kill tore is passed over."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        return tuple(parsed(file))


def parsed(lines: BinaryIO | Sequence[bytes]) -> Iterator[Event]:
    """The events of ``lines``; a line that is none is passed over."""
    for line in lines:
        try:
            event = _event(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if event is not None:
            yield event


def _event(tree: Any) -> Event | None:
    """The event of a line's tree; None where something in it is not what an event has, so that nobody trips over it."""
    at, step = datetime.fromisoformat(tree["at"]), tree["step"]
    right = (
        type(tree["serial"]) is int
        and at.tzinfo is not None
        and (step is None or isinstance(step, str))
        and isinstance(tree["message"], str)
        and isinstance(tree["fields"], dict)
    )
    if not right:
        return None
    return Event(
        serial=tree["serial"],
        at=at,
        kind=EventKind(tree["kind"]),
        step=step,
        message=tree["message"],
        fields=tree["fields"],
    )


def _opened(path: Path) -> BinaryIO:
    try:
        descriptor = regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise StateUnfit(
            f"cannot open journal {path}: {error.strerror}", remedy="Make its folder and file writable."
        ) from error
    size = os.fstat(descriptor).st_size
    # A kill may have torn the last line; the next event must not be glued to it.
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return os.fdopen(descriptor, "ab")


def _last_serial(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return max((event.serial for event in parsed(file)), default=0)
