"""A switch that is the plan's own commands."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from planrunner.postgres.preflight_section import TRAFFIC, Check
from planrunner.switching.children import execute, told
from planrunner.switching.terms import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.model import Finding, Side
    from planrunner.switching.hooks import Surroundings
    from planrunner.switching.terms import CommandTerms

PROGRAM = Check(
    code="PR1301",
    section=TRAFFIC,
    title="The switch's commands are here",
    why="A command that is missing is noticed at the cutover, with the writers stopped.",
    mend="Install it on the machine that runs planrunner, or write its path.",
)


class Command:
    """Runs a command in each phase that has one; a resume runs ``after_commit`` again."""

    def __init__(self, terms: CommandTerms, surroundings: Surroundings) -> None:
        self._terms = terms
        self._surroundings = surroundings

    @property
    def title(self) -> str:
        """The program's name."""
        return f"command {next(c[0] for c in (*self._phases(), ('nothing',)) if c)}"

    def prepare(self, to: Side) -> None:
        """There is nothing that could be tried."""

    def before_fence(self, to: Side) -> None:
        """Run the phase's command."""
        self._run(self._terms.before_fence, to)

    def check(self) -> None:
        """Nothing is held back that we could ask for."""

    def after_commit(self, to: Side) -> None:
        """Run the phase's command."""
        self._run(self._terms.after_commit, to)

    def on_rollback(self, to: Side) -> None:
        """Run the phase's command."""
        self._run(self._terms.on_rollback, to)

    def findings(self) -> Sequence[Finding]:
        """Whether the programs are there."""
        programs = sorted({phase[0] for phase in self._phases() if phase})
        return [_program(name) for name in programs]

    def described(self, to: Side) -> Sequence[str]:
        """The command lines."""
        terms = self._terms
        phases = {
            "before the fence": terms.before_fence,
            "after the commit": terms.after_commit,
            "if it is rolled back": terms.on_rollback,
        }
        return [
            f"{when}, PLANRUNNER_TO={to.value}: {shlex.join(argv)}" for when, argv in phases.items() if argv
        ]

    def _phases(self) -> tuple[tuple[str, ...], ...]:
        return (self._terms.before_fence, self._terms.after_commit, self._terms.on_rollback)

    def _run(self, command: tuple[str, ...], to: Side) -> None:
        if command:
            destination = self._surroundings.destination(to, Place())
            execute(command, told(to, destination), self._terms.timeout, self._surroundings)


def _program(name: str) -> Finding:
    if shutil.which(name):
        return PROGRAM.passed(f"command {name} is there")
    return PROGRAM.failed(
        f"command {name} is not there, or can't be executed", "Install it here, or write its path."
    )
