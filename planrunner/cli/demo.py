"""``planrunner demo``: a whole migration between two throw-away servers on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import Output, OutputFormat
from planrunner.errors import DifferencesFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.sandbox.demo import Outcome


def demo(
    output: OutputFormat = Output.TEXT,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers up and print their DSNs.")] = False,
    source_bin: Annotated[
        Path | None, typer.Option(metavar="DIR", help="PostgreSQL programs of the source.")
    ] = None,
    target_bin: Annotated[
        Path | None, typer.Option(metavar="DIR", help="PostgreSQL programs of the target.")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.01, help="How much data, 1 is the usual.")] = 1.0,
) -> None:
    """Migrate a busy little shop from one PostgreSQL to a newer one, and show the proof."""
    outcome = _sandbox()(
        shown=output is Output.TEXT, keep=keep, source_bin=source_bin, target_bin=target_bin, scale=scale
    )
    typer.echo(json.dumps(outcome.to_json(), indent=2) if output is Output.JSON else _text(outcome))
    if outcome.lost_writes:
        raise DifferencesFound(f"{outcome.lost_writes} acknowledged writes are not on the target")


def _sandbox() -> "Callable[..., Outcome]":
    """What runs the demo; UsageError where only planrunner itself is installed."""
    from planrunner.shipped import as_executable

    if as_executable():
        raise UsageError(
            "the demo is not in the executable: it needs servers of PostgreSQL and a stand-in for RDS",
            remedy="Install the package, which runs it: pipx install 'planrunner[sandbox]'",
        )
    try:
        from planrunner.sandbox.demo import run_demo
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the sandbox that the demo runs in is not installed: there is no {error.name}",
            remedy="Install it: pip install 'planrunner[sandbox]'",
        ) from error
    return run_demo


def _text(outcome: "Outcome") -> str:
    figures = outcome.to_json()
    lines = [
        "",
        *(f"  {s['id']:<8} {s['uses']:<15} {s['status']:<8} {s['seconds']} s" for s in figures["steps"]),
    ]
    lines += [
        "",
        f"The writer had {figures['acknowledged_writes']} transactions acknowledged during the migration;"
        f" {figures['lost_writes']} are missing on the target.",
        f"Plan, state and report: {outcome.folder}",
    ]
    lines += [f"{side}: {dsn}" for side, dsn in outcome.kept.items()]
    return "\n".join(lines)
