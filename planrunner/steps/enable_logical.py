"""Brings the source to ``wal_level = logical``: on RDS by its parameter group and one reboot."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from planrunner import own_server, prospects
from planrunner.aws.names import group_name_for
from planrunner.aws.outline import UNKNOWN, described_only
from planrunner.errors import StepConflict, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NO_NEEDS, NOTHING_STAYS, Action, outlined
from planrunner.units import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.aws.rds import DbInstance, ParameterGroup, Rds
    from planrunner.model import Estimate
    from planrunner.step import Draft, Run

_PARAMETER = "rds.logical_replication"
# What every look at the instance asks, before, between and after its changes.
_LOOKING = (
    "rds:DescribeDBEngineVersions",
    "rds:DescribeDBInstances",
    "rds:DescribeDBParameterGroups",
    "rds:DescribeDBParameters",
)
_DESCRIPTION = "Logical replication for a migration by planrunner"
# How long a server that is available again may still tell the old wal_level.
_GRACE_SECONDS = 120.0
_POLL_SECONDS = 0.5
# From these statuses an instance comes back only when somebody acts.
_LASTING = frozenset({"stopped", "failed", "storage-full", "inaccessible-encryption-credentials"})


class EnableLogical:
    """Wishes that ``SHOW wal_level`` on the source says ``logical``; believes nothing else.

    It leaves nothing to clean up: a parameter group that it made stays attached to the instance.
    """

    uses: ClassVar[str] = "enable_logical"

    def actions(self, run: Run) -> Sequence[Action]:
        """The missing AWS calls in order, or on other servers ALTER SYSTEM and what a person must do."""
        cloud = run.cloud if run.plan.source.rds else None
        if cloud is None:
            return () if own_server.level(run) == "logical" else own_server.on_own_server(run)
        now = cloud.describe()
        # A server that is rebooting does not answer, which is no reason to fail.
        level = own_server.level(run) if now.available else own_server.level_if_answering(run)
        return () if level == "logical" else _on_rds(run, cloud, now)

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The calls it may come to; which of them are missing, AWS and the source tell."""
        if draft.plan.source.rds is None:
            return outlined([own_server.altering()])
        # Only the words of the calls are asked of it, never AWS.
        cloud = described_only(draft.plan.source.rds)
        named = draft.option("parameter_group", "").lower()
        group = named or "…"
        return outlined(
            [
                _creating(cloud, group, UNKNOWN),
                _setting(cloud, group, (), adjusts=False),
                _attaching(cloud, group, replace(UNKNOWN, identifier=cloud.instance.instance)),
                _rebooting(draft.option("reboot", "ask"), cloud),
                _waiting(cloud),
            ]
        )

    def estimates(self, run: Run) -> Sequence[Estimate]:
        """How long past reboots took, and whom this one cuts off; nothing where none is missing."""
        return prospects.of_reboot(run, self.actions(run))

    def satisfied(self, run: Run) -> Sequence[str]:
        """What of wal_level, parameter group and its parameter is as it should be."""
        found = ["wal_level is logical already"] if own_server.level_if_answering(run) == "logical" else []
        cloud = run.cloud if run.plan.source.rds else None
        if cloud is None:
            return found
        now = cloud.describe()
        name = _group_name(run, now)
        group = cloud.group(name)
        if group is None:
            return found
        value = cloud.parameter(name, _PARAMETER)
        found += [f"parameter group {name} exists, of family {group.family}"]
        found += [f"parameter group {name} is attached to {now.identifier}"] if now.group == name else []
        return [*found, *([f"{_PARAMETER} is 1 in parameter group {name}"] if value == "1" else [])]


def _on_rds(run: Run, cloud: Rds, now: DbInstance) -> list[Action]:
    refused = _out_of_reach(cloud, now)
    if refused is not None:
        return [refused]
    name = _group_name(run, now)
    group = cloud.group(name)
    _must_fit(group, now)
    value = cloud.parameter(name, _PARAMETER) if group else None
    attached = now.group == name
    if attached and value == "1" and now.status == "rebooting":
        return [_waiting(cloud)]
    missing = [
        None if now.available else _becoming_available(cloud, now),
        None if group else _creating(cloud, name, now),
        None if value == "1" else _setting(cloud, name, cloud.others_with(name), adjusts=group is not None),
        None if attached else _attaching(cloud, name, now),
        _rebooting(run.option("reboot", "ask"), cloud),
        _waiting(cloud),
    ]
    return [action for action in missing if action is not None]


