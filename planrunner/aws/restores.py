"""Copies of an RDS instance: a snapshot of its storage, and an instance that is restored from it; both bear our mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planrunner.aws import marked
from planrunner.failpoints import failpoint
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_rds.type_defs import DBSnapshotTypeDef

    from planrunner.aws import failures
else:
    failures = on_demand("planrunner.aws.failures")

MAKING = (*marked.MAKING, "rds:CreateDBSnapshot", "rds:RestoreDBInstanceFromDBSnapshot")
LOOKING = (*marked.LOOKING, "rds:DescribeDBSnapshots")
REMOVING = (*marked.REMOVING, "rds:DeleteDBSnapshot on arn:aws:rds:*:*:snapshot:planrunner-*")


class Restores(marked.Marked):
    """What one plan has restored of its source's instance; every refusal leaves as CloudError with a remedy."""

    def make(self, generation: int, tell: marked.Tell) -> tuple[str, int]:
        """Snapshot the source's instance, restore it, and wait; what is there already is gone on with."""
        name = self.name(generation)
        with failures.translated("rds", self._rds.instance):
            if not self._there(name, "instance", self._instance_status, tell):
                if not self._there(name, "snapshot", self._snapshot_status, tell):
                    self._take_snapshot(name)
                self._await(name, "snapshot", self._snapshot_status, tell)
                self._restore(name)
            return self._answering(name, tell)

    def remove(self, generations: Iterable[int]) -> None:
        """Delete what was restored for ``generations``, and the snapshots; what is gone stays as it is.

        StepConflict where one is not ours.
        """
        with failures.translated("rds", self._rds.instance):
            for name in map(self.name, generations):
                self._delete_instance(name)
                if self._snapshot(name) is not None:
                    failpoint("restore.before_delete_snapshot_call")
                    self._rds.client.delete_db_snapshot(DBSnapshotIdentifier=name)
                    failpoint("restore.after_delete_snapshot_call")

    def _take_snapshot(self, name: str) -> None:
        failpoint("restore.before_snapshot_call")
        try:
            self._rds.client.create_db_snapshot(
                DBSnapshotIdentifier=name,
                DBInstanceIdentifier=self._rds.instance.instance,
                Tags=self._tags,
            )
        except self._rds.client.exceptions.DBSnapshotAlreadyExistsFault:
            # The reply to our own call was lost; whose it is its mark tells.
            self._snapshot(name)
        failpoint("restore.after_snapshot_call")

    def _restore(self, name: str) -> None:
        like = self._source()
        group = like.get("DBSubnetGroup", {}).get("DBSubnetGroupName")
        subnets: Any = {"DBSubnetGroupName": group} if group else {}
        failpoint("restore.before_restore_call")
        try:
            self._rds.client.restore_db_instance_from_db_snapshot(
                DBInstanceIdentifier=name,
                DBSnapshotIdentifier=name,
                DBInstanceClass=like.get("DBInstanceClass", ""),
                PubliclyAccessible=like.get("PubliclyAccessible", False),
                EnableIAMDatabaseAuthentication=like.get("IAMDatabaseAuthenticationEnabled", False),
                VpcSecurityGroupIds=marked.security_groups(like.get("VpcSecurityGroups", [])),
                DBParameterGroupName=marked.parameter_group(like),
                MultiAZ=False,
                Tags=self._tags,
                **subnets,
            )
        except self._rds.client.exceptions.DBInstanceAlreadyExistsFault:
            self._instance(name)
        failpoint("restore.after_restore_call")

    def _snapshot(self, name: str) -> DBSnapshotTypeDef | None:
        try:
            found = self._rds.client.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]
        except self._rds.client.exceptions.DBSnapshotNotFoundFault:
            return None
        if found:
            self._refuse_others(name, found[0].get("TagList", []))
        return found[0] if found else None

    def _snapshot_status(self, name: str) -> str | None:
        there = self._snapshot(name)
        return None if there is None else there.get("Status", "")
