"""The command ``planrunner``: its verbs, and the one place where an error becomes an exit code."""

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from planrunner import __version__, scarcity
from planrunner.cli import (
    approve,
    cleanup,
    cutover,
    demo,
    doctor,
    explain,
    fleet,
    init,
    lint,
    preview,
    render,
    report,
    rollback,
    run,
    schema,
    state,
    status,
    steer,
    validate,
    verify,
)
from planrunner.errors import ChecksFailed, PlanInvalid, PlanrunnerError
from planrunner.masking import hushed, masked
from planrunner.shown import visible

app = typer.Typer(
    name="planrunner",
    help="Migrate PostgreSQL by a plan: preview it, run it, resume it, prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (
    init.init,
    lint.lint,
    render.render,
    validate.validate,
    preview.preview,
    run.run,
    approve.approve,
    status.status,
    steer.pause,
    steer.resume,
    steer.throttle,
    verify.verify,
    cutover.cutover,
    rollback.rollback,
    cleanup.cleanup,
    report.report,
    explain.explain,
    schema.schema,
    doctor.doctor,
    demo.demo,
):
    app.command()(_verb)
app.add_typer(fleet.app, name="fleet")
app.add_typer(state.app, name="state")


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"planrunner {__version__}")
        raise typer.Exit


@app.callback()
def planrunner(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda v: _version(wanted=v), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Migrate PostgreSQL by a plan: preview it, run it, resume it, prove it."""


def main() -> None:
    """Run the command line; every way out of it is an exit code and at most a few lines on stderr."""
    _keep_memory_off_the_disk()
    try:
        app()
    except PlanrunnerError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("error: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away; nothing is left to be said to it.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  # the boundary: a bug is saved to a file, not thrown at the user
        short = scarcity.explained(error)
        if short is not None:
            _fail(short)
        _admit_bug()


def _keep_memory_off_the_disk() -> None:
    """A crash of a library must not write the passwords that we hold into a core file."""
    from contextlib import suppress

    # Windows has no such limits.
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _fail(error: PlanrunnerError) -> NoReturn:
    from planrunner.cli.screen import tell_error

    if isinstance(error, PlanInvalid):
        typer.echo(visible(hushed(error.message)), err=True)
        typer.echo(f"error: the plan is invalid, {len(error.problems)} problem(s)", err=True)
        sys.exit(error.exit_code)
    if isinstance(error, ChecksFailed):
        _show_findings(error)
    tell_error(error)
    sys.exit(error.exit_code)


def _show_findings(error: ChecksFailed) -> None:
    from planrunner.engine.preview_text import findings_text

    typer.echo(visible(hushed(findings_text(error.findings))), err=True)


def _admit_bug() -> NoReturn:
    import tempfile

    kind = sys.exc_info()[0]
    text = masked(traceback.format_exc())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="planrunner-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"planrunner {__version__}, Python {sys.version}\n{text}")
        where = f"the details are in {file.name}"
    except OSError as error:
        where = f"the details could not be saved ({error.strerror})"
    name = kind.__name__ if kind else "error"
    typer.echo(f"error: a bug in planrunner ({name}); {where}", err=True)
    typer.echo(
        "  What was done is on record: planrunner status PLAN. Please report it with that file.", err=True
    )
    sys.exit(PlanrunnerError.exit_code)
