"""``planrunner init`` as a person meets it: a child process on a real pseudo-terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.loading import load
from planrunner.model import Approval, RdsInstance, SecretKind
from tests.integration.cli.conftest import environment
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.terminal import Terminal


@pytest.fixture
def wizard(tmp_path: Path) -> Iterator[Terminal]:
    quiet = {k: v for k, v in environment().items() if not k.endswith("_PASSWORD")}
    with terminal(["init", "--no-inspect"], folder=tmp_path, environment=quiet) as there:
        yield there


def test_enter_alone_takes_every_default_and_the_plan_lints(wizard: Terminal, tmp_path: Path) -> None:
    for question in (
        "Source [", "Kept in [env]", "name [SOURCE_PASSWORD]", "Target [", "Kept in [env]",
        "name [TARGET_PASSWORD]", "RDS instance [-]", "way back [Y/n]", "Approval [manual]", "Name [app]",
    ):  # fmt: skip
        wizard.answer(question)
    assert wizard.wait() == 0
    plan = load(tmp_path / "plan.yaml")
    assert plan.name == "app"
    assert plan.target.password is not None
    assert plan.target.password.locator == "TARGET_PASSWORD"
    assert plan.steps[-1].options["reverse"] is True
    assert plan.steps[-1].approval is Approval.MANUAL


def test_a_bad_answer_is_explained_and_asked_again(wizard: Terminal, tmp_path: Path) -> None:
    wizard.answer("Source [", "mysql://me@db/shop")
    wizard.expect("expected a DSN that begins with postgresql://")
    wizard.answer("Source [", "postgresql://me@shop-prod.abc123.eu-west-1.rds.amazonaws.com/shop")
    wizard.answer("Kept in [", "purse")
    wizard.expect("expected one of env, file, command")
    wizard.answer("Kept in [", "command")
    wizard.answer("The command that prints it", "op read 'unfinished")
    wizard.expect("can't stand in a plan")
    wizard.answer("The command that prints it", "op read op://infra/shop")
    wizard.answer("Target [", "postgresql://me@shop-prod.abc123.eu-west-1.rds.amazonaws.com/shop")
    wizard.expect("this is the source itself")
    wizard.answer("Target [", "postgresql://me@new/shop")
    wizard.answer("Kept in [", "aws_ssm")
    wizard.answer("parameter's name", "/prod/new")
    wizard.answer("RDS instance [shop-prod]")
    wizard.answer("region [eu-west-1]")
    wizard.answer("Reboot [ask]", "sometimes")
    wizard.expect("expected one of ask, allow, in_window, never")
    wizard.answer("Reboot [ask]", "allow")
    wizard.answer("way back", "perhaps")
    wizard.answer("way back", "n")
    wizard.answer("Approval [", "auto")
    wizard.answer("Name [shop]", "two words")
    wizard.expect("--name: expected")
    wizard.answer("Name [shop]", "shop-move")
    assert wizard.wait() == 0, wizard.shown
    plan = load(tmp_path / "plan.yaml")
    assert plan.name == "shop-move"
    assert plan.source.rds == RdsInstance(instance="shop-prod", region="eu-west-1")
    assert plan.source.password is not None
    assert plan.source.password.kind is SecretKind.COMMAND
    assert plan.source.password.locator == "op read op://infra/shop"
    assert plan.target.password is not None
    assert plan.target.password.kind is SecretKind.AWS_SSM
    assert plan.steps[0].options["reboot"] == "allow"
    assert "reverse" not in plan.steps[-1].options
    assert plan.steps[-1].approval is Approval.AUTO


@pytest.mark.parametrize("answered", [0, 1, 4])
def test_ctrl_c_leaves_nothing_behind(wizard: Terminal, tmp_path: Path, answered: int) -> None:
    questions = ["Source [", "Kept in [", "SOURCE_PASSWORD]", "Target [", "Kept in ["]
    for question in questions[:answered]:
        wizard.answer(question)
    wizard.expect(questions[answered])
    wizard.interrupt()
    assert wizard.wait() == 130
    assert "nothing was written" in wizard.shown
    assert list(tmp_path.iterdir()) == []


def test_what_a_flag_says_is_not_asked(tmp_path: Path) -> None:
    said = ["init", "--no-inspect", "--source", "postgresql://a@one/app", "--source-password", "rds_iam"]
    more = [
        "--approval",
        "auto",
        "--no-reverse",
        "--name",
        "moving",
        "--rds-instance",
        "i",
        "--rds-region",
        "r",
    ]
    quiet = {k: v for k, v in environment().items() if not k.endswith("_PASSWORD")}
    with terminal([*said, *more], folder=tmp_path, environment=quiet) as there:
        there.answer("Target [postgresql://a@new.example.com:5432/app]", "postgresql://b:hunter2@two/app")
        there.answer("Reboot [", "never")
        assert there.wait() == 0, there.shown
    text = (tmp_path / "plan.yaml").read_text()
    assert "hunter2" not in text
    plan = load(tmp_path / "plan.yaml")
    assert plan.source.rds_iam
    assert plan.name == "moving"
    assert "lasting password" in there.shown
