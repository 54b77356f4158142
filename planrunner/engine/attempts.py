"""Makes a step's attempts: each within its timeout, and again where the failure may have been a passing one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import stamina
from stamina.instrumentation import set_on_retry_hooks

from planrunner.engine.deadline import limited
from planrunner.engine.passing import failure_class
from planrunner.errors import Interrupted, PlanrunnerError
from planrunner.flow import Occasion, Retries
from planrunner.step import Crossing
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.engine.book import Book
    from planrunner.engine.context import Context
    from planrunner.engine.exclusive import TargetLock
    from planrunner.engine.notify import Notifier
    from planrunner.engine.setup import Setup
    from planrunner.model import StepSpec
    from planrunner.step import Run, Step

# A cutover keeps writers waiting: whether that is worth a second attempt is for the plan to say.
ONCE = Retries(attempts=1)


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Brings steps about; ``lock`` is the target lock that each attempt needs anew."""

    setup: Setup
    book: Book
    context: Context
    lock: TargetLock
    notifier: Notifier

    def make(self, step: Step, run: Run, work: Callable[[], None]) -> None:
        """Do ``work``, again and again as the step's ``retries`` say; what it raised last is raised."""
        spec = run.spec
        retries = spec.flow.retries or (ONCE if isinstance(step, Crossing) else Retries())
        # Every attempt is journalled here; stamina's own log would show on the terminal.
        set_on_retry_hooks(())
        made = _Made(retries=retries)
        attempts = iter(
            stamina.retry_context(
                on=lambda error: self._again(step, run, error, made),
                attempts=retries.attempts,
                timeout=None,
                wait_initial=retries.wait,
                wait_max=retries.max_wait,
                wait_jitter=min(retries.wait, retries.max_wait),
            )
        )
        while not made.ended:
            attempt = self._next(attempts, made)
            with attempt:
                if attempt.num > 1:
                    self._begin_anew()
                work()
                made.ended = True

    @contextmanager
    def in_time(self, spec: StepSpec) -> Iterator[None]:
        """The block is stopped when it takes longer than the step's timeout."""
        if spec.flow.timeout is None:
            yield
            return
        took = human_seconds(spec.flow.timeout)
        error = (
            f"step {spec.id} took longer than its timeout of {took} and was stopped; what was finished stays finished",
            f"See what it waited for, or raise its timeout. Go on with: {self.setup.command('run')}",
        )
        world = self.context.world

        def sever() -> None:
            world.source.sever()
            world.target.sever()

        with limited(
            spec.flow.timeout,
            error,
            interruption=self.setup.interruption,
            clock=self.setup.clock,
            sever=sever,
        ):
            yield

    def _next(self, attempts: Iterator[stamina.Attempt], made: _Made) -> stamina.Attempt:
        """The next attempt after its wait, which a signal may end; raises the last error where there is none."""
        if made.number == 0:
            attempt = next(attempts)
        else:
            with self._waiting():
                attempt = next(attempts)
        made.number, made.wait = attempt.num, attempt.next_wait
        return attempt

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            with self.setup.interruption.interruptible():
                yield
        except StopIteration as error:
            raise AssertionError("stamina gives an attempt or raises") from error

    def _again(self, step: Step, run: Run, error: Exception, made: _Made) -> bool:
        kind = failure_class(error)
        if kind is None or kind not in made.retries.on or made.number >= made.retries.attempts:
            return False
        if not self._may_repeat(step, run):
            return False
        assert isinstance(error, PlanrunnerError)
        text = (
            f"attempt {made.number} of {made.retries.attempts} failed ({kind.value}) and is made again in about"
            f" {human_seconds(made.wait or 0.0)}: {error.message}"
        )
        fields = {"attempt": made.number, "attempts": made.retries.attempts, "class": kind.value}
        # The wait that follows may be ended at any instruction, this may not.
        with self.setup.interruption.shielded():
            self.book.retry(run.spec, text, fields)
            self.notifier.tell(Occasion.RETRY, text, step=run.spec)
        return True

    def _may_repeat(self, step: Step, run: Run) -> bool:
        acting = self.book.acting
        if acting is not None and (acting.destructive or not acting.observable):
            return False
        try:
            self.setup.interruption.check()
            return not (isinstance(step, Crossing) and step.crossed(run))
        except Interrupted:
            return False
        except PlanrunnerError:
            # Where nobody can tell whether a cutover is committed a person must look.
            return False

    def _begin_anew(self) -> None:
        """As a new process would: no session, snapshot or lease of the failed attempt is trusted."""
        with self.setup.interruption.interruptible():
            self.context.held.close()
            self.context.world.close()
            self.context.held.put("target lock", self.lock)


@dataclass
class _Made:
    """How far the attempts of one step are."""

    retries: Retries
    number: int = 0
    wait: float | None = None
    ended: bool = False
