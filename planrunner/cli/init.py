"""``planrunner init``: write a first plan for two databases."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from planrunner.cli.options import NoInput, Output, OutputFormat

if TYPE_CHECKING:
    from planrunner.cli.inspecting import Look
    from planrunner.loading.scaffold import Draft
    from planrunner.loading.wishes import Wishes

_KEPT = "KIND:WHERE"
_HOW = "env:NAME, file:PATH, command:'…', aws_secretsmanager:NAME, aws_ssm:NAME, rds_iam or pgpass."


class Approval(Enum):
    """Whether the cutover waits for somebody."""

    MANUAL = "manual"
    AUTO = "auto"


class Reboot(Enum):
    """What the step enable_logical may do."""

    ASK = "ask"
    ALLOW = "allow"
    IN_WINDOW = "in_window"
    NEVER = "never"


_Source: TypeAlias = Annotated[str, typer.Option(metavar="DSN", help="The database to move.")]
_Target: TypeAlias = Annotated[str, typer.Option(metavar="DSN", help="The database to move it to.")]
_SourcePassword: TypeAlias = Annotated[
    str | None, typer.Option(metavar=_KEPT, help=f"Where the source's password is kept: {_HOW}")
]
_TargetPassword: TypeAlias = Annotated[
    str | None, typer.Option(metavar=_KEPT, help="Where the target's password is kept.")
]
_Instance: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The source's RDS instance; by default the host's name tells."),
]
_Region: TypeAlias = Annotated[
    str | None, typer.Option(metavar="REGION", help="Its AWS region; by default the host's name tells.")
]
_Reverse: TypeAlias = Annotated[
    bool | None,
    typer.Option("--reverse/--no-reverse", help="A way back; by default where the servers allow it."),
]
_Inspect: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--inspect/--no-inspect",
        help="Look at the live servers, changing nothing; by default when their passwords are at hand.",
    ),
]
_Out: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The plan file; default plan.yaml.")
]


def init(
    context: typer.Context,
    *,
    source: _Source = "",
    target: _Target = "",
    source_password: _SourcePassword = None,
    target_password: _TargetPassword = None,
    rds_instance: _Instance = None,
    rds_region: _Region = None,
    reboot: Annotated[Reboot, typer.Option(help="Whether the RDS instance may be rebooted.")] = Reboot.ASK,
    reverse: _Reverse = None,
    approval: Annotated[
        Approval, typer.Option(help="Whether the cutover waits for planrunner approve.")
    ] = Approval.MANUAL,
    inspect: _Inspect = None,
    name: Annotated[str | None, typer.Option(help="The plan's name; default the source database.")] = None,
    out: _Out = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    no_input: NoInput = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Write a commented plan that lints, by questions on a terminal or by options.

    With the passwords at hand it looks at both servers first and proposes what fits them. Passwords in a DSN are
    not written; the plan refers to them.
    """
    from planrunner.cli import screen
    from planrunner.errors import UsageError
    from planrunner.loading.wishes import Keeping, Wishes

    path = out or Path("plan.yaml")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", remedy="Name another file with --out, or add --force.")
    wishes = Wishes(
        source=source,
        target=target,
        name=name,
        rds_instance=rds_instance,
        rds_region=rds_region,
        source_password=_keeping(Keeping, "source", source_password, source),
        target_password=_keeping(Keeping, "target", target_password, target),
        reverse=reverse,
        approval=approval.value,
        reboot=reboot.value,
    )
    if not (source and target):
        if output is Output.JSON or not screen.may_ask(no_input=no_input):
            raise _missing("target" if source else "source")
        wishes = _asked(context, wishes)
    _write_plan(wishes, path, inspect=inspect, force=force, output=output)


def _missing(side: str) -> Exception:
    from planrunner.errors import UsageError

    return UsageError(
        f"--{side} is missing",
        remedy="Give both: planrunner init --source postgresql://USER@HOST/DATABASE --target …;"
        " on a terminal they are asked for.",
    )


