"""``planrunner init``: write a first plan for two databases."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    *,
    source: Annotated[str, typer.Option(metavar="DSN", help="The database to move.")],
    target: Annotated[str, typer.Option(metavar="DSN", help="The database to move it to.")],
    rds_instance: Annotated[str | None, typer.Option(metavar="ID", help="The source's RDS instance.")] = None,
    rds_region: Annotated[str | None, typer.Option(metavar="REGION", help="Its AWS region.")] = None,
    name: Annotated[str | None, typer.Option(help="The plan's name; default the source database.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The plan file; default plan.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented plan that lints. Passwords in a DSN are not written; the plan refers to them."""
    from planrunner.cli import screen
    from planrunner.errors import UsageError

    path = out or Path("plan.yaml")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", remedy="Name another file with --out, or add --force.")
    from planrunner.loading.scaffold import draft

    made = draft(source=source, target=target, rds_instance=rds_instance, rds_region=rds_region, name=name)
    screen.out(made.text, path)
    screen.out(f"{path} is written. Look at it, then: planrunner lint {path}; planrunner preview {path}")
    for variable in made.environment:
        screen.out(f"Before that, put the password into the environment: export {variable}=…")
