"""``planrunner lint``: every problem of every plan, without a server."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.completing import plan_files
from planrunner.cli.options import OutFile, Output, OutputFormat, VarFiles, Vars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.linting.inspect import Inspection
    from planrunner.loading.variables import Given


class Format(Enum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def lint(
    plans: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN...",
            help="Plan files, folders that hold plans, patterns, or - for stdin.",
            autocompletion=plan_files,
        ),
    ],
    *,
    style: Annotated[Format | None, typer.Option("--format", help="How findings are written.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    out: OutFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Check plans: syntax, templates, schema, good practice. Exit 2 when one has a problem.

    Connects to nothing, runs nothing and reads no secret, so that a stranger's plan can be checked.
    """
    from planrunner.cli import screen
    from planrunner.cli.opening import pairs
    from planrunner.linting.files import plan_files
    from planrunner.linting.inspect import together
    from planrunner.linting.rules import Severity
    from planrunner.loading.variables import Given
    from planrunner.masking import without_hushed

    given = Given(variables=pairs(var or ()), var_files=tuple(var_file or ()), environ=os.environ)
    # Before any format escapes it: what one plan calls sensitive another's finding may quote from a file of variables.
    found = without_hushed(together([_inspected(path, given) for path in plan_files(plans)]))
    failing = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    ok = not any(inspection.count(severity) for inspection in found for severity in failing)
    screen.out(_written(found, style or Format(output.value), ok=ok), out)
    if not ok:
        raise typer.Exit(2)


def _inspected(path: Path, given: "Given") -> "Inspection":
    from planrunner.linting.inspect import inspect
    from planrunner.loading.source import LARGEST_FILE

    if str(path) == "-":
        return inspect(Path("stdin"), given, text=sys.stdin.buffer.read(LARGEST_FILE + 1))
    return inspect(path, given)


def _written(found: "Sequence[Inspection]", style: Format, *, ok: bool) -> str:
    from planrunner.linting import output
    from planrunner.linting.sarif import to_sarif

    match style:
        case Format.TEXT:
            return output.to_text(found)
        case Format.JSON:
            return output.to_json(found, ok=ok)
        case Format.SARIF:
            return to_sarif(found)
        case Format.GITHUB:
            return output.to_github(found)
