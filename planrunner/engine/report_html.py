"""The report as one page that needs nothing else: no network, no script, no font that is not there."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from planrunner import pages
from planrunner.engine import report_plots, report_wording
from planrunner.engine.report_json import digest

if TYPE_CHECKING:
    import jinja2

    from planrunner.engine.report_model import Report

TEMPLATE = "report.html.j2"


def to_html(report: Report) -> str:
    """The page; every text in it is escaped by the template engine, and none is ever marked as safe."""
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            tiles=tuple(report_wording.tiles(report)),
            timeline=report_plots.timeline(report.steps),
            pace=report_plots.pace(report.throughput),
            lag=report_plots.lag(report.lag),
            digest=digest(report),
        )
        .lstrip()
    )


@cache
def _environment() -> jinja2.Environment:
    made = pages.environment("planrunner.engine")
    words = ("moment", "clock", "thousands", "counted", "milliseconds", "part", "version", "place", "facts")
    made.filters |= {name: getattr(report_wording, name) for name in words}
    made.filters |= {"stacked": report_plots.stacked}
    return made
