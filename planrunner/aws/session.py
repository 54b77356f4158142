"""Clients of the AWS API as the plan's RDS instance says it is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import boto3
from botocore.config import Config

from planrunner.aws import roles
from planrunner.aws.failures import translated

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient
    from mypy_boto3_ssm.client import SSMClient

    from planrunner.model import RdsInstance

_CONFIG = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=30)


@overload
def client(
    service: Literal["rds"], instance: RdsInstance | None, *, region: str | None = None
) -> RDSClient: ...
@overload
def client(
    service: Literal["secretsmanager"], instance: RdsInstance | None, *, region: str | None = None
) -> SecretsManagerClient: ...
@overload
def client(
    service: Literal["ssm"], instance: RdsInstance | None, *, region: str | None = None
) -> SSMClient: ...
@overload
# Its stubs would be one more package for three calls: see Route53Client.
def client(
    service: Literal["route53"], instance: RdsInstance | None, *, region: str | None = None
) -> Any: ...


def client(
    service: Literal["rds", "secretsmanager", "ssm", "route53"],
    instance: RdsInstance | None,
    *,
    region: str | None = None,
) -> Any:
    """A client that retries throttling and network errors and gives up in bounded time.

    Profile, endpoint URL and the role to assume are the instance's; the region is ``region``, else the instance's,
    else the one that AWS's own configuration names. Credentials are found as every AWS tool finds them.
    Raises CloudError when there is no such profile or no region, or the role is refused.
    """
    with translated(service, instance):
        session = boto3.Session(
            profile_name=instance.profile if instance else None,
            region_name=region or (instance.region if instance else None),
        )
        if instance is not None and instance.assume_role is not None:
            session = roles.assumed(session, instance)
        url = instance.endpoint_url if instance else None
        make: Any = session.client
        return make(service, endpoint_url=url, config=_CONFIG)
