"""Which steps run before which, and the orders that can't work."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.loading import codes
from planrunner.loading.document import Document, shown
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Json, Problem

# A step of the first kind works on what one of the second kind leaves behind.
_BUILDS_ON = (
    ("sync", "snapshot", "which copies the rows that it follows from"),
    ("cutover_verify", "snapshot", "which copies what it compares"),
    ("cutover_verify", "sync", "which brings the target to where a cutover is possible"),
)


def misplaced(document: Document, tree: Json) -> list[Problem]:
    """Steps that run before what they build on, or after what they were to prepare."""
    steps = entries(tree)
    before = ancestors(steps)
    return [*_too_early(document, steps, before), *_late_rehearsals(document, steps, before)]


def entries(tree: Json) -> tuple[Mapping[str, Json], ...]:
    """The steps in the order of the file; what is no mapping stands there empty."""
    steps = at(tree, ("steps",))
    listed = cast("list[Json]", steps) if isinstance(steps, list) else []
    return tuple(cast("dict[str, Json]", step) if isinstance(step, dict) else {} for step in listed)


def ancestors(steps: Sequence[Mapping[str, Json]]) -> tuple[frozenset[int], ...]:
    """For each step the indexes of those that surely run before it.

    Without ``needs`` that is the one above and all before that. A circle is another rule's to tell.
    """
    places = {name: index for index, step in enumerate(steps) if isinstance(name := step.get("id"), str)}
    nearest = [_nearest(step, index, places) for index, step in enumerate(steps)]
    return tuple(_reach(index, nearest) for index in range(len(steps)))


def _nearest(step: Mapping[str, Json], index: int, places: Mapping[str, int]) -> list[int]:
    needs = step.get("needs")
    if isinstance(needs, list):
        return [
            places[name] for name in cast("list[Json]", needs) if isinstance(name, str) and name in places
        ]
    return [index - 1] if index else []


def _reach(index: int, nearest: Sequence[Sequence[int]]) -> frozenset[int]:
    found: set[int] = set()
    waiting = list(nearest[index])
    while waiting:
        if (place := waiting.pop()) not in found:
            found.add(place)
            waiting += nearest[place]
    return frozenset(found - {index})


def _too_early(
    document: Document, steps: Sequence[Mapping[str, Json]], before: Sequence[frozenset[int]]
) -> Iterator[Problem]:
    for later, earlier, why in _BUILDS_ON:
        bases = [index for index, step in enumerate(steps) if step.get("uses") == earlier]
        for index, step in enumerate(steps):
            hasty = step.get("uses") == later and not before[index].intersection(bases)
            late = next((base for base in bases if index in before[base]), None)
            if hasty and late is not None:
                line = document.values["steps", late].line
                text = f"{later} runs before {earlier} (line {line}), {why}"
                remedy = f"Move it below {_named(steps[late], late)}."
                yield document.problem(("steps", index, "uses"), text, remedy, codes.ORDER)


def _late_rehearsals(
    document: Document, steps: Sequence[Mapping[str, Json]], before: Sequence[frozenset[int]]
) -> Iterator[Problem]:
    cutovers = {i: rehearses(step) for i, step in enumerate(steps) if step.get("uses") == "cutover_verify"}
    for index, rehearsal in cutovers.items():
        real = [other for other in before[index] if cutovers.get(other) is False]
        if rehearsal and real:
            line = document.values["steps", real[0]].line
            text = f"a rehearsal after the cutover itself (line {line}) rehearses nothing"
            remedy = f"Move it above {_named(steps[real[0]], real[0])}."
            yield document.problem(("steps", index, "with", "rehearse"), text, remedy, codes.ORDER)


def rehearses(step: Mapping[str, Json]) -> bool:
    """Whether this cutover is only tried."""
    return at(cast("Json", step), ("with", "rehearse")) is True


def _named(step: Mapping[str, Json], index: int) -> str:
    name = step.get("id")
    return f"the step {shown(name)}" if isinstance(name, str) else f"steps[{index}]"
