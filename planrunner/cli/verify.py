"""``planrunner verify``: compare both sides now, table by table."""

import json
from typing import TYPE_CHECKING

from planrunner.cli.options import Output, OutputFormat, PlanFile, StateFile, VarFiles, Vars

if TYPE_CHECKING:
    from planrunner.model import Verification


def verify(
    plan: PlanFile,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Compare every table of both sides; changes nothing. Exit 7 when they differ."""
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import note, out
    from planrunner.engine import looking
    from planrunner.errors import DifferencesFound

    opened = open_plan(plan, state, var, var_file)
    with opened.looking(lambda message, _: note(message)) as view:
        _, found = looking.verify(view)
    out(_as_json(found) if output is Output.JSON else _as_text(found))
    if not found.equal:
        count = len(found.differences)
        raise DifferencesFound(
            f"the two sides differ: {count} difference{'s' if count > 1 else ''}",
            remedy="Find out who writes to the target or changed the schema, then verify again.",
        )


def _as_text(found: "Verification") -> str:
    from planrunner.cli.screen import table

    rows = [
        (v.table, str(v.source_rows), str(v.target_rows), "✓ equal" if v.equal else f"✗ {v.detail}")
        for v in found.tables
    ]
    lines = [table(("TABLE", "SOURCE ROWS", "TARGET ROWS", "VERDICT"), rows)]
    lines += [f"✗ {difference}" for difference in found.other]
    lines.append(f"{len(found.tables)} tables compared in {found.seconds:.1f} s")
    return "\n".join(lines)


def _as_json(found: "Verification") -> str:
    from dataclasses import asdict

    return json.dumps({"equal": found.equal, **asdict(found)}, indent=2, ensure_ascii=False)
