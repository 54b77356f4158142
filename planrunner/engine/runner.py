"""Runs a plan: every step that is not done is asked what is missing, and that is performed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planrunner import scarcity
from planrunner.engine.attempts import Attempts
from planrunner.engine.book import Book, fresh_state
from planrunner.engine.cleanup import refuse_half_cleaned
from planrunner.engine.context import opened
from planrunner.engine.course import Course
from planrunner.engine.events import EventKind
from planrunner.engine.exclusive import alone
from planrunner.engine.expectation import refuse_stale
from planrunner.engine.facts import known_skip, skipped
from planrunner.engine.fit import fitted, refuse_unready
from planrunner.engine.helm import Helm
from planrunner.engine.notify import Notifier
from planrunner.engine.opening import forget, ingress_in, let_in
from planrunner.engine.others import PlanOthers
from planrunner.engine.performing import Answers, Performer
from planrunner.engine.preflight import check_all, checked, refuse_failures
from planrunner.engine.rebuilding import refuse_lost_state
from planrunner.engine.undo import Undoing
from planrunner.errors import DecisionNeeded, Interrupted, PlanrunnerError, UsageError
from planrunner.flow import Occasion
from planrunner.model import StepStatus
from planrunner.step import Checking, Crossing, Lasting, Progressing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.engine.context import Context
    from planrunner.engine.exclusive import TargetLock
    from planrunner.engine.saved_preview import Saved
    from planrunner.engine.setup import Setup
    from planrunner.model import Json, Plan, StepSpec
    from planrunner.state.record import State
    from planrunner.step import Run, Step


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the operator says: how far to go, what to answer, what to do about edited steps.

    ``until`` is the last step to run, ``begin`` the first, ``only`` both; steps outside stay as they are.
    ``expected`` is a saved preview that must still hold. ``take_over``: from a run that holds the target's lock.
    """

    answers: Answers = field(default_factory=Answers)
    until: str | None = None
    begin: str | None = None
    only: str | None = None
    accept: frozenset[str] = frozenset()
    rerun: frozenset[str] = frozenset()
    expected: Saved | None = None
    take_over: bool = False


