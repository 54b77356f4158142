"""What one plan has AWS make beside its source: called by the plan's id, marked, awaited, never a stranger's."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from planrunner.errors import CloudError, StepConflict, StepFailed
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mypy_boto3_rds.type_defs import DBInstanceTypeDef, TagTypeDef, VpcSecurityGroupMembershipTypeDef

    from planrunner.aws.rds import Rds
    from planrunner.model import Json

    Tell: TypeAlias = Callable[[str, Mapping[str, Json]], None]
    Look: TypeAlias = Callable[[str], str | None]

MARK = "planrunner:plan"
MAKING = ("rds:AddTagsToResource",)
LOOKING = ("rds:DescribeDBInstances",)
REMOVING = ("rds:DeleteDBInstance on arn:aws:rds:*:*:db:planrunner-*",)
_PATIENCE_SECONDS = 24 * 3600.0
_NEWS_SECONDS = 60.0
_REMEDY = "Look at its events in the RDS console; `planrunner cleanup` removes it, then run again."
_UNSERVING = frozenset({"creating", "deleting"})
_FAILED = frozenset(
    {
        *(
            "cloning-failed",
            "deleting",
            "failed",
            "inaccessible-encryption-credentials",
            "insufficient-capacity",
        ),
        *("incompatible-restore", "incompatible-network", "incompatible-parameters", "restore-error"),
    }
)


class Marked:
    """The instances that were made for one plan, and what they stand on; a subclass knows how they are made."""

    def __init__(self, rds: Rds, plan_id: str, *, poll: float = 5.0) -> None:
        self._rds = rds
        self._plan_id = plan_id
        self._poll = poll

    def name(self, generation: int) -> str:
        """What the instance of a generation is called, and what it stands on."""
        return f"planrunner-{self._plan_id}-g{generation}"

    def found(self, generation: int) -> tuple[str, int] | None:
        """Host and port of the instance; None while it is not made, or is taken away. Reads only.

        Whatever else AWS does with it, such as a backup, it is there.
        """
        there = self._instance(self.name(generation))
        if (
            there is None
            or there.get("DBInstanceStatus") in _UNSERVING
            or "Address" not in there.get("Endpoint", {})
        ):
            return None
        return endpoint(there)

    @property
    def _tags(self) -> list[TagTypeDef]:
        return [{"Key": MARK, "Value": self._plan_id}]

    def _source(self) -> DBInstanceTypeDef:
        """The source's instance, which the other one is to be like."""
        own = self._rds.client.describe_db_instances(DBInstanceIdentifier=self._rds.instance.instance)
        return own["DBInstances"][0]

    def _instance(self, name: str) -> DBInstanceTypeDef | None:
        try:
            found = self._rds.client.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"]
        except self._rds.client.exceptions.DBInstanceNotFoundFault:
            return None
        if found:
            self._refuse_others(name, found[0].get("TagList", []))
        return found[0] if found else None

    def _instance_status(self, name: str) -> str | None:
        there = self._instance(name)
        return None if there is None else there.get("DBInstanceStatus", "")

    def _refuse_others(self, name: str, tags: Sequence[TagTypeDef]) -> None:
        mark = {tag.get("Key"): tag.get("Value") for tag in tags}.get(MARK)
        if mark != self._plan_id:
            raise StepConflict(
                f"aws: {name} is there and not ours: its tag {MARK} is {mark!r}",
                remedy="Find out whose it is; rename or delete it, then run again.",
            )

    def _there(self, name: str, what: str, look: Look, tell: Tell) -> bool:
        """Whether there is one to go on with; one that is being deleted is waited for until it is gone."""
        status = self._waited(name, what, look, tell, lambda status: status != "deleting")
        return status is not None

    def _await(self, name: str, what: str, look: Look, tell: Tell) -> None:
        """Wait until it is available; StepFailed where it will not be."""
        status = self._waited(
            name, what, look, tell, lambda status: status == "available" or status in _FAILED
        )
        if status != "available":
            raise _failed(name, what, status, _REMEDY)

    def _waited(  # what is waited for, each by its place
        self,
        name: str,
        what: str,
        look: Look,
        tell: Tell,
        enough: Callable[[str | None], bool],
        remedy: str = _REMEDY,
    ) -> str | None:
        clock, pause = self._rds.clock, self._poll / 5
        deadline, news = clock.monotonic() + _PATIENCE_SECONDS, clock.monotonic() + _NEWS_SECONDS
        while not enough(status := look(name)):
            if clock.monotonic() > deadline:
                raise _failed(name, what, status, remedy)
            if clock.monotonic() > news:
                tell(f"waiting for {what} {name}: {status or 'creating'}", {"status": status or "creating"})
                news = clock.monotonic() + _NEWS_SECONDS
            clock.sleep(pause)
            pause = min(2 * pause, self._poll)
        return status

    def _answering(self, name: str, tell: Tell) -> tuple[str, int]:
        """Where the instance answers, once it does."""
        self._await(name, "instance", self._instance_status, tell)
        there = self._instance(name)
        assert there is not None
        return endpoint(there)

    def _delete_instance(self, name: str, *, member: bool = False) -> None:
        """Begin to delete the instance, where there is one; a cluster's member has no backups of its own."""
        there = self._instance(name)
        if there is None or there.get("DBInstanceStatus") == "deleting":
            return
        client = self._rds.client
        failpoint("restore.before_delete_instance_call")
        if member:
            client.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        else:
            client.delete_db_instance(
                DBInstanceIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
            )
        failpoint("restore.after_delete_instance_call")


def endpoint(told: DBInstanceTypeDef) -> tuple[str, int]:
    """Where the instance answers; CloudError while it has no address."""
    found = told.get("Endpoint", {})
    if "Address" not in found or "Port" not in found:
        raise CloudError("aws: the restored instance has no endpoint yet", code="NoEndpoint")
    return found["Address"], found["Port"]


def security_groups(told: Sequence[VpcSecurityGroupMembershipTypeDef]) -> list[str]:
    """The ids of security groups."""
    return [each["VpcSecurityGroupId"] for each in told if "VpcSecurityGroupId" in each]


def parameter_group(told: DBInstanceTypeDef) -> str:
    """The name of the instance's parameter group."""
    groups = told.get("DBParameterGroups", [])
    return groups[0].get("DBParameterGroupName", "") if groups else ""


def _failed(name: str, what: str, status: str | None, remedy: str) -> StepFailed:
    return StepFailed(f"aws: {what} {name} is {status or 'not there'}", remedy=remedy)
