"""Copies of an RDS instance: a snapshot of its storage, and an instance that is restored from it; both bear our mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planrunner.errors import CloudError, StepConflict, StepFailed
from planrunner.failpoints import failpoint
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mypy_boto3_rds.type_defs import DBInstanceTypeDef, DBSnapshotTypeDef

    from planrunner.aws import failures
    from planrunner.aws.rds import Rds
    from planrunner.model import Json
else:
    failures = on_demand("planrunner.aws.failures")

MARK = "planrunner:plan"
MAKING = ("rds:AddTagsToResource", "rds:CreateDBSnapshot", "rds:RestoreDBInstanceFromDBSnapshot")
LOOKING = ("rds:DescribeDBInstances", "rds:DescribeDBSnapshots")
REMOVING = (
    "rds:DeleteDBInstance on arn:aws:rds:*:*:db:planrunner-*",
    "rds:DeleteDBSnapshot on arn:aws:rds:*:*:snapshot:planrunner-*",
)
_PATIENCE_SECONDS = 24 * 3600.0
_NEWS_SECONDS = 60.0
_FAILED = frozenset({"failed", "incompatible-restore", "incompatible-network", "incompatible-parameters"})


class Restores:
    """What one plan has restored of its source's instance; every refusal leaves as CloudError with a remedy."""

    def __init__(self, rds: Rds, plan_id: str, *, poll: float = 5.0) -> None:
        self._rds = rds
        self._plan_id = plan_id
        self._poll = poll

    def name(self, generation: int) -> str:
        """What the snapshot and the instance of a generation are called."""
        return f"planrunner-{self._plan_id}-g{generation}"

    def lacking(self) -> str | None:
        """Why the source's instance can't be restored from a snapshot; None where it can. Reads only."""
        own = self._rds.describe()
        if own.cluster is not None:
            return f"instance {own.identifier} is a member of cluster {own.cluster}, which has snapshots of its own kind"
        return None

    def found(self, generation: int) -> tuple[str, int] | None:
        """Host and port of the restored instance; None while there is none that answers. Reads only."""
        there = self._instance(self.name(generation))
        return None if there is None or there.get("DBInstanceStatus") != "available" else _endpoint(there)

    def make(self, generation: int, tell: Callable[[str, Mapping[str, Json]], None]) -> tuple[str, int]:
        """Snapshot the source's instance, restore it, and wait; what is there already is gone on with."""
        name = self.name(generation)
        with failures.translated("rds", self._rds.instance):
            if self._instance(name) is None:
                if self._snapshot(name) is None:
                    self._take_snapshot(name)
                self._await(name, "snapshot", tell)
                self._restore(name)
            self._await(name, "instance", tell)
            there = self._instance(name)
        assert there is not None
        return _endpoint(there)

    def _take_snapshot(self, name: str) -> None:
        failpoint("restore.before_snapshot_call")
        try:
            self._rds.client.create_db_snapshot(
                DBSnapshotIdentifier=name,
                DBInstanceIdentifier=self._rds.instance.instance,
                Tags=[{"Key": MARK, "Value": self._plan_id}],
            )
        except self._rds.client.exceptions.DBSnapshotAlreadyExistsFault:
            # The reply to our own call was lost; whose it is its mark tells.
            self._snapshot(name)
        failpoint("restore.after_snapshot_call")

    def _restore(self, name: str) -> None:
        own = self._rds.client.describe_db_instances(DBInstanceIdentifier=self._rds.instance.instance)
        like = own["DBInstances"][0]
        groups = like.get("DBParameterGroups", [])
        group = like.get("DBSubnetGroup", {}).get("DBSubnetGroupName")
        subnets: Any = {"DBSubnetGroupName": group} if group else {}
        failpoint("restore.before_restore_call")
        try:
            self._rds.client.restore_db_instance_from_db_snapshot(
                DBInstanceIdentifier=name,
                DBSnapshotIdentifier=name,
                DBInstanceClass=like.get("DBInstanceClass", ""),
                PubliclyAccessible=like.get("PubliclyAccessible", False),
                VpcSecurityGroupIds=[
                    each["VpcSecurityGroupId"]
                    for each in like.get("VpcSecurityGroups", [])
                    if "VpcSecurityGroupId" in each
                ],
                DBParameterGroupName=groups[0].get("DBParameterGroupName", "") if groups else "",
                MultiAZ=False,
                Tags=[{"Key": MARK, "Value": self._plan_id}],
                **subnets,
            )
        except self._rds.client.exceptions.DBInstanceAlreadyExistsFault:
            self._instance(name)
        failpoint("restore.after_restore_call")

    def _await(self, name: str, what: str, tell: Callable[[str, Mapping[str, Json]], None]) -> None:
        clock = self._rds.clock
        deadline, news = clock.monotonic() + _PATIENCE_SECONDS, clock.monotonic() + _NEWS_SECONDS
        while (status := self._status(name, what)) != "available":
            if status in _FAILED or clock.monotonic() > deadline:
                raise StepFailed(
                    f"aws: {what} {name} is {status}",
                    remedy="Look at its events in the RDS console; `planrunner cleanup` removes it, then run again.",
                )
            if clock.monotonic() > news:
                tell(f"waiting for {what} {name}: {status}", {"status": status})
                news = clock.monotonic() + _NEWS_SECONDS
            clock.sleep(self._poll)

    def _status(self, name: str, what: str) -> str:
        if what == "snapshot":
            return (self._snapshot(name) or {}).get("Status", "creating")
        return (self._instance(name) or {}).get("DBInstanceStatus", "creating")

    def _snapshot(self, name: str) -> DBSnapshotTypeDef | None:
        try:
            found = self._rds.client.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]
        except self._rds.client.exceptions.DBSnapshotNotFoundFault:
            return None
        if found:
            self._refuse_others(name, {t.get("Key"): t.get("Value") for t in found[0].get("TagList", [])})
        return found[0] if found else None

    def _instance(self, name: str) -> DBInstanceTypeDef | None:
        try:
            found = self._rds.client.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
        except self._rds.client.exceptions.DBInstanceNotFoundFault:
            return None
        if found:
            self._refuse_others(name, {t.get("Key"): t.get("Value") for t in found[0].get("TagList", [])})
        return found[0] if found else None

    def _refuse_others(self, name: str, tags: Mapping[str | None, str | None]) -> None:
        if tags.get(MARK) != self._plan_id:
            raise StepConflict(
                f"aws: {name} is there and not ours: its tag {MARK} is {tags.get(MARK)!r}",
                remedy="Find out whose it is; rename or delete it, then run again.",
            )

    def remove(self, generations: Iterable[int]) -> None:
        """Delete what was restored for ``generations``, and the snapshots; what is gone or not ours stays as it is."""
        client = self._rds.client
        with failures.translated("rds", self._rds.instance):
            for name in map(self.name, generations):
                there = self._instance(name)
                if there is not None and there.get("DBInstanceStatus") != "deleting":
                    failpoint("restore.before_delete_instance_call")
                    client.delete_db_instance(
                        DBInstanceIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
                    )
                    failpoint("restore.after_delete_instance_call")
                if self._snapshot(name) is not None:
                    failpoint("restore.before_delete_snapshot_call")
                    client.delete_db_snapshot(DBSnapshotIdentifier=name)
                    failpoint("restore.after_delete_snapshot_call")


def _endpoint(told: DBInstanceTypeDef) -> tuple[str, int]:
    endpoint = told.get("Endpoint", {})
    if "Address" not in endpoint or "Port" not in endpoint:
        raise CloudError("aws: the restored instance has no endpoint yet", code="NoEndpoint")
    return endpoint["Address"], endpoint["Port"]
