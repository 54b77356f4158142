"""``planrunner fleet``: many databases by one plan, in waves."""

import typer

from planrunner.cli import fleet_approve, fleet_lint, fleet_preview, fleet_report, fleet_run, fleet_status

app = typer.Typer(no_args_is_help=True, help="Migrate many databases by one plan, in waves.")
for _verb in (
    fleet_lint.lint,
    fleet_preview.preview,
    fleet_run.run,
    fleet_status.status,
    fleet_approve.approve,
    fleet_report.report,
):
    app.command()(_verb)
