"""The least IAM policy for what a plan calls: JSON as AWS takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.model import Json, RdsInstance

# What each action is allowed on: AWS's Service Authorization Reference, "Amazon RDS".
_ON_GROUPS = frozenset(
    {
        "rds:CreateDBParameterGroup",
        "rds:DescribeDBParameterGroups",
        "rds:DescribeDBParameters",
        "rds:ModifyDBParameterGroup",
    }
)
_ON_INSTANCES = frozenset({"rds:RebootDBInstance"})
# AWS's Service Authorization Reference, "Amazon EC2"; what only describes is allowed on everything or nothing.
_ON_RULES = frozenset(
    {"ec2:AuthorizeSecurityGroupIngress", "ec2:CreateTags", "ec2:RevokeSecurityGroupIngress"}
)
# The instance, and the group that it is given.
_ON_BOTH = frozenset({"rds:ModifyDBInstance"})
# A list of all instances tells which others use the group.
_ON_ALL_INSTANCES = frozenset({"rds:DescribeDBInstances"})


def secret_arn(locator: str, region: str | None) -> str:
    """The ARN of a secret by its name; one that is an ARN already is its own."""
    if locator.startswith("arn:"):
        return locator
    # AWS appends six characters of its own to a secret's name.
    return f"arn:aws:secretsmanager:{region or '*'}:*:secret:{locator}-??????"


def policy(
    actions: Iterable[str], instance: RdsInstance | None, groups: Sequence[str]
) -> dict[str, Json] | None:
    """A policy that allows ``actions`` and nothing else; None where none is needed.

    An action is ``SERVICE:ACTION`` or, with what it is called on, ``SERVICE:ACTION on ARN``. ``groups`` are the
    parameter groups by name.
    """
    by_resource: dict[tuple[str, ...], list[str]] = {}
    for action in sorted(set(actions)):
        name, named, arn = action.partition(" on ")
        resources = (arn,) if named else _resources(name, instance, groups)
        by_resource.setdefault(resources, []).append(name)
    if not by_resource:
        return None
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": named, "Resource": resources}
            for resources, named in by_resource.items()
        ],
    }


def _resources(action: str, instance: RdsInstance | None, groups: Sequence[str]) -> tuple[str, ...]:
    region = (instance.region if instance else None) or "*"
    root = f"arn:aws:rds:{region}:*"
    of_groups = tuple(f"{root}:pg:{group}" for group in groups) or (f"{root}:pg:*",)
    of_instance = (f"{root}:db:{instance.instance}",) if instance else (f"{root}:db:*",)
    if action in _ON_GROUPS:
        return of_groups
    if action in _ON_INSTANCES:
        return of_instance
    if action in _ON_RULES:
        # A rule's tags are set on the rule, the rule in the group.
        kinds = (
            ("security-group-rule",)
            if action == "ec2:CreateTags"
            else ("security-group", "security-group-rule")
        )
        return tuple(f"arn:aws:ec2:{region}:*:{kind}/*" for kind in kinds)
    if action in _ON_BOTH:
        return (*of_instance, *of_groups)
    return (f"{root}:db:*",) if action in _ON_ALL_INSTANCES else ("*",)
