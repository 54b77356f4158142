"""Copy and stream as jobs of SerenAI's cloud: the actions of snapshot and sync where they are not made here.

The state keeps the job's name before anything rests on it, so a resume asks for the same job. Whether a job was made
whose reply was lost nobody can ask the API; then a person says so (``planrunner state job``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner import cloud_requests
from planrunner.errors import CloudError, DecisionNeeded, StepBlocked, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import RunOn, Side
from planrunner.postgres import needs
from planrunner.replication import elsewhere, followed, verify
from planrunner.seren.job import Command, Stage
from planrunner.step import NO_LOCKS, NOTHING_STAYS, Action, Draft, Run, blocked, outlined
from planrunner.units import human_seconds
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json, Plan, Seren, StepSpec
    from planrunner.seren.client import Jobs
    from planrunner.seren.job import Standing

# The keys of a step's figures that speak of its job.
COMMAND, NAME, STATUS, ASKED = "job", "job_id", "job_status", "job_asked"
_LOGS_SHOWN = 15
_NEWS_SECONDS = 60.0
_CONSOLE = "https://console.serendb.com"
_COMMANDS = {"snapshot": Command.INIT, "sync": Command.SYNC}
_NEEDS = {
    Command.INIT: (
        *needs.on(Side.SOURCE, needs.READING),
        *needs.on(Side.TARGET, needs.CREATE),
    ),
    Command.SYNC: (
        *needs.on(Side.SOURCE, needs.READING, needs.OWNERSHIP, needs.CREATE, needs.REPLICATION),
        *needs.on(Side.TARGET, needs.SUBSCRIBING, needs.CREATE),
    ),
}
_UNDO = {
    Command.INIT: "a job can't be taken back; DROP on the target what it made, by hand",
    Command.SYNC: "DROP SUBSCRIPTION on the target, DROP PUBLICATION on the source, by hand",
}
_LASTING = {
    Command.INIT: "schema and rows on the target, which the migration is for",
    Command.SYNC: "the cloud's subscription on the target, its publication and slot on the source",
}
_DOES = {Command.INIT: "copy schema and rows", Command.SYNC: "follow the source"}


@dataclass(frozen=True, kw_only=True)
class Noted:
    """What the state says of a step's job. ``asked`` without ``job_id``: nobody knows whether it was made."""

    asked: bool = False
    job_id: str | None = None
    stage: Stage | None = None

    @classmethod
    def of(cls, figures: Mapping[str, Json]) -> Noted:
        """What the figures of a step say."""
        job_id, status = figures.get(NAME), figures.get(STATUS)
        return cls(
            asked=COMMAND in figures,
            job_id=job_id if isinstance(job_id, str) else None,
            stage=Stage.of(status) if isinstance(status, str) else None,
        )

    @property
    def to_make(self) -> bool:
        """True while no job is made that did not fail, and none may be."""
        return not self.asked or self.stage is Stage.FAILED

    @property
    def to_follow(self) -> bool:
        """True while the job may still be at work."""
        return self.job_id is not None and self.stage not in {Stage.FAILED, Stage.COMPLETED}


def command_of(spec: StepSpec) -> Command | None:
    """What the job of that step does; None for a step that makes none."""
    return _COMMANDS.get(spec.uses)


def in_cloud(run: Run) -> bool:
    """Whether the cloud copies and streams for this plan: by its jobs on record, else unless a copy was begun here."""
    seren = run.plan.target.seren
    if seren is None:
        return False
    noted = [Noted.of(run.noted(spec.id)) for spec in run.plan.steps if spec.uses in _COMMANDS]
    if not all(one.to_make for one in noted):
        return True
    return seren.place is RunOn.CLOUD and not _begun_here(run)


def drafted(draft: Draft | Run) -> bool:
    """The same by the plan alone."""
    seren = draft.plan.target.seren
    return seren is not None and seren.place is RunOn.CLOUD


def missing(run: Run, command: Command) -> Sequence[Action]:
    """The step's job: to be made, to be waited for, to be decided about; nothing once it is proven."""
    noted = Noted.of(run.noted(run.spec.id))
    if noted.stage is Stage.COMPLETED:
        return ()
    if noted.asked and noted.job_id is None:
        return [_undecided(run, command)]
    if noted.to_follow:
        return [_following(run, command)]
    seren = cloud_requests.seren_of(run.plan)
    if seren.place is RunOn.LOCAL:
        return [_refused(run, command, seren.why)]
    return [_making(seren, command, cloud_requests.shown(run, command))]


def outline(draft: Draft, command: Command) -> Sequence[Action]:
    """The step's job by the plan alone."""
    seren = cloud_requests.seren_of(draft.plan)
    return outlined([_making(seren, command, cloud_requests.drafted(draft.plan, command))])


