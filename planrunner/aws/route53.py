"""One record of a Route 53 hosted zone: read, led elsewhere, and waited for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from planrunner.aws.failures import translated
from planrunner.aws.session import client
from planrunner.errors import CloudError

if TYPE_CHECKING:
    from planrunner.model import RdsInstance
    from planrunner.ports import Clock

_POLL_SECONDS = 2.0


class Route53Client(Protocol):
    """What is used of boto3's client."""

    def list_resource_record_sets(self, **given: Any) -> Any:
        """The records of a zone from a name on."""
        ...

    def change_resource_record_sets(self, **given: Any) -> Any:
        """Change records; answers with an id to wait for."""
        ...

    def get_change(self, **given: Any) -> Any:
        """How far a change is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record as the zone holds it. ``plain`` is False for an alias and for one of a routing policy."""

    name: str
    type: str
    ttl: int
    values: tuple[str, ...]
    plain: bool


class Zone:
    """The calls on one hosted zone; every refusal leaves as CloudError with cause and remedy."""

    def __init__(self, zone_id: str, access: RdsInstance, clock: Clock) -> None:
        self._zone_id = zone_id
        self._access = access
        self._clock = clock
        self._client: Route53Client | None = None

    def record(self, name: str, kind: str) -> Record | None:
        """The record of that name and type, None when there is none."""
        with translated("route53", self._access):
            told = self._service().list_resource_record_sets(
                HostedZoneId=self._zone_id, StartRecordName=name, StartRecordType=kind, MaxItems="1"
            )
        for each in told["ResourceRecordSets"]:
            if _bare(each["Name"]) == _bare(name) and each["Type"] == kind:
                return Record(
                    name=each["Name"],
                    type=kind,
                    ttl=int(each.get("TTL", 0)),
                    values=tuple(v["Value"] for v in each.get("ResourceRecords", [])),
                    plain="AliasTarget" not in each and "SetIdentifier" not in each,
                )
        return None

    def lead(self, name: str, kind: str, value: str, ttl: int) -> str:
        """UPSERT the record with that one value; the id of the change."""
        record = {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": value}]}
        with translated("route53", self._access):
            told = self._service().change_resource_record_sets(
                HostedZoneId=self._zone_id,
                ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
            )
        return str(told["ChangeInfo"]["Id"])

    def wait_in_sync(self, change: str, timeout: float) -> None:
        """Wait until every name server has the change; CloudError after ``timeout`` seconds."""
        deadline = self._clock.monotonic() + timeout
        while True:
            with translated("route53", self._access):
                status = self._service().get_change(Id=change)["ChangeInfo"]["Status"]
            if status == "INSYNC":
                return
            if self._clock.monotonic() > deadline:
                raise CloudError(
                    f"aws: the change {change} is still {status} after {timeout:g} s",
                    remedy=f"The record is changed; see: aws route53 get-change --id {change}",
                )
            self._clock.sleep(_POLL_SECONDS)

    def _service(self) -> Route53Client:
        found = self._client
        if found is None:
            found = self._client = client("route53", self._access)
        return found


def _bare(name: str) -> str:
    # Route 53 ends names with a dot and writes odd characters as octal escapes.
    return name.rstrip(".").lower().replace("\\052", "*")
