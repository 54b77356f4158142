"""Preflight of this machine without a plan: Python, our packages, and every set of client programs that is found."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

from planrunner.postgres.preflight_local import PROGRAMS
from planrunner.postgres.preflight_section import LOCAL, Check
from planrunner.postgres.tools import candidates, missing_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding

_PACKAGES = ("psycopg", "boto3", "PyYAML", "jsonschema", "Jinja2", "rich", "typer")
_OLDEST_SOURCE = 120000
_OLDEST_PYTHON = (3, 11)
INTERPRETER = Check(
    code="PR0105",
    section=LOCAL,
    title="Python is new enough",
    why="planrunner is written for Python 3.11 and newer.",
    mend="Install Python 3.11 or newer.",
    never_ignored="planrunner does not run on an older one",
)
PACKAGES = Check(
    code="PR0106",
    section=LOCAL,
    title="The packages that planrunner builds on are installed",
    why="A package that is missing is noticed by the first step that needs it, hours later perhaps.",
    mend="pip install planrunner installs all of them.",
    never_ignored="planrunner does not work without them",
)


def machine() -> Iterator[Finding]:
    """Python, packages, and the client programs of every version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= _OLDEST_PYTHON:
        yield INTERPRETER.passed(f"Python {version}")
    else:
        yield INTERPRETER.failed(f"Python {version}", "Install Python 3.11 or newer.")
    yield from map(_package, _PACKAGES)
    yield _programs()


def _package(name: str) -> Finding:
    try:
        return PACKAGES.passed(f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        return PACKAGES.failed(
            f"{name} is not installed", "Install planrunner with its dependencies: pip install planrunner"
        )


def _programs() -> Finding:
    found = candidates(_OLDEST_SOURCE)
    if found:
        listed = ", ".join(f"{tools.version} ({tools.pg_dump.parent})" for tools in found)
        return PROGRAMS.passed(f"pg_dump, pg_restore and psql: {listed}")
    error = missing_tools(_OLDEST_SOURCE)
    return PROGRAMS.failed(error.message, error.remedy)
