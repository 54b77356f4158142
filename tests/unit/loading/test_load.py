"""What a plan file becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from planrunner.errors import PlanInvalid, UsageError
from planrunner.loading import load
from planrunner.model import Approval, AssumedRole, DialAddress, RdsInstance, SecretKind, SecretRef, Side

PASSWORD = "{secret: {env: SOURCE_PASSWORD}}"

WritePlan: TypeAlias = Callable[..., Path]


def test_plan_holds_what_the_file_says(write_plan: WritePlan) -> None:
    path = write_plan()

    plan = load(path)

    assert (plan.name, plan.path) == ("orders", path)
    assert plan.source.side is Side.SOURCE
    assert plan.source.dsn == "postgresql://migrator@old.example.com:5432/app"
    assert plan.source.password == SecretRef(kind=SecretKind.ENV, locator="SOURCE_PASSWORD")
    assert plan.target.side is Side.TARGET
    assert [(s.id, s.uses, s.approval) for s in plan.steps] == [
        ("check", "validate", Approval.AUTO),
        ("copy", "snapshot", Approval.AUTO),
        ("cutover", "cutover_verify", Approval.MANUAL),
    ]
    assert plan.steps[1].options == {"jobs": 8}
    assert plan.steps[0].options == {}


def test_secret_file_is_found_from_the_plans_folder(write_plan: WritePlan, tmp_path: Path) -> None:
    plan = load(write_plan())

    assert plan.target.password == SecretRef(kind=SecretKind.FILE, locator=str(tmp_path / "target.password"))


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("{command: op read 'my vault'}", SecretRef(kind=SecretKind.COMMAND, locator="op read 'my vault'")),
        ("{command: [op, read, my vault]}", SecretRef(kind=SecretKind.COMMAND, locator="op read 'my vault'")),
        ("{aws_ssm: /a/b}", SecretRef(kind=SecretKind.AWS_SSM, locator="/a/b")),
        (
            "{aws_secretsmanager: prod/db, key: pass}",
            SecretRef(kind=SecretKind.AWS_SECRETSMANAGER, locator="prod/db", key="pass"),
        ),
    ],
)
def test_secret_references_are_kept_as_references(
    written: str, reference: SecretRef, write_plan: WritePlan
) -> None:
    plan = load(write_plan((PASSWORD, f"{{secret: {written}}}")))

    assert plan.source.password == reference


def test_connection_details_reach_the_endpoints(write_plan: WritePlan) -> None:
    source = (
        "    rds: {instance: orders-prod, region: eu-west-1}\n    allow_self_signed_certs: true\n  target:\n"
    )
    target = "    source_as_seen_from_target: {host: 10.0.3.7, port: 6432}\nsteps:\n"

    plan = load(write_plan(("  target:\n", source), ("steps:\n", target), (PASSWORD, "{rds_iam: true}")))

    assert plan.source.rds == RdsInstance(instance="orders-prod", region="eu-west-1")
    assert (plan.source.rds_iam, plan.source.password) == (True, None)
    assert (plan.source.self_signed, plan.target.self_signed) == (True, False)
    assert plan.source.seen_from_other == DialAddress(host="10.0.3.7", port=6432)
    assert plan.target.seen_from_other is None


def test_how_servers_and_aws_prove_and_are_proven_reaches_the_endpoints(write_plan: WritePlan) -> None:
    role = "{arn: 'arn:aws:iam::1:role/m', external_id: x, session_name: orders}"
    secret = f"{{secret: {{aws_ssm: /db, region: eu-west-1, profile: prod, assume_role: {role}}}}}"
    source = f"    ca: ./certificates/own.pem\n    ca_fingerprint: {'ab' * 32}\n"
    source += f"    rds: {{instance: o, assume_role: {role}}}\n"

    path = write_plan(("  target:\n", f"{source}  target:\n    ca: rds\n"), (PASSWORD, secret))
    plan = load(path)

    assumed = AssumedRole(arn="arn:aws:iam::1:role/m", external_id="x", session_name="orders")
    assert plan.source.ca == str(path.parent / "certificates" / "own.pem")
    assert (plan.source.ca_fingerprint, plan.target.ca) == ("ab" * 32, "rds")
    assert plan.source.rds == RdsInstance(instance="o", assume_role=assumed)
    assert plan.source.password is not None
    assert plan.source.password.access == RdsInstance(
        instance="/db", region="eu-west-1", profile="prod", assume_role=assumed
    )


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught:
        load(tmp_path / "none.yaml")
    assert not isinstance(caught.value, PlanInvalid)


def test_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path)


def test_file_that_is_too_large_is_not_read_to_its_end() -> None:
    with pytest.raises(PlanInvalid, match="larger than 1,000,000 bytes"):
        load(Path("/dev/zero"))


def test_windows_line_ends_and_a_byte_order_mark_are_fine(write_plan: WritePlan) -> None:
    path = write_plan()
    digest = load(path).digest
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    assert load(path).digest == digest


@pytest.mark.parametrize(
    "changes",
    [
        [("orders}", "orders, description: for people}")],
        [("steps:", "# a comment\nsteps:")],
        [("{jobs: 8}", "\n      {jobs: 8}")],
        [("jobs: 8", 'jobs: "{{ vars.jobs }}"'), ("vars:\n", "vars:\n  jobs: {type: integer, default: 8}\n")],
        [("uses: validate", "uses: validate, with: {}, approval: auto")],
        [("old.example.com}", "old.example.com, description: a host}")],
    ],
)
def test_digest_does_not_change_with_what_changes_nothing(
    changes: list[tuple[str, str]], write_plan: WritePlan
) -> None:
    assert load(write_plan(*changes)).digest == load(write_plan()).digest


@pytest.mark.parametrize(
    ("change", "changed_steps"),
    [
        (("jobs: 8", "jobs: 9"), {"copy"}),
        (("old.example.com", "older.example.com"), set()),
        (("SOURCE_PASSWORD", "OTHER_PASSWORD"), set()),
        (("approval: manual", "approval: auto"), set()),
        (("uses: validate", "uses: grant"), {"check"}),
        (("name: orders", "name: others"), set()),
    ],
)
def test_digests_change_with_what_is_done(
    change: tuple[str, str], changed_steps: set[str], write_plan: WritePlan
) -> None:
    before, after = load(write_plan()), load(write_plan(change))

    assert before.digest != after.digest
    pairs = zip(before.steps, after.steps, strict=True)
    assert {a.id for a, b in pairs if a.digest != b.digest} == changed_steps


def test_digest_is_the_same_in_another_folder(write_plan: WritePlan, tmp_path: Path) -> None:
    path = write_plan()
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / "plan.yaml")

    assert load(moved).digest == load(write_plan()).digest


def test_secret_file_reached_through_a_link_out_of_the_folder_is_refused(
    write_plan: WritePlan, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "target.password").symlink_to(outside / "password")

    with pytest.raises(PlanInvalid, match="not in the plan's folder"):
        load(write_plan(name="plans/plan.yaml"))
