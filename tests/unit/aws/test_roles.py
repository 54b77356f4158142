"""Roles that are assumed, secrets that say how AWS is reached, profiles: against moto's server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from planrunner.aws import roles
from planrunner.aws.rds import Rds
from planrunner.aws.secrets import rds_iam_token, secretsmanager_value
from planrunner.aws.session import client
from planrunner.clock import SystemClock
from planrunner.errors import CloudError, SecretUnavailable
from planrunner.model import AssumedRole, Endpoint, RdsInstance, SecretKind, SecretRef, Side
from planrunner.secrets import SecretResolver

if TYPE_CHECKING:
    from pathlib import Path


def _role() -> AssumedRole:
    # A name of its own for each test: what was assumed is kept for the process.
    return AssumedRole(
        arn=f"arn:aws:iam::123456789012:role/migrator-{uuid4().hex[:8]}",
        external_id="orders",
        session_name="orders-migration",
    )


@pytest.fixture
def access(instance: RdsInstance) -> RdsInstance:
    return replace(instance, assume_role=_role())


def _keys(instance: RdsInstance) -> Any:
    service: Any = client("secretsmanager", instance)
    return service._request_signer._credentials.get_frozen_credentials()


def test_calls_are_signed_with_the_roles_credentials(access: RdsInstance) -> None:
    own, assumed = _keys(replace(access, assume_role=None)), _keys(access)

    assert own.access_key == "test"
    assert assumed.access_key.startswith("ASIA")
    assert assumed.token
    who: Any = boto3.client(
        "sts",
        endpoint_url=access.endpoint_url,
        aws_access_key_id=assumed.access_key,
        aws_secret_access_key=assumed.secret_key,
        aws_session_token=assumed.token,
    )
    assert access.assume_role is not None
    name = access.assume_role.arn.rsplit("/", 1)[1]
    assert who.get_caller_identity()["Arn"].endswith(f"assumed-role/{name}/orders-migration")


def test_the_roles_credentials_are_kept_while_they_are_good(access: RdsInstance) -> None:
    assert _keys(access).access_key == _keys(access).access_key


def test_credentials_near_their_end_are_renewed_by_themselves(access: RdsInstance) -> None:
    base = boto3.Session(region_name="us-east-1")
    # A quarter of an hour is the least that STS gives, and the time before their end when they are renewed.
    credentials = roles.credentials(base, access, seconds=900)

    first = credentials.get_frozen_credentials()
    assert credentials.get_frozen_credentials().access_key != first.access_key


def test_a_login_token_is_signed_by_the_role(access: RdsInstance) -> None:
    token = rds_iam_token("db.example.com", 5432, "migrator", access).reveal()
    assert "X-Amz-Credential=ASIA" in token
    assert "X-Amz-Security-Token=" in token


def test_a_role_without_credentials_to_assume_it_says_how_to_give_them(
    access: RdsInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(SecretUnavailable, match="no credentials were found"):
        secretsmanager_value("x", None, access)


def test_an_sts_that_does_not_answer_is_told(access: RdsInstance) -> None:
    assert access.assume_role is not None
    away = replace(access, assume_role=replace(access.assume_role, endpoint_url="http://127.0.0.1:1"))

    with pytest.raises(CloudError, match="does not answer"):
        Rds(away, SystemClock()).describe()


def test_a_profile_is_that_of_the_shared_configuration(
    instance: RdsInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[prod]\naws_access_key_id = of-the-profile\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    assert _keys(replace(instance, profile="prod")).access_key == "of-the-profile"
    with pytest.raises(CloudError, match="nowhere"):
        client("rds", replace(instance, profile="nowhere"))


def test_a_secret_says_itself_how_it_is_reached(access: RdsInstance, instance: RdsInstance) -> None:
    service = boto3.client("secretsmanager", endpoint_url=instance.endpoint_url, region_name="eu-west-1")
    name = service.create_secret(Name=f"db-{uuid4()}", SecretString="far away")["Name"]
    ref = SecretRef(
        kind=SecretKind.AWS_SECRETSMANAGER, locator=name, access=replace(access, region="eu-west-1")
    )
    target = Endpoint(side=Side.TARGET, dsn="dbname=app", password=ref)

    found = SecretResolver({}).resolve(target)
    assert found is not None
    assert found.reveal() == "far away"
