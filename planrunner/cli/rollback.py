"""``planrunner rollback``: lead writers back to the source, with all that was written on the target."""

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from planrunner.step import Action


def rollback(
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
    """Go back to the source after a cutover with `reverse: true`; nothing written on the target is lost.

    The same fence, barrier, comparison and sequences as the cutover, mirrored. Afterwards the target follows the
    source again. Exit codes: 0 back on the source, 1 it could not be done, 4 not agreed to, 7 the sides differ.
    """
    from planrunner.cli.display import JsonLines, PlainLines
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine import crossing
    from planrunner.engine.launch import at_work

    opened = open_plan(plan, state, var, var_file)
    display = JsonLines() if output is Output.JSON else PlainLines()
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    with at_work(opened.plan, opened.files, opened.parts(display.show, take_over=take_over)) as setup:
        if rehearse:
            crossing.rehearse_rollback(setup)
            return
        done = crossing.roll_back(
            setup, lambda found: _confirm(found, yes=yes, asking=asking), take_over=take_over
        )
        onward = setup.command("run")
    if output is Output.TEXT:
        what = "rolled back: the source takes the writes" if done else "was rolled back before"
        out(f"{opened.plan.name}: {what}, the target follows it. Cut over again with: {onward}")


def _confirm(found: "tuple[Action, ...]", *, yes: bool, asking: bool) -> None:
    from planrunner.cli.screen import agrees, note
    from planrunner.errors import DecisionNeeded

    if yes or not found or any(action.blocked for action in found):
        return
    for action in found:
        note(f"{action.where.value}: {action.summary}")
    if not (asking and agrees("Go back to the source?")):
        raise DecisionNeeded("nothing was rolled back", remedy="Agree with --yes.")
