"""``planrunner verify``: compare both sides now, show the rows that differ, repair them when told."""

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from planrunner.cli.options import (
    NoInput,
    Output,
    OutputFormat,
    PlanFile,
    PoolAddress,
    StateFile,
    VarFiles,
    Vars,
    Yes,
)

if TYPE_CHECKING:
    from planrunner.verification import Verification, VerifyTerms


def verify(  # each is an option of the command
    plan: PlanFile,
    *,
    tables: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Compare only these tables' rows: public.ord*. May be repeated."
        ),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Compare only a share of the rows, such as 1%; no proof."),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values/--no-values", help="Show the values of rows that differ.")
    ] = True,
    rows: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show at most so many differing rows of a table.")
    ] = 100,
    repair: Annotated[
        bool, typer.Option("--repair", help="Show what makes the target's rows equal, ask, and do it.")
    ] = False,
    yes: Yes = False,
    pool: PoolAddress = None,
    state: StateFile = None,
    var: Vars = None,
    var_file: VarFiles = None,
    output: OutputFormat = Output.TEXT,
    no_input: NoInput = False,
) -> None:
    """Compare every table of both sides; changes nothing without --repair. Exit 7 when they differ.

    Works before, during and after the migration. A table of which some rows changed at every look is not
    proven: it is named, and the exit code is 1.
    """
    from planrunner.cli.opening import open_plan
    from planrunner.cli.screen import may_ask, note, out
    from planrunner.engine import looking
    from planrunner.verification import VerifyTerms

    opened = open_plan(plan, state, var, var_file)
    if pool is not None:
        opened = opened.with_pool(pool)
    asking = output is Output.TEXT and may_ask(no_input=no_input)
    terms = VerifyTerms(
        tables=tuple(tables or ()),
        sample=_share(sample),
        rows=rows,
        values=values,
        mend=(lambda found: _agreed(found, yes=yes, asking=asking, output=output)) if repair else None,
    )
    if repair:
        from planrunner.engine.launch import at_work
        from planrunner.engine.mending import verify_and_mend

        with at_work(opened.plan, opened.files, opened.parts()) as setup:
            _, found = verify_and_mend(setup, terms, lambda message, _: note(message))
    else:
        with opened.looking(lambda message, _: note(message)) as view:
            _, found = looking.verify(view, terms)
    out(_as_json(found) if output is Output.JSON else _as_text(found))
    _judge(found, terms)


def _share(text: str | None) -> float | None:
    """``1%`` as 0.01; UsageError for anything that is not a share of something."""
    from planrunner.errors import UsageError

    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not (text.endswith("%") and 0 < share <= 1):
        raise UsageError(f"--sample {text}: expected a share such as 1%", remedy="Write a number and a %.")
    return share


def _agreed(found: "Verification", *, yes: bool, asking: bool, output: Output) -> bool:
    """Show what would be repaired and ask; DecisionNeeded where nobody agrees."""
    from planrunner.cli.screen import agrees, note, out
    from planrunner.errors import DecisionNeeded

    if output is Output.TEXT:
        out(_as_text(found))
        for table in found.rows:
            for statement in table.repairs:
                out("  " + f"{statement};".replace("\n", "\n  "))
            if table.total > len(table.shown):
                note(f"{table.table}: and the like for {table.total - len(table.shown)} more rows")
    if yes or (asking and agrees("Execute this on the target?")):
        return True
    raise DecisionNeeded("nothing was repaired", remedy="Agree with --yes.")


def _judge(found: "Verification", terms: "VerifyTerms") -> None:
    """The exit code: DifferencesFound, or StepFailed for tables of which nothing is proven."""
    from planrunner.errors import DifferencesFound, StepFailed

    if not found.equal:
        count = len(found.differences)
        mend = (
            "`planrunner verify PLAN --repair` mends rows; first find out who writes to the target."
            if found.rows
            else "Find out who changed the schema, mend it, then verify again."
        )
        raise DifferencesFound(
            f"the two sides differ: {count} difference{'s' if count > 1 else ''}", remedy=mend
        )
    if found.undecided and terms.sample is None:
        raise StepFailed(
            f"not proven: rows of {', '.join(found.undecided)} changed at every look",
            remedy="Verify again at a quieter moment; inside the cutover's pause nothing moves.",
        )


def _as_text(found: "Verification") -> str:
    from planrunner.cli.screen import table
    from planrunner.shown import in_one_line

    rows = [
        (v.table, str(v.source_rows), str(v.target_rows), "✓ equal" if v.equal else f"✗ {v.detail}")
        for v in found.tables
    ]
    lines = [table(("TABLE", "SOURCE ROWS", "TARGET ROWS", "VERDICT"), rows)]
    lines += _row_lines(found)
    lines += [f"✗ {in_one_line(difference)}" for difference in found.other]
    lines += [
        f"? {name}: some rows changed at every look; nothing is proven of them" for name in found.undecided
    ]
    lines.append(f"{len(found.tables)} tables compared in {found.seconds:.1f} s")
    if found.sample is not None:
        lines.append(
            f"A sample: {found.sample:.4%} of the rows, by a hash of their keys; what it did not look at it does"
            " not prove."
        )
    return "\n".join(lines)


def _row_lines(found: "Verification") -> list[str]:
    from planrunner.shown import in_one_line

    lines: list[str] = []
    for table in found.rows:
        lines.append(f"{table.table}: {table.total} rows differ (source → target)")
        for row in table.shown:
            key = ", ".join(f"{in_one_line(name)}={_cell(value)}" for name, value in row.key.items())
            copies = f" ({row.copies[0]} on the source, {row.copies[1]} on the target)" if row.copies else ""
            lines.append(f"  {key or 'a row'}: {row.kind.value}{copies}")
            lines += [
                f"    {in_one_line(name)}: {_cells(ours, theirs)}"
                for name, (ours, theirs) in row.columns.items()
            ]
        if table.total > len(table.shown):
            lines.append(f"  and {table.total - len(table.shown)} more (--rows shows more)")
    return lines


_WIDTH = 60
_BEFORE = 20


def _cells(ours: str | None, theirs: str | None) -> str:
    """Two values; of long ones the part where they begin to differ."""
    if ours is None or theirs is None or max(len(ours), len(theirs)) <= _WIDTH:
        return _cell(ours) if ours == theirs else f"{_cell(ours)} → {_cell(theirs)}"
    pairs = zip(ours, theirs, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    start = max(0, place - _BEFORE)
    return f"{_cell(ours, start)} → {_cell(theirs, start)}"


def _cell(value: str | None, start: int = 0) -> str:
    if value is None:
        return "NULL"
    part = value[start : start + _WIDTH]
    cut = f"{'…' if start else ''}{part}{'…' if start + _WIDTH < len(value) else ''}"
    return repr(cut)


def _as_json(found: "Verification") -> str:
    from dataclasses import asdict

    def plain(value: object) -> object:
        return value.value if isinstance(value, Enum) else str(value)

    return json.dumps({"equal": found.equal, **asdict(found)}, indent=2, ensure_ascii=False, default=plain)
