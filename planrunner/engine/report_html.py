"""The report as one page that needs nothing else: no network, no script, no font that is not there."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import jinja2

from planrunner.engine import report_plots, report_wording
from planrunner.engine.report_json import digest
from planrunner.shown import visible
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("planrunner.engine", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # What is printed never rearranges the page around it, whoever named it.
        finalize=_shown,
    )
    words = ("moment", "clock", "thousands", "counted", "milliseconds", "part", "version", "place", "facts")
    environment.filters |= {name: getattr(report_wording, name) for name in words}
    environment.filters |= {"bytes": human_bytes, "seconds": human_seconds, "stacked": report_plots.stacked}
    return environment


def _shown(value: object) -> object:
    # The names of exact classes: a Markup of the template's own macros is a str, too, and must stay one.
    return visible(value) if type(value) is str else value
