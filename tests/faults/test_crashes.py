"""Either server crashes in every step: the run waits, or stops and is taken up again, and no row is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Literal

import pytest

from tests.acceptance.helpers import contents
from tests.faults.breaking import SCRIPT, UNHURRIED, Clerk, crash, ended, execute, finishes, once, slay
from tests.faults.scene import CLOCK, frozen, migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration

    Pair = tuple[PostgresServer, PostgresServer]
    Which = Literal["source", "target"]

# What `make test` goes through, of each step at least one; the soak crashes both sides at every moment.
BOUNDED = {
    ("schema.before_commit", "target"),
    ("schema.entry_done#2", "source"),
    ("copy.before_commit#1", "target"),
    ("copy.after_commit#1", "source"),
    ("login.password_set", "target"),
    ("cutover.guarded", "source"),
    ("cutover.fenced", "target"),
    ("cutover.before_commit", "source"),
    ("cutover.after_commit", "source"),
    ("cutover.after_commit", "target"),
    ("cutover.retired", "target"),
}
MOMENTS = (
    *(moment for moment, _ in sorted(BOUNDED)),
    "schema.entry_done#1",
    "login.handed_over",
    "tracker.slot_made",
    "tracker.recorded#1",
    "cutover.locked",
    "cutover.barrier_passed",
    "cutover.verified",
    "cutover.opened",
    "cutover.switched",
)
BACK_BOUNDED = {("rollback.verified", "target"), ("back.slot_made", "source")}
BACK = (
    "back.published",
    "back.slot_made",
    "back.started",
    "rollback.barrier_passed",
    "rollback.verified",
    "rollback.opened",
    "rollback.retired",
    "login.before_drop",
)


def cases(moments: tuple[str, ...], bounded: set[tuple[str, str]]) -> Iterator[object]:
    for moment in dict.fromkeys(moments):
        for which in ("source", "target"):
            marks = () if (moment, which) in bounded else (pytest.mark.soak,)
            yield pytest.param(moment, which, marks=marks)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


def crashed(server: PostgresServer, which: Which) -> None:
    # Both ways to lose a server in a moment: told to quit at once, and killed with all its children.
    crash(server) if which == "source" else slay(server)


@pytest.mark.server
@pytest.mark.parametrize(("moment", "which"), list(cases(MOMENTS, BOUNDED)))
def test_a_server_that_crashed_and_is_back_costs_no_row(
    moment: str, which: Which, pair: Pair, tmp_path: Path
) -> None:
    # Only a verification that minds what has changed has a tracker.
    over = "{verify: changed, write_pause_budget: 60s}" if moment.startswith("tracker.") else UNHURRIED
    with migration(pair, tmp_path, "crashing", SCRIPT, over=over) as one, Clerk(one.ours) as clerk:
        server = one.source if which == "source" else one.target
        with frozen(one, once(moment), "run", "--yes", "--no-input") as child:
            crashed(server, which)
            child.send_signal(signal.SIGCONT)
            # Long enough that the run meets a server that is away, not only lost sessions.
            CLOCK.sleep(1)
            server.start()
            ended(child)
        finishes(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        one.assert_moved()


@pytest.mark.server
@pytest.mark.parametrize(("moment", "which"), list(cases(BACK, BACK_BOUNDED)))
def test_a_crash_on_the_way_back_costs_no_row(moment: str, which: Which, pair: Pair, tmp_path: Path) -> None:
    with (
        migration(
            pair, tmp_path, "returning", SCRIPT, over="{reverse: true, write_pause_budget: 60s}"
        ) as one,
        Clerk(one.ours) as clerk,
    ):
        server = one.source if which == "source" else one.target
        verb = "run" if moment.startswith("back.") else "rollback"
        if verb == "rollback":
            one.succeeds("run", "--yes", "--no-input")
            execute(one.theirs, "INSERT INTO said VALUES (-1, 'on the new side')")
        with frozen(one, once(moment), verb, "--yes", "--no-input") as child:
            crashed(server, which)
            child.send_signal(signal.SIGCONT)
            CLOCK.sleep(1)
            server.start()
            ended(child)
        if verb == "run":
            finishes(one)
        else:
            returns(one)
        clerk.stop()
        clerk.assert_kept(one.theirs)
        assert contents(one.ours) == contents(one.theirs)
        one.succeeds("cleanup", "--yes")
        assert one.left() == []


def returns(one: Migration, *, most: int = 3) -> None:
    """Roll back again until it is done, as an operator would."""
    told = []
    for _ in range(most):
        code, said = one.run("rollback", "--yes", "--no-input")
        if code == 0:
            return
        assert code == 1, said
        told.append(said)
    raise AssertionError("\n----\n".join(told))
