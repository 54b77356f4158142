"""``planrunner lint``: every problem of every plan, without a server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import Output, OutputFormat, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.model import Problem


def lint(
    plans: Annotated[list[Path], typer.Argument(metavar="PLAN...", help="The plan files.")],
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Check plans: syntax, templates, schema. Exit 2 when one has a problem."""
    from planrunner.cli.opening import load_plan
    from planrunner.cli.screen import out
    from planrunner.errors import PlanInvalid

    problems: list[Problem] = []
    for path in plans:
        try:
            found = load_plan(path, var, var_file)
        except PlanInvalid as error:
            problems += error.problems
        else:
            if output is Output.TEXT:
                out(f"{path}: ok, {len(found.steps)} steps")
    _show(problems, output)
    _warn_of_strangers(plans)
    if problems:
        raise typer.Exit(2)


def _warn_of_strangers(plans: list[Path]) -> None:
    """On stderr, so that it mixes with no result: what the environment gives to variables that no plan has."""
    import os

    from planrunner.cli.screen import note
    from planrunner.loading.strangers import strangers

    for told in strangers(plans, os.environ):
        note(f"warning: {told}")


def _show(problems: "list[Problem]", output: Output) -> None:
    from dataclasses import asdict

    from planrunner.cli.screen import out

    if output is Output.JSON:
        out(json.dumps({"ok": not problems, "problems": [asdict(p) for p in problems]}, indent=2))
        return
    for problem in problems:
        out(problem.render())
    if problems:
        out(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
