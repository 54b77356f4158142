"""The man page, made from the commands themselves."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from typer.main import get_command

from planrunner import __version__
from planrunner.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.core import TyperCommand, TyperGroup

# Exit codes and what each means; a test compares them with the errors.
EXITS = {
    0: "Done.",
    1: "A step failed, or a check did; a run can be resumed.",
    2: "The command line or the plan is invalid.",
    3: "A bug in planrunner; its details were saved to a file that the message names.",
    4: "An approval or an answer is waited for.",
    5: "Another run is at work on the plan.",
    6: "The state does not fit: another plan, another server or a newer format.",
    7: "Verification found differences.",
    8: "The saved preview is stale.",
    10: "Changes are pending (preview --detailed-exitcode).",
    130: "Interrupted; a run can be resumed.",
}
ENVIRONMENT = {
    "PLANRUNNER_STATE": "Where the state is kept, as --state.",
    "PLANRUNNER_VAR_NAME": "The value of the plan's variable NAME, in capitals.",
    "PLANRUNNER_RDS_CA_BUNDLE": "A file of AWS's certificates, instead of downloading them.",
    "NO_COLOR": "Set to anything: no colours.",
}
FILES = {
    "PLAN.state.json": "The state of a plan's migration, unless --state names another place.",
    "PLAN.events.jsonl": "What happened, a line of JSON each.",
    "PLAN.report.md": "The evidence, also as .json and .html.",
}


def page() -> str:
    """The whole page in roff, as ``man`` and ``mandoc`` read it."""
    group: TyperGroup = get_command(app)  # type: ignore[assignment]
    lines = [
        f'.TH PLANRUNNER 1 "" "planrunner {__version__}" "User Commands"',
        *(".SH NAME", "planrunner \\- runs PostgreSQL migrations that are written down as plans"),
        *(".SH SYNOPSIS", ".B planrunner", "[OPTIONS] COMMAND [ARGUMENTS]"),
        *(".SH DESCRIPTION", *_paragraphs(_told(group))),
        *_wrapped(
            "A plan is a YAML file. Each of its steps compares what the plan wishes with what the servers show and"
            " performs what is missing, so a run that was interrupted goes on when it is run again."
        ),
        ".SH COMMANDS",
        *_commands(group, "planrunner"),
        *_listed("EXIT STATUS", {str(code): told for code, told in EXITS.items()}),
        *_listed("ENVIRONMENT", ENVIRONMENT),
        *_listed("FILES", FILES),
        *(".SH SEE ALSO", ".BR psql (1),", ".BR pg_dump (1)"),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: TyperGroup, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        title = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, title)  # type: ignore[arg-type]
        else:
            yield from _command(command, title)  # type: ignore[arg-type]


def _command(command: TyperCommand, title: str) -> Iterator[str]:
    context = command.make_context(title, [], resilient_parsing=True)
    yield f'.SS "{_text(" ".join([title, *command.collect_usage_pieces(context)]))}"'
    yield from _paragraphs(_told(command))
    for param in command.get_params(context):
        names, told = param.get_help_record(context) or ("", "")
        if param.param_type_name == "option" and "--help" not in param.opts:
            yield from (".TP", f".B {_text(names)}", *_wrapped(told))
        elif param.param_type_name == "argument" and param.help:
            yield from (".TP", f".I {_text(param.make_metavar(context))}", *_wrapped(param.help))


def _told(command: TyperCommand) -> list[str]:
    """The paragraphs of a command's help."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", command.help or "")]


def _paragraphs(parts: list[str]) -> Iterator[str]:
    for number, part in enumerate(parts):
        yield from ((".PP",) if number else ())
        yield from _wrapped(part)


def _listed(title: str, entries: dict[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for name, told in entries.items():
        yield from (".TP", f".B {_text(name)}", *_wrapped(told))


def _wrapped(told: str) -> list[str]:
    # A sentence begins a line of its own: so roff knows where one ends.
    sentences = re.split(r"(?<=[.:;?]) +(?=[A-Z])", " ".join(told.split()))
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, 70, break_on_hyphens=False)]
    return [_text(line) for line in lines]


def _text(told: str) -> str:
    escaped = told.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