def no_cutover(plan: Plan) -> Action:
    """The cutover that there is not, of a stream that the cloud made."""
    return blocked(
        name="cutover",
        summary="lead the writers over",
        where=Side.SEREN,
        none=": the stream is the cloud's",
        needs=(needs.BY_OTHERS,),
        why=f"The cutover needs planrunner's own stream, and SerenAI's cloud makes it here"
        f" ({cloud_requests.seren_of(plan).why}). Copy and stream here (--local, or run_on: local), or stop the writers"
        " yourself, run planrunner verify, and lead them over.",
    )


def progress(run: Run) -> Mapping[str, Json] | None:
    """What is on record of the step's job; None where it has none."""
    found = run.noted(run.spec.id)
    return found if COMMAND in found else None


def _begun_here(run: Run) -> bool:
    """Whether the ledger shows that planrunner itself has begun to copy."""
    ledger = workspace(run).ledger
    steps = {step for step, _ in ledger.all_effects()}
    return bool(ledger.units() or steps - {"grant", "enable_logical", "cutover_verify"})


def _making(seren: Seren, command: Command, request: str) -> Action:
    where = (
        "--local does it here" if seren.why != "the plan says run_on: cloud" else "run_on: local does it here"
    )
    return Action(
        name=f"{command.value} job",
        summary=f"let a job in SerenAI's cloud {_DOES[command]} ({seren.why}; {where})",
        where=Side.SEREN,
        statements=(
            request,
            f"GET {seren.base}/jobs/…  -- until it has ended; x-api-key from {seren.api_key}",
        ),
        locks=("what the cloud's own tool takes on both sides; its API does not say",),
        needs=_NEEDS[command],
        undo=_UNDO[command],
        lasting=_LASTING[command],
        perform=lambda run: _made(run, command),
    )


def _following(run: Run, command: Command) -> Action:
    seren, job_id = cloud_requests.seren_of(run.plan), run.noted(run.spec.id)[NAME]
    return Action(
        name=f"{command.value} job",
        summary=f"wait for job {job_id} of SerenAI's cloud, which is to {_DOES[command]}",
        where=Side.SEREN,
        statements=(
            f"GET {seren.base}/jobs/{job_id}  -- until it has ended; x-api-key from {seren.api_key}",
        ),
        locks=NO_LOCKS,
        needs=_NEEDS[command],
        undo=_UNDO[command],
        lasting=_LASTING[command],
        perform=lambda run: _followed(run, command),
    )


def _refused(run: Run, command: Command, why: str) -> Action:
    copies = [s.id for s in run.plan.steps if COMMAND in run.noted(s.id)]
    return blocked(
        name=f"{command.value} job",
        summary=f"{_DOES[command]} from here",
        where=Side.SEREN,
        none=": SerenAI's cloud made the copy",
        needs=(needs.BY_OTHERS,),
        why=f"A job of SerenAI's cloud made the copy, and only the cloud knows where its stream begins; but {why}."
        " Let it run in the cloud; or begin anew here: empty the target, then planrunner run"
        f" {run.plan.path} --local {' '.join(f'--rerun={step}' for step in copies)}.",
    )


def _undecided(run: Run, command: Command) -> Action:
    asked = run.noted(run.spec.id).get(ASKED)
    error = _unknown(
        run, command, f"a job {command.value} was asked for at {asked}, and no answer is on record"
    )
    return Action(
        name=f"{command.value} job",
        summary=f"{error.message}: somebody has to say which",
        where=Side.SEREN,
        statements=("-- none before somebody decides",),
        locks=NO_LOCKS,
        needs=(needs.BY_OTHERS,),
        undo="nothing is done",
        lasting=NOTHING_STAYS,
        perform=lambda _: _raise(error),
    )


def _raise(error: Exception) -> None:
    raise error


def _unknown(run: Run, command: Command, how: str) -> DecisionNeeded:
    place = f"planrunner state job {run.plan.path} {run.spec.id}"
    return DecisionNeeded(
        f"step {run.spec.id}: {how}; whether the job was made nobody knows, and a second one could undo its work",
        remedy=(
            f"Look in SerenAI's console ({_CONSOLE}) for a job {command.value} of that time.\n"
            f"There is one: {place} --id JOB_ID --because REASON\n"
            f"There is none: {place} --none --because REASON\n"
            "Then run again."
        ),
    )


def _made(run: Run, command: Command) -> None:
    """Make the job and wait for it."""
    _refuse_out_of_order(run, command)
    client = cloud_requests.client(run)
    job = cloud_requests.job(run, command)
    asked: dict[str, Json] = {COMMAND: command.value, ASKED: run.clock.now().isoformat(timespec="seconds")}
    # Torn in between, nobody would know whether there is a job.
    with run.shield():
        run.note(asked)
        failpoint("seren.intent_noted")
        try:
            found = client.submit(job)
        except CloudError as error:
            if error.settled:
                run.note({})
                failpoint("seren.intent_withdrawn")
                raise
            raise _unknown(run, command, error.message) from error
        failpoint("seren.job_made")
        run.note({**asked, NAME: found.job_id, STATUS: found.word})
        failpoint("seren.job_noted")
    run.tell(f"job {found.job_id} of SerenAI's cloud is made: {found.word}", {NAME: found.job_id})
    _awaited(run, command, client, found.job_id)


