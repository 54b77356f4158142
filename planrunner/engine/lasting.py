"""What stays changed when a migration is over and cleaned up, and what cleanup takes back by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.masking import masked
from planrunner.model import Side
from planrunner.shown import in_one_line
from planrunner.step import NOTHING_STAYS, TAKEN_BACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.engine.preview import Preview
    from planrunner.model import Json

_CLEANUP = "cleanup"
_FILES = "state file with its backups, journal of events and reports: they hold no secret"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Something that a step leaves: what, where, and how it is undone; ``undo`` None where cleanup does it."""

    step: str
    where: Side
    text: str
    undo: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """What stays and what cleanup takes back, of the steps that a preview asked.

    ``step`` is the id of the plan's own cleanup step, ``untold`` are the ids of steps that were not asked any more.
    """

    stays: tuple[Trace, ...]
    taken_back: tuple[Trace, ...]
    step: str | None
    untold: tuple[str, ...]

    @property
    def cleanup(self) -> str:
        """By what it is taken back."""
        return f"the plan's step {self.step}" if self.step else "planrunner cleanup PLAN"


def lasting(preview: Preview) -> Lasting:
    """Put together what the actions themselves say; a step that does not say counts as one whose work stays."""
    stays, back = list[Trace](), list[Trace]()
    for step in preview.steps:
        for action in step.actions:
            if action.lasting == TAKEN_BACK:
                back.append(Trace(step=step.spec.id, where=action.where, text=action.summary))
            elif action.lasting != NOTHING_STAYS:
                text = action.lasting or f"{action.summary} (its step does not say what stays)"
                stays.append(Trace(step=step.spec.id, where=action.where, text=text, undo=action.undo))
        back += [
            Trace(step=step.spec.id, where=kept.where, text=kept.text)
            for kept in step.upkeep
            if kept.taken_back
        ]
    if stays or back:
        stays.append(Trace(step="", where=Side.LOCAL, text=_FILES, undo="delete them"))
    cleaning = next((step.spec.id for step in preview.steps if step.spec.uses == _CLEANUP), None)
    done = tuple(step.spec.id for step in preview.steps if step.done)
    return Lasting(stays=_once(stays), taken_back=_once(back), step=cleaning, untold=done)


def _once(traces: list[Trace]) -> tuple[Trace, ...]:
    """Each once, by the first step that leaves it."""
    seen: dict[tuple[Side, str], Trace] = {}
    for trace in traces:
        seen.setdefault((trace.where, trace.text), trace)
    return tuple(seen.values())


def lasting_lines(found: Lasting) -> Iterator[str]:
    """The section of a preview, a line each; nothing where nothing is left."""
    if not found.stays and not found.taken_back:
        return
    yield "Stays afterwards, cleanup included:"
    for trace in found.stays:
        yield f"  - {_who(trace)}: {in_one_line(masked(trace.text))}"
        if trace.undo is not None:
            yield f"      undo: {in_one_line(masked(trace.undo))}"
    if found.taken_back:
        yield f"Taken back by {found.cleanup}:"
        yield from (f"  - {_who(trace)}: {in_one_line(masked(trace.text))}" for trace in found.taken_back)
    if found.untold:
        yield f"Not told here, for they are done: {', '.join(found.untold)}"


def _who(trace: Trace) -> str:
    return f"{trace.where.value}, {trace.step}" if trace.step else f"{trace.where.value}"


def lasting_json(found: Lasting) -> dict[str, Json]:
    """The same for programs."""
    return {
        "stays": [
            {
                "step": t.step or None,
                "where": t.where.value,
                "text": masked(t.text),
                "undo": masked(t.undo or ""),
            }
            for t in found.stays
        ],
        "taken_back": [
            {"step": t.step or None, "where": t.where.value, "text": masked(t.text)} for t in found.taken_back
        ],
        "cleanup": found.cleanup,
        "not_told": list(found.untold),
    }
