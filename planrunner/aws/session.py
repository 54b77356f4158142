"""Clients of the AWS API as the plan's RDS instance says it is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader

from planrunner.aws import calls, roles
from planrunner.aws.failures import translated
from planrunner.aws.tokens import discreet

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient
    from mypy_boto3_ssm.client import SSMClient

    from planrunner.model import RdsInstance

# A secret is looked up for every connection, and reading the descriptions of AWS's services costs more than the call.
# They are the only thing that is kept: credentials are found anew each time.
_MODELS = create_loader()
_TIMEOUTS = Config(connect_timeout=10, read_timeout=30)
_CONFIG = _TIMEOUTS.merge(Config(retries={"mode": "standard", "max_attempts": 5}))
# For what must not happen twice when only its answer was lost.
_ONCE = _TIMEOUTS.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
# For what only explains a failure, or tells figures that can be done without: nobody waits a minute to hear that AWS
# does not answer either.
_HASTY = Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=3, read_timeout=20)


@overload
def client(
    service: Literal["rds"],
    instance: RdsInstance | None,
    *,
    region: str | None = None,
    retried: bool = True,
    hasty: bool = False,
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
def client(service: Literal["s3"], instance: RdsInstance | None, *, region: str | None = None) -> Any: ...
@overload
# Their stubs would be more packages for few calls: see Route53Client, CloudWatchClient.
def client(
    service: Literal["route53", "cloudwatch"], instance: RdsInstance | None, *, region: str | None = None
) -> Any: ...
@overload
# So would EC2's: see Ec2Client.
def client(
    service: Literal["ec2"], instance: RdsInstance | None, *, region: str | None = None, hasty: bool = False
) -> Any: ...


def client(
    service: Literal["rds", "secretsmanager", "ssm", "s3", "route53", "ec2", "cloudwatch"],
    instance: RdsInstance | None,
    *,
    region: str | None = None,
    retried: bool = True,
    hasty: bool = False,
) -> Any:
    """A client that retries throttling and network errors and gives up in bounded time.

    Without ``retried`` every request is sent once.

    Profile, endpoint URL and the role to assume are the instance's; the region is ``region``, else the instance's,
    else the one that AWS's own configuration names. Credentials are found as every AWS tool finds them.
    ``hasty`` gives up sooner. Raises CloudError when there is no such profile or no region, or the role is refused.
    """
    with translated(service, instance):
        session = _session(
            instance.profile if instance else None, region or (instance.region if instance else None)
        )
        if instance is not None and instance.assume_role is not None:
            session = roles.assumed(session, instance)
        url = instance.endpoint_url if instance else None
        make: Any = session.client
        config = _HASTY if hasty or service == "cloudwatch" else _CONFIG
        made = discreet(make(service, endpoint_url=url, config=config if retried else _ONCE))
        return calls.counted(service, made)


def _session(profile: str | None, region: str | None) -> boto3.Session:
    own = botocore.session.get_session()
    own.register_component("data_loader", _MODELS)
    session = boto3.Session(botocore_session=own, profile_name=profile, region_name=region)
    # Each session adds the folder of boto3's own models once more.
    _MODELS.search_paths[:] = dict.fromkeys(_MODELS.search_paths)
    return session
