"""The least IAM policy for what a plan calls: JSON as AWS takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from planrunner.model import Json, RdsInstance

# What each action is allowed on: AWS's Service Authorization Reference, "Amazon RDS".
_VERBS = ("Copy", "Create", "Delete", "Modify", "Reset")
_ON_GROUPS = frozenset(
    {
        "rds:DescribeDBParameterGroups",
        "rds:DescribeDBParameters",
        *(f"rds:{verb}DBParameterGroup" for verb in _VERBS),
    }
)
_ON_CLUSTER_GROUPS = frozenset(
    {
        "rds:DescribeDBClusterParameterGroups",
        "rds:DescribeDBClusterParameters",
        *(f"rds:{verb}DBClusterParameterGroup" for verb in _VERBS),
    }
)
_ON_INSTANCES = frozenset({"rds:RebootDBInstance"})
_ON_CLUSTERS = frozenset({"rds:RebootDBCluster"})
# AWS's Service Authorization Reference, "Amazon EC2"; what only describes is allowed on everything or nothing.
_ON_RULES = frozenset(
    {"ec2:AuthorizeSecurityGroupIngress", "ec2:CreateTags", "ec2:RevokeSecurityGroupIngress"}
)
# The instance (or cluster), and the group that it is given.
_ON_BOTH = frozenset({"rds:ModifyDBInstance"})
_ON_BOTH_OF_CLUSTER = frozenset({"rds:ModifyDBCluster"})
# A list of all of them tells which others use the group.
_ON_ALL = {"rds:DescribeDBInstances": "db", "rds:DescribeDBClusters": "cluster"}
# The Sid of what can be done without, and what a preview reads for its figures.
OPTIONAL = "OptionalFiguresOfThePreview"
FIGURES = ("cloudwatch:GetMetricData", "rds:DescribeDBInstances", "rds:DescribeEvents")


def secret_arn(locator: str, region: str | None) -> str:
    """The ARN of a secret by its name; one that is an ARN already is its own."""
    if locator.startswith("arn:"):
        return locator
    # AWS appends six characters of its own to a secret's name.
    return f"arn:aws:secretsmanager:{region or '*'}:*:secret:{locator}-??????"


def policy(
    actions: Collection[str],
    instance: RdsInstance | None,
    groups: Sequence[str],
    clusters: Sequence[str] = (),
    *,
    optional: Sequence[str] = (),
) -> dict[str, Json] | None:
    """A policy that allows ``actions`` and nothing else; None where none is needed.

    ``optional`` are actions that can be done without: they stand in a statement of their own, OPTIONAL by its Sid.

    An action is ``SERVICE:ACTION`` or, with what it is called on, ``SERVICE:ACTION on ARN``. ``groups`` are the
    parameter groups by name, of instances or clusters, ``clusters`` the clusters.
    """
    by_resource: dict[tuple[str, ...], list[str]] = {}
    for action in sorted(set(actions)):
        name, named, arn = action.partition(" on ")
        resources = (arn,) if named else _resources(name, instance, groups, clusters)
        by_resource.setdefault(resources, []).append(name)
    left = sorted(set(optional) - set(actions))
    if not by_resource and not left:
        return None
    statements: list[Json] = [
        {"Effect": "Allow", "Action": named, "Resource": resources}
        for resources, named in by_resource.items()
    ]
    if left:
        # Of these AWS asks for no resource, or for a list of all.
        statements.append({"Sid": OPTIONAL, "Effect": "Allow", "Action": left, "Resource": ("*",)})
    return {"Version": "2012-10-17", "Statement": statements}


def _resources(
    action: str, instance: RdsInstance | None, groups: Sequence[str], clusters: Sequence[str]
) -> tuple[str, ...]:
    region = (instance.region if instance else None) or "*"

    def arns(kind: str, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"arn:aws:rds:{region}:*:{kind}:{name}" for name in names or ("*",))

    if action in _ON_RULES:
        # A rule's tags are set on the rule, the rule in the group.
        rule = ("security-group-rule",)
        kinds = rule if action == "ec2:CreateTags" else ("security-group", *rule)
        return tuple(f"arn:aws:ec2:{region}:*:{kind}/*" for kind in kinds)
    of_instance = arns("db", (instance.instance,) if instance else ())
    by_kind = (
        (_ON_GROUPS, arns("pg", groups)),
        (_ON_CLUSTER_GROUPS, arns("cluster-pg", groups)),
        (_ON_INSTANCES, of_instance),
        (_ON_CLUSTERS, arns("cluster", clusters)),
        (_ON_BOTH, (*of_instance, *arns("pg", groups))),
        (_ON_BOTH_OF_CLUSTER, (*arns("cluster", clusters), *arns("cluster-pg", groups))),
    )
    if action in _ON_ALL:
        return arns(_ON_ALL[action], ())
    return next((found for actions, found in by_kind if action in actions), ("*",))
