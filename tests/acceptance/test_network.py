"""A source behind a security group that really lets nobody in whom no rule admits: told, opened, and shut again."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planrunner.sandbox.demo import stage
from planrunner.sandbox.firewall import Firewall
from tests.acceptance.helpers import contents, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.sandbox.demo import Stage

_SOURCE = "sslmode=disable\n    password: {secret: {env: SOURCE_PASSWORD}}"
# Somebody else's rule, which nobody may touch.
_FORMER = "198.51.100.0/24"
_OURS = "127.0.0.1/32"


@dataclass
class Walled:
    """The demo's stage with its source behind a firewall that goes by the rules in EC2."""

    scene: Stage
    wall: Firewall

    def run(self, *options: str, verb: str = "run", failpoints: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.scene.command(verb, *options), "--var", f"source_port={self.wall.port}"],
            env={**self.scene.environment(), "PLANRUNNER_FAILPOINTS": failpoints},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def say(self, key: str) -> None:
        """Let the plan have ``authorize_ingress`` so."""
        text = re.sub(r"\n      authorize_ingress: .*", "", self.scene.plan.read_text())
        at = "      region: us-east-1"
        self.scene.plan.write_text(text.replace(at, f"{at}\n      authorize_ingress: {key}"))

    def ranges(self) -> list[str]:
        return sorted(self.scene.api.network.ranges())

    def calls(self, action: str) -> int:
        return sum(name == action for name, _ in self.scene.api.network.calls)


@contextmanager
def walled() -> Iterator[Walled]:
    with stage(None, None, scale=0.02) as scene:
        network = scene.api.network
        with Firewall(scene.source.port, network.ranges) as wall:
            network.move(wall.port)
            network.shut()
            network.admit(_FORMER)
            text = scene.plan.read_text()
            # A line that is dropped is given up after two seconds, the least that libpq knows.
            scene.plan.write_text(
                text.replace(_SOURCE, _SOURCE.replace("disable", "disable&connect_timeout=2"))
            )
            yield Walled(scene, wall)


def test_a_missing_rule_is_named_by_every_command_and_the_printed_one_opens_it() -> None:
    with walled() as scene:
        group = scene.scene.api.network.group
        for verb, options in (("run", ("--yes", "--no-input")), ("preview", ()), ("doctor", ())):
            told = scene.run(*options, verb=verb)
            assert told.returncode == 1, told.stdout
            # A report goes to standard output, an error to the other.
            said = told.stdout + told.stderr
            assert f"security group {group} (shop-db) of shop-prod lets nothing from 127.0.0.1 in" in said
            assert f"it is open to: {_FORMER}" in said
            assert (
                f"aws ec2 authorize-security-group-ingress --group-id {group} --protocol tcp --port {scene.wall.port}"
                f" --cidr {_OURS} --region us-east-1" in said
            )
        assert scene.wall.admitted == 0
        scene.scene.api.network.admit(_OURS)
        passed = scene.run(verb="preview")
        assert passed.returncode == 0, passed.stderr
        assert f"lets this machine (127.0.0.1) in on port {scene.wall.port}" in passed.stdout
        # Nothing is changed by looking.
        assert scene.calls("AuthorizeSecurityGroupIngress") == 0