def _out_of_reach(cloud: Rds, now: DbInstance) -> Action | None:
    if now.engine != "postgres":
        return own_server.blocked_action(
            "engine",
            f"{now.identifier} is of engine {now.engine}, whose {_PARAMETER} is set for the whole cluster",
            f"Set {_PARAMETER}=1 in the cluster's own parameter group (aws rds"
            " modify-db-cluster-parameter-group), reboot its writer, then run again.",
            where=Side.AWS,
        )
    if now.status in _LASTING:
        return own_server.blocked_action(
            "status",
            f"{now.identifier} is {now.status}",
            "Bring it to the status available, then run again: "
            + cloud.command("start-db-instance", "--db-instance-identifier", now.identifier),
            where=Side.AWS,
        )
    return None


def _group_name(run: Run, now: DbInstance) -> str:
    """The plan's group, else the instance's own, else one we make: AWS's default ones can't be changed."""
    named = run.option("parameter_group", "")
    if named.startswith("default."):
        raise StepFailed(
            f"aws: parameter group {named} is one of AWS's own, which can't be changed",
            remedy="Give the step another parameter_group, or none: it then makes one of the right family.",
        )
    if named:
        return named.lower()  # as AWS keeps it
    return group_name_for(now.identifier) if now.group.startswith("default.") else now.group


def _must_fit(group: ParameterGroup | None, now: DbInstance) -> None:
    if group is not None and group.family != now.family:
        raise StepConflict(
            f"aws: parameter group {group.name} is of family {group.family};"
            f" {now.identifier} ({now.engine} {now.engine_version}) needs {now.family}",
            remedy="Give the step another parameter_group, or none: it then makes one of the right family.",
        )


def _creating(cloud: Rds, name: str, now: DbInstance) -> Action:
    def perform(_: Run) -> None:
        if cloud.group(name) is None:
            cloud.create_group(name, now.family, _DESCRIPTION)
            failpoint("rds.after_create_call")

    group = ("--db-parameter-group-name", name)
    family = ("--db-parameter-group-family", now.family, "--description", _DESCRIPTION)
    return Action(
        name="create_group",
        summary=f"create parameter group {name} of family {now.family}",
        where=Side.AWS,
        perform=perform,
        statements=(cloud.command("create-db-parameter-group", *group, *family),),
        locks=NO_LOCKS,
        needs=("rds:CreateDBParameterGroup", *_LOOKING),
        undo=cloud.command("delete-db-parameter-group", *group),
        lasting=f"parameter group {name}",
    )


def _setting(cloud: Rds, name: str, others: Sequence[str], *, adjusts: bool) -> Action:
    def perform(_: Run) -> None:
        cloud.set_parameter(name, _PARAMETER, "1")
        failpoint("rds.after_set_call")

    reach = f" (reaches {', '.join(others)} too, at their next reboot)" if others else ""
    group = ("--db-parameter-group-name", name)
    return Action(
        name="set_parameter",
        summary=f"set {_PARAMETER}=1 in parameter group {name}{reach}",
        where=Side.AWS,
        perform=perform,
        statements=(cloud.command("modify-db-parameter-group", *group, "--parameters", _wish("1")),),
        locks=NO_LOCKS,
        needs=("rds:ModifyDBParameterGroup", *_LOOKING),
        adjusts=adjusts,
        undo=cloud.command("modify-db-parameter-group", *group, "--parameters", _wish("0")),
        lasting=f"{_PARAMETER}=1 in {name}: wal_level stays logical, which writes more WAL, until it is 0 and rebooted",
    )


def _wish(value: str) -> str:
    return f"ParameterName={_PARAMETER},ParameterValue={value},ApplyMethod=pending-reboot"


def _attaching(cloud: Rds, name: str, now: DbInstance) -> Action:
    def perform(run: Run) -> None:
        cloud.attach(name)
        failpoint("rds.after_attach_call")
        cloud.wait_available(_timeout(run), run.tell)

    def call(group: str) -> str:
        words = ("--db-instance-identifier", now.identifier, "--db-parameter-group-name", group)
        return cloud.command("modify-db-instance", *words, "--apply-immediately")

    return Action(
        name="attach_group",
        summary=f"attach parameter group {name} to {now.identifier} in place of {now.group}",
        where=Side.AWS,
        perform=perform,
        statements=(call(name),),
        locks=NO_LOCKS,
        needs=("rds:ModifyDBInstance", *_LOOKING),
        adjusts=True,
        undo=call(now.group),
        lasting=f"{name} stays the parameter group of {now.identifier}",
    )


