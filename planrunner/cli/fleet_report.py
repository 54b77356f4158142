"""``planrunner fleet report``: the evidence of a fleet, as a page, as Markdown or as JSON; asks no server."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from planrunner.cli.fleet_opening import FleetFile, known
from planrunner.cli.options import OutFile
from planrunner.cli.report import Format

if TYPE_CHECKING:
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Fleet
    from planrunner.fleet.report import FleetReport


def report(
    fleet: FleetFile,
    *,
    style: Annotated[
        Format, typer.Option("--format", help="A self-contained page, Markdown, or JSON.")
    ] = Format.MARKDOWN,
    out: OutFile = None,
) -> None:
    """Write how each member stands, and where its own report is, from states and journals; asks no server."""
    from planrunner.cli import screen

    found, folder, notes = known(fleet)
    built = _report(found, folder, notes, out.parent if out else Path())
    screen.out(_written(built, style), out)


def _report(fleet: "Fleet", folder: "Folder", notes: tuple[str, ...], place: Path) -> "FleetReport":
    from planrunner.cli.fleet_homes import homes
    from planrunner.clock import SystemClock
    from planrunner.fleet.journal import chronicle
    from planrunner.fleet.report import FleetReport, MemberLine
    from planrunner.fleet.standing import look

    views = look(fleet, homes(fleet, folder), chronicle(folder.journal))
    # Its own reports are written at the end of every run of a member.
    pages = [folder.report(view.name) for view in views]
    lines = tuple(
        MemberLine(view=view, page=Path(os.path.relpath(page, place)).as_posix() if page.exists() else None)
        for view, page in zip(views, pages, strict=True)
    )
    return FleetReport(fleet=fleet.name, at=SystemClock().now(), lines=lines, notes=notes)


def _written(found: "FleetReport", style: Format) -> str:
    from planrunner.engine import markdown_safe
    from planrunner.fleet import report

    match style:
        case Format.HTML:
            return report.to_html(found)
        case Format.MARKDOWN:
            return report.to_markdown(found, markdown_safe.text)
        case Format.JSON:
            return json.dumps(report.as_json(found), indent=2, ensure_ascii=False)
        case _:
            assert_never(style)
