"""HTML pages from templates: nothing that a server says can be more than text there."""

from __future__ import annotations

from functools import cache

import jinja2

from planrunner.shown import visible
from planrunner.units import human_bytes, human_seconds


@cache
def environment(package: str) -> jinja2.Environment:
    """The templates that stand beside the modules of ``package``; whoever adds filters adds them for all of it."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # What is printed never rearranges the page around it, whoever named it.
        finalize=_shown,
    )
    made.filters |= {"bytes": human_bytes, "seconds": human_seconds}
    return made


def _shown(value: object) -> object:
    # The names of exact classes: a Markup of the template's own macros is a str, too, and must stay one.
    return visible(value) if type(value) is str else value