def _rebooting(consent: str, cloud: Rds) -> Action:
    instance = cloud.instance.instance
    command = cloud.command("reboot-db-instance", "--db-instance-identifier", instance)
    asks = f"Reboot {instance} now? Its sessions are cut off and it is away until it has restarted."
    blocked = (
        f"{instance} needs a reboot and the plan says reboot: never. Reboot it, then run again: {command}"
    )
    return Action(
        name="reboot",
        summary=f"reboot {instance} once, so that {_PARAMETER} takes effect",
        where=Side.AWS,
        perform=partial(_reboot, cloud=cloud),
        statements=(command,),
        locks=("every session is cut off, until it has restarted",),
        needs=("rds:RebootDBInstance", *_LOOKING),
        undo=f"{IRREVERSIBLE}: a reboot is over once it is done",
        lasting=NOTHING_STAYS,
        asks=asks if consent == "ask" else None,
        blocked=blocked if consent == "never" else None,
        restarts=True,
    )


def _reboot(run: Run, *, cloud: Rds) -> None:
    """Reboot once the group waits for it; a reboot that is under way or done is not repeated."""
    now = cloud.wait_available(_timeout(run), run.tell)
    if own_server.level(run) == "logical":
        return
    if now.apply_status != "pending-reboot":
        raise StepFailed(
            f"aws: parameter group {now.group} of {now.identifier} is {now.apply_status}, not pending-reboot,"
            " and SHOW wal_level does not say logical",
            remedy="AWS may need a minute to notice the change: run again. If that does not help, see what"
            f" the instance says: {_events(cloud)}",
        )
    started = run.source.value("SELECT pg_postmaster_start_time()::text")
    run.tell(f"rebooting {now.identifier}", {"instance": now.identifier, "running_since": str(started)})
    failpoint("rds.before_reboot_call")
    cloud.reboot()
    failpoint("rds.after_reboot_call")


def _becoming_available(cloud: Rds, now: DbInstance) -> Action:
    def perform(run: Run) -> None:
        cloud.wait_available(_timeout(run), run.tell)

    return Action(
        name="wait_available",
        summary=f"wait until {now.identifier}, now {now.status}, is available",
        where=Side.AWS,
        perform=perform,
        statements=(_describing(cloud),),
        locks=NO_LOCKS,
        needs=_LOOKING,
        undo="nothing to undo: it only waits",
        lasting=NOTHING_STAYS,
    )


def _waiting(cloud: Rds) -> Action:
    return Action(
        name="wait",
        summary=f"wait until {cloud.instance.instance} is available and SHOW wal_level says logical",
        where=Side.SOURCE,
        perform=partial(_await_logical, cloud=cloud),
        statements=(_describing(cloud), "SHOW wal_level"),
        locks=NO_LOCKS,
        needs=NO_NEEDS,
        undo="nothing to undo: it only waits",
        lasting=NOTHING_STAYS,
    )


def _await_logical(run: Run, *, cloud: Rds) -> None:
    now = cloud.wait_available(_timeout(run), run.tell)
    deadline = run.clock.monotonic() + _GRACE_SECONDS
    while (level := own_server.level_if_answering(run)) != "logical":
        if run.clock.monotonic() > deadline:
            # A server that does not answer at all tells why itself.
            level = level or own_server.level(run)
            raise StepFailed(
                f"source: wal_level is {level} although {now.identifier} is available"
                f" and its parameter group {now.group} is {now.apply_status}",
                remedy=f"Run again. If it stays so, see what the instance says: {_events(cloud)}",
            )
        run.clock.sleep(_POLL_SECONDS)


def _describing(cloud: Rds) -> str:
    return cloud.command("describe-db-instances", "--db-instance-identifier", cloud.instance.instance)


def _events(cloud: Rds) -> str:
    kind = ("--source-type", "db-instance", "--source-identifier", cloud.instance.instance)
    return cloud.command("describe-events", *kind)


def _timeout(run: Run) -> float:
    return seconds(run.option("timeout", "30m"))
