"""``planrunner fleet lint``: every problem of a fleet and of its members' plans, without a server."""

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.fleet_opening import FleetFile, examined
from planrunner.cli.options import Output, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.fleet.load import Examined
    from planrunner.linting.inspect import Inspection


def lint(
    fleet: FleetFile,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Check a fleet and the plan of each member: syntax, variables, schema, waves, good practice.

    Exit 2 when there is a problem. Connects to nothing, runs nothing and reads no secret.
    """
    from planrunner.cli.screen import out
    from planrunner.linting.inspect import refused
    from planrunner.linting.rules import Severity
    from planrunner.masking import without_hushed

    found = examined(fleet)
    inspections = without_hushed([refused(str(fleet), found.problems), *_plans(found)])
    failing = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    ok = not any(one.count(severity) for one in inspections for severity in failing)
    out(_as_json(found, inspections, ok=ok) if output is Output.JSON else _as_text(found, inspections))
    if not ok:
        raise typer.Exit(2)


def _plans(found: "Examined") -> "list[Inspection]":
    """What each plan could do better, asked once, with the values of the first member that has it."""
    from planrunner.linting.inspect import inspect
    from planrunner.loading.variables import Given

    if found.problems:
        return []
    first = {member.plan: member for member in reversed(found.fleet.members)}
    return [
        inspect(plan, Given(variables=member.variables, var_files=(), environ=os.environ))
        for plan, member in reversed(first.items())
    ]


def _as_text(found: "Examined", inspections: "Sequence[Inspection]") -> str:
    from planrunner.linting.output import to_text

    fleet = found.fleet
    if found.problems:
        return to_text(inspections)
    waves = ", ".join(f"{wave.name} {len(wave.members)}" for wave in fleet.waves)
    return f"{fleet.path}: ok, {len(fleet.members)} members in waves: {waves}\n{to_text(inspections[1:])}"


def _as_json(found: "Examined", inspections: "Sequence[Inspection]", *, ok: bool) -> str:
    from planrunner.linting.output import to_json

    fleet = found.fleet
    told = json.loads(to_json(inspections, ok=ok))
    waves = [{"name": w.name, "members": list(w.members), "manual": w.manual} for w in fleet.waves]
    return json.dumps({**told, "fleet": fleet.name, "waves": waves}, indent=2, ensure_ascii=False)
