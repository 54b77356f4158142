"""``planrunner approve``: let a waiting step go on."""

from typing import Annotated

import typer

from planrunner.cli.completing import step_ids
from planrunner.cli.options import PlanFile, StateFile, VarFiles, Vars


def approve(
    plan: PlanFile,
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="[STEP]", help="The step; default the one that waits.", autocompletion=step_ids
        ),
    ] = None,
    *,
    because: Annotated[str, typer.Option(metavar="REASON", help="Why, for the record.")] = "no reason given",
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Approve only this action of the step.")
    ] = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Approve a step as it stands in the plan now; an edit afterwards makes the approval void."""
    from planrunner.cli.opening import open_plan, person
    from planrunner.cli.screen import out
    from planrunner.engine import approvals
    from planrunner.engine.launch import at_work

    opened = open_plan(plan, state, var, var_file)
    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        spec = approvals.approve(setup, step, who=person(), why=because, action=action)
        onward = setup.command("run")
    out(f"{spec.id} ({spec.uses}) is approved. Go on with: {onward}")
