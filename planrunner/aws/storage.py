"""The storage of an RDS instance as AWS tells of it: how much, of what kind, and whether it grows by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient

    from planrunner.aws import failures
    from planrunner.model import RdsInstance
else:
    # Whoever wants the values alone loads nothing of AWS's.
    failures = on_demand("planrunner.aws.failures")

GIB = 1 << 30
# When autoscaling begins and by how much it grows at least: RDS User Guide, "Managing capacity automatically".
SCALING_BELOW = 0.1
_LEAST_STEP = 10 * GIB
_STEP_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An instance's storage in bytes. ``limit`` is how far autoscaling may grow it, None where that is off.

    ``iops`` are those that AWS names for it, None where it names none. ``elastic``: it is Aurora's, which has no
    size of its own.
    """

    status: str
    kind: str
    allocated: int
    limit: int | None = None
    iops: int | None = None
    elastic: bool = False
    multi_az: bool = False
    zone: str | None = None
    size_class: str = ""

    @property
    def scales(self) -> bool:
        """True where autoscaling can still grow it."""
        return self.limit is not None and self.limit > self.allocated

    @property
    def step(self) -> int:
        """How much autoscaling adds at the least."""
        return int(max(_LEAST_STEP, _STEP_SHARE * self.allocated))


def instance_storage(service: RDSClient, instance: RdsInstance) -> Storage:
    """Ask for the instance's storage, one call. CloudError when AWS refuses or there is no such instance."""
    with failures.translated("rds", instance):
        found = service.describe_db_instances(DBInstanceIdentifier=instance.instance)["DBInstances"]
    if not found:
        raise CloudError(f"aws: there is no instance {instance.instance}", code="DBInstanceNotFound")
    told = found[0]
    most = told.get("MaxAllocatedStorage")
    return Storage(
        status=told.get("DBInstanceStatus", ""),
        kind=told.get("StorageType", ""),
        allocated=told.get("AllocatedStorage", 0) * GIB,
        limit=most * GIB if most else None,
        iops=told.get("Iops"),
        elastic=told.get("Engine", "").startswith("aurora"),
        multi_az=told.get("MultiAZ", False),
        zone=told.get("AvailabilityZone"),
        size_class=told.get("DBInstanceClass", ""),
    )
