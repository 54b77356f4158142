"""``planrunner demo``: a whole migration between two throw-away servers on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from planrunner.cli.options import Output, OutputFormat


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
    from planrunner.sandbox.demo import run_demo

    run_demo(output=output.value, keep=keep, source_bin=source_bin, target_bin=target_bin, scale=scale)
