"""``planrunner cutover``: run the plan up to its cutover, or rehearse it."""

from typing import Annotated

import typer

from planrunner.cli.options import (
    NoInput,
    Output,
    OutputFormat,
    PlanFile,
    StateFile,
    TakeOver,
    VarFiles,
    Vars,
    Yes,
)


def cutover(
    plan: PlanFile,
    *,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Do all but the commit, and tell the write pause.")
    ] = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Cut over: the same as `run` up to the plan's cutover. With --rehearse everything but its commit is done.

    A rehearsal stops writers for as long as the cutover will, and then lets them go on; it needs a target that
    follows. Exit codes as of `run`.
    """
    from planrunner.cli.opening import open_plan
    from planrunner.engine import crossing
    from planrunner.registry import step

    opened = open_plan(plan, state, var, var_file)
    if not rehearse:
        from planrunner.cli.run import run

        until = crossing.crossing_step(opened.plan, step).id
        run(
            plan,
            yes=yes,
            until=until,
            take_over=take_over,
            state=state,
            var=var,
            var_file=var_file,
            output=output,
            no_input=no_input,
        )
        return
    from planrunner.cli.display import JsonLines, PlainLines
    from planrunner.engine.launch import at_work

    display = JsonLines() if output is Output.JSON else PlainLines()
    with at_work(opened.plan, opened.files, opened.parts(display.show)) as setup:
        crossing.rehearse(setup)
