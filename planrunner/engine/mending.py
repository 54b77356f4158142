"""A comparison that may repair the target: alone at the plan, like a run, and with its news in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.engine.book import Book, fresh_state
from planrunner.engine.context import opened
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import alone
from planrunner.engine.looking import View, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.engine.context import Tell
    from planrunner.engine.setup import Setup
    from planrunner.model import Json, StepSpec
    from planrunner.verification import Verification, VerifyTerms


def verify_and_mend(setup: Setup, terms: VerifyTerms, tell: Tell) -> tuple[StepSpec, Verification]:
    """Compare both sides, repair what ``terms`` agree to, compare again; what was repaired is journalled.

    The caller holds the lock of the state file. LockedByAnother when a run works on the target.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)

    def heard(message: str, fields: Mapping[str, Json]) -> None:
        setup.journal.write(EventKind.NEWS, message, fields=fields)
        tell(message, fields)

    with (
        setup.interruption.listening(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        alone(context, setup.clock)
        view = View(plan=setup.plan, state=state, context=context, find=setup.find, tell=heard)
        return verify(view, terms)
