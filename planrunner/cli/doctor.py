"""``planrunner doctor``: is this machine fit, and with a plan, are its servers?"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding

_PACKAGES = ("psycopg", "boto3", "PyYAML", "jsonschema", "Jinja2", "rich", "typer")
_OLDEST_SOURCE = 120000


def doctor(
    plan: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="Check its servers too.")] = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Check this machine and, with a plan, everything its steps would check. Exit 1 on a failure."""
    from planrunner.cli.screen import out
    from planrunner.engine.preflight import Checked
    from planrunner.engine.preview_text import finding_lines
    from planrunner.model import Mark, StepSpec

    local = tuple(_local())
    results = [
        Checked(spec=StepSpec(id="local", uses="doctor"), findings=local, mended=tuple(None for _ in local))
    ]
    out("\n".join(finding_lines(results[0])))
    if plan is not None:
        from planrunner.cli.opening import open_plan
        from planrunner.engine.looking import check

        with open_plan(plan, state, var, var_file).looking() as view:
            results += check(view)
        for result in results[1:]:
            out("\n".join(finding_lines(result)))
    failed = any(f.mark is Mark.FAIL for result in results for f in result.open)
    out(f"\n{'FAILED' if failed else 'PASSED'}")
    if failed:
        raise typer.Exit(1)


def _local() -> "Iterator[Finding]":
    from planrunner.model import Finding, Mark

    section = "Local Environment"
    version = ".".join(map(str, sys.version_info[:3]))
    fit = sys.version_info >= (3, 11)
    yield Finding(
        section=section,
        mark=Mark.PASS if fit else Mark.FAIL,
        text=f"Python {version}",
        remedy=None if fit else "Install Python 3.11 or newer.",
    )
    yield from map(_package, _PACKAGES)
    yield _tools()


def _package(name: str) -> "Finding":
    from importlib import metadata

    from planrunner.model import Finding, Mark

    section = "Local Environment"
    try:
        return Finding(section=section, mark=Mark.PASS, text=f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        return Finding(
            section=section,
            mark=Mark.FAIL,
            text=f"{name} is not installed",
            remedy="Install planrunner with its dependencies: pip install planrunner",
        )


def _tools() -> "Finding":
    from planrunner.model import Finding, Mark
    from planrunner.postgres.tools import candidates, missing_tools

    section = "Local Environment"
    found = candidates(_OLDEST_SOURCE)
    if found:
        listed = ", ".join(f"{tools.version} ({tools.pg_dump.parent})" for tools in found)
        return Finding(section=section, mark=Mark.PASS, text=f"pg_dump, pg_restore and psql: {listed}")
    error = missing_tools(_OLDEST_SOURCE)
    return Finding(section=section, mark=Mark.FAIL, text=error.message, remedy=error.remedy)
