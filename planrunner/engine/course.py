"""Which of a plan's steps a run performs, in which order, and what becomes of it when one of them fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.engine.events import EventKind
from planrunner.errors import DecisionNeeded, LeaseLost, PlanrunnerError, StepFailed
from planrunner.flow import OnFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.engine.book import Book
    from planrunner.model import Plan, StepSpec


@dataclass(frozen=True, kw_only=True)
class Course:
    """One run's way through its plan, one step at a time.

    ``skip`` gives the reason why a step is not to be done, ``perform`` brings one about or raises, ``undo`` takes
    away what a failed one left.
    """

    plan: Plan
    book: Book
    skip: Callable[[StepSpec], str | None]
    perform: Callable[[StepSpec], None]
    undo: Callable[[StepSpec], None]

    def go(self, pending: Sequence[StepSpec]) -> None:
        """Perform the steps in the plan's order; what a step raises ends it, unless the step says ``continue``.

        At the end StepFailed names the steps that failed, DecisionNeeded the first that waits.
        """
        ended: dict[str, PlanrunnerError] = {}
        held_back: dict[str, str] = {}
        for spec in pending:
            cause = next((need for need in self.plan.needs(spec) if need in ended or need in held_back), None)
            if cause is not None:
                held_back[spec.id] = cause
                text = f"{spec.uses} is not begun: it needs {cause}, which is not done"
                self.book.journal.write(EventKind.NEWS, text, step=spec.id)
                continue
            try:
                self._step(spec)
            except PlanrunnerError as error:
                if not self._goes_on(spec, error):
                    raise
                ended[spec.id] = error
        if ended:
            raise _summed_up(ended, tuple(held_back))

    def _step(self, spec: StepSpec) -> None:
        reason = self.skip(spec)
        if reason is not None:
            self.book.skip(spec, reason)
            return
        self.perform(spec)

    def _goes_on(self, spec: StepSpec, error: PlanrunnerError) -> bool:
        # Whatever is not the step's own failure (a signal, another runner) is the run's.
        own = error.exit_code in {1, 7} and not isinstance(error, LeaseLost)
        match spec.flow.on_failure:
            case OnFailure.STOP:
                return False
            case OnFailure.CONTINUE:
                return own or isinstance(error, DecisionNeeded)
            case OnFailure.ROLLBACK:
                if own:
                    self.undo(spec)
                return False


def _summed_up(ended: dict[str, PlanrunnerError], held_back: tuple[str, ...]) -> PlanrunnerError:
    failed = {name: error for name, error in ended.items() if not isinstance(error, DecisionNeeded)}
    if not failed:
        return next(iter(ended.values()))
    told = "; ".join(f"step {name} failed: {error.message}" for name, error in failed.items())
    rest = f"; not begun, because they need it: {', '.join(held_back)}" if held_back else ""
    remedy = "\n".join(error.remedy for error in failed.values() if error.remedy) or None
    return StepFailed(f"{told}{rest}", remedy=remedy)
