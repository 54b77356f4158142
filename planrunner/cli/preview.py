"""``planrunner preview``: what a run would do, statement by statement, without doing it."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import OutFile, Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.preview import Preview

CHANGES_PENDING = 10


class Format(Enum):
    """How a preview is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def preview(
    plan: PlanFile,
    *,
    style: Annotated[Format | None, typer.Option("--format", help="How it is written.")] = None,
    out: OutFile = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode", help="Exit 10 when changes are pending, 1 when a check would stop them."
        ),
    ] = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show what a run would do: actions, statements, locks, restarts, checks. Changes nothing."""
    from planrunner.cli.opening import open_plan

    chosen = style.value if style else output.value
    shown = show_preview(open_plan(plan, state, var, var_file), chosen, out)
    if detailed_exitcode and shown.failures:
        raise typer.Exit(1)
    if detailed_exitcode and shown.changes:
        raise typer.Exit(CHANGES_PENDING)


def show_preview(opened: "OpenedPlan", style: str, path: Path | None = None) -> "Preview":
    """Ask the steps, write the answer in that style, and return it."""
    from planrunner.cli import screen
    from planrunner.engine.preview import preview as previewed

    with opened.looking() as view:
        found = previewed(view)
    screen.out(_rendered(found, style), path)
    return found


def _rendered(found: "Preview", style: str) -> str:
    from planrunner.engine import preview_json, preview_markdown, preview_text

    match Format(style):
        case Format.JSON:
            return preview_json.to_json(found)
        case Format.MARKDOWN:
            return preview_markdown.to_markdown(found)
        case Format.TEXT:
            return preview_text.to_text(found)
