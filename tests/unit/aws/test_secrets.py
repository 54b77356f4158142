"""Secrets out of AWS, against moto's server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from planrunner.aws.secrets import rds_iam_token, secretsmanager_value, ssm_value
from planrunner.errors import SecretUnavailable
from planrunner.model import SecretKind, SecretRef
from planrunner.secrets import SecretResolver

if TYPE_CHECKING:
    from planrunner.model import RdsInstance


def _store(instance: RdsInstance, text: str, region: str = "us-east-1") -> tuple[str, str]:
    service = boto3.client("secretsmanager", endpoint_url=instance.endpoint_url, region_name=region)
    made = service.create_secret(Name=f"db-{uuid4()}", SecretString=text)
    return made["Name"], made["ARN"]


def test_plain_secret_is_found_by_name_and_arn(instance: RdsInstance) -> None:
    name, arn = _store(instance, "s3cret")

    assert secretsmanager_value(name, None, instance).reveal() == "s3cret"
    assert secretsmanager_value(arn, None, instance).reveal() == "s3cret"


def test_region_of_an_arn_wins_over_the_instances(instance: RdsInstance) -> None:
    _, arn = _store(instance, "far away", region="eu-west-1")

    assert secretsmanager_value(arn, None, instance).reveal() == "far away"


def test_member_of_a_json_secret_is_picked(instance: RdsInstance) -> None:
    name, _ = _store(instance, json.dumps({"username": "u", "password": "p:/@"}))

    assert secretsmanager_value(name, "username", instance).reveal() == "u"
    assert secretsmanager_value(name, "password", instance).reveal() == "p:/@"


def test_json_secret_as_rds_writes_it_needs_no_key(instance: RdsInstance) -> None:
    name, _ = _store(instance, json.dumps({"username": "u", "password": "p:/@"}))

    assert secretsmanager_value(name, None, instance).reveal() == "p:/@"


@pytest.mark.parametrize(
    ("text", "key", "message", "remedy"),
    [
        ('{"username": "u", "secret": "hush"}', None, "is a JSON object", "secret, username"),
        ('{"username": "u", "password": "hush"}', "pasword", "no text under pasword", "password, username"),
        ("hush", "password", "no text under password", "no JSON object"),
        ('{"password": {"value": "hush"}}', "password", "no text under password", "password"),
    ],
)
def test_unusable_secret_names_its_members_and_never_its_value(
    text: str, key: str | None, message: str, remedy: str, instance: RdsInstance
) -> None:
    name, _ = _store(instance, text)

    with pytest.raises(SecretUnavailable, match=message) as caught:
        secretsmanager_value(name, key, instance)
    assert remedy in (caught.value.remedy or "")
    assert "hush" not in str(caught.value)


def test_binary_secret_is_refused(instance: RdsInstance) -> None:
    service = boto3.client("secretsmanager", endpoint_url=instance.endpoint_url)
    made = service.create_secret(Name=f"db-{uuid4()}", SecretBinary=b"\x00")

    with pytest.raises(SecretUnavailable, match="is binary"):
        secretsmanager_value(made["Name"], None, instance)


def test_parameter_is_decrypted(instance: RdsInstance) -> None:
    service = boto3.client("ssm", endpoint_url=instance.endpoint_url)
    service.put_parameter(Name="/db/password", Value="s3cret", Type="SecureString", Overwrite=True)

    assert ssm_value("/db/password", instance).reveal() == "s3cret"


@pytest.mark.parametrize(
    ("read", "reference"),
    [
        (lambda i: secretsmanager_value("nope", None, i), "aws_secretsmanager:nope"),
        (lambda i: ssm_value("/nope", i), "aws_ssm:/nope"),
    ],
    ids=["secretsmanager", "ssm"],
)
def test_missing_secret_names_the_reference_and_the_region(
    read: Any, reference: str, instance: RdsInstance
) -> None:
    with pytest.raises(SecretUnavailable, match=reference) as caught:
        read(instance)
    assert "us-east-1" in (caught.value.remedy or "")


def test_token_is_signed_for_host_port_and_user(instance: RdsInstance) -> None:
    token = rds_iam_token("db.example.com", 5433, "migrator", instance)

    text = token.reveal()
    assert text.startswith("db.example.com:5433/?Action=connect&DBUser=migrator&")
    assert "X-Amz-Expires=900" in text
    assert "%2Fus-east-1%2Frds-db%2Faws4_request" in text
    assert repr(token) == "***"


def test_token_without_credentials_says_how_to_give_them(
    instance: RdsInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SecretUnavailable, match="no credentials") as caught:
        rds_iam_token("db.example.com", 5432, "migrator", instance)
    assert "aws sts get-caller-identity" in (caught.value.remedy or "")


def _parameter(instance: RdsInstance, text: str) -> str:
    name = f"/db/{uuid4()}"
    boto3.client("ssm", endpoint_url=instance.endpoint_url, region_name="us-east-1").put_parameter(
        Name=name, Value=text, Type="SecureString"
    )
    return name


@pytest.mark.parametrize(
    ("text", "value"), [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a\n\n", "a\n")]
)
def test_one_line_end_of_a_plain_value_is_the_files(text: str, value: str, instance: RdsInstance) -> None:
    assert secretsmanager_value(_store(instance, text)[0], None, instance).reveal() == value
    assert ssm_value(_parameter(instance, text), instance).reveal() == value


def test_value_that_is_no_password_is_refused_wherever_it_is_kept(instance: RdsInstance) -> None:
    resolver = SecretResolver({})
    kept = _store(instance, json.dumps({"password": "", "zero": "a\0b"}))[0]
    for key, message in (("password", "is empty"), ("zero", "zero byte")):
        ref = SecretRef(kind=SecretKind.AWS_SECRETSMANAGER, locator=kept, key=key)
        with pytest.raises(SecretUnavailable, match=message):
            resolver.resolve_ref(ref, instance)
    blank = SecretRef(kind=SecretKind.AWS_SSM, locator=_parameter(instance, "\n"))
    with pytest.raises(SecretUnavailable, match="is empty"):
        resolver.resolve_ref(blank, instance)


def test_key_picks_a_member_of_a_parameter(instance: RdsInstance) -> None:
    name = _parameter(instance, json.dumps({"password": "s3cret"}))
    ref = SecretRef(kind=SecretKind.AWS_SSM, locator=name, key="password")

    assert SecretResolver({}).resolve_ref(ref, instance).reveal() == "s3cret"
