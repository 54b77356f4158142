"""One RDS instance: what AWS tells of it, and its calls as the AWS command line writes them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planrunner.aws.certificates import InstanceAuthority, instance_authority
from planrunner.aws.events import InstanceEvent, instance_events
from planrunner.aws.storage import Storage, instance_storage
from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_rds.type_defs import DBInstanceTypeDef

    from planrunner.aws import cloudwatch, failures, session
    from planrunner.aws.week import Week
    from planrunner.model import RdsInstance
    from planrunner.ports import Clock
else:
    # A plan that is only looked at loads nothing that opens a socket.
    cloudwatch = on_demand("planrunner.aws.cloudwatch")
    failures = on_demand("planrunner.aws.failures")
    session = on_demand("planrunner.aws.session")


@dataclass(frozen=True, kw_only=True)
class DbInstance:
    """An instance as AWS tells of it. ``host`` and ``port`` are None while it has no endpoint.

    ``apply_status`` is ``in-sync``, ``applying`` or ``pending-reboot`` and belongs to ``group``. ``cluster`` is the
    cluster that it belongs to, ``copies`` the instance (or cluster) whose read replica it is, ``window`` its weekly
    maintenance window.
    """

    identifier: str
    status: str
    engine: str
    engine_version: str
    family: str
    group: str
    apply_status: str
    host: str | None
    port: int | None
    cluster: str | None = None
    copies: str | None = None
    window: str = ""
    multi_az: bool = False


class Rds:
    """The API calls on one instance; every refusal leaves as CloudError with cause and remedy."""

    def __init__(self, instance: RdsInstance, clock: Clock) -> None:
        self.instance = instance
        self.clock = clock
        self._families: dict[str, str] = {}

    @cached_property
    def _client(self) -> RDSClient:
        return session.client("rds", self.instance)

    @property
    def client(self) -> RDSClient:
        """The client of boto3, for what belongs to the instance: its cluster, its groups."""
        return self._client

    def describe(self) -> DbInstance:
        """The instance as it is now."""
        name = self.instance.instance
        with failures.translated("rds", self.instance):
            found = self._client.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
            if not found:
                raise CloudError(f"aws: there is no instance {name}", code="DBInstanceNotFound")
            return self._instance(found[0])

    def authority(self) -> InstanceAuthority:
        """Which certificate authority the instance uses, and until when."""
        return instance_authority(self._client, self.instance)

    def events(self) -> tuple[InstanceEvent, ...]:
        """What AWS noted about the instance in the past 14 days, the oldest first."""
        return instance_events(self._client, self.instance)

    def storage(self) -> Storage:
        """The instance's storage."""
        return instance_storage(self._client, self.instance)

    def week(self) -> Week:
        """What CloudWatch has measured of the instance in the past seven days."""
        return cloudwatch.week(self.instance, self.clock.now())

    def _instance(self, told: DBInstanceTypeDef) -> DbInstance:
        groups = told.get("DBParameterGroups", [])
        group = groups[0] if groups else {}
        endpoint = told.get("Endpoint", {})
        name = group.get("DBParameterGroupName", "")
        engine, version = told.get("Engine", ""), told.get("EngineVersion", "")
        return DbInstance(
            identifier=told.get("DBInstanceIdentifier", self.instance.instance),
            status=told.get("DBInstanceStatus", ""),
            engine=engine,
            engine_version=version,
            family=self._family(engine, version, name),
            group=name,
            apply_status=group.get("ParameterApplyStatus", ""),
            host=endpoint.get("Address"),
            port=endpoint.get("Port"),
            cluster=told.get("DBClusterIdentifier") or None,
            copies=told.get("ReadReplicaSourceDBInstanceIdentifier")
            or told.get("ReadReplicaSourceDBClusterIdentifier")
            or None,
            window=told.get("PreferredMaintenanceWindow", ""),
            multi_az=told.get("MultiAZ", False),
        )

    def _family(self, engine: str, version: str, group: str) -> str:
        key = f"{engine} {version}"
        if key not in self._families:
            told = self._client.describe_db_engine_versions(
                Engine=engine, EngineVersion=version, IncludeAll=True
            )
            families = [v.get("DBParameterGroupFamily", "") for v in told["DBEngineVersions"]]
            # A version that AWS has withdrawn is not listed; the attached group is of its family.
            self._families[key] = families[0] if families else self._attached_family(group)
        return self._families[key]

    def _attached_family(self, name: str) -> str:
        groups = self._client.describe_db_parameter_groups(DBParameterGroupName=name)["DBParameterGroups"]
        return groups[0].get("DBParameterGroupFamily", "") if groups else ""

    def command(self, verb: str, *words: str) -> str:
        """A call as the AWS command line writes it, for people: ``aws rds VERB WORDS``."""
        own = self.instance
        where = ("--region", own.region) if own.region else ()
        who = ("--profile", own.profile) if own.profile else ()
        return shlex.join(("aws", "rds", verb, *words, *where, *who))
