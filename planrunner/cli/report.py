"""``planrunner report``: what the runs of a plan did so far."""

from enum import Enum
from typing import Annotated

import typer

from planrunner.cli.options import OutFile, PlanFile, StateFile, VarFiles, Vars


class Format(Enum):
    """How a report is written."""

    MARKDOWN = "markdown"
    JSON = "json"


def report(
    plan: PlanFile,
    style: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.MARKDOWN,
    out: OutFile = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Write the report from state and journal; asks no server."""
    from planrunner.cli import screen
    from planrunner.cli.opening import open_plan
    from planrunner.engine.events import read_events
    from planrunner.engine.report import build_report, to_json, to_markdown

    opened = open_plan(plan, state, var, var_file)
    events = read_events(opened.files.events)
    found = build_report(opened.plan, opened.state(), events, opened.files)
    screen.out(to_json(found) if style is Format.JSON else to_markdown(found), out)
