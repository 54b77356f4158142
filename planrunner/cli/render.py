"""``planrunner render``: the plan with its base merged and its variables filled in, and what differs from another."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import OutFile, Output, OutputFormat, PlanFile, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.loading.effective import Effective

DIFFERENT = 10


def render(
    plan: PlanFile,
    *,
    diff: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER", help="Show what differs from the plan OTHER instead, as a unified diff."
        ),
    ] = None,
    diff_var: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Set a variable of OTHER.")
    ] = None,
    diff_var_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Set variables of OTHER from a YAML file.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --diff: exit 10 when the plans differ.")
    ] = False,
    out: OutFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Print the plan as it is once its base is merged and its variables are filled in.

    Secrets are references, sensitive values are shown as ***. Nothing is connected to or looked up.
    --var and --var-file are for PLAN, --diff-var and --diff-var-file for OTHER.
    """
    from planrunner.cli import screen
    from planrunner.errors import UsageError

    if diff is None and (diff_var or diff_var_file or exit_code):
        raise UsageError(
            "--diff-var, --diff-var-file and --exit-code belong to --diff", remedy="Add --diff OTHER."
        )
    found = _effective(plan, var, var_file)
    if diff is None:
        text = found.to_yaml() if output is Output.TEXT else _json(found.to_json())
        screen.out(text, out)
        return
    text, same = _compared(_effective(diff, diff_var, diff_var_file), found, output)
    if text or out:
        screen.out(text, out)
    if exit_code and not same:
        raise typer.Exit(DIFFERENT)


def _effective(path: Path, var: list[str] | None, var_file: list[Path] | None) -> "Effective":
    from planrunner.cli.opening import given
    from planrunner.loading.effective import effective

    return effective(path, given(var, var_file))


def _compared(before: "Effective", after: "Effective", output: Output) -> tuple[str, bool]:
    from planrunner.loading.effective import differences, unified

    changes = differences(before, after)
    if output is Output.TEXT:
        return unified(before, after), not changes
    told = {
        "plan": str(after.path),
        "other": str(before.path),
        "same": not changes,
        "changes": [change.to_json() for change in changes],
    }
    return _json(told), not changes


def _json(tree: object) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False)
