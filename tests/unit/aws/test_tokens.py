"""The token of a session in AWS's words about a request that it rejects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from planrunner.aws.secrets import secretsmanager_value
from planrunner.errors import SecretUnavailable
from planrunner.masking import hushed, speak
from planrunner.model import AssumedRole, RdsInstance
from tests.faults.canary_aws import refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "FwoGZXIvYXdzEBYaDK+the/token=="


@pytest.fixture(autouse=True)
def _session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    yield
    speak()


@pytest.mark.parametrize("way", ["denied", "unsigned"])
@pytest.mark.parametrize("role", [None, AssumedRole(arn="arn:aws:iam::123456789012:role/migrator")])
def test_a_token_that_aws_repeats_is_masked(way: str, role: AssumedRole | None) -> None:
    with refusing() as url:
        access = RdsInstance(instance="x", region="us-east-1", endpoint_url=f"{url}/{way}", assume_role=role)
        with pytest.raises(SecretUnavailable) as caught:
            secretsmanager_value("app/source", None, access)

    told = f"{caught.value.message} {caught.value.remedy}"
    assert TOKEN in told
    assert TOKEN not in hushed(told)
