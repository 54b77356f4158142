"""``planrunner init`` by flags: what it refuses, what it writes, what it never replaces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.loading import load
from planrunner.model import RdsInstance, SecretKind

if TYPE_CHECKING:
    from pathlib import Path

BOTH = ("--source", "postgresql://a@one.example.com/app", "--target", "postgresql://b@two.example.com/app")


def test_without_a_terminal_both_databases_must_be_named(cli: Any, tmp_path: Path) -> None:
    ended = cli("init", "--source", "postgresql://a@h/d")
    assert ended.returncode == 2
    assert "--target is missing" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "kind", "locator"),
    [
        ("env:PW", SecretKind.ENV, "PW"),
        ("command:pass show 'two words'", SecretKind.COMMAND, "pass show 'two words'"),
        ("aws_secretsmanager:prod/db", SecretKind.AWS_SECRETSMANAGER, "prod/db"),
        ("aws_ssm:/prod/db", SecretKind.AWS_SSM, "/prod/db"),
    ],
)
def test_each_place_of_a_password_is_a_flag(
    cli: Any, tmp_path: Path, given: str, kind: SecretKind, locator: str
) -> None:
    ended = cli("init", *BOTH, "--no-inspect", "--source-password", given)
    assert ended.returncode == 0, ended.stderr
    password = load(tmp_path / "plan.yaml").source.password
    assert password is not None
    assert (password.kind, password.locator) == (kind, locator)


@pytest.mark.parametrize(
    "given", ["hunter2", "env:", "rds_iam:x", "purse:x", "env:A=b", "command:'", "file:{{ x }}"]
)
def test_a_place_that_is_none_is_refused_and_nothing_is_written(cli: Any, tmp_path: Path, given: str) -> None:
    ended = cli("init", *BOTH, "--target-password", given)
    assert ended.returncode == 2
    assert "--target-password" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_only_replaced_with_force(cli: Any, tmp_path: Path) -> None:
    there = tmp_path / "plan.yaml"
    there.write_text("precious\n")
    assert cli("init", *BOTH, "--no-inspect").returncode == 2
    assert there.read_text() == "precious\n"
    assert cli("init", *BOTH, "--no-inspect", "--force").returncode == 0
    assert load(there).name == "app"
    assert {p.name for p in tmp_path.iterdir()} == {"plan.yaml", "plan.schema.json"}


def test_the_editor_finds_the_schema_that_the_first_line_names(cli: Any, tmp_path: Path) -> None:
    assert cli("init", *BOTH, "--no-inspect").returncode == 0
    first = (tmp_path / "plan.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=plan.schema.json"
    assert json.loads((tmp_path / "plan.schema.json").read_text())["title"] == "planrunner plan"


def test_a_projects_own_schema_is_used_and_left_alone(cli: Any, tmp_path: Path) -> None:
    for folder in ("schemas", "plans"):
        (tmp_path / folder).mkdir()
    (tmp_path / "schemas" / "plan.schema.json").write_text("{}")
    assert cli("init", *BOTH, "--no-inspect", "--out", "plans/app.yaml").returncode == 0
    assert "$schema=../schemas/plan.schema.json" in (tmp_path / "plans" / "app.yaml").read_text()
    assert {p.name for p in (tmp_path / "plans").iterdir()} == {"app.yaml"}


def test_instance_and_region_are_told_by_the_host(cli: Any, tmp_path: Path) -> None:
    host = "orders-prod.abc123.eu-central-1.rds.amazonaws.com"
    assert cli("init", "--source", f"postgresql://a@{host}/app", *BOTH[2:], "--no-inspect").returncode == 0
    assert load(tmp_path / "plan.yaml").source.rds == RdsInstance(
        instance="orders-prod", region="eu-central-1"
    )


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("c.cluster-abc.us-east-1.rds.amazonaws.com", ""),
        ("c.cluster-ro-abc.us-east-1.rds.amazonaws.com", "writer endpoint"),
        ("p.proxy-abc.us-east-1.rds.amazonaws.com", "RDS Proxy"),
        ("ep-cool-1-pooler.us-east-2.aws.neon.tech", "direct host ep-cool-1.us-east-2.aws.neon.tech"),
        ("db.example.com:6432", "looks like a pooler"),
        ("aws-0-eu.pooler.supabase.com:6543", "looks like a pooler"),
    ],
)
def test_endpoints_that_no_replication_goes_through_are_named(
    cli: Any, tmp_path: Path, host: str, says: str
) -> None:
    ended = cli("init", "--source", f"postgresql://a@{host}/app", *BOTH[2:], "--no-inspect")
    assert ended.returncode == 0, ended.stderr
    plan = load(tmp_path / "plan.yaml")
    text = (tmp_path / "plan.yaml").read_text()
    assert says in ended.stderr
    assert " ".join(says.split()) in " ".join(text.replace("#", " ").split())
    if ".cluster-" in host:
        assert plan.steps[0].uses == "grant"
        assert "aws rds describe-db-clusters" in text


def test_a_server_that_is_not_there_is_a_note_and_with_inspect_an_error(cli: Any, tmp_path: Path) -> None:
    gone = ("--source", "postgresql://a:x@127.0.0.1:1/app?sslmode=disable", *BOTH[2:])
    ended = cli("init", *gone, "--inspect")
    assert ended.returncode == 1
    assert list(tmp_path.iterdir()) == []
    ended = cli("init", *gone, "--output", "json")
    assert ended.returncode == 0
    told = json.loads(ended.stdout)
    assert told["found"] is None
    assert "source was not looked at" in told["notes"][0]
    assert next(step.uses for step in load(tmp_path / "plan.yaml").steps) == "enable_logical"
