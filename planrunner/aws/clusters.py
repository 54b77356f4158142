"""Aurora clusters and Multi-AZ DB clusters: what AWS tells of them, and the calls that change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_rds.type_defs import DBClusterTypeDef

    from planrunner.aws import failures
    from planrunner.model import RdsInstance
else:
    failures = on_demand("planrunner.aws.failures")

AURORA = "aurora-postgresql"


@dataclass(frozen=True, kw_only=True)
class DbCluster:
    """A cluster as AWS tells of it. ``group`` is its cluster parameter group, ``applied`` its status by member.

    ``writer`` is the instance that takes writes; None while a failover looks for one. ``copies`` names the cluster
    whose changes this one only receives.
    """

    identifier: str
    status: str
    engine: str
    group: str
    writer: str | None
    applied: dict[str, str]
    window: str
    endpoint: str
    copies: str | None

    @property
    def aurora(self) -> bool:
        """True for Aurora, whose writer is rebooted; a Multi-AZ DB cluster is rebooted as a whole."""
        return self.engine == AURORA


def find(service: RDSClient, instance: RdsInstance, identifier: str) -> DbCluster:
    """The cluster of that name as it is now; CloudError when there is none."""
    with failures.translated("rds", instance):
        found = service.describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"]
    if not found:
        raise CloudError(f"aws: there is no cluster {identifier}", code="DBClusterNotFoundFault")
    return _cluster(found[0])


def _cluster(told: DBClusterTypeDef) -> DbCluster:
    members = told.get("DBClusterMembers", [])
    writers = [m.get("DBInstanceIdentifier", "") for m in members if m.get("IsClusterWriter")]
    return DbCluster(
        identifier=told.get("DBClusterIdentifier", ""),
        status=told.get("Status", ""),
        engine=told.get("Engine", ""),
        group=told.get("DBClusterParameterGroup", ""),
        writer=writers[0] if writers else None,
        applied={
            m.get("DBInstanceIdentifier", ""): m.get("DBClusterParameterGroupStatus", "") for m in members
        },
        window=told.get("PreferredMaintenanceWindow", ""),
        endpoint=told.get("Endpoint", ""),
        copies=told.get("ReplicationSourceIdentifier") or None,
    )
