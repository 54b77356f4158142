"""``planrunner report``: the evidence of a migration, as a page, as Markdown or as JSON."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from planrunner.cli.options import OutFile, PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.engine.report_model import Report


class Format(Enum):
    """How a report is written."""

    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"


def report(
    plan: PlanFile,
    style: Annotated[
        Format, typer.Option("--format", help="A self-contained page, Markdown, or JSON.")
    ] = Format.MARKDOWN,
    out: OutFile = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Write the evidence of a migration from state and journal; asks no server."""
    from planrunner.cli import screen
    from planrunner.cli.opening import open_plan
    from planrunner.engine.events import read_events
    from planrunner.engine.report import build_report
    from planrunner.state.lock import holder

    opened = open_plan(plan, state, var, var_file, looking_up=False)
    found = build_report(
        opened.plan,
        opened.state(),
        read_events(opened.files.events),
        opened.files,
        flags=opened.flags,
        running=holder(opened.files.lock) is not None,
    )
    screen.out(_written(found, style), out)


def _written(found: "Report", style: Format) -> str:
    from planrunner.engine.report import to_html, to_json, to_markdown

    match style:
        case Format.HTML:
            return to_html(found)
        case Format.MARKDOWN:
            return to_markdown(found)
        case Format.JSON:
            return to_json(found)
        case _:
            assert_never(style)
