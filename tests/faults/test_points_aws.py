"""The points of what AWS is told, and of what is granted on RDS: each killed and raised once, on the way in and out."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from planrunner.sandbox.writer import Writer
from tests.acceptance.helpers import contents, slots, state_of
from tests.acceptance.test_network import Walled, walled
from tests.acceptance.test_resume import application_dsn

if TYPE_CHECKING:
    from collections.abc import Iterator

# In the order in which a run, and then a cleanup, passes them.
IN = (
    *(
        "opening.before",
        "ingress.after_call",
        "opening.after",
        "rds.before_create_call",
        "rds.after_create_call",
    ),
    *("rds.before_set_call", "rds.after_set_call", "rds.before_attach_call", "rds.after_attach_call"),
    *("rds.before_reboot_call", "rds.after_reboot_call", "grant.recorded", "grant.given"),
)
OUT = (
    *("grant.taken_back", "rds.before_reattach_call", "rds.after_reattach_call"),
    *("rds.before_delete_call", "rds.after_delete_call", "ingress.after_revoke"),
)
POINTS = [("run", point) for point in IN] + [("cleanup", point) for point in OUT]
# The way is open by then: an error is told, and the run goes on.
ENDURED = ("ingress.after_call", "opening.after")
MODES = ("kill", "raise")
# In one turn each point is broken off one way, in the other the other way.
CASES = [
    (turn, verb, point, mode)
    for turn in range(2)
    for place, (verb, point) in enumerate(POINTS)
    if not ((mode := MODES[(place + turn) % 2]) == "raise" and point in ENDURED)
]
RUN = ("--yes", "--no-input")


@dataclass
class Account:
    """One migration out of the account, broken off again and again."""

    walled: Walled
    writer: Writer
    cases: list[str] = field(default_factory=list)
    verb: str = "run"

    def turn_to(self, verb: str) -> None:
        """Before the first case of the cleanup the run must have come to its end."""
        if verb == "cleanup" and self.verb == "run":
            self.finish_run()
        self.verb = verb

    def broken_off(self, point: str, mode: str) -> None:
        self.cases.append(f"{point}:{mode}")
        options = RUN if self.verb == "run" else ("--yes",)
        child = self.walled.run(*options, verb=self.verb, failpoints=f"{point}:{mode}")
        told = f"{self.cases}: {child.stdout[-3000:]} {child.stderr}"
        assert child.returncode == (-signal.SIGKILL if mode == "kill" else 1), told
        assert "Traceback" not in told
        if mode == "raise":
            assert f"failpoint {point} was reached" in " ".join(told.split())

    def finish_run(self) -> None:
        """The run's end: everything there, one reboot, one rule, one grant."""
        scene = self.walled.scene
        child = self.walled.run(*RUN)
        assert child.returncode == 0, f"after {self.cases}: {child.stdout[-3000:]} {child.stderr}"
        self.writer.stop()
        source, target = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
        assert self.writer.check(target) == []
        assert contents(source) == contents(target)
        assert slots(source) == []
        assert scene.api.reboots == 1
        assert {step["status"] for step in state_of(scene)["steps"].values()} == {"done"}
        assert self.walled.calls("AuthorizeSecurityGroupIngress") == 1
        for call in ("CreateDBParameterGroup", "ModifyDBInstance"):
            assert scene.api.changes.count(call) == 1, scene.api.changes

    def finish(self) -> None:
        """The cleanup's end: the account is as it was."""
        scene = self.walled.scene
        self.turn_to("cleanup")
        child = self.walled.run("--yes", verb="cleanup")
        assert child.returncode == 0, f"after {self.cases}: {child.stdout[-3000:]} {child.stderr}"
        # Not rebooted again: the former group is in force with the owner's next reboot.
        assert scene.api.reboots == 1
        assert scene.api.changes.count("DeleteDBParameterGroup") <= 1
        assert self.walled.ranges() == ["198.51.100.0/24"]
        assert slots(scene.source_database.superuser_dsn) == []


@contextmanager
def account() -> Iterator[Account]:
    with walled() as found:
        found.say("true")
        plan = found.scene.plan
        text = plan.read_text()
        assert "with: {reboot: allow}" in text
        plan.write_text(text.replace("with: {reboot: allow}", "with: {reboot: allow, undo: true}"))
        with Writer(application_dsn(found.scene), threads=1, rate=40) as writer:
            yield Account(found, writer)


@pytest.fixture(scope="module")
def moved(request: pytest.FixtureRequest) -> Iterator[Account]:
    """A migration that the cases of one turn break off one after the other; at the end nothing of it is left."""
    assert request.param in {0, 1}
    with account() as found:
        yield found
        found.finish()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("moved", "case"),
    # All cases of a turn are one migration's, so one worker's; in the second each is broken off the other way.
    [
        pytest.param(
            turn,
            case,
            marks=[pytest.mark.xdist_group(f"account-{turn}"), *([pytest.mark.soak] if turn else [])],
            id=f"{turn}-{'-'.join(case)}",
        )
        for turn, *case in CASES
    ],
    indirect=["moved"],
    # Else the migration would be made anew for each case.
    scope="module",
)
def test_what_was_asked_of_aws_is_asked_once_whatever_breaks_off(moved: Account, case: list[str]) -> None:
    verb, point, mode = case
    moved.turn_to(verb)
    moved.broken_off(point, mode)
