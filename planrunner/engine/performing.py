"""The one way an action is performed: intent, failpoint, act, failpoint, outcome; then ask again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.hooks import hook_actions
from planrunner.errors import DecisionNeeded, PlanrunnerError, StepBlocked, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Approval
from planrunner.state.record import WHOLE_STEP, ApprovalRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.engine.book import Book
    from planrunner.engine.helm import Helm
    from planrunner.engine.setup import Setup
    from planrunner.flow import Hook
    from planrunner.model import StepSpec
    from planrunner.step import Action, Run

    Ask = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Where the answer to a question comes from: ``yes`` to all, an approval on record, or a person.

    ``ask`` puts a question to the person at the terminal and returns who said yes, None for a no. ``who`` is
    the one who said yes to all.
    """

    yes: bool = False
    who: str = "unknown"
    ask: Ask | None = None


@dataclass(frozen=True, kw_only=True)
class Performer:
    """Performs the actions of one plan's steps; between two of them ``helm`` may ask for a pause."""

    setup: Setup
    book: Book
    answers: Answers
    helm: Helm | None = None

    def missing(self, actions: Callable[[Run], Sequence[Action]], run: Run) -> tuple[Action, ...]:
        """What the step misses, without the unobservable actions that are on record as done."""
        with self.setup.interruption.interruptible(), run.still():
            found = tuple(actions(run))
        performed = self.book.step(run.spec).performed
        return tuple(a for a in found if a.observable or a.name not in performed)

    def perform_all(
        self, actions: Callable[[Run], Sequence[Action]], run: Run, *, approval: Approval
    ) -> None:
        """Perform what is missing and ask once more; StepFailed names what is missing even then."""
        missing = self.missing(actions, run)
        if missing and approval is Approval.MANUAL:
            question = f"step {run.spec.id} ({run.spec.uses}) waits for approval"
            self._answer(run.spec, WHOLE_STEP, question)
        for action in missing:
            self._perform(action, run)
        still = self.missing(actions, run) if missing else ()
        if still:
            raise StepFailed(
                f"step {run.spec.id} is not done, after all its actions this is still missing:"
                f" {'; '.join(action.summary for action in still)}",
                remedy=f"Look at it with {self.setup.command('preview')}, then run again.",
            )

    def agree(self, actions: Callable[[Run], Sequence[Action]], run: Run) -> None:
        """Ask for the approval of a manual step that has something to do, hooks included."""
        if run.spec.approval is not Approval.MANUAL:
            return
        if self.missing(lambda _: hook_actions(run.spec.flow.hooks), run) or self.missing(actions, run):
            self._answer(run.spec, WHOLE_STEP, f"step {run.spec.id} ({run.spec.uses}) waits for approval")

    def run_hooks(self, hooks: Sequence[Hook], run: Run) -> None:
        """Run those commands that are not on record as done; the first that fails fails the step."""
        for action in self.missing(lambda _: hook_actions(hooks), run):
            self._perform(action, run)

    def rehearse(self, action: Action, run: Run) -> None:
        """Perform an action that undoes itself: journalled, and nothing of it is kept in the state."""
        if action.blocked is not None:
            raise StepBlocked(f"step {run.spec.id}: {action.summary}: blocked", remedy=action.blocked)
        with self.setup.interruption.interruptible():
            action.perform(run)

    def _perform(self, action: Action, run: Run) -> None:
        spec = run.spec
        if action.blocked is not None:
            raise StepBlocked(f"step {spec.id}: {action.summary}: blocked", remedy=action.blocked)
        if action.asks is not None:
            self._answer(spec, action.name, action.asks)
        if self.helm is not None:
            self.helm.wait(self.setup.interruption)
        self.setup.interruption.check()
        self.book.intend(spec, action)
        failpoint(f"{spec.id}.{action.name}.before")
        try:
            with self.setup.interruption.interruptible():
                action.perform(run)
        except PlanrunnerError as error:
            if error.settled and not action.observable:
                self.book.settle(spec)
            raise
        failpoint(f"{spec.id}.{action.name}.after")
        self.book.perform(spec, action)

    def _answer(self, spec: StepSpec, action: str, question: str) -> None:
        if self.book.state.approves(spec.id, spec.digest, action):
            return
        who, why = (self.answers.who, "--yes") if self.answers.yes else (None, "asked")
        if self.answers.ask and not self.answers.yes:
            with self.setup.interruption.interruptible():
                who = self.answers.ask(f"{spec.id}: {question}")
        if who is None:
            raise DecisionNeeded(
                question if action == WHOLE_STEP else f"step {spec.id}: {question}",
                remedy=(
                    f"Look at it: {self.setup.command('preview')}\n"
                    f"Approve it: {self.setup.command('approve', spec.id, '--because=REASON')}\n"
                    f"Go on: {self.setup.command('run')}"
                ),
            )
        record = ApprovalRecord(
            step=spec.id, action=action, digest=spec.digest, who=who, when=self.setup.clock.now(), why=why
        )
        self.book.approve(spec, record)