def run_plan(setup: Setup, options: RunOptions) -> State:
    """Run the plan to its end, or to ``options.until``, and return the final state.

    The caller holds the lock of the state file. Any PlanrunnerError leaves a saved, resumable state;
    signals are caught while this runs and end it with Interrupted.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    refuse_half_cleaned(setup, state)
    state = fitted(state, setup.plan, accept=options.accept, rerun=options.rerun)
    selected = selection(setup.plan, options)
    if options.only is not None:
        refuse_unready(setup.plan, state, options.only)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    helm = Helm(setup)
    with setup.interruption.listening():
        # Who nobody lets in can't learn which databases these are.
        if any(state.status(spec.id) is not StepStatus.DONE for spec in selected):
            let_in(setup, book, options.expected)
    with (
        setup.interruption.listening(),
        helm.looking(),
        opened(setup.plan, setup.connect, setup.clock, book.known()) as context,
    ):
        context.world.on_silence(setup.warn)
        lock = alone(context, setup.clock, take_over=options.take_over)
        with setup.interruption.interruptible():
            refuse_lost_state(setup, context)
        if options.expected is not None:
            with setup.interruption.interruptible():
                refuse_stale(options.expected, setup.plan, book.state, context, setup.find)
        book.identify(context)
        _Runner(setup, book, context, lock, options.answers, helm).go(selected)
    return book.state


def selection(plan: Plan, options: RunOptions) -> tuple[StepSpec, ...]:
    """The steps from ``begin`` to ``until``; UsageError when there are none such."""
    if options.only is not None:
        if options.begin is not None or options.until is not None:
            raise UsageError("--only names the one step to run; it goes with neither --from nor --until")
        options = replace(options, begin=options.only, until=options.only)
    ids = [spec.id for spec in plan.steps]
    for wanted in (options.begin, options.until):
        if wanted is not None and wanted not in ids:
            raise UsageError(f"the plan has no step {wanted!r}", remedy=f"Its steps are: {', '.join(ids)}.")
    first = 0 if options.begin is None else ids.index(options.begin)
    last = len(ids) if options.until is None else ids.index(options.until) + 1
    if first >= last:
        raise UsageError(f"step {options.begin} stands after {options.until}: nothing would run")
    return plan.steps[first:last]


# How a run ended, by its exit code; any other is a failure.
_OCCASIONS = {0: Occasion.DONE, 4: Occasion.WAITING, 130: Occasion.INTERRUPTED}


class _Runner:
    def __init__(  # the parts of one run
        self,
        setup: Setup,
        book: Book,
        context: Context,
        lock: TargetLock,
        answers: Answers,
        helm: Helm,
    ) -> None:
        self._helm = helm
        self._find = setup.find
        self._interruption = setup.interruption
        self._resume = setup.command("run")
        self._book = book
        self._context = context
        self._lock = lock
        self._current: str | None = None
        self._performer = Performer(setup=setup, book=book, answers=answers, helm=helm)
        self._notifier = Notifier(context=context, journal=book.journal, clock=setup.clock)
        self._attempts = Attempts(setup=setup, book=book, context=context, lock=lock, notifier=self._notifier)
        undoing = Undoing(
            setup=setup, book=book, notifier=self._notifier, run=lambda spec: self._run(spec, [])
        )
        self._course = Course(
            plan=setup.plan, book=book, skip=self._skip, perform=self._step, undo=undoing.undo
        )

    def go(self, selected: tuple[StepSpec, ...]) -> None:
        self._journal(EventKind.RUN_STARTED, f"plan {self._context.plan.name} begins", "started", 0)
        try:
            pending = [s for s in selected if self._book.state.status(s.id) is not StepStatus.DONE]
            self._preflight(pending)
            self._course.go(pending)
            if not pending:
                self._look_after(selected)
        except PlanrunnerError as error:
            told = self._told(error)
            self._journal(EventKind.RUN_ENDED, told.message, type(told).__name__, told.exit_code)
            if told is error:
                raise
            raise told from error
        self._journal(EventKind.RUN_ENDED, f"plan {self._context.plan.name} is through", "done", 0)

    def _look_after(self, done: tuple[StepSpec, ...]) -> None:
        """Nothing is left to do; what was begun and is relied on must still go on, until writers are led over."""
        state, plan = self._book.state, self._context.plan
        over = [s for s in plan.steps if isinstance(self._find(s.uses), Crossing)]
        if any(state.status(spec.id) is StepStatus.DONE for spec in over):
            return
        for spec in done:
            step = self._find(spec.uses)
            if isinstance(step, Lasting) and state.status(spec.id) is StepStatus.DONE:
                with self._interruption.interruptible():
                    step.goes_on(self._run(spec, []))

    def _told(self, error: PlanrunnerError) -> PlanrunnerError:
        # What a step says while a signal ends it (a child that got the same Ctrl-C) is not the cause.
        if isinstance(error, Interrupted) or self._interrupted() is not None:
            cause = error if isinstance(error, Interrupted) else self._interrupted() or error
            return Interrupted(cause.message, remedy=f"Go on with: {self._resume}")
        return error

    def _interrupted(self) -> Interrupted | None:
        try:
            self._interruption.check()
        except Interrupted as signalled:
            return signalled
        return None

    def _preflight(self, pending: list[StepSpec]) -> None:
        # A half-done step has passed it; its server may be down in the middle of a reboot.
        if any(self._book.step(spec).half_done for spec in self._context.plan.steps):
            return
        with self._interruption.interruptible():
            # A step that may yet be skipped is checked when its turn has come.
            sure = [spec for spec in pending if self._is_sure(spec)]
            results = check_all(sure, self._find, lambda spec: self._run(spec, pending))
        for result in results:
            for finding in (*result.open, *result.noted):
                self._book.find(result.spec, finding)
        refuse_failures(results)

    def _is_sure(self, spec: StepSpec) -> bool:
        world = self._context.world
        servers = (world.source, world.target)
        return known_skip(self._context.plan, spec, self._book.state, servers) == (None, False)

    def _skip(self, spec: StepSpec) -> str | None:
        world, plan = self._context.world, self._context.plan
        with self._interruption.interruptible():
            reason = skipped(plan, spec, self._book.state, (world.source, world.target), running=True)
        if reason is not None:
            self._notifier.tell(Occasion.STEP_SKIPPED, reason, step=spec)
        return reason

    def _step(self, spec: StepSpec) -> None:
        step, run = self._find(spec.uses), self._run(spec, [])
        self._current = spec.id
        self._book.begin(spec)
        try:
            self._helm.wait(self._interruption)
            self._attempts.make(step, run, lambda: self._bring_about(step, run))
        except PlanrunnerError as error:
            self._record(spec, self._told(error))
            raise
        except Exception as error:
            short = scarcity.explained(error) or self._lock.lost()
            if short is not None:
                self._record(spec, short)
                raise short from error
            self._book.crash(spec, error)
            raise
        self._notifier.tell(Occasion.STEP_DONE, f"step {spec.id} ({spec.uses}) is done", step=spec)

    def _bring_about(self, step: Step, run: Run) -> None:
        with self._interruption.interruptible():
            self._context.still_the_same(self._book.known())
            self._lock.hold()
        if isinstance(step, Checking):
            self._check(step, run)
        self._performer.agree(step.actions, run)
        crossed = self._crossed(step, run)
        with self._attempts.in_time(run.spec):
            self._performer.run_hooks(run.spec.flow.before, run)
            self._performer.perform_all(step.actions, run, approval=run.spec.approval)
            self._performer.run_hooks(run.spec.flow.after, run)
        progress = self._progress(step, run)
        self._book.finish(run.spec, progress)
        if not crossed and self._crossed(step, run):
            self._notifier.tell(Occasion.CUTOVER, "the cutover is committed", step=run.spec)

    def _crossed(self, step: Step, run: Run) -> bool:
        """Whether writers are on the other side; asked only where somebody wants to be told."""
        wanted = any(Occasion.CUTOVER in n.on for n in self._context.plan.notifications)
        if not wanted or not isinstance(step, Crossing):
            return False
        with self._interruption.interruptible():
            return step.crossed(run)

    def _check(self, step: Checking, run: Run) -> None:
        with self._interruption.interruptible():
            result = checked(step, run, [])
        for finding in result.findings:
            self._book.find(run.spec, finding)
        refuse_failures([result])

    def _progress(self, step: Step, run: Run) -> Mapping[str, Json]:
        if not isinstance(step, Progressing):
            return {}
        with self._interruption.interruptible():
            try:
                return step.progress(run)
            except Interrupted:
                raise
            except PlanrunnerError as error:
                # The step is done; its figures are for the report only.
                failure = error
        self._book.warn(run.spec, f"its figures could not be read: {failure.message}")
        return {}

    def _record(self, spec: StepSpec, error: PlanrunnerError) -> None:
        match error:
            case Interrupted():
                self._book.end(spec, StepStatus.PENDING, EventKind.STEP_INTERRUPTED, error)
            case DecisionNeeded():
                self._book.end(spec, StepStatus.WAITING, EventKind.STEP_WAITING, error)
            case _:
                self._book.end(spec, StepStatus.FAILED, EventKind.STEP_FAILED, error)
                self._notifier.tell(Occasion.STEP_FAILED, error.message, step=spec)

    def _run(self, spec: StepSpec, pending: list[StepSpec]) -> Run:
        earlier = pending[: pending.index(spec)] if spec in pending else []
        uses = frozenset(other.uses for other in earlier)
        others = PlanOthers(
            plan=self._context.plan,
            own=spec.id,
            find=self._find,
            run=lambda other: self._run(other, []),
            ingress=lambda: ingress_in(self._context.plan, self._book.state),
            forget=lambda: forget(self._book),
        )
        run = self._context.run(spec, self._tell, uses)
        return replace(
            run,
            shield=self._interruption.shielded,
            others=others,
            steering=self._helm.steer,
            noted=self._book.noted,
            note=lambda figures: self._book.note(spec, figures),
        )

    def _tell(self, message: str, fields: Mapping[str, Json]) -> None:
        # What steps share keeps the first one's ``tell``; its news are of the step that is at work now.
        with self._interruption.shielded():
            self._book.journal.write(EventKind.NEWS, message, step=self._current, fields=fields)

    def _journal(self, kind: EventKind, message: str, result: str, exit_code: int) -> None:
        fields: Mapping[str, Json] = {
            "result": result,
            "exit_code": exit_code,
            "plan_id": self._context.plan_id,
        }
        self._book.journal.write(kind, message, fields=fields)
        self._notifier.tell(
            _OCCASIONS.get(exit_code, Occasion.FAILED) if kind is EventKind.RUN_ENDED else Occasion.STARTED,
            message,
        )