def _followed(run: Run, command: Command) -> None:
    job_id = Noted.of(run.noted(run.spec.id)).job_id
    assert job_id is not None
    _awaited(run, command, cloud_requests.client(run), job_id)


def _awaited(run: Run, command: Command, client: Jobs, job_id: str) -> None:
    """Ask until the job has ended, then prove what it says; StepFailed when it failed."""
    poll = cloud_requests.seren_of(run.plan).poll
    begun = told_at = run.clock.monotonic()
    told = ""
    while True:
        found = client.look(job_id)
        now = run.clock.monotonic()
        line = client.line.told(found.line())
        if line != told or now - told_at > _NEWS_SECONDS:
            run.tell(
                f"job {job_id}: {line} ({human_seconds(now - begun)})", {NAME: job_id, STATUS: found.word}
            )
            told, told_at = line, now
        match found.stage:
            case Stage.PROVISIONING | Stage.RUNNING:
                run.clock.sleep(poll)
            case Stage.COMPLETED:
                _completed(run, command, found)
                return
            case Stage.FAILED:
                _noted(run, found)
                raise _failure(client, command, found)
            case Stage.UNKNOWN:
                raise StepFailed(
                    f"job {job_id} of SerenAI's cloud: its status is {client.line.told(found.word)!r}, which is not"
                    " among those that its API describes",
                    remedy=f"Look at the job in SerenAI's console ({_CONSOLE}); a new run asks for the same job.",
                )


def _completed(run: Run, command: Command, found: Standing) -> None:
    """Note the job as completed once the servers show what it says that it did."""
    shown = _copied(run, found) if command is Command.INIT else _streaming(run, found)
    _noted(run, found, shown)
    failpoint("seren.completion_noted")


def _noted(run: Run, found: Standing, more: Mapping[str, Json] | None = None) -> None:
    times = {
        "job_created": found.created_at,
        "job_started": found.started_at,
        "job_ended": found.completed_at,
    }
    known: dict[str, Json] = {key: value for key, value in times.items() if value is not None}
    run.note({**run.noted(run.spec.id), **known, NAME: found.job_id, STATUS: found.word, **(more or {})})


def _copied(run: Run, found: Standing) -> Mapping[str, Json]:
    space = workspace(run)
    tables = followed.tables(space)
    gone = verify.missing_on_target(space, tables)
    if gone:
        raise StepFailed(
            f"job {found.job_id} of SerenAI's cloud says completed, and yet {'; '.join(gone[:5])}"
            f"{'; …' if len(gone) > 5 else ''}",
            remedy=f"Look at the job's logs in SerenAI's console ({_CONSOLE}).",
        )
    return {"tables": len(tables)}


def _streaming(run: Run, found: Standing) -> Mapping[str, Json]:
    streams = elsewhere.from_source(workspace(run))
    if not any(stream.enabled for stream in streams):
        told = (
            "; ".join(stream.line() for stream in streams)
            or "the target subscribes to nothing of the source's"
        )
        raise StepFailed(
            f"job {found.job_id} of SerenAI's cloud says completed, and yet nothing follows the source: {told}",
            remedy=f"Look at the job's logs in SerenAI's console ({_CONSOLE}), and at pg_subscription on the target.",
        )
    return {"subscriptions": [stream.name for stream in streams]}


def _failure(client: Jobs, command: Command, found: Standing) -> StepFailed:
    code = "" if found.exit_code is None else f", exit code {found.exit_code}"
    lines = [client.line.told(line) for line in found.logs[-_LOGS_SHOWN:]]
    logs = "\nThe end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
    error = client.line.told(found.error or "it says no reason")
    empty = (
        " Empty the target first: the next job would find what this one left."
        if command is Command.INIT
        else ""
    )
    return StepFailed(
        f"job {found.job_id} of SerenAI's cloud failed{code}: {error}{logs}",
        remedy=f"Mend what it says; the next run makes another job.{empty} Or do it here, with --rerun and --local.",
    )


def _refuse_out_of_order(run: Run, command: Command) -> None:
    """StepBlocked for a stream to a copy that the cloud has not made: it would not know where to begin."""
    if command is Command.INIT:
        return
    copies = [spec.id for spec in run.plan.steps if command_of(spec) is Command.INIT]
    if not any(Noted.of(run.noted(step)).stage is Stage.COMPLETED for step in copies):
        raise StepBlocked(
            f"step {run.spec.id}: no job of SerenAI's cloud has copied this database",
            remedy="Put a step before it that uses snapshot, and let it run in the cloud too.",
        )
