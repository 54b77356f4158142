"""``planrunner state``: look at the state, at what led to it, and mark a step against what the runner found."""

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.completing import step_ids
from planrunner.cli.options import NoInput, Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars, Yes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.events import Event
    from planrunner.engine.rebuilding import Rebuilt
    from planrunner.model import Json
    from planrunner.state.record import State

app = typer.Typer(help="Look at the state, or correct it.", no_args_is_help=True, rich_markup_mode=None)


class As(Enum):
    """What a step can be marked."""

    DONE = "done"
    PENDING = "pending"


@app.callback()
def state_group() -> None:
    """Look at the state, or correct it."""


@app.command()
def show(plan: PlanFile, state: StateFile = None, var: Vars = None, var_file: VarFiles = None) -> None:
    """Print the state as JSON."""
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import out
    from planrunner.errors import UsageError
    from planrunner.state.codec import to_json

    opened = open_plan(plan, state, var, var_file, looking_up=False)
    known = opened.state()
    if known is None:
        raise UsageError(
            f"there is no state: {opened.files.place} does not exist", remedy="Run the plan first."
        )
    out(to_json(known))


@app.command()
def history(
    plan: PlanFile,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Tell what led to the state: runs, steps, decisions and marks, and the previous states that are kept."""
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import out

    opened = open_plan(plan, state, var, var_file)
    known = opened.state()
    kept = [*([known] if known else []), *opened.home().history()]
    told = [event for event in opened.events() if event.kind.value in _TOLD]
    if output is Output.JSON:
        out(json.dumps(_as_json(told, kept), indent=2, ensure_ascii=False))
    else:
        out("\n".join(_as_text(opened, told, kept)))


@app.command()
def mark(
    plan: PlanFile,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step.", autocompletion=step_ids)],
    *,
    status: Annotated[As, typer.Option("--as", help="done: not asked any more; pending: asked again.")],
    because: Annotated[str, typer.Option(metavar="REASON", help="Why, for the record.")],
    yes: Yes = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    no_input: NoInput = False,
) -> None:
    """Say how far a step is, against what the runner found; who, when and why are recorded and shown.

    Nothing on the servers changes. Exit codes: 0 marked, 2 nonsense (a cutover is no line in a file), 4 not agreed to,
    5 a run is at work.
    """
    from planrunner.cli.opening import open_plan, person
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine import marking
    from planrunner.engine.launch import at_work
    from planrunner.model import StepStatus

    opened = open_plan(plan, state, var, var_file)
    wished = StepStatus(status.value)
    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        marking.refuse_nonsense(setup, step, wished, because)
        _confirm(opened, step, status, yes=yes, asking=may_ask(no_input=no_input))
        marking.mark(setup, step, wished, who=person(), why=because)
        onward = setup.command("run")
    out(f"{step} is marked {status.value}. Go on with: {onward}")


@app.command()
def job(
    plan: PlanFile,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step that asked for the job.")],
    *,
    job_id: Annotated[
        str | None, typer.Option("--id", metavar="JOB_ID", help="The job that was made.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="No job was made.")] = False,
    because: Annotated[str, typer.Option(metavar="REASON", help="How you know, for the record.")],
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Say which job of SerenAI's cloud a step made whose reply was lost, or that it made none.

    Exit codes: 0 recorded, 2 nonsense, 5 a run is at work.
    """
    from planrunner.cli.opening import open_plan, person
    from planrunner.cli.screen import out
    from planrunner.engine.job_naming import name_job
    from planrunner.engine.launch import at_work
    from planrunner.errors import UsageError

    if (job_id is None) != none:
        raise UsageError("say exactly one of --id JOB_ID and --none")
    opened = open_plan(plan, state, var, var_file)
    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        name_job(setup, step, job_id, who=person(), why=because)
        onward = setup.command("run")
    out(f"{step}: {'there is no job' if job_id is None else f'job {job_id}'}. Go on with: {onward}")


@app.command()
def rebuild(
    plan: PlanFile,
    *,
    yes: Yes = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    no_input: NoInput = False,
) -> None:
    """Make a lost or damaged state anew from the target's ledger and from what the servers show.

    What can't be read is put aside, not removed; nothing on the servers changes. Exit codes: 0 made, 2 there is
    nothing to make, or nothing to make it from, 4 not agreed to, 5 a run is at work, 6 other databases.
    """
    from planrunner.cli.opening import open_plan, person
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine import rebuilding
    from planrunner.engine.launch import at_work

    opened = open_plan(plan, state, var, var_file)
    home = opened.home()
    with at_work(opened.plan, opened.files, opened.parts(), readable=False) as setup:
        with rebuilding.rebuilding(setup) as rebuilt:
            out("\n".join(_as_table(rebuilt)))
            _agree_to(rebuilt, yes=yes, asking=may_ask(no_input=no_input))
            former = rebuilding.save(setup, rebuilt, who=person())
        onward = setup.command("run")
    aside = f"What could not be read lies at {former}. " if former else ""
    out(f"\nThe state is at {home.place}. {aside}Look at it, then go on with: {onward}")


def _as_table(rebuilt: "Rebuilt") -> "Iterator[str]":
    width = max(len(found.spec.id) for found in rebuilt.found)
    yield f"plan {rebuilt.context.plan.name} ({rebuilt.context.plan_id}), by the target's ledger and the servers:"
    for found in rebuilt.found:
        yield f"  {found.spec.id:<{width}}  {found.status.value:<8}  {found.why}"


def _agree_to(rebuilt: "Rebuilt", *, yes: bool, asking: bool) -> None:
    from planrunner.cli.screen import agrees
    from planrunner.errors import DecisionNeeded

    question = f"Save this as the state of plan {rebuilt.context.plan.name}?"
    if not (yes or (asking and agrees(question))):
        raise DecisionNeeded("nothing was saved", remedy="Agree with --yes.")


def _confirm(opened: "OpenedPlan", step: str, status: As, *, yes: bool, asking: bool) -> None:
    from planrunner.cli.screen import agrees
    from planrunner.errors import DecisionNeeded

    known = opened.state()
    spec = opened.plan.step(step)
    was = known.status(step).value if known else "pending"
    uses = spec.uses if spec else ""
    effect = "it won't be asked any more" if status is As.DONE else "it will be asked again what is missing"
    question = f"step {step} ({uses}) is {was}. Mark it {status.value}: {effect}?"
    if not (yes or (asking and agrees(question))):
        raise DecisionNeeded(f"nothing was marked: {question}", remedy="Agree with --yes.")


_TOLD = frozenset(
    {"run_started", "run_ended", "step_done", "step_failed", "step_waiting", "step_interrupted", "decision"}
)


def _as_text(opened: "OpenedPlan", told: "list[Event]", kept: "list[State]") -> "Iterator[str]":
    yield f"plan {opened.plan.name}, state {opened.files.place}"
    for event in told:
        lead = f"{event.step}: " if event.step else ""
        yield f"{event.at:%Y-%m-%d %H:%M:%S}  {lead}{event.message}"
    for number, state in enumerate(kept):
        steps = ", ".join(f"{step_id} {step.status.value}" for step_id, step in state.steps.items())
        age = "now" if number == 0 else f"backup {number}"
        yield f"serial {state.serial} ({age}): {steps or 'no step has begun'}"


def _as_json(told: "list[Event]", kept: "list[State]") -> "Mapping[str, Json]":
    return {
        "events": [json.loads(event.to_json()) for event in told],
        "states": [
            {
                "serial": state.serial,
                "lineage": state.lineage,
                "plan_digest": state.plan_digest,
                "steps": {step_id: step.status.value for step_id, step in state.steps.items()},
            }
            for state in kept
        ],
    }
