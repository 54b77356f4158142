"""Clones of an Aurora cluster: a cluster on a copy-on-write of its volume, with one instance; both bear our mark.

AWS: "Cloning a volume for an Amazon Aurora DB cluster", and the reference of RestoreDBClusterToPointInTime. The call
gives a cluster without instances, which take their place once it is available.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planrunner.aws import marked
from planrunner.aws.clusters import AURORA
from planrunner.errors import CloudError
from planrunner.failpoints import failpoint
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mypy_boto3_rds.type_defs import DBClusterTypeDef

    from planrunner.aws import failures
else:
    failures = on_demand("planrunner.aws.failures")

MAKING = (*marked.MAKING, "rds:CreateDBInstance", "rds:RestoreDBClusterToPointInTime")
LOOKING = (*marked.LOOKING, "rds:DescribeDBClusters")
REMOVING = (*marked.REMOVING, "rds:DeleteDBCluster on arn:aws:rds:*:*:cluster:planrunner-*")

_ENOUGH = "restorable"


class Clones(marked.Marked):
    """What one plan has cloned of its source's cluster; every refusal leaves as CloudError with a remedy."""

    def make(self, generation: int, tell: marked.Tell, since: datetime) -> tuple[str, int]:
        """Clone the source's cluster as it is after ``since``, give it an instance, and wait.

        What is there already is gone on with.
        """
        name = self.name(generation)
        with failures.translated("rds", self._rds.instance):
            if not self._there(name, "instance", self._instance_status, tell):
                if not self._there(name, "cluster", self._cluster_status, tell):
                    self._clone(name, since, tell)
                self._await(name, "cluster", self._cluster_status, tell)
                self._populate(name)
            return self._answering(name, tell)

    def remove(self, generations: Iterable[int]) -> None:
        """Delete the clones that were made for ``generations``; what is gone stays as it is.

        AWS takes the cluster's deletion as soon as its last instance is being deleted. StepConflict where one is not
        ours.
        """
        with failures.translated("rds", self._rds.instance):
            for name in map(self.name, generations):
                self._delete_instance(name, member=True)
                there = self._cluster(name)
                if there is not None and there.get("Status") != "deleting":
                    failpoint("clone.before_delete_cluster_call")
                    self._rds.client.delete_db_cluster(DBClusterIdentifier=name, SkipFinalSnapshot=True)
                    failpoint("clone.after_delete_cluster_call")

    def _clone(self, name: str, since: datetime, tell: marked.Tell) -> None:
        source = self._source().get("DBClusterIdentifier", "")
        self._await_restorable(source, since, tell)
        like = self._described(source)
        if like is None:
            raise CloudError(f"aws: there is no cluster {source}", code="DBClusterNotFoundFault")
        failpoint("clone.before_cluster_call")
        try:
            self._rds.client.restore_db_cluster_to_point_in_time(
                DBClusterIdentifier=name,
                SourceDBClusterIdentifier=source,
                RestoreType="copy-on-write",
                UseLatestRestorableTime=True,
                VpcSecurityGroupIds=marked.security_groups(like.get("VpcSecurityGroups", [])),
                DBClusterParameterGroupName=like.get("DBClusterParameterGroup", ""),
                EnableIAMDatabaseAuthentication=like.get("IAMDatabaseAuthenticationEnabled", False),
                DeletionProtection=False,
                Tags=self._tags,
                **_where_it_has_them(like),
            )
        except self._rds.client.exceptions.DBClusterAlreadyExistsFault:
            # The reply to our own call was lost; whose it is its mark tells.
            self._cluster(name)
        failpoint("clone.after_cluster_call")

    def _await_restorable(self, source: str, since: datetime, tell: marked.Tell) -> None:
        """Wait until what the source had committed at ``since`` can be restored.

        AWS says of a clone that it has the latest restorable data of the volume, and promises no more.
        """

        def reached(_: str) -> str:
            latest = (self._described(source) or {}).get("LatestRestorableTime")
            return _ENOUGH if latest is None or latest > since else f"restorable up to {latest}"

        remedy = "See that its backups go on (LatestRestorableTime of the cluster), then run again."
        self._waited(source, "cluster", reached, tell, _ENOUGH.__eq__, remedy)

    def _populate(self, name: str) -> None:
        like = self._source()
        failpoint("clone.before_instance_call")
        try:
            self._rds.client.create_db_instance(
                DBInstanceIdentifier=name,
                DBClusterIdentifier=name,
                Engine=AURORA,
                DBInstanceClass=like.get("DBInstanceClass", ""),
                PubliclyAccessible=like.get("PubliclyAccessible", False),
                DBParameterGroupName=marked.parameter_group(like),
                AutoMinorVersionUpgrade=False,
                Tags=self._tags,
            )
        except self._rds.client.exceptions.DBInstanceAlreadyExistsFault:
            self._instance(name)
        failpoint("clone.after_instance_call")

    def _described(self, name: str) -> DBClusterTypeDef | None:
        try:
            found = self._rds.client.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"]
        except self._rds.client.exceptions.DBClusterNotFoundFault:
            return None
        return found[0] if found else None

    def _cluster(self, name: str) -> DBClusterTypeDef | None:
        found = self._described(name)
        if found is not None:
            self._refuse_others(name, found.get("TagList", []))
        return found

    def _cluster_status(self, name: str) -> str | None:
        there = self._cluster(name)
        return None if there is None else there.get("Status", "")


def _where_it_has_them(like: DBClusterTypeDef) -> Any:
    """The subnets, and what an instance of class ``db.serverless`` lives on."""
    scaling = like.get("ServerlessV2ScalingConfiguration", {})
    bounds = {name: scaling.get(name) for name in ("MinCapacity", "MaxCapacity") if name in scaling}
    group = like.get("DBSubnetGroup")
    return {
        **({"DBSubnetGroupName": group} if group else {}),
        **({"ServerlessV2ScalingConfiguration": bounds} if bounds else {}),
    }
