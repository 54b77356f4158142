"""The step ``wait``: goes on once a query holds, or once the target lags little enough."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner.errors import QueryFailed, StepFailed
from planrunner.failpoints import failpoint
from planrunner.masking import masked
from planrunner.model import Side
from planrunner.postgres import needs, scripts
from planrunner.replication import barrier, health, subscriptions
from planrunner.step import NO_LOCKS, NO_NEEDS, NOTHING_STAYS, Action, Seen, outlined
from planrunner.units import human_bytes, human_seconds, seconds, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server
    from planrunner.step import Draft, Run


class Wait:
    """Asks again and again over a read-only connection; changes nothing."""

    uses: ClassVar[str] = "wait"

    def actions(self, run: Run) -> Sequence[Action]:
        """The waiting, unless what is waited for holds already or did hold in this run."""
        if run.held.get(_seen(run), Seen) is not None or _holds_now(run):
            return ()
        return [replace(_waiting(run), decided_at_run_time=bool(run.planned_before))]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The waiting."""
        return outlined([_waiting(draft)])


def _waiting(run: Run | Draft) -> Action:
    every, limit = run.option("interval", "5s"), run.option("timeout", "1h")
    return Action(
        name="wait",
        summary=f"wait until {_wish(run)}; asked every {every} for at most {limit}",
        where=_side(run),
        statements=(_question(run),),
        locks=NO_LOCKS,
        needs=(needs.STATEMENTS,) if run.option("query", "") else NO_NEEDS,
        undo="nothing is changed",
        lasting=NOTHING_STAYS,
        perform=_perform,
    )


def _perform(run: Run) -> None:
    pause, limit = seconds(run.option("interval", "5s")), seconds(run.option("timeout", "1h"))
    began = run.clock.monotonic()
    while not _holds(run):
        failpoint("wait.asked")
        left = began + limit - run.clock.monotonic()
        if left <= 0:
            raise StepFailed(
                f"step {run.spec.id}: after {human_seconds(limit)} it still does not hold that {_wish(run)}",
                remedy=f"Look at it yourself: {_question(run)}\nThen run again, or raise the step's timeout.",
            )
        run.clock.sleep(min(pause, left))
    waited = run.clock.monotonic() - began
    run.held.put(_seen(run), Seen())
    run.tell(f"it holds that {_wish(run)}, after {human_seconds(waited)}", {"seconds": round(waited, 3)})


def _holds_now(run: Run) -> bool:
    """As ``_holds``; what an earlier step is to create need not be there when the step is planned."""
    try:
        return _holds(run)
    except QueryFailed as error:
        if run.planned_before and scripts.is_absent(error):
            return False
        raise


def _holds(run: Run) -> bool:
    query, bound = run.option("query", ""), run.option("lag_below", "")
    if query:
        return scripts.holds(_server(run), query)
    space = workspace(run)
    if not subscriptions.existing(run.target, space.names):
        if run.planned_before:
            return False
        raise StepFailed(
            f"step {run.spec.id}: nothing follows the source, so there is no lag to wait for",
            remedy="Put the step after sync and before the cutover ends replication.",
        )
    return barrier.lag(health.observe(space))["lag_bytes"] < size(bound)


def _wish(run: Run | Draft) -> str:
    if run.option("query", ""):
        return f"a query of the {_side(run).value} is true"
    return f"the target lags less than {human_bytes(size(run.option('lag_below', '')))}"


def _question(run: Run | Draft) -> str:
    # A read-only look at the slots, which status shows too.
    query = run.option("query", "")
    return masked(query) if query else "SELECT confirmed_flush_lsn FROM pg_replication_slots"


def _side(run: Run | Draft) -> Side:
    usual = Side.TARGET if run.option("query", "") else Side.SOURCE
    return Side(run.option("side", usual.value))


def _server(run: Run) -> Server:
    return run.source if _side(run) is Side.SOURCE else run.target


def _seen(run: Run) -> str:
    return f"seen by {run.spec.id}"
