"""``planrunner status``: how far a plan is, from its state and, where they answer, its servers."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.looking import StepView
    from planrunner.model import Json
    from planrunner.state.lock import Holder

BYTES = "_bytes"


def status(
    plan: PlanFile,
    *,
    drift: Annotated[
        bool, typer.Option("--drift", help="Ask finished steps again whether something is missing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until the run ends.")] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="How often --watch looks.")
    ] = 2.0,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show how far each step is, with live figures where the servers answer."""
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import out

    opened = open_plan(plan, state, var, var_file)
    if watch:
        from planrunner.cli.watch import watch as watched

        watched(opened, interval=interval, output=output)
        return
    at_work = opened.home().holder()
    steps, unreachable = _steps(opened, running=at_work is not None, drift=drift)
    if output is Output.JSON:
        out(json.dumps(_as_json(opened, steps, at_work, unreachable), indent=2, ensure_ascii=False))
    else:
        out(_as_text(opened, steps, at_work, unreachable))


def _steps(opened: "OpenedPlan", *, running: bool, drift: bool) -> "tuple[tuple[StepView, ...], str | None]":
    from planrunner.cli.opening import onlooker
    from planrunner.engine.looking import live, recorded
    from planrunner.errors import PlanrunnerError, StateUnfit

    known = opened.state()
    steps = recorded(opened.plan, known, running=running)
    if known is None:
        return steps, None
    try:
        with opened.looking(connect=onlooker()) as view:
            return live(view, steps, drift=drift), None
    except StateUnfit:
        raise
    except PlanrunnerError as error:
        if drift:
            raise
        return steps, error.message


def _as_text(
    opened: "OpenedPlan", steps: "tuple[StepView, ...]", at_work: "Holder | None", unreachable: str | None
) -> str:
    from planrunner.cli.screen import table
    from planrunner.engine.opening import rules_made
    from planrunner.steering import Steer

    rows = [(s.id, s.uses, s.status, _seconds(s), _figures(s)) for s in steps]
    lines = [
        f"plan {opened.plan.name}: {f'a run is at work ({at_work})' if at_work else 'no run is at work'}"
    ]
    lines.append(table(("STEP", "USES", "STATUS", "SECONDS", "FIGURES"), rows))
    # What a later step tells of a slot is the newer.
    streams = {name: f"{s.id}: {name}: {told}" for s in steps for name, told in _streams(s)}
    lines += streams.values()
    lines += [f"{s.id}: {s.error}" for s in steps if s.error]
    known = opened.state()
    lines += [f"{mark.step}: {mark}" for mark in known.marks] if known else []
    lines += rules_made(known)
    asked = opened.home().control()
    if asked.steer != Steer():
        lines.append(f"asked: {asked}")
    for step in steps:
        lines += [f"{step.id} is done, but this is missing again: {action.summary}" for action in step.drift]
    if unreachable is not None:
        lines.append(f"no live figures: {unreachable}")
    return "\n".join(lines)


def _seconds(step: "StepView") -> str:
    return "" if step.seconds is None else f"{step.seconds:.1f}"


def _figures(step: "StepView") -> str:
    plain = {k: v for k, v in step.figures.items() if isinstance(v, int | float | str)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())


def _streams(step: "StepView") -> "Iterator[tuple[str, str]]":
    """Each slot, and what is told of it and its subscription."""
    streams = step.figures.get("streams")
    for name, figures in streams.items() if isinstance(streams, Mapping) else ():
        if isinstance(figures, Mapping):
            yield (
                name,
                ", ".join(f"{what.removesuffix(BYTES)} {_value(what, v)}" for what, v in figures.items()),
            )


def _value(name: str, value: "Json") -> str:
    from planrunner.units import human_bytes

    return human_bytes(value) if name.endswith(BYTES) and isinstance(value, int) else str(value)


def _as_json(
    opened: "OpenedPlan", steps: "tuple[StepView, ...]", at_work: "Holder | None", unreachable: str | None
) -> "Json":
    from planrunner.engine.preview_json import action_json

    return {
        "plan": opened.plan.name,
        "running": str(at_work) if at_work else None,
        "asked": str(opened.home().control()),
        "servers": unreachable or "reachable",
        "steps": [
            {
                "id": step.id,
                "uses": step.uses,
                "status": step.status,
                "attempts": step.attempts,
                "seconds": step.seconds,
                "error": step.error,
                "figures": dict(step.figures),
                "live": step.live,
                "drift": [action_json(action) for action in step.drift],
            }
            for step in steps
        ],
    }
