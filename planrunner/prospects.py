"""What a migration will cost and risk, gathered for the steps: from AWS where the plan names an RDS instance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from planrunner import copies
from planrunner.aws import calls, outlook
from planrunner.aws.events import outages
from planrunner.aws.outline import described_only
from planrunner.aws.outlook import Span
from planrunner.errors import PlanrunnerError
from planrunner.model import Estimate, Side
from planrunner.postgres import preflight_figures
from planrunner.postgres.preflight_figures import Seen
from planrunner.replication import estimate, verify, wal_history
from planrunner.units import human_bytes
from planrunner.workspace import polls, workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.aws.rds import Rds
    from planrunner.aws.storage import Storage
    from planrunner.aws.week import Week
    from planrunner.model import Finding, Plan, RdsInstance
    from planrunner.step import Action, Run

_SNAPSHOT = "snapshot"


@dataclass(frozen=True)
class Instance:
    """What AWS tells of one instance, asked once a process; a refusal is kept as the reason why it is unknown."""

    cloud: Rds

    @cached_property
    def storage(self) -> Storage | str:
        """Its storage, or why that is unknown."""
        try:
            return self.cloud.storage()
        except PlanrunnerError as error:
            return error.message

    @cached_property
    def week(self) -> Week | str:
        """Its figures of the past week, or why they are unknown."""
        try:
            return self.cloud.week()
        except PlanrunnerError as error:
            return error.message

    def close(self) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """The estimates of the copy, measured once a process."""

    estimates: tuple[Estimate, ...]

    def close(self) -> None:
        """There is nothing to give back."""

    def named(self, name: str) -> Estimate | None:
        return next((e for e in self.estimates if e.name == name), None)

    def span(self, name: str) -> Span | None:
        found = self.named(name)
        if found is None or found.low is None or found.high is None:
            return None
        return Span(low=found.low, high=found.high)


def of_reboot(run: Run, missing: Sequence[Action]) -> Sequence[Estimate]:
    """How long a restart of the source takes and whom it cuts off; nothing where none is missing."""
    if not any(action.restarts or action.name == "restart" for action in missing):
        return ()
    found = _instance(run, run.plan.source.rds)
    if found is None:
        return (wal_history.checkpoint(run.source),)
    week = found.week
    told = (
        Estimate(name="sessions_cut", unit="", reason=week)
        if isinstance(week, str)
        else outlook.sessions(week)
    )
    return (_reboot_time(found.cloud), told, wal_history.checkpoint(run.source))


def _reboot_time(cloud: Rds) -> Estimate:
    try:
        return outlook.reboot(outages(cloud.events()))
    except PlanrunnerError as error:
        return Estimate(name="reboot_time", unit="s", reason=error.message)


def of_copy(run: Run) -> Sequence[Estimate]:
    """Sizes and times of the copy, and what they mean for storage, traffic and calls."""
    copy = _copy(run)
    if not copy.estimates:
        return ()
    source = _instance(run, run.plan.source.rds)
    # Where the source is polled no slot holds WAL back.
    polled = polls(run.plan)
    return (
        *(e for e in copy.estimates if not polled or e.name != "wal_retained"),
        *(() if polled else _of_storage(run, source, copy)),
        *_of_target(run, copy),
        _traffic(run.plan, source, copy),
        *(_calls() if source else ()),
    )


def _of_storage(run: Run, source: Instance | None, copy: _Copy) -> Sequence[Estimate]:
    if source is None:
        return wal_history.estimates(run.source, copy.named("copy_time"))
    week, storage = source.week, source.storage
    if isinstance(week, str) or isinstance(storage, str):
        why = week if isinstance(week, str) else str(storage)
        unknown = Estimate(name="storage_and_wal_of_the_week", unit="", reason=why)
        return (unknown, *wal_history.estimates(run.source, copy.named("copy_time")))
    return outlook.of_copy(week, storage, copy.span("copy_time"), allowed=_allowed(run))


def _of_target(run: Run, copy: _Copy) -> Sequence[Estimate]:
    """The target's free storage, where it is an RDS instance that the plan names."""
    target, needed = _instance(run, run.plan.target.rds), copy.span("target_disk")
    if target is None or needed is None or isinstance(target.week, str) or isinstance(target.storage, str):
        return ()
    return outlook.of_target(target.week, target.storage, needed)


