"""``planrunner validate``: every check of both sides, what mends each, and the safe fixes when they are wanted."""

from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import NoInput, Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars, Yes

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
    from planrunner.cli.screen import may_ask, note, out
    from planrunner.engine.validation_report import to_json, to_text

    wanted, only = _wanted(section or (), code or ())
    opened = open_plan(plan, state, var, var_file)
    report = _report(opened, wanted, only)
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    if fix and (agreed := _agreed(report, yes=yes, asking=asking, text=output is Output.TEXT)):
        report = _report(opened, wanted, only, mended=_mend(opened, agreed))
        note("")
    out(to_json(report) if output is Output.JSON else to_text(report))
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


def _agreed(report: "Report", *, yes: bool, asking: bool, text: bool) -> "list[Finding]":
    """The findings whose fix somebody agreed to; DecisionNeeded where there are some and nobody can be asked."""
    from planrunner.cli.screen import agrees, note, out
    from planrunner.engine.validating import fixable
    from planrunner.engine.validation_report import to_text
    from planrunner.errors import DecisionNeeded

    found = fixable(report.results)
    if not found:
        if text:
            note("nothing that is found has a fix that can harm nothing; see what mends each")
        return []
    if text:
        out(to_text(report))
    for finding in found:
        assert finding.fix is not None
        note(f"\nfix of {finding.code}, {finding.fix.where.value}: {finding.text}")
        for statement in finding.fix.statements:
            note(f"  {statement}")
    if yes:
        return list(found)
    if not asking:
        count = f"{len(found)} fix{'es' if len(found) > 1 else ''}"
        raise DecisionNeeded(f"{count} can be made, nothing was changed", remedy="Agree with --yes.")
    return [finding for finding in found if agrees(f"Mend {finding.code} so?")]


def _mend(opened: "OpenedPlan", agreed: "Sequence[Finding]") -> "tuple[Mended, ...]":
    from planrunner.engine.launch import at_work
    from planrunner.engine.validating import mend

    with at_work(opened.plan, opened.files, opened.parts()) as setup:
        return mend(setup, agreed)
