"""Takes away what a failed step and those it goes with have left, as a cleanup would; never after a cutover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.events import EventKind
from planrunner.engine.performing import Answers, Performer
from planrunner.errors import Interrupted, PlanrunnerError
from planrunner.flow import Occasion
from planrunner.model import Approval, StepStatus
from planrunner.step import Cleaning, Crossing

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.engine.book import Book
    from planrunner.engine.notify import Notifier
    from planrunner.engine.setup import Setup
    from planrunner.model import Plan, StepSpec
    from planrunner.step import Run


@dataclass(frozen=True, kw_only=True)
class Undoing:
    """Undoes steps of a run; ``run`` gives what a step sees."""

    setup: Setup
    book: Book
    notifier: Notifier
    run: Callable[[StepSpec], Run]

    def undo(self, failed: StepSpec) -> None:
        """Undo ``failed``, what it needs, and what needs those; what can't be undone is told, and nothing is raised.

        Only Interrupted leaves this: a signal ends it like any other work, and `planrunner cleanup` does the rest.
        """
        if (reason := self._forbidden()) is not None:
            self.book.warn(failed, f"nothing is undone: {reason}")
            return
        for spec in reversed(affected(self.setup.plan, failed, self._begun)):
            try:
                self._undo(spec)
            except Interrupted:
                raise
            except PlanrunnerError as error:
                remedy = f"Take away what is left with: {self.setup.command('cleanup')}"
                self.book.warn(spec, f"it could not be undone: {error.message}. {remedy}")
                return
        text = f"what step {failed.id} and those it goes with left on the servers was taken away"
        self.book.journal.write(
            EventKind.NEWS,
            f"{text}; tables that were copied stay on the target until you drop them",
            step=failed.id,
        )
        self.notifier.tell(Occasion.ROLLBACK, text, step=failed)

    def _forbidden(self) -> str | None:
        """Why nothing may be undone any more."""
        for spec in self.setup.plan.steps:
            step = self.setup.find(spec.uses)
            if not isinstance(step, Crossing):
                continue
            try:
                with self.setup.interruption.interruptible():
                    crossed = step.crossed(self.run(spec))
            except Interrupted:
                raise
            except PlanrunnerError as error:
                return f"it can't be told whether the cutover is committed: {error.message}"
            if crossed:
                return "the cutover is committed; planrunner rollback leads writers back"
        return None

    def _begun(self, spec: StepSpec) -> bool:
        step = self.book.step(spec)
        return step.touched or step.status is StepStatus.DONE

    def _undo(self, spec: StepSpec) -> None:
        step = self.setup.find(spec.uses)
        if not isinstance(step, Cleaning):
            return
        performer = Performer(setup=self.setup, book=self.book, answers=Answers(yes=True))
        run = self.run(spec)
        removals = performer.missing(step.leftovers, run)
        performer.perform_all(step.leftovers, run, approval=Approval.AUTO)
        if removals:
            self.book.undo(spec, len(removals))


def affected(plan: Plan, failed: StepSpec, begun: Callable[[StepSpec], bool]) -> tuple[StepSpec, ...]:
    """The step, those it needs, and of those that need one of them the ones that have begun; in the plan's order."""
    chosen, waiting = {failed.id}, [failed.id]
    while waiting:
        spec = plan.step(waiting.pop())
        for name in plan.needs(spec) if spec else ():
            if name not in chosen:
                chosen.add(name)
                waiting.append(name)
    for spec in plan.steps:
        if begun(spec) and chosen & set(plan.needs(spec)):
            chosen.add(spec.id)
    return tuple(spec for spec in plan.steps if spec.id == failed.id or (spec.id in chosen and begun(spec)))
