"""What work on a plan is made of: plan, state, journal, and how servers and steps are found."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner import registry
from planrunner.engine.events import EventKind
from planrunner.engine.interrupts import Interruption

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.engine.context import Connect
    from planrunner.engine.events import Journal
    from planrunner.model import Plan
    from planrunner.ports import Clock, StateHome, StateStore
    from planrunner.step import Step


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The parts of one run. ``find`` gives the step of a ``uses``; ``connect`` opens a plan's servers.

    ``flags`` are the options, quoted for a shell, that lead to the same plan and state again. ``home`` is the store
    where it is one that operators can ask something of the run through.
    """

    plan: Plan
    store: StateStore
    journal: Journal
    connect: Connect
    clock: Clock
    find: Callable[[str], Step] = registry.step
    interruption: Interruption = field(default_factory=Interruption)
    flags: tuple[str, ...] = ()
    home: StateHome | None = None

    def command(self, verb: str, *arguments: str) -> str:
        """The command line that does ``verb`` with this plan, to be shown to people."""
        return " ".join(("planrunner", verb, shlex.quote(str(self.plan.path)), *arguments, *self.flags))

    def warn(self, message: str) -> None:
        """Put a warning on record, from whatever thread."""
        self.journal.write(EventKind.WARNING, message)
