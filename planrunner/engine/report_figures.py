"""Reads the figures that steps told into the report's values; what is absent or of another shape is left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from planrunner.engine.report_model import (
    Pause,
    ProofLine,
    SequenceLine,
    ServerLine,
    SwitchLine,
    VerdictLine,
)
from planrunner.engine.report_wording import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.engine.looking import StepView
    from planrunner.model import Json, Plan
    from planrunner.state.record import State

COUNTS = "row count"
DIGESTS = "row count and a digest of every row"


class Figures:
    """What the steps of a plan told, the last step's word first."""

    def __init__(self, steps: Sequence[StepView]) -> None:
        self._steps = tuple(step for step in reversed(steps) if isinstance(step.figures, dict))

    def whole(self, name: str) -> int | None:
        """The last step's number of that name."""
        found = (whole(step.figures.get(name)) for step in self._steps)
        return next((value for value in found if value is not None), None)

    def mapping(self, name: str) -> Mapping[str, Json]:
        """The last step's mapping of that name, an empty one when none told any."""
        found = (step.figures[name] for step in self._steps if isinstance(step.figures.get(name), dict))
        return cast("Mapping[str, Json]", next(found, {}))

    def mappings(self, name: str) -> tuple[Mapping[str, Json], ...]:
        """The last step's list of that name, its mappings alone."""
        found = (step.figures[name] for step in self._steps if isinstance(step.figures.get(name), list))
        return mappings(next(found, None))

    def texts(self, name: str) -> tuple[str, ...]:
        """Every step's list of that name in the plan's order, each text once."""
        told = (given for step in reversed(self._steps) for given in texts(step.figures.get(name)))
        return tuple(dict.fromkeys(told))


def number(value: Json) -> float | None:
    """A number as it is; None for anything else, and for a truth value."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def whole(value: Json) -> int | None:
    """A number without its fraction; None for anything else."""
    found = number(value)
    return None if found is None else int(cast("float", value))


def text(value: Json) -> str | None:
    """Anything as text; None for nothing."""
    return None if value is None else str(value)


def when(value: Json) -> datetime | None:
    """A time with its zone, as ISO 8601 writes it; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else None


def texts(value: Json) -> tuple[str, ...]:
    """A list's members as texts; an empty tuple for anything else."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def mappings(value: Json) -> tuple[Mapping[str, Json], ...]:
    """The mappings of a list; an empty tuple for anything else."""
    return tuple(v for v in value if isinstance(v, dict)) if isinstance(value, list) else ()


def pause(told: Mapping[str, Json]) -> Pause | None:
    """A pause with its parts; None without a total."""
    total, parts = number(told.get("total_ms")), told.get("parts_ms")
    if total is None:
        return None
    given = parts if isinstance(parts, dict) else {}
    numbers = {str(name): found for name, ms in given.items() if (found := number(ms)) is not None}
    # The ledger's jsonb keeps no order; the parts have one.
    ordered = {name: numbers[name] for name in sorted(numbers, key=_place)}
    return Pause(total_ms=total, parts_ms=ordered, at=when(told.get("at")))


def _place(part: str) -> int:
    known = list(PARTS)
    # What nobody knows yet comes last but for the commit, which ends every pause.
    return known.index(part) if part in PARTS else known.index("commit") - 1


def pauses(told: Sequence[Mapping[str, Json]]) -> tuple[Pause, ...]:
    """Several pauses, those without a total left out."""
    return tuple(found for one in told if (found := pause(one)) is not None)


def verdicts(comparison: Mapping[str, Json], how: str | None) -> tuple[VerdictLine, ...]:
    """One line a table; ``how`` for those that don't tell it themselves."""
    return tuple(
        VerdictLine(
            table=str(row.get("table")),
            source_rows=whole(row.get("source_rows", row.get("rows"))),
            target_rows=whole(row.get("target_rows", row.get("rows"))),
            # Only what says so is equal.
            equal=row.get("equal") is True,
            detail=text(row.get("detail")),
            how=text(row.get("how")) or how,
        )
        for row in mappings(comparison.get("tables"))
    )


def proofs(told: Sequence[Mapping[str, Json]]) -> tuple[ProofLine, ...]:
    """What was looked at beside the rows."""
    return tuple(
        ProofLine(
            name=str(one.get("name")),
            equal=one.get("equal") is True,
            text=text(one.get("text")) or "",
            detail=texts(one.get("detail")),
            stops=stops if isinstance(stops := one.get("stops"), bool) else None,
        )
        for one in told
    )


def sequences(told: Sequence[Mapping[str, Json]]) -> tuple[SequenceLine, ...]:
    """Where each sequence stands; without a headroom of its own it is the distance between both sides."""
    return tuple(_sequence(one) for one in told)


def _sequence(one: Mapping[str, Json]) -> SequenceLine:
    source, target, headroom = (whole(one.get(name)) for name in ("source", "target", "headroom"))
    if headroom is None and source is not None and target is not None:
        headroom = target - source
    return SequenceLine(sequence=str(one.get("sequence")), source=source, target=target, headroom=headroom)


def switches(told: Sequence[Mapping[str, Json]]) -> tuple[SwitchLine, ...]:
    """The hooks that moved the traffic, in their order."""
    return tuple(
        SwitchLine(
            name=text(one.get("name")) or "",
            phase=text(one.get("phase")) or "",
            seconds=number(one.get("seconds")),
        )
        for one in told
    )


def scalars(told: Mapping[str, Json]) -> Mapping[str, Json]:
    """The plain values of a mapping."""
    return {str(k): value for k, value in told.items() if isinstance(value, bool | int | float | str)}


def servers(state: State | None) -> Iterator[ServerLine]:
    """Both databases as the last run met them."""
    facts = state.facts if state else {}
    known = facts.get("servers")
    for side in ("source", "target"):
        told = known.get(side) if isinstance(known, dict) else None
        found: Mapping[str, Json] = told if isinstance(told, dict) else {}
        identifier, _, database = str(facts.get(side) or "").partition("/")
        if not (found or identifier):
            continue
        given = {name: text(found.get(name)) for name in ("version", "host", "port", "user", "sslmode")}
        yield ServerLine(
            side=side,
            database=text(found.get("database")) or database or None,
            system_identifier=text(found.get("system_identifier")) or identifier or None,
            **given,
        )


def way_of_proof(plan: Plan, state: State | None) -> str | None:
    """How the cutover compared, by the plan; None when the plan was edited since, or has none."""
    for spec in reversed(plan.steps):
        known = state.steps.get(spec.id) if state else None
        if spec.uses == "cutover_verify" and known is not None and known.digest == spec.digest:
            return COUNTS if spec.options.get("verify") == "counts" else DIGESTS
    return None
