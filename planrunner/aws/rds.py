"""One RDS instance and its parameter group: what AWS tells of them, and the calls that change them."""

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
    from collections.abc import Callable, Mapping

    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_rds.type_defs import DBInstanceTypeDef

    from planrunner.aws import cloudwatch, failures, session
    from planrunner.aws.week import Week
    from planrunner.model import Json, RdsInstance
    from planrunner.ports import Clock
else:
    # A plan that is only looked at loads nothing that opens a socket.
    cloudwatch = on_demand("planrunner.aws.cloudwatch")
    failures = on_demand("planrunner.aws.failures")
    session = on_demand("planrunner.aws.session")

_POLL_SECONDS = 5.0
_FIRST_POLLS = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class DbInstance:
    """An instance as AWS tells of it. ``host`` and ``port`` are None while it has no endpoint.

    ``apply_status`` is ``in-sync``, ``applying`` or ``pending-reboot`` and belongs to ``group``.
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

    @property
    def available(self) -> bool:
        """True when it takes changes."""
        return self.status == "available"

    @property
    def settled(self) -> bool:
        """True when nothing is under way any more."""
        return self.available and self.apply_status != "applying"


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A parameter group and the engine family it is for."""

    name: str
    family: str

    @property
    def immutable(self) -> bool:
        """True for AWS's own groups, which can't be changed."""
        return self.name.startswith("default.")


class Rds:
    """The API calls on one instance; every refusal leaves as CloudError with cause and remedy."""

    def __init__(self, instance: RdsInstance, clock: Clock) -> None:
        self.instance = instance
        self._clock = clock
        self._families: dict[str, str] = {}

    @cached_property
    def _client(self) -> RDSClient:
        return session.client("rds", self.instance)

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
        return cloudwatch.week(self.instance, self._clock.now())

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
        found = self.group(name)
        return found.family if found else ""

    def group(self, name: str) -> ParameterGroup | None:
        """The parameter group of that name, None when there is none."""
        try:
            with failures.translated("rds", self.instance):
                found = self._client.describe_db_parameter_groups(DBParameterGroupName=name)
        except CloudError as error:
            if error.code in {"DBParameterGroupNotFound", "DBParameterGroupNotFoundFault"}:
                return None
            raise
        told = found["DBParameterGroups"]
        if not told:
            return None
        return ParameterGroup(
            name=told[0].get("DBParameterGroupName", name), family=told[0].get("DBParameterGroupFamily", "")
        )

    def parameter(self, group: str, name: str) -> str | None:
        """The value of a parameter in a group, None when the group sets none."""
        with failures.translated("rds", self.instance):
            pages = self._client.get_paginator("describe_db_parameters").paginate(DBParameterGroupName=group)
            for page in pages:
                for parameter in page["Parameters"]:
                    if parameter.get("ParameterName") == name:
                        return parameter.get("ParameterValue")
        return None

    def others_with(self, group: str) -> tuple[str, ...]:
        """The other instances that use a group: what is set in it reaches them at their next reboot."""
        with failures.translated("rds", self.instance):
            pages = self._client.get_paginator("describe_db_instances").paginate()
            return tuple(
                other.get("DBInstanceIdentifier", "")
                for page in pages
                for other in page["DBInstances"]
                if other.get("DBInstanceIdentifier") != self.instance.instance
                and any(g.get("DBParameterGroupName") == group for g in other.get("DBParameterGroups", []))
            )

    def create_group(self, name: str, family: str, description: str) -> None:
        """Create a parameter group with the family's defaults."""
        with failures.translated("rds", self.instance):
            self._client.create_db_parameter_group(
                DBParameterGroupName=name, DBParameterGroupFamily=family, Description=description
            )

    def set_parameter(self, group: str, name: str, value: str) -> None:
        """Set a parameter in a group; it takes effect with the next reboot of the instances that use it."""
        with failures.translated("rds", self.instance):
            self._client.modify_db_parameter_group(
                DBParameterGroupName=group,
                Parameters=[
                    {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
                ],
            )

    def attach(self, group: str) -> None:
        """Attach a group to the instance; AWS applies it in the background, see ``wait_available``."""
        with failures.translated("rds", self.instance):
            self._client.modify_db_instance(
                DBInstanceIdentifier=self.instance.instance,
                DBParameterGroupName=group,
                ApplyImmediately=True,
            )

    def reboot(self) -> None:
        """Begin a reboot; the instance is not available until it is through."""
        with failures.translated("rds", self.instance):
            self._client.reboot_db_instance(DBInstanceIdentifier=self.instance.instance)

    def wait_available(self, timeout: float, tell: Callable[[str, Mapping[str, Json]], None]) -> DbInstance:
        """Wait until the instance is available and its group applied or waiting for a reboot.

        ``timeout`` is in seconds; CloudError when it passes. ``tell`` hears of every change of status.
        """
        deadline = self._clock.monotonic() + timeout
        polls = iter(_FIRST_POLLS)
        told = ""
        while not (now := self.describe()).settled:
            status = f"{now.status}, parameter group {now.group} {now.apply_status}"
            if status != told:
                tell(f"{now.identifier} is {status}", {"status": now.status, "apply": now.apply_status})
                told = status
            if self._clock.monotonic() > deadline:
                raise CloudError(
                    f"aws: {now.identifier} is still {status} after {timeout:.0f} s",
                    remedy="See the instance's events, then run again: aws rds describe-events"
                    f" --source-type db-instance --source-identifier {now.identifier}",
                )
            self._clock.sleep(next(polls, _POLL_SECONDS))
        return now

    def command(self, verb: str, *words: str) -> str:
        """A call as the AWS command line writes it, for people: ``aws rds VERB WORDS``."""
        own = self.instance
        where = ("--region", own.region) if own.region else ()
        who = ("--profile", own.profile) if own.profile else ()
        return shlex.join(("aws", "rds", verb, *words, *where, *who))