def _keeping(kind: Any, side: str, text: str | None, dsn: str) -> Any:
    """Where the password is kept: as told, else in the usual variable when that is set."""
    import os

    from planrunner.errors import UsageError

    if text is None:
        usual = f"{side.upper()}_PASSWORD"
        return kind(kind="env", locator=usual) if dsn and usual in os.environ else None
    try:
        return kind.of(text)
    except UsageError as error:
        raise UsageError(f"--{side}-password: {error.message}", remedy=error.remedy) from error


def _asked(context: typer.Context, wishes: "Wishes") -> "Wishes":
    from planrunner.cli import screen, wizard

    said = {
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    try:
        return wizard.ask(wishes, said=frozenset(said))
    except (typer.Abort, KeyboardInterrupt):
        screen.note("\nnothing was written")
        raise typer.Exit(130) from None


def _write_plan(wishes: "Wishes", path: Path, *, inspect: bool | None, force: bool, output: Output) -> None:
    from planrunner.cli.inspecting import Look, look
    from planrunner.loading.scaffold import draft

    wishes.check()
    seen = Look(wishes=wishes, found=None)
    if inspect is not False:
        seen = look(wishes, path.absolute().parent, insist=inspect is True)
    schema = _schema_file(path)
    made = draft(seen.wishes, seen.found, file=path.name, schema=schema)
    _create(path, made.text, force=force)
    _provide_schema(path.parent / schema)
    (_tell if output is Output.TEXT else _print)(path, made, seen)


def _schema_file(path: Path) -> str:
    """Where an editor finds the schema: the project's own where there is one, else beside the plan."""
    from planrunner.loading.scaffold import SCHEMA_FILE

    beside = path.absolute().parent
    for place in (f"schemas/{SCHEMA_FILE}", f"../schemas/{SCHEMA_FILE}"):
        if (beside / place).exists():
            return place
    return SCHEMA_FILE


def _provide_schema(path: Path) -> None:
    import json

    from planrunner.loading.schema import plan_schema

    if not path.exists():
        _create(path, json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n", force=False)


def _create(path: Path, text: str, *, force: bool) -> None:
    """Write the whole file or leave nothing; a file that has come meanwhile is not replaced without ``force``."""
    import contextlib

    from planrunner.errors import UsageError

    fresh = path.with_name(f".{path.name}.new") if force else path
    try:
        with fresh.open("w" if force else "x", encoding="utf-8") as file:
            try:
                file.write(text)
            except BaseException:
                with contextlib.suppress(OSError):
                    fresh.unlink()
                raise
        if force:
            fresh.replace(path)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already", remedy="Name another file with --out.") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _tell(path: Path, made: "Draft", seen: "Look") -> None:
    from planrunner.cli import screen

    for text in (*seen.notes, *made.warnings):
        screen.note(text)
    if seen.found is not None:
        both = "both servers" if seen.found.target else "the source"
        screen.out(
            f"{both} looked at: {seen.found.tables} tables, {len(seen.found.bare)} without replica identity"
        )
    screen.out(f"{path} is written. Look at it, then: planrunner lint {path}; planrunner preview {path}")
    for variable in made.environment:
        screen.out(f"Before that, put the password into the environment: export {variable}=…")


def _print(path: Path, made: "Draft", seen: "Look") -> None:
    import json

    from planrunner.cli import screen
    from planrunner.loading.proposal import lacking_way_back

    told = {
        "plan": str(path),
        "environment": list(made.environment),
        "warnings": list(made.warnings),
        "notes": list(seen.notes),
        "found": None if seen.found is None else asdict(seen.found),
        "way_back_lacks": list(lacking_way_back(seen.found)),
        "source_dsn": seen.wishes.written_dsn("source"),
        "target_dsn": seen.wishes.written_dsn("target"),
    }
    screen.out(json.dumps(told, ensure_ascii=False))
