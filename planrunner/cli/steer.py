"""``planrunner pause``, ``resume`` and ``throttle``: ask something of a run from a second terminal."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.cli.opening import OpenedPlan
    from planrunner.model import Plan
    from planrunner.state.control import Control

# The least that each limit can be; there is always one stream and one builder.
_LEAST = {"jobs": 1, "index_jobs": 1, "max_load": 0}
_PLAN = "plan"


def pause(plan: PlanFile, state: StateFile = None, var: Vars = None, var_file: VarFiles = None) -> None:
    """Let the run finish what it has in hand and begin nothing new; it keeps its slots.

    The pause holds until `resume`, for later runs, too. A cutover's write pause is never held up: the pause takes
    effect after it.
    """
    from planrunner.cli.opening import open_plan

    opened = open_plan(plan, state, var, var_file)
    _ask(opened, {"paused": True})
    at_work = opened.home().holder()
    crossing = _crossing_at_work(opened) if at_work else None
    if crossing is not None:
        _say(f"step {crossing} is at work: its write pause is not held up, the pause takes effect after it")
    elif at_work is not None:
        _say(f"the run ({at_work}) pauses when what it has in hand is finished; slots stay and keep WAL")
    else:
        _say("no run is at work; the next one will wait at its first step")
    _say(f"Lift the pause with: {_command(opened, 'resume')}")


def resume(plan: PlanFile, state: StateFile = None, var: Vars = None, var_file: VarFiles = None) -> None:
    """Lift a pause: the run that waits goes on. It starts no run; `planrunner run` does."""
    from planrunner.cli.opening import open_plan

    opened = open_plan(plan, state, var, var_file)
    was = opened.home().control()
    _ask(opened, {"paused": False})
    at_work = opened.home().holder()
    _say("the pause is lifted" if was.steer.paused else "there was no pause")
    if at_work is None:
        _say(f"no run is at work; start one with: {_command(opened, 'run')}")
    elif was.steer.paused:
        _say(f"the run ({at_work}) goes on within seconds")


def throttle(
    plan: PlanFile,
    limits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=NUMBER…",
            help="jobs, index_jobs or max_load; NAME=plan gives it back to the plan. None: show what is asked.",
        ),
    ] = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Let the run take fewer or more streams (jobs), builders (index_jobs), or wait while the source is busy (max_load).

    It obeys at the next unit boundary; what is in hand is finished. The limits hold until they are changed again,
    for later runs, too.
    """
    from planrunner.cli.opening import open_plan

    opened = open_plan(plan, state, var, var_file)
    control = _ask(opened, _parsed(limits)) if limits else opened.home().control()
    _say(f"{opened.plan.name}: {control}")
    if not limits:
        return
    at_work = opened.home().holder()
    if at_work is None:
        _say("no run is at work; the next one will go by it")
    else:
        _say(f"the run ({at_work}) obeys at its next unit boundary")


def _parsed(given: "Sequence[str]") -> "Mapping[str, int | bool | None]":
    from planrunner.cli.opening import pairs
    from planrunner.errors import UsageError

    found: dict[str, int | bool | None] = {}
    for name, value in pairs(given, "throttle").items():
        if name not in _LEAST:
            raise UsageError(f"throttle: there is no {name!r}", remedy=f"There are: {', '.join(_LEAST)}.")
        number = None if value == _PLAN else _number(value)
        if value != _PLAN and (number is None or number < _LEAST[name]):
            raise UsageError(
                f"throttle: {name}={value}: expected a number from {_LEAST[name]} on, or {_PLAN}",
                remedy="To stop everything for a while: planrunner pause PLAN." if number == 0 else None,
            )
        found[name] = number
    return found


def _number(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() else None


def _ask(opened: "OpenedPlan", wishes: "Mapping[str, int | bool | None]") -> "Control":
    from planrunner.cli.opening import person
    from planrunner.clock import SystemClock

    home = opened.home()
    asked = home.control().changed(who=person(), when=SystemClock().now(), wishes=wishes)
    home.steer(asked)
    return asked


def _crossing_at_work(opened: "OpenedPlan") -> str | None:
    from planrunner.model import StepStatus
    from planrunner.registry import step
    from planrunner.step import Crossing

    known = opened.state()
    if known is None:
        return None
    running = (s for s in _specs(opened.plan) if known.status(s[0]) is StepStatus.RUNNING)
    return next((step_id for step_id, uses in running if isinstance(step(uses), Crossing)), None)


def _specs(plan: "Plan") -> "Sequence[tuple[str, str]]":
    return [(spec.id, spec.uses) for spec in plan.steps]


def _command(opened: "OpenedPlan", verb: str) -> str:
    return " ".join(("planrunner", verb, shlex.quote(str(opened.plan.path)), *opened.flags))


def _say(text: str) -> None:
    from planrunner.cli.screen import out

    out(text)
