"""Records a person's word about a job elsewhere of which the run does not know whether it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.cloud_jobs import ASKED, COMMAND, NAME, command_of
from planrunner.engine.book import Book, fresh_state
from planrunner.errors import UsageError
from planrunner.failpoints import failpoint
from planrunner.model import StepStatus
from planrunner.seren.client import is_job_id

if TYPE_CHECKING:
    from planrunner.engine.setup import Setup
    from planrunner.model import Json, StepSpec


def name_job(setup: Setup, step_id: str, job_id: str | None, *, who: str, why: str) -> StepSpec:
    """Let the step follow the job ``job_id``, or None: know that there is none and that one may be made.

    UsageError for a step that makes no job, is done, or follows a job that may still be at work. The caller holds
    the lock of the state.
    """
    state = setup.store.load() or fresh_state(setup.plan)
    book = Book(state, store=setup.store, journal=setup.journal, clock=setup.clock)
    spec = setup.plan.step(step_id)
    command = None if spec is None else command_of(spec)
    if spec is None or command is None or setup.plan.target.seren is None:
        raise UsageError(
            f"step {step_id!r} makes no job in SerenAI's cloud",
            remedy="Name a step that uses snapshot or sync, of a plan whose target is at *.serendb.com.",
        )
    if job_id is not None and not is_job_id(job_id):
        raise UsageError("that is no job's id", remedy="Copy it from SerenAI's console.")
    if not why.strip():
        raise UsageError("a decision needs a reason", remedy="Say why: --because REASON.")
    known = book.noted(step_id)
    if state.status(step_id) is StepStatus.DONE:
        raise UsageError(f"step {step_id} is done already")
    if known.get(NAME) not in {None, job_id}:
        raise UsageError(
            f"step {step_id} follows job {known[NAME]}",
            remedy=f"To begin anew, with another job: {setup.command('run', f'--rerun={step_id}')}",
        )
    asked = known.get(ASKED, setup.clock.now().isoformat(timespec="seconds"))
    named: dict[str, Json] = {COMMAND: command.value, ASKED: asked, NAME: job_id}
    book.note(spec, {} if job_id is None else named)
    failpoint("seren.job_named")
    said = "there is no job" if job_id is None else f"the job is {job_id}"
    book.decide(spec, f"{who} says that {said}: {why}", who)
    return spec
