"""``planrunner run``: bring a plan about, or go on where it stopped."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.completing import step_ids
from planrunner.cli.options import (
    Local,
    NoInput,
    Output,
    OutputFormat,
    PlanFile,
    PoolAddress,
    StateFile,
    TakeOver,
    VarFiles,
    Vars,
    Yes,
)

if TYPE_CHECKING:
    from planrunner.cli.display import Display
    from planrunner.cli.opening import OpenedPlan
    from planrunner.engine.runner import RunOptions


def run(
    plan: PlanFile,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done: preview.")] = False,
    yes: Yes = False,
    only: Annotated[
        str | None, typer.Option(metavar="STEP", help="Run this step alone.", autocompletion=step_ids)
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STEP", help="Stop after this step.", autocompletion=step_ids)
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Begin at this step.", autocompletion=step_ids),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP",
            help="Keep what was done of a step although it was edited since.",
            autocompletion=step_ids,
        ),
    ] = None,
    rerun: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP", help="Ask a step again, even a finished one.", autocompletion=step_ids),
    ] = None,
    expect: Annotated[
        Path | None,
        typer.Option(metavar="PREVIEW", help="A saved preview; exit 8 when the world has changed since."),
    ] = None,
    local: Local = False,
    take_over: TakeOver = False,
    pool: PoolAddress = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Bring the plan about; run it again to go on where it stopped.

    Exit codes: 0 done, 1 a step failed (resumable), 2 invalid plan, 4 waits for approval,
    5 another run is at work, 6 the state does not fit, 7 differences found, 8 the preview is stale,
    130 interrupted (resumable).
    """
    from planrunner.cli.opening import open_plan
    from planrunner.cli.preview import show_preview
    from planrunner.cli.screen import may_ask

    _follow_starter()
    opened = open_plan(plan, state, var, var_file, local=local)
    if pool is not None:
        opened = opened.with_pool(pool)
    if dry_run:
        show_preview(opened, output.value)
        return
    from planrunner.cli.opening import person
    from planrunner.engine.performing import Answers
    from planrunner.engine.runner import RunOptions
    from planrunner.engine.saved_preview import read

    options = RunOptions(
        answers=Answers(yes=yes, who=person()),
        until=until,
        begin=begin,
        only=only,
        accept=frozenset(accept or ()),
        rerun=frozenset(rerun or ()),
        expected=read(expect) if expect is not None else None,
        take_over=take_over,
    )
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    _launch(opened, options, output, asking=asking)


def _follow_starter() -> None:
    """Whoever started this run for somebody else takes it along when he goes."""
    import os

    from planrunner.lifeline import LIFELINE, follow

    # Not for what this run starts in its turn.
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is not None:
        follow(int(descriptor))


def _launch(opened: "OpenedPlan", options: "RunOptions", output: Output, *, asking: bool) -> None:
    from dataclasses import replace

    from planrunner.cli.display import display_for
    from planrunner.engine.launch import launch
    from planrunner.errors import PlanrunnerError

    try:
        with display_for(output, opened.plan, opened.state()) as display:
            if asking:
                answers = replace(options.answers, ask=lambda question: _ask(display, question))
                options = replace(options, answers=answers)
            launch(
                opened.plan, opened.files, options, opened.parts(display.show, take_over=options.take_over)
            )
    except PlanrunnerError as error:
        if error.exit_code in {1, 7}:
            _point_onward(opened)
        raise
    if output is Output.TEXT:
        _summarise(opened)


def _ask(display: "Display", question: str) -> str | None:
    from planrunner.cli.opening import person
    from planrunner.cli.screen import agrees

    with display.paused():
        agreed = agrees(f"{question}\nGo on?")
    return person() if agreed else None


def _point_onward(opened: "OpenedPlan") -> None:
    from planrunner.cli.screen import note

    if opened.state() is not None:
        command = " ".join(("planrunner run", str(opened.plan.path), *opened.flags))
        note(f"The state is saved in {opened.files.place}. Once mended, go on with: {command}")


def _summarise(opened: "OpenedPlan") -> None:
    from planrunner.cli.screen import out
    from planrunner.engine.report import build_report, summary

    files = opened.files
    out("\n" + summary(build_report(opened.plan, opened.state(), opened.events(), files)))
