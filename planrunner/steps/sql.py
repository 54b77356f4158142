"""The step ``sql``: the plan's own statements, on either side, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner.errors import QueryFailed, StepFailed
from planrunner.masking import masked
from planrunner.model import Side
from planrunner.postgres import needs, scripts
from planrunner.statements import StatementsUnfit, split
from planrunner.step import Action, outlined
from planrunner.units import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.statements import Statement
    from planrunner.step import Draft, Run


class Sql:
    """Executes a script unless its own query says that it is done."""

    uses: ClassVar[str] = "sql"

    def actions(self, run: Run) -> Sequence[Action]:
        """The script; nothing where ``done_when`` holds."""
        done_when = run.option("done_when", "")
        if done_when and _is_done(run, done_when):
            return ()
        return [_script(run, _statements(run), done_when)]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The script as the plan has it."""
        return outlined([_script(draft, _statements(draft), draft.option("done_when", ""))])

    def satisfied(self, run: Run) -> Sequence[str]:
        """That its query says it is done."""
        done_when = run.option("done_when", "")
        return ["done_when holds already"] if done_when and _is_done(run, done_when) else []


def _is_done(run: Run, done_when: str) -> bool:
    try:
        return scripts.holds(_server(run), done_when)
    except QueryFailed as error:
        # What the script itself creates can't be there to be asked for.
        if scripts.is_absent(error):
            return False
        raise


def _script(run: Run | Draft, statements: Sequence[Statement], done_when: str) -> Action:
    side = _side(run)
    whole = run.option("transaction", True)  # noqa: FBT003  # the option's default
    count = "1 statement" if len(statements) == 1 else f"{len(statements)} statements"
    origin = f" of {file}" if (file := run.option("file", "")) else ""
    how = "in one transaction" if whole else "each in a transaction of its own"
    lines = [masked(statement.text) for statement in statements]
    return Action(
        name="script",
        summary=f"execute {count}{origin} on the {side.value}, {how}",
        where=side,
        statements=tuple(["BEGIN", *lines, "COMMIT"] if whole else lines),
        locks=("what the statements take, each waited for at most " + run.option("lock_timeout", "10s"),),
        needs=(needs.STATEMENTS,),
        undo="by hand: planrunner does not know what undoes these statements",
        lasting="whatever the statements change",
        destructive=any(statement.destructive for statement in statements),
        observable=bool(done_when),
        perform=_perform,
    )


def _perform(run: Run) -> None:
    limit = run.option("statement_timeout", "")
    scripts.execute(
        _server(run),
        _statements(run),
        transaction=run.option("transaction", True),  # noqa: FBT003  # the option's default
        statement_timeout=seconds(limit) if limit else None,
        lock_timeout=seconds(run.option("lock_timeout", "10s")),
    )


def _statements(run: Run | Draft) -> Sequence[Statement]:
    """The script's statements; StepFailed for what no server would take."""
    found: list[Statement] = []
    whole = run.option("transaction", True)  # noqa: FBT003  # the option's default
    for text in _texts(run):
        try:
            found += split(text)
        except StatementsUnfit as error:
            raise StepFailed(f"step {run.spec.id}: {error}", remedy=error.remedy) from error
    control = next((s for s in found if s.controls_transaction), None)
    if whole and control is not None:
        raise StepFailed(
            f"step {run.spec.id}: line {control.line}: {control.words[0].upper()} would end the step's own transaction",
            remedy="Leave it out: the step is one transaction. Or write transaction: false.",
        )
    return found


def _texts(run: Run | Draft) -> Sequence[str]:
    given: Sequence[str] = run.option("statements", ())
    if given:
        return given
    path = run.plan.path.parent / run.option("file", "")
    try:
        return [path.read_text("utf-8")]
    except (OSError, ValueError) as error:
        raise StepFailed(
            f"step {run.spec.id}: {path.name} can't be read", remedy="Make it readable."
        ) from error


def _side(run: Run | Draft) -> Side:
    return Side(run.option("side", Side.TARGET.value))


def _server(run: Run) -> Server:
    return run.source if _side(run) is Side.SOURCE else run.target
