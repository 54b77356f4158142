"""The least IAM policy: what a plan calls, on what, and nothing else."""

from pathlib import Path

from planrunner.aws.policy import FIGURES, OPTIONAL, policy, secret_arn
from planrunner.model import RdsInstance
from planrunner.switching.build import iam_needs

ORDERS = RdsInstance(instance="orders", region="eu-west-1")


def allowed(found: dict[str, object] | None) -> dict[str, list[str]]:
    """The resources of each action."""
    assert found is not None
    statements = found["Statement"]
    assert isinstance(statements, list)
    return {action: list(s["Resource"]) for s in statements for action in s["Action"]}


def test_each_action_is_allowed_on_what_it_is_called_on() -> None:
    found = allowed(policy({"rds:RebootDBInstance", "rds:ModifyDBParameterGroup"}, ORDERS, ["pg-logical"]))
    assert found == {
        "rds:ModifyDBParameterGroup": ["arn:aws:rds:eu-west-1:*:pg:pg-logical"],
        "rds:RebootDBInstance": ["arn:aws:rds:eu-west-1:*:db:orders"],
    }


def test_of_a_cluster_the_groups_and_the_cluster_are_named() -> None:
    actions = {"rds:ModifyDBCluster", "rds:ModifyDBClusterParameterGroup", "rds:DescribeDBClusters"}
    found = allowed(policy({*actions, "rds:RebootDBCluster"}, ORDERS, ["pg-logical"], ["shop"]))
    group, cluster = "arn:aws:rds:eu-west-1:*:cluster-pg:pg-logical", "arn:aws:rds:eu-west-1:*:cluster:shop"
    assert found == {
        "rds:DescribeDBClusters": ["arn:aws:rds:eu-west-1:*:cluster:*"],
        "rds:ModifyDBCluster": [cluster, group],
        "rds:ModifyDBClusterParameterGroup": [group],
        "rds:RebootDBCluster": [cluster],
    }


def test_no_call_needs_no_policy() -> None:
    assert policy((), ORDERS, ()) is None


def test_one_action_on_two_things_is_allowed_on_both() -> None:
    needs = ("route53:ChangeResourceRecordSets on arn:a", "route53:ChangeResourceRecordSets on arn:b")
    found = policy(needs, None, ())
    assert found is not None
    statements = found["Statement"]
    assert isinstance(statements, list)
    assert [s["Resource"] for s in statements] == [("arn:a",), ("arn:b",)]


def test_what_leads_the_traffic_tells_what_it_calls(tmp_path: Path) -> None:
    switch = [
        {"route53": {"zone_id": "Z1", "name": "db.example.com", "region": "eu-west-1"}},
        {"secretsmanager": {"secret_id": "prod/app", "region": "eu-west-1"}},
        {"command": {"after_commit": ["true"]}},
    ]
    assert iam_needs(switch, tmp_path) == (
        "route53:ChangeResourceRecordSets on arn:aws:route53:::hostedzone/Z1",
        "route53:ListResourceRecordSets on arn:aws:route53:::hostedzone/Z1",
        "secretsmanager:GetSecretValue on arn:aws:secretsmanager:eu-west-1:*:secret:prod/app-??????",
        "secretsmanager:PutSecretValue on arn:aws:secretsmanager:eu-west-1:*:secret:prod/app-??????",
    )


def test_a_secret_named_by_its_arn_keeps_it() -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod-AbCdEf"
    assert secret_arn(arn, None) == arn


def test_what_can_be_done_without_stands_apart_and_once() -> None:
    found = policy({"rds:DescribeDBInstances"}, ORDERS, (), optional=FIGURES)
    assert found is not None
    statements = found["Statement"]
    assert isinstance(statements, list)
    assert [s.get("Sid") for s in statements] == [None, OPTIONAL]
    assert statements[1]["Action"] == ["cloudwatch:GetMetricData", "rds:DescribeEvents"]
    assert statements[1]["Resource"] == ("*",)


def test_a_plan_that_calls_nothing_may_still_be_told_figures() -> None:
    found = policy((), ORDERS, (), optional=FIGURES)
    assert allowed(found) == {action: ["*"] for action in FIGURES}