def _traffic(plan: Plan, source: Instance | None, copy: _Copy) -> Estimate:
    sizes = [copy.span("heap_bytes"), copy.span("toast_bytes")]
    total = sum(size.high for size in sizes if size is not None)
    storage = source.storage if source else ""
    zone = "" if isinstance(storage, str) or not storage.zone else f" in {storage.zone}"
    goal = f" for {plan.target.rds.region}" if plan.target.rds and plan.target.rds.region else ""
    return Estimate(
        name="data_transfer",
        unit="B",
        low=total,
        high=total,
        text=f"about {human_bytes(total)} leave the source{zone}{goal} once, then every change and what verification"
        " reads; AWS charges what leaves a zone, a region or AWS",
        formula="heap + toast; as text or binary, rows may be smaller or larger than in the files",
    )


def _calls() -> Sequence[Estimate]:
    made = calls.made()
    total = sum(made.values())
    asked = made.get("cloudwatch:GetMetricData", 0)
    return (
        Estimate(
            name="aws_calls",
            unit="",
            low=float(total),
            high=float(total),
            text=f"{total} so far, {asked} of them cloudwatch:GetMetricData, of which AWS charges each metric",
            formula="counted in this process. A run asks anew, and describes the instance every few seconds while it"
            " waits for a reboot; planrunner makes no snapshot of an instance and buys no IOPS",
        ),
    )


def findings(run: Run) -> Sequence[Finding]:
    """What AWS tells of both sides' storage and load, against what the plan will need of them."""
    source, target = _instance(run, run.plan.source.rds), _instance(run, run.plan.target.rds)
    found: list[Finding] = []
    if source is not None:
        found += preflight_figures.figures(_seen(Side.SOURCE, source), partial(_held, run, source))
    if target is not None:
        found += preflight_figures.figures(_seen(Side.TARGET, target), partial(_filled, run))
    return found


def _seen(side: Side, instance: Instance) -> Seen:
    return Seen(
        side=side, instance=instance.cloud.instance.instance, storage=instance.storage, week=instance.week
    )


def _held(run: Run, instance: Instance) -> Span | None:
    """The WAL that the slot will hold, by the week's rates, else by the one of the moment."""
    copy, week = _copy(run), instance.week
    if isinstance(week, str):
        return None
    held = outlook.retained(week, copy.span("copy_time"), allowed=_allowed(run))
    return held or copy.span("wal_retained")


def _filled(run: Run) -> Span | None:
    return _copy(run).span("target_disk")


def _copy(run: Run) -> _Copy:
    kept = run.held.get("copy estimates", _Copy)
    if kept is None:
        kept = _Copy(estimates=_measured(run))
        run.held.put("copy estimates", kept)
    return kept


def _measured(run: Run) -> tuple[Estimate, ...]:
    spec = next((spec for spec in run.plan.steps if spec.uses == _SNAPSHOT), None)
    if spec is None:
        return ()
    copying = replace(run, spec=spec)
    space = workspace(copying)
    above = copies.division(copying).chunk_above
    tables = verify.followed_tables(space)
    return estimate.estimates(space, tables, streams=copies.jobs(copying), chunk_above=above)


def _allowed(run: Run) -> int | None:
    return workspace(run).terms.budget.give_up


def _instance(run: Run, access: RdsInstance | None) -> Instance | None:
    if access is None:
        return None
    name = f"figures of {access.instance}"
    kept = run.held.get(name, Instance)
    if kept is None:
        ours = run.cloud is not None and run.cloud.instance == access
        kept = Instance(run.cloud if ours and run.cloud else described_only(access).rds)
        run.held.put(name, kept)
    return kept
