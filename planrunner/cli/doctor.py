"""``planrunner doctor``: is this machine fit, and with a plan, are its servers?"""

from pathlib import Path
from typing import Annotated

import typer

from planrunner.cli.completing import plan_files
from planrunner.cli.options import Local, StateFile, VarFiles, Vars


def doctor(
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="[PLAN]", help="Check its servers too.", autocompletion=plan_files),
    ] = None,
    *,
    local: Local = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
) -> None:
    """Check this machine and, with a plan, what `planrunner validate` checks. Exit 1 on a failure."""
    from planrunner.cli.screen import out
    from planrunner.clock import SystemClock
    from planrunner.engine.preflight import Checked
    from planrunner.engine.validation_report import Report, to_text
    from planrunner.model import StepSpec
    from planrunner.postgres.preflight_machine import machine

    found = tuple(machine())
    results: tuple[Checked, ...] = (
        Checked(spec=StepSpec(id="local", uses="doctor"), findings=found, mended=tuple(None for _ in found)),
    )
    if plan is not None:
        from planrunner.cli.opening import open_plan
        from planrunner.cli.validate import checked_plan

        results += checked_plan(open_plan(plan, state, var, var_file, local=local))
    name = "doctor" if plan is None else str(plan)
    report = Report(plan=name, path=name, at=SystemClock().now(), results=results)
    out(to_text(report))
    if report.failures:
        raise typer.Exit(1)
