"""``planrunner validate``: every check of both sides, what mends each, and the safe fixes when they are wanted."""

from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import (
    Local,
    NoInput,
    Output,
    OutputFormat,
    PlanFile,
    StateFile,
    VarFiles,
    Vars,
    Yes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.preflight import Checked
    from planrunner.engine.validating import Mended
    from planrunner.engine.validation_report import Report
    from planrunner.model import Finding


def validate(  # each is an option of the command
    plan: PlanFile,
    *,
    section: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION", help="Show only this section, such as schema. May be repeated."),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="Show only this check, such as PR0203. May be repeated."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Show what mends findings and can harm nothing, ask, and do it.")
    ] = False,
    yes: Yes = False,
    local: Local = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Check this machine, both servers and everything in them; changes nothing without --fix. Exit 1 on a failure.

    Works before, during and after the migration, with or without a validate step in the plan. What could not be
    checked is a failure, and shown whatever --section and --code say.
    """
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine.validation_report import to_json, to_text

    wanted, only = _wanted(section or (), code or ())
    opened = open_plan(plan, state, var, var_file, local=local)
    report = _report(opened, wanted, only)
    text = output is Output.TEXT
    if fix and (found := _fixable(report, text=text)):
        if text:
            out(to_text(report))
        agreed = _agreed(found, yes=yes, asking=text and may_ask(no_input=no_input))
        if not agreed:
            raise typer.Exit(1 if report.failures else 0)
        report = _report(opened, wanted, only, mended=_mend(opened, agreed))
        if text:
            out("")
    out(to_text(report) if text else to_json(report))
    if report.failures or any(one.failure is not None for one in report.mended):
        raise typer.Exit(1)


def checked_plan(opened: "OpenedPlan") -> "tuple[Checked, ...]":
    """What the plan's checks find now."""
    from planrunner.cli.opening import onlooker
    from planrunner.clock import SystemClock
    from planrunner.engine.validating import everything

    return everything(opened.plan, opened.state(), connect=onlooker(), clock=SystemClock())


def _report(
    opened: "OpenedPlan",
    wanted: "Callable[[Finding], bool]",
    only: tuple[str, ...],
    mended: "tuple[Mended, ...]" = (),
) -> "Report":
    from planrunner.clock import SystemClock
    from planrunner.engine.validating import narrowed
    from planrunner.engine.validation_report import Report

    return Report(
        plan=opened.plan.name,
        path=str(opened.plan.path),
        at=SystemClock().now(),
        results=narrowed(checked_plan(opened), wanted),
        mended=mended,
        only=only,
    )


def _wanted(
    sections: "Sequence[str]", codes: "Sequence[str]"
) -> "tuple[Callable[[Finding], bool], tuple[str, ...]]":
    """What --section and --code let through, and their names; UsageError for one that there is not."""
    if not sections and not codes:
        return (lambda _: True), ()
    from planrunner.cli.naming import check_code, section_titles

    found = tuple(title for given in sections for title in section_titles(given))
    named = tuple(map(check_code, codes))
    return (lambda finding: finding.section in found or finding.code in named), (*found, *named)


def _fixable(report: "Report", *, text: bool) -> "tuple[Finding, ...]":
    """The findings that have a safe fix; says so where none has."""
    from planrunner.cli.screen import note
    from planrunner.engine.validating import fixable

    found = fixable(report.results)
    if not found and text:
        note("nothing that is found has a fix that can harm nothing; see what mends each")
    return found


def _agreed(found: "Sequence[Finding]", *, yes: bool, asking: bool) -> "list[Finding]":
    """The findings whose fix somebody agreed to, each shown before; DecisionNeeded where nobody can be asked."""
    from planrunner.cli.screen import agrees
    from planrunner.errors import DecisionNeeded

    agreed: list[Finding] = []
    for finding in found:
        _show(finding)
        if yes or (asking and agrees(f"Mend {finding.code} so?")):
            agreed.append(finding)
    if not yes and not asking:
        count = f"{len(found)} fix{'es' if len(found) > 1 else ''}"
        raise DecisionNeeded(f"{count} can be made, nothing was changed", remedy="Agree with --yes.")
    return agreed


def _show(finding: "Finding") -> None:
    from planrunner.cli.screen import note

    assert finding.fix is not None
    note(f"\nfix of {finding.code}, {finding.fix.where.value}: {finding.text}")
    for statement in finding.fix.statements:
        note(f"  {statement}")


def _mend(opened: "OpenedPlan", agreed: "Sequence[Finding]") -> "tuple[Mended, ...]":
    from planrunner.engine.launch import at_work
    from planrunner.engine.validating import mend

    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        return mend(setup, agreed)
