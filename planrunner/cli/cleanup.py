"""``planrunner cleanup``: take away what the steps left on the servers."""

from typing import TYPE_CHECKING

from planrunner.cli.options import NoInput, Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars, Yes

if TYPE_CHECKING:
    from planrunner.engine.cleanup import Leftovers


def cleanup(
    plan: PlanFile,
    *,
    yes: Yes = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Remove slots, publications, subscriptions and ledgers of this plan; never what is not ours."""
    from planrunner.cli.display import JsonLines, PlainLines
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine.cleanup import clean
    from planrunner.engine.launch import at_work

    opened = open_plan(plan, state, var, var_file)
    display = JsonLines() if output is Output.JSON else PlainLines()
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    with at_work(opened.plan, opened.files, opened.parts(display.show)) as setup:
        removed = clean(setup, lambda found: _confirm(found, yes=yes, asking=asking))
    if output is Output.TEXT:
        out(f"{sum(len(found.actions) for found in removed)} things were removed")


def _confirm(found: "tuple[Leftovers, ...]", *, yes: bool, asking: bool) -> None:
    from planrunner.cli.screen import agrees, note
    from planrunner.errors import DecisionNeeded

    if yes:
        return
    for leftovers in found:
        for action in leftovers.actions:
            note(f"{leftovers.step}: {action.where.value}: {action.summary}")
    if not (asking and agrees("Remove all of this?")):
        raise DecisionNeeded("nothing was removed", remedy="Agree with --yes.")
