"""The record of one run: every change of the state is saved first and journalled second."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planrunner.engine.events import EventKind
from planrunner.engine.fit import parts_of, values_of
from planrunner.ignoring import finding_json
from planrunner.model import StepStatus
from planrunner.state.record import ApprovalRecord, MarkRecord, State, StepState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.engine.context import Context
    from planrunner.engine.events import Journal
    from planrunner.errors import PlanrunnerError
    from planrunner.model import Finding, Json, Plan, StepSpec
    from planrunner.ports import Clock, StateStore
    from planrunner.step import Action


def fresh_state(plan: Plan) -> State:
    """The state of a plan that never ran."""
    return State(lineage=str(uuid.uuid4()), plan=plan.name, plan_digest=plan.digest)


class Book:
    """Keeps the state of a run and writes down each thing that happens to a step."""

    def __init__(self, state: State, *, store: StateStore, journal: Journal, clock: Clock) -> None:
        self.state = state
        self.journal = journal
        # The action that is under way, or that the last error ended.
        self.acting: Action | None = None
        self._store = store
        self._clock = clock

    def save(self, **changes: Any) -> None:
        """Save the state with those fields changed, under the next serial."""
        self.state = replace(self.state, serial=self.state.serial + 1, **changes)
        self._store.save(self.state)

    def step(self, spec: StepSpec) -> StepState:
        """What is recorded of that step."""
        return self.state.steps.get(spec.id) or StepState(uses=spec.uses)

    def identify(self, context: Context) -> None:
        """Remember which databases this state belongs to, and what their servers say of themselves."""
        found = {"source": context.identities.source, "target": context.identities.target}
        known = {side: identity for side, identity in found.items() if identity is not None}
        servers = {**self._servers(), **context.identities.servers}
        self.save(plan_id=context.plan_id, facts={**self.state.facts, **known, "servers": servers})

    def known(self) -> Mapping[str, Json]:
        """Which databases this state belongs to, as far as it is known."""
        sides = {side: self.state.facts.get(side) for side in ("source", "target")}
        return {"plan_id": self.state.plan_id, **sides}

    def _servers(self) -> Mapping[str, Json]:
        known = self.state.facts.get("servers")
        return known if isinstance(known, dict) else {}

    def begin(self, spec: StepSpec) -> None:
        """The step is looked at; nothing of it is touched yet in this run."""
        self.acting = None
        before = self.step(spec)
        self._change(
            spec,
            status=StepStatus.RUNNING,
            digest=spec.digest,
            parts=parts_of(spec),
            values=values_of(spec),
            started=before.started or self._clock.now(),
            resumed=self._clock.now(),
            finished=None,
            attempts=before.attempts + 1,
            progress={} if before.status is StepStatus.SKIPPED else before.progress,
            error=None,
        )
        self._tell(EventKind.STEP_STARTED, spec, f"{spec.uses} begins")

    def intend(self, spec: StepSpec, action: Action) -> None:
        """The action is about to be performed; on the disk when this returns."""
        self.acting = action
        if not action.observable:
            self._change(spec, touched=True, intent=action.name)
        elif not self.step(spec).touched:
            self._change(spec, touched=True)
        self._tell(EventKind.INTENT, spec, action.summary, _facts(action))

    def perform(self, spec: StepSpec, action: Action) -> None:
        """The action was performed."""
        self.acting = None
        if not action.observable:
            self._change(spec, intent=None, performed=(*self.step(spec).performed, action.name))
        self._tell(EventKind.OUTCOME, spec, f"done: {action.summary}", _facts(action))

    def note(self, spec: StepSpec, figures: Mapping[str, Json]) -> None:
        """What a step wants to find again whatever happens to it; on the disk when this returns."""
        self._change(spec, progress=figures)

    def noted(self, step_id: str) -> Mapping[str, Json]:
        """The step's figures as they are on record."""
        known = self.state.steps.get(step_id)
        return known.progress if known else {}

    def finish(self, spec: StepSpec, progress: Mapping[str, Json]) -> None:
        """Nothing of the step is missing any more."""
        worked = self._worked(spec)
        self._change(
            spec, status=StepStatus.DONE, finished=self._clock.now(), worked=worked, progress=progress
        )
        self._tell(EventKind.STEP_DONE, spec, f"{spec.uses} is done ({worked:.1f} s)", progress)

    def end(self, spec: StepSpec, status: StepStatus, kind: EventKind, error: PlanrunnerError) -> None:
        """The step ended without being done: failed, waiting or interrupted."""
        self._change(spec, status=status, error=str(error), worked=self._worked(spec))
        fields = {"remedy": error.remedy, "exit_code": error.exit_code, "error": type(error).__name__}
        self._tell(kind, spec, error.message, fields)

    def settle(self, spec: StepSpec) -> None:
        """The unobservable action that was begun is known to have had no effect."""
        self._change(spec, intent=None)

    def skip(self, spec: StepSpec, reason: str) -> None:
        """The step is not to be done; said once, and again when the reason changes."""
        before = self.step(spec)
        told = {"skipped": reason}
        if before.status is StepStatus.SKIPPED and before.progress == told:
            return
        self._change(spec, status=StepStatus.SKIPPED, finished=self._clock.now(), error=None, progress=told)
        self._tell(EventKind.STEP_SKIPPED, spec, f"{spec.uses} is skipped: {reason}")

    def retry(self, spec: StepSpec, message: str, fields: Mapping[str, Json]) -> None:
        """The step failed and is tried again."""
        self._tell(EventKind.RETRY, spec, message, fields)

    def undo(self, spec: StepSpec, removed: int) -> None:
        """What the step left was taken away: it has done nothing any more."""
        before, fresh = self.step(spec), StepState(uses=spec.uses)
        failed = before.status is StepStatus.FAILED
        kept = replace(fresh, attempts=before.attempts, worked=before.worked, started=before.started)
        if failed:
            kept = replace(kept, status=StepStatus.FAILED, error=before.error)
        self.save(steps={**self.state.steps, spec.id: kept})
        self._tell(EventKind.STEP_UNDONE, spec, f"{spec.uses} is undone: {removed} things were removed")

    def crash(self, spec: StepSpec, error: Exception) -> None:
        """The step ended in a bug. Its text is not recorded: nobody vouches that it holds no secret."""
        text = f"unexpected {type(error).__name__} in {spec.uses}"
        self._change(spec, status=StepStatus.FAILED, error=text, worked=self._worked(spec))
        self._tell(EventKind.STEP_FAILED, spec, text, {"exit_code": 3})

    def approve(self, spec: StepSpec, record: ApprovalRecord) -> None:
        """Someone approved the step or one of its actions."""
        self.save(approvals=(*self.state.approvals, record))
        self._tell(EventKind.DECISION, spec, f"{record.who} approved {record.action}: {record.why}")

    def mark(self, spec: StepSpec, record: MarkRecord, step: StepState) -> None:
        """Someone says how far the step is."""
        self.save(marks=(*self.state.marks, record), steps={**self.state.steps, spec.id: step})
        self._tell(EventKind.DECISION, spec, str(record), {"marked": record.status, "who": record.who})

    def decide(self, spec: StepSpec, text: str, who: str) -> None:
        """Someone decided what the state says of the step."""
        self._tell(EventKind.DECISION, spec, text, {"who": who})

    def find(self, spec: StepSpec, finding: Finding) -> None:
        """One line of a preflight."""
        told = {key: value for key, value in finding_json(finding).items() if key != "text"}
        self._tell(EventKind.FINDING, spec, finding.text, told)

    def warn(self, spec: StepSpec, text: str) -> None:
        """Something went wrong that stops nothing."""
        self._tell(EventKind.WARNING, spec, text)

    def _worked(self, spec: StepSpec) -> float:
        step = self.step(spec)
        began = step.resumed or self._clock.now()
        return round(step.worked + (self._clock.now() - began).total_seconds(), 3)

    def _change(self, spec: StepSpec, **changes: Any) -> None:
        self.save(steps={**self.state.steps, spec.id: replace(self.step(spec), **changes)})

    def _tell(
        self, kind: EventKind, spec: StepSpec, message: str, fields: Mapping[str, Json] | None = None
    ) -> None:
        self.journal.write(kind, message, step=spec.id, fields=fields)


def _facts(action: Action) -> Mapping[str, Json]:
    return {"action": action.name, "where": action.where.value}
