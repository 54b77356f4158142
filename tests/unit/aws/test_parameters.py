"""Parameters as the AWS command line writes them, in calls as large as AWS takes, and statuses judged."""

from __future__ import annotations

import shlex

import pytest

from planrunner.aws.parameters import CLUSTER, INSTANCE, Change, Parameter, batches, differing
from planrunner.aws.statuses import KNOWN, Course, meaning


def change(value: str | None, name: str = "work_mem") -> Change:
    return Change(name=name, value=value, method="immediate")


def parameter(name: str, value: str | None) -> Parameter:
    return Parameter(name=name, value=value, static=False, modifiable=True, user=True)


def test_calls_take_twenty_parameters_each() -> None:
    changes = [change("1", f"p{number}") for number in range(45)]
    assert [len(some) for some in batches(changes)] == [20, 20, 5]
    assert [one for some in batches(changes) for one in some] == changes
    assert list(batches([])) == []


@pytest.mark.parametrize(
    ("value", "worded"),
    [
        ("8192", "ParameterName=work_mem,ParameterValue=8192,ApplyMethod=immediate"),
        ("a,b", 'ParameterName=work_mem,ParameterValue="a,b",ApplyMethod=immediate'),
        ('say "x"', 'ParameterName=work_mem,ParameterValue="say \\"x\\"",ApplyMethod=immediate'),
        ("", 'ParameterName=work_mem,ParameterValue="",ApplyMethod=immediate'),
        (None, "ParameterName=work_mem,ApplyMethod=immediate"),
    ],
)
def test_a_value_is_quoted_where_the_command_line_would_take_it_apart(value: str | None, worded: str) -> None:
    assert change(value).worded == worded
    assert shlex.split(shlex.quote(change(value).worded)) == [worded]


def test_groups_differ_in_values_that_one_of_them_lacks_too() -> None:
    one = {"a": parameter("a", "1"), "b": parameter("b", "2"), "c": parameter("c", "3")}
    other = {"a": parameter("a", "1"), "b": parameter("b", "5"), "d": parameter("d", None)}
    assert differing(one, other) == ("b", "c")
    assert differing(one, other, ["b"]) == ("c",)


def test_levels_have_their_own_words() -> None:
    assert (INSTANCE.group_option, CLUSTER.group_option) == (
        "--db-parameter-group-name",
        "--db-cluster-parameter-group-name",
    )
    assert CLUSTER.iam("Reset") == "rds:ResetDBClusterParameterGroup"


@pytest.mark.parametrize(
    ("status", "course"),
    [
        ("available", Course.GO),
        ("storage-optimization", Course.GO),
        ("backing-up", Course.WAIT),
        ("configuring-enhanced-monitoring", Course.WAIT),
        ("upgrading", Course.WAIT),
        ("storage-full", Course.ACT),
        ("stopped", Course.ACT),
        ("something new", Course.WAIT),
    ],
)
def test_a_status_says_whether_to_go_on_to_wait_or_to_act(status: str, course: Course) -> None:
    assert meaning(status, "orders").course is course


@pytest.mark.parametrize("status", sorted(KNOWN))
@pytest.mark.parametrize("cluster", [False, True])
def test_whatever_needs_a_person_says_what_to_do(status: str, cluster: bool) -> None:
    found = meaning(status, "orders", cluster=cluster)
    assert (found.course is Course.ACT) == bool(found.remedy)
    assert "{" not in found.remedy
