"""What every status of an instance or cluster means for changing it: go on, wait, or somebody has to act."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# AWS: "Viewing Amazon RDS DB instance status" and "Viewing DB cluster status". In these it takes modifications and
# reboots; storage may be optimised for days.
_GOING = frozenset({"available", "storage-optimization", "storage-initialization"})
# They pass by themselves.
_PASSING = frozenset(
    {
        "backing-up",
        "backtracking",
        "configuring-activity-stream",
        "configuring-associated-roles",
        "configuring-enhanced-monitoring",
        "configuring-iam-database-auth",
        "configuring-log-exports",
        "converting-to-vpc",
        "creating",
        "delete-precheck",
        "failing-over",
        "maintenance",
        "migrating",
        "modifying",
        "moving-to-vpc",
        "preparing-data-migration",
        "promoting",
        "rebooting",
        "renaming",
        "resetting-master-credentials",
        "scaling-compute",
        "scaling-storage",
        "starting",
        "storage-config-upgrade",
        "update-iam-db-auth",
        "upgrade-in-progress",
        "upgrading",
    }
)
_KEYS = (
    "It can't reach the KMS key of its storage. Enable the key and its grants, then start it: aws rds {start}"
    " {identifier_option} {name}; if it stays so, restore the latest snapshot."
)
_RESTORE = "It is lost as it is. Restore its latest snapshot or a point in time under a name, and let the plan name that."
# From these it comes back only when somebody acts; the texts take the words of the caller's level.
_LASTING = {
    "cloning-failed": _RESTORE,
    "deleting": "It is being deleted: name another one as connections.source.rds.instance.",
    "failed": _RESTORE,
    "inaccessible-encryption-credentials": _KEYS,
    "inaccessible-encryption-credentials-recoverable": _KEYS,
    "incompatible-network": "Its subnets have no free address, or are gone. Mend its subnet group, then: aws rds {modify}"
    " {identifier_option} {name} --apply-immediately",
    "incompatible-option-group": "An option of its option group can't be applied; AWS names it in the events. Correct the"
    " option group, or attach the former one: aws rds {modify} {identifier_option} {name} --option-group-name GROUP",
    "incompatible-parameters": "A value of its parameter group does not fit the instance's class or version; AWS names it"
    " in the events. Set that parameter back (aws rds reset-db-parameter-group), then reboot it.",
    "incompatible-restore": _RESTORE,
    "insufficient-capacity": "AWS has no capacity for its class in its zone. Wait and try again, or take another class:"
    " aws rds {modify} {identifier_option} {name} --db-instance-class CLASS --apply-immediately",
    "migration-failed": _RESTORE,
    "restore-error": _RESTORE,
    "stopped": "Start it: aws rds {start} {identifier_option} {name}",
    "stopping": "It is being stopped. Once it is stopped, start it: aws rds {start} {identifier_option} {name}",
    "storage-full": "It takes no change until it has room. Give it more: aws rds {modify} {identifier_option} {name}"
    " --allocated-storage GIGABYTES --apply-immediately",
}
_WORDS = {
    False: {
        "start": "start-db-instance",
        "modify": "modify-db-instance",
        "identifier_option": "--db-instance-identifier",
    },
    True: {
        "start": "start-db-cluster",
        "modify": "modify-db-cluster",
        "identifier_option": "--db-cluster-identifier",
    },
}
# What AWS tells of a parameter group: with these nothing is under way.
_APPLIED = frozenset({"in-sync", "pending-reboot"})
FAILED_TO_APPLY = "failed-to-apply"
KNOWN = frozenset({*_GOING, *_PASSING, *_LASTING})


class Course(Enum):
    """What a status asks of whoever wants to change something."""

    GO = "go"
    WAIT = "wait"
    ACT = "act"


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """A status judged; ``remedy`` says what a person does where the course is ACT."""

    course: Course
    remedy: str = ""


def meaning(status: str, name: str, *, cluster: bool = False) -> Meaning:
    """What ``status`` of the instance (or cluster) ``name`` means; one that is not known is waited for."""
    if status in _GOING:
        return Meaning(course=Course.GO)
    if status in _LASTING:
        return Meaning(course=Course.ACT, remedy=_LASTING[status].format(name=name, **_WORDS[cluster]))
    return Meaning(course=Course.WAIT)


def applied(apply_status: str) -> bool:
    """True when AWS is through with a group, be it that a reboot is still to come."""
    return apply_status in _APPLIED or apply_status == FAILED_TO_APPLY