def test_a_run_opens_the_way_migrates_and_its_cleanup_shuts_it_for_nobody_else() -> None:
    with walled() as scene:
        scene.say("true")
        offline = json.loads(scene.run("--offline", "--format", "json", verb="preview").stdout)
        assert offline["steps"][0]["uses"] == "authorize_ingress"
        killed = scene.run("--yes", "--no-input", failpoints="ingress.after_call:kill")
        assert killed.returncode == -9
        assert scene.ranges() == [_OURS, _FORMER]
        ran = scene.run("--yes", "--no-input")
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
        # The rule that the killed run made is enough.
        assert scene.calls("AuthorizeSecurityGroupIngress") == 1
        databases = scene.scene.source_database, scene.scene.target_database
        assert contents(databases[0].superuser_dsn) == contents(databases[1].superuser_dsn)
        assert f"let {_OURS} reach port" in scene.run(verb="status").stdout
        cleaned = scene.run("--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stderr
        assert "remove the rule sgr-" in cleaned.stdout
        assert scene.ranges() == [_FORMER]
        assert f"let {_OURS} reach port" not in scene.run(verb="status").stdout


def test_a_lost_reply_makes_no_second_rule_and_the_plan_s_own_cleanup_removes_it() -> None:
    with walled() as scene:
        scene.say(f"[{_OURS}, 203.0.113.0/28]")
        scene.scene.plan.write_text(scene.scene.plan.read_text() + "\n  - {id: tidy, uses: cleanup}\n")
        scene.scene.api.network.lost.add("AuthorizeSecurityGroupIngress")
        begun = scene.run("--yes", "--no-input", "--until", "grant")
        assert begun.returncode == 0, begun.stderr
        # boto3 asked again, and was told that the rule is there.
        assert scene.calls("AuthorizeSecurityGroupIngress") == 3
        assert scene.ranges() == [_OURS, _FORMER, "203.0.113.0/28"]
        ended = scene.run("--yes", "--no-input")
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr
        assert scene.ranges() == [_FORMER]
        assert "ingress" not in state_of(scene.scene)["facts"]


def test_a_killed_removal_is_carried_to_its_end_by_another_cleanup() -> None:
    with walled() as scene:
        scene.say("true")
        begun = scene.run("--yes", "--no-input", "--until", "grant")
        assert begun.returncode == 0, begun.stderr
        # What names another plan is not ours.
        network = scene.scene.api.network
        network.backend.authorize_security_group_ingress(
            network.group,
            "tcp",
            str(network.port),
            str(network.port),
            [{"CidrIp": "192.0.2.9/32"}],
            sgrule_tags={"planrunner:plan": "shop/00000000"},
            vpc_id=network.vpc,
        )
        killed = scene.run("--yes", verb="cleanup", failpoints="opening.before:kill")
        assert killed.returncode == -9
        assert _OURS in scene.ranges()
        cleaned = scene.run("--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stderr
        assert scene.ranges() == ["192.0.2.9/32", _FORMER]
        assert "(shop/00000000) (another plan): lets 192.0.2.9/32 reach port" in cleaned.stdout


def test_an_action_that_iam_does_not_allow_is_named_and_the_run_goes_on_where_it_can() -> None:
    with walled() as scene:
        network = scene.scene.api.network
        network.denied |= {"DescribeSecurityGroups", "AuthorizeSecurityGroupIngress"}
        scene.say("true")
        shut_out = scene.run("--yes", "--no-input")
        assert shut_out.returncode == 1
        assert "does not answer (connection refused or timeout)" in shut_out.stderr
        assert "IAM does not allow ec2:DescribeSecurityGroups" in shut_out.stderr
        assert "nobody was let in at the source" in shut_out.stdout
        network.admit(_OURS)
        let_in = scene.run("--yes", "--no-input", "--until", "check")
        assert let_in.returncode == 0, let_in.stdout[-2000:] + let_in.stderr
        assert (
            "The instance's network can't be told: aws: IAM does not allow ec2:DescribeSecurityGroups"
            in let_in.stdout
        )
        network.denied.clear()
        network.denied.add("DescribeSecurityGroupRules")
        cleaned = scene.run("--yes", verb="cleanup")
        # No rule of ours was made, so that is news and no failure.
        assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
        assert "IAM does not allow ec2:DescribeSecurityGroupRules" in cleaned.stdout


def test_the_preview_shows_the_very_calls_that_the_run_makes_and_an_expected_one_no_others() -> None:
    with walled() as scene:
        scene.scene.api.network.admit(_OURS)
        scene.say("[203.0.113.0/28]")
        saved = scene.scene.folder / "preview.json"
        shown = scene.run("--out", str(saved), "--format", "json", verb="preview")
        assert shown.returncode == 0, shown.stderr
        (action,) = json.loads(shown.stdout)["steps"][0]["actions"]
        wanted = "IpRanges=[{CidrIp=203.0.113.0/28,Description=planrunner/shop/"
        assert action["where"] == "aws"
        assert wanted in action["statements"][0]
        ran = scene.run("--yes", "--no-input", "--until", "grant", "--expect", str(saved))
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
        (made,) = [params for name, params in scene.scene.api.network.calls if name.startswith("Authorize")]
        assert made["IpPermissions.1.IpRanges.1.CidrIp"] == "203.0.113.0/28"
        assert f"Value={made['TagSpecification.1.Tag.1.Value']}" in action["statements"][0]
        assert made["IpPermissions.1.IpRanges.1.Description"] in action["statements"][0]


def test_a_rule_that_the_expected_preview_did_not_show_is_not_made() -> None:
    with walled() as scene:
        network = scene.scene.api.network
        network.admit(_OURS)
        network.admit("203.0.113.0/24")
        scene.say("[203.0.113.0/28]")
        saved = scene.scene.folder / "preview.json"
        assert scene.run("--out", str(saved), verb="preview").returncode == 0
        network.shut()
        network.admit(_OURS)
        ran = scene.run("--yes", "--no-input", "--expect", str(saved))
        assert ran.returncode == 8, ran.stdout + ran.stderr
        assert "an action more: let 203.0.113.0/28 reach port" in ran.stderr
        assert scene.ranges() == [_OURS]


def policy_of(scene: Walled) -> dict[str, Any]:
    shown = scene.run("--offline", "--privileges", "--format", "json", verb="preview")
    return dict(json.loads(shown.stdout)["iam_policy"])


def test_the_policy_allows_making_rules_only_where_the_plan_makes_some() -> None:
    with walled() as scene:
        changing = {"ec2:AuthorizeSecurityGroupIngress", "ec2:RevokeSecurityGroupIngress", "ec2:CreateTags"}
        allowed = {a for s in policy_of(scene)["Statement"] for a in s["Action"]}
        assert "ec2:DescribeSecurityGroupRules" in allowed
        assert allowed.isdisjoint(changing)
        scene.say("true")
        resources = {a: s["Resource"] for s in policy_of(scene)["Statement"] for a in s["Action"]}
        assert changing <= resources.keys()
        assert all("*" not in resources[action] for action in changing)
