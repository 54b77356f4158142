"""The options that more than one verb takes, told once."""

from enum import Enum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from planrunner.cli.completing import plan_files


class Output(Enum):
    """How results are written to stdout."""

    TEXT = "text"
    JSON = "json"


PlanFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="PLAN", help="The plan file.", autocompletion=plan_files)
]
StateFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="WHERE",
        envvar="PLANRUNNER_STATE",
        help="Where the state is kept: a file (default PLAN.state.json), s3://BUCKET/KEY, postgresql://…, or target.",
    ),
]
Vars: TypeAlias = Annotated[
    list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="Set a variable of the plan.")
]
VarFiles: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--var-file", metavar="FILE", help="Set variables from a YAML file.")
]
PoolAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="ADDRESS",
        help="The workers of this Dask scheduler do the bulk work: tls://HOST:PORT.",
    ),
]
OutputFormat: TypeAlias = Annotated[
    Output, typer.Option("--output", help="Text for people or JSON for programs.")
]
NoInput: TypeAlias = Annotated[bool, typer.Option("--no-input", help="Never ask at the terminal.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Answer every question with yes.")]
TakeOver: TypeAlias = Annotated[
    bool, typer.Option("--take-over", help="End a run elsewhere that is frozen or out of reach, and go on.")
]
Local: TypeAlias = Annotated[
    bool,
    typer.Option("--local", help="Copy and stream here, not in SerenAI's cloud, to a target at SerenDB."),
]
OutFile: TypeAlias = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to a file instead of stdout.")
]
