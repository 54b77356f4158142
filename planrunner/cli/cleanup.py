"""``planrunner cleanup``: take away what the steps left on the servers, and name what is still there."""

import json
from typing import TYPE_CHECKING

from planrunner.cli.options import (
    NoInput,
    Output,
    OutputFormat,
    PlanFile,
    StateFile,
    TakeOver,
    VarFiles,
    Vars,
    Yes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.engine.cleanup import Cleaned, Leftovers
    from planrunner.model import Json, Residue
    from planrunner.step import Action

_SHOWN = 4


def cleanup(
    plan: PlanFile,
    *,
    yes: Yes = False,
    take_over: TakeOver = False,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Remove slots, publications, subscriptions and ledgers of this plan; never what is not ours.

    Then look at both servers again and name what is left. Exit 1 when that is something of this plan that does harm.
    """
    from planrunner.cli.display import JsonLines, PlainLines
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import may_ask, out
    from planrunner.engine.cleanup import clean
    from planrunner.engine.launch import at_work

    opened = open_plan(plan, state, var, var_file)
    display = JsonLines() if output is Output.JSON else PlainLines()
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    with at_work(opened.plan, opened.files, opened.parts(display.show, take_over=take_over)) as setup:
        cleaned = clean(setup, lambda found: _confirm(found, yes=yes, asking=asking), take_over=take_over)
    out(_as_json(cleaned) if output is Output.JSON else "\n".join(_as_text(cleaned)))
    _refuse_harm(cleaned)


def _as_text(cleaned: "Cleaned") -> "Iterator[str]":
    actions = [action for found in cleaned.removed for action in found.actions]
    yield f"{len(actions)} things were removed"
    yield from (f"  removed: {_line(action)}" for action in actions)
    if cleaned.left:
        yield f"{len(cleaned.left)} things are left on the servers"
        yield from (f"  left: {residue}" for residue in cleaned.left)


def _line(action: "Action") -> str:
    shown = list(action.statements[:_SHOWN])
    if len(action.statements) > _SHOWN:
        shown.append(f"and {len(action.statements) - _SHOWN} more statements")
    told = f": {'; '.join(shown)}" if shown else ""
    return f"{action.where.value}: {action.summary}{told}"


def _as_json(cleaned: "Cleaned") -> str:
    # One line, like the events before it.
    removed: list[Json] = [
        {
            "step": found.step,
            "side": action.where.value,
            "summary": action.summary,
            "statements": list(action.statements),
        }
        for found in cleaned.removed
        for action in found.actions
    ]
    left: list[Json] = [
        {
            "side": residue.side.value,
            "kind": residue.kind,
            "name": residue.name,
            "ours": residue.ours.value,
            "harm": residue.harm,
            "statement": residue.statement,
            "harmful": residue.harmful,
            "kept": residue.kept,
        }
        for residue in cleaned.left
    ]
    return json.dumps({"removed": removed, "left": left}, ensure_ascii=False)


def _refuse_harm(cleaned: "Cleaned") -> None:
    from planrunner.errors import StepFailed

    if not cleaned.harmful:
        return
    names = "; ".join(f"{r.side.value}: {r.kind} {r.name} {r.harm}" for r in cleaned.harmful)
    raise StepFailed(
        f"{len(cleaned.harmful)} things of this plan are left: {names}",
        remedy="\n".join(f"{_where(r)}: {r.statement}" for r in cleaned.harmful),
    )


def _where(residue: "Residue") -> str:
    from planrunner.model import Side

    return "Execute" if residue.side is Side.AWS else f"Execute on the {residue.side.value}"


def _confirm(found: "tuple[Leftovers, ...]", *, yes: bool, asking: bool) -> None:
    from planrunner.cli.screen import agrees, note
    from planrunner.errors import DecisionNeeded

    if yes:
        return
    for leftovers in found:
        for action in leftovers.actions:
            note(f"{leftovers.step}: {action.where.value}: {action.summary}")
    if not (asking and agrees("Remove all of this?")):
        raise DecisionNeeded("nothing was removed", remedy="Agree with --yes.")
