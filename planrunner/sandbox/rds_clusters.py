"""Clusters as RDS answers for them: Aurora's, whose writer is rebooted, and Multi-AZ DB clusters, rebooted whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from moto.rds.exceptions import DBParameterGroupNotFoundError, RDSClientError

from planrunner.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.sandbox.rds_world import StandInCluster, World

    Params = Mapping[str, str]

_BUSY = "InvalidDBClusterStateFault"


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The answers to the calls on clusters, each without its envelope."""

    world: World

    def described(self, params: Params) -> str:
        """DescribeDBClusters."""
        named = params.get("DBClusterIdentifier")
        found = [self._named(params)] if named else list(self.world.clusters.values())
        told = f"<DBClusters>{''.join(map(_worded, found))}</DBClusters>"
        for cluster in found:
            if cluster.status == "gone" and not cluster.passing:
                del self.world.clusters[cluster.identifier]
        return told

    def modified(self, params: Params) -> str:
        """ModifyDBCluster, of the parameter group."""
        cluster = self._named(params)
        self.world.must_take_changes(cluster.status, *(c for c in cluster.passing[:1]), code=_BUSY)
        wanted = params.get("DBClusterParameterGroupName", "").lower()
        if wanted:
            groups = self.world.backend.db_cluster_parameter_groups
            if wanted not in groups:
                raise DBParameterGroupNotFoundError(wanted)
            family = groups[cluster.group].db_parameter_group_family
            if groups[wanted].db_parameter_group_family != family:
                raise RDSClientError(
                    "InvalidParameterCombination",
                    f"The parameter group {wanted} can't be used for this cluster, which needs family {family}.",
                )
            cluster.group = wanted
            for member in cluster.members:
                self.world.apply_later(member)
        return f"<DBCluster>{_inner(cluster)}</DBCluster>"

    def rebooted(self, params: Params) -> str:
        """RebootDBCluster, which Aurora does not take."""
        cluster = self._named(params)
        if cluster.engine.startswith("aurora"):
            raise RDSClientError(
                "InvalidParameterCombination", "RebootDBCluster isn't supported for the aurora engine."
            )
        self.world.must_take_changes(cluster.status, *(m.status for m in cluster.members), code=_BUSY)
        self.world.reboot(*cluster.members)
        return f"<DBCluster>{_inner(cluster)}</DBCluster>"

    def _named(self, params: Params) -> StandInCluster:
        name = params.get("DBClusterIdentifier", "").lower()
        if name not in self.world.clusters:
            raise RDSClientError("DBClusterNotFoundFault", f"DBCluster {name} not found.")
        return self.world.clusters[name]


def _worded(cluster: StandInCluster) -> str:
    return f"<DBCluster>{_inner(cluster)}</DBCluster>"


def _inner(cluster: StandInCluster) -> str:
    host = f"{cluster.identifier}.cluster-abc123.us-east-1.rds.amazonaws.com"
    facts = {
        "DBClusterIdentifier": cluster.identifier,
        "Status": cluster.told,
        "Engine": cluster.engine,
        "EngineVersion": cluster.engine_version,
        "DBClusterParameterGroup": cluster.group,
        "PreferredMaintenanceWindow": cluster.window,
        "Endpoint": host,
        "LatestRestorableTime": (SystemClock().now() - cluster.lag).isoformat(),
        **({"DBSubnetGroup": cluster.subnets} if cluster.subnets else {}),
        **({"ReplicationSourceIdentifier": cluster.copies} if cluster.copies else {}),
    }
    members = "".join(
        f"<DBClusterMember><DBInstanceIdentifier>{escape(str(member.db_instance_identifier))}</DBInstanceIdentifier>"
        f"<IsClusterWriter>{'true' if place == 0 else 'false'}</IsClusterWriter>"
        f"<DBClusterParameterGroupStatus>{member.apply_status}</DBClusterParameterGroupStatus></DBClusterMember>"
        for place, member in enumerate(cluster.members)
    )
    told = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in facts.items())
    groups = "".join(
        f"<VpcSecurityGroupMembership><VpcSecurityGroupId>{group}</VpcSecurityGroupId></VpcSecurityGroupMembership>"
        for group in cluster.security_groups
    )
    tags = "".join(
        f"<Tag><Key>{escape(tag['Key'])}</Key><Value>{escape(tag['Value'])}</Value></Tag>"
        for tag in cluster.tags
    )
    if cluster.capacity is not None:
        least, most = cluster.capacity
        bounds = f"<MinCapacity>{least}</MinCapacity><MaxCapacity>{most}</MaxCapacity>"
        told += f"<ServerlessV2ScalingConfiguration>{bounds}</ServerlessV2ScalingConfiguration>"
    return (
        f"{told}<DBClusterMembers>{members}</DBClusterMembers>"
        f"<VpcSecurityGroups>{groups}</VpcSecurityGroups><TagList>{tags}</TagList>"
    )
