"""``planrunner preview``: what a run would do, statement by statement, without doing it."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import Local, Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.preview import Preview
    from planrunner.engine.privileges import Needed

CHANGES_PENDING = 10


class Format(Enum):
    """How a preview is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def preview(
    plan: PlanFile,
    *,
    style: Annotated[Format | None, typer.Option("--format", help="How it is written to stdout.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Save it for run --expect, with what it saw; never a secret."
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="From the plan alone: no connection, no command, no secret.")
    ] = False,
    privileges: Annotated[
        bool,
        typer.Option(
            "--privileges", help="Only what the run needs: IAM policy and grants, the least there are."
        ),
    ] = False,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode", help="Exit 10 when changes are pending, 1 when a check would stop them."
        ),
    ] = False,
    local: Local = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Show what a run would do: actions, statements, locks, restarts, checks. Changes nothing."""
    from planrunner.cli.opening import open_plan

    chosen = style.value if style else output.value
    asking = Asking(offline=offline, privileges=privileges, out=out)
    shown = show_preview(open_plan(plan, state, var, var_file, local=local), chosen, asking)
    if detailed_exitcode and shown.failures:
        raise typer.Exit(1)
    if detailed_exitcode and shown.changes:
        raise typer.Exit(CHANGES_PENDING)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Whom a preview asks, what of it is shown, and where it is saved."""

    offline: bool = False
    privileges: bool = False
    out: Path | None = None


def show_preview(opened: "OpenedPlan", style: str, asking: Asking | None = None) -> "Preview":
    """Ask the steps, write the answer in that style, save it where it is wanted, and return it."""
    from planrunner.cli import screen

    asking = asking or Asking()
    found, text, document = (
        _offline(opened, style, asking) if asking.offline else _live(opened, style, asking)
    )
    if asking.out is not None:
        screen.out(document, asking.out)
    screen.out(text)
    return found


def _offline(opened: "OpenedPlan", style: str, asking: Asking) -> "tuple[Preview, str, str]":
    from planrunner.clock import SystemClock
    from planrunner.engine import saved_preview
    from planrunner.engine.outlining import outline
    from planrunner.engine.privileges import wanted

    state = opened.state()
    found = outline(opened.plan, state, SystemClock())
    kept = saved_preview.saved(found, opened.plan, state, {"source": None, "target": None, "rds": None})
    text = (
        _privileges(wanted(opened.plan, found, None), style) if asking.privileges else _rendered(found, style)
    )
    return found, text, saved_preview.to_json(kept, found)


def _live(opened: "OpenedPlan", style: str, asking: Asking) -> "tuple[Preview, str, str]":
    from planrunner.engine import saved_preview
    from planrunner.engine.preview import preview as previewed
    from planrunner.engine.privileges import wanted

    with opened.looking() as view:
        found = previewed(view, estimating=not asking.privileges)
        needed = wanted(opened.plan, found, view.context.world) if asking.privileges else None
        document = ""
        if asking.out is not None:
            seen = saved_preview.world_seen(view.context.world)
            kept = saved_preview.saved(found, opened.plan, opened.state(), seen)
            document = saved_preview.to_json(kept, found)
    return found, _rendered(found, style) if needed is None else _privileges(needed, style), document


def _privileges(needed: "Needed", style: str) -> str:
    from planrunner.engine import privileges_text

    match Format(style):
        case Format.JSON:
            return privileges_text.to_json(needed)
        case Format.MARKDOWN:
            return privileges_text.to_markdown(needed)
        case Format.TEXT:
            return privileges_text.to_text(needed)


def _rendered(found: "Preview", style: str) -> str:
    from planrunner.engine import preview_json, preview_markdown, preview_text

    match Format(style):
        case Format.JSON:
            return preview_json.to_json(found)
        case Format.MARKDOWN:
            return preview_markdown.to_markdown(found)
        case Format.TEXT:
            return preview_text.to_text(found)
