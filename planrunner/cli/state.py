"""``planrunner state``: look at the state file."""

import typer

from planrunner.cli.options import PlanFile, StateFile, VarFiles, Vars

app = typer.Typer(help="Look at the state file.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def state_group() -> None:
    """Look at the state file."""


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
            f"there is no state: {opened.files.state} does not exist", remedy="Run the plan first."
        )
    out(to_json(known))
